"""The state of a run on disk: all that is needed to go on as if it had never stopped.

A state is a folder. Nothing in it is pickled; tensors are in safetensors' format, under names that no WebUI lists as
LoRAs:

network.tensors    the LoRA, under kohya's keys
training.tensors   tensors of optimizer, schedule, loss scaler and running average
training.json      everything else of them, and where the run was
settings.json      the run's settings
train_state.json   sd-scripts' two numbers, for people who look
manifest.json      size and sha256 of the others; written last
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from ..errors import UserError
from ..files import replace_file, require_space, write_text
from ..network.kohya import file_hash
from ..settings import TrainSettings
from .ema import Ema

VERSION = 1
NETWORK, TRAINING, MANIFEST = "network.tensors", "training.tensors", "manifest.json"
_PLACES = "optimizer", "schedule", "scaler", "ema"
_PICKLED = ("optimizer.bin", "random_states_0.pkl", "scheduler.bin")
_STORED_AS_THEY_ARE = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
}

# Settings that may change between a state and the run that goes on from it: places, names, saving, watching, speed.
_FREE = {
    *("output_dir", "output_name", "resume", "network_weights", "dim_from_weights", "optimizer_fallback"),
    *("max_train_epochs", "max_train_steps", "training_comment", "no_metadata", "early_stop_epochs"),
    *("cache_latents_to_disk", "vae_batch_size", "cache_text_encoder_outputs"),
    *("gradient_checkpointing", "xformers", "torch_compile", "stop_on_blow_up"),
}
_FREE_BEGINNINGS = ("save_", "sample_", "log_", "logging_", "valid", "max_validation")
# Settings that the optimizer's and the schedule's state carry with them.
_IN_THE_STATE = {
    *("learning_rate", "unet_lr", "text_encoder_lr", "text_encoder2_lr", "optimizer_args"),
    *("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"),
    *("down_lr_weight", "mid_lr_weight", "up_lr_weight"),
}
_PATHS = {
    *("pretrained_model_name_or_path", "vae", "train_data_dir", "reg_data_dir", "dataset_config"),
    *("conditioning_data_dir", "base_weights"),
}
# How a group is computed, not what: of the machine that the run goes on upon.
_IMPLEMENTATION = ("foreach", "fused", "capturable")


def save_state(
    folder: str | Path,
    *,
    network_state: Mapping[str, Tensor],
    optimizer: Optimizer,
    schedule: Any,
    scaler: Any = None,
    ema: Ema | None = None,
    position: Mapping[str, Any],
    settings: TrainSettings,
    pictures: int | None = None,
) -> None:
    """Write all of it as `folder`, which appears whole or not at all; one that is there already is replaced.

    position: any numbers, texts and lists that say where the run is; pictures: how many there are to train on.
    Raises UserError: the disk is full, the folder can't be written, or a part of a schedule is a function.
    """
    folder = Path(folder)
    tensors = _Tensors()
    parts = {"optimizer": optimizer, "schedule": schedule, "scaler": scaler, "ema": ema}
    training = {
        "optimizer_name": type(optimizer).__name__,
        "schedule_name": type(schedule).__name__,
        "groups": _shapes(optimizer),
        "position": tensors.encode(dict(position)),
        "pictures": pictures,
        **{name: None if part is None else tensors.encode(part.state_dict()) for name, part in parts.items()},
    }
    weights = {name: tensor.detach().contiguous() for name, tensor in network_state.items()}
    require_space(folder.parent, sum(t.numel() * t.element_size() for t in (*weights.values(), *tensors.kept.values())))
    temporary = _beside(folder, "tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _recover(folder)
        _write_tensors(temporary / NETWORK, weights)
        _write_tensors(temporary / TRAINING, tensors.kept)
        _write_json(temporary / "training.json", training)
        write_text(temporary / "settings.json", settings.to_json())
        _write_json(
            temporary / "train_state.json",
            {"current_epoch": position.get("epoch"), "current_step": position.get("done", position.get("step"))},
        )
        files = {path.name: {"size": path.stat().st_size, "sha256": file_hash(path)} for path in temporary.iterdir()}
        _write_json(temporary / MANIFEST, {"state": "train-lora", "version": VERSION, "files": files})
        _replace_folder(temporary, folder)
    except OSError as error:
        raise _unwritten(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class State:
    """A state that was read and found whole. Made by load_state.

    network: kohya's keys; training: names of optimizer and schedule, the groups' shapes, and the state dictionaries by
    name (None: there was none);
    position: as it was given to save_state; pictures: how many there were; settings: name -> value as in JSON.
    """

    folder: Path
    network: dict[str, Tensor]
    training: dict[str, Any]
    position: dict[str, Any]
    pictures: int | None
    settings: dict[str, Any]

    def restore(
        self, *, network: Any, optimizer: Optimizer, schedule: Any, scaler: Any = None, ema: Ema | None = None
    ) -> list[str]:
        """Put everything where it was. Returns warnings about what could not be.

        Raises UserError, before anything is changed, when the run has another network or optimizer: it says what
        differs.
        """
        self._check_network(network.state_dict())
        self._check_optimizer(optimizer, schedule)
        network.load(self.network)
        self._load_optimizer(optimizer)
        schedule.load_state_dict(self.training["schedule"])
        warnings = []
        if scaler is not None and scaler.is_enabled():
            if self.training["scaler"]:
                scaler.load_state_dict(self.training["scaler"])
            else:
                warnings.append("the state has no scale of the loss: it is searched for anew")
        if ema is not None:
            if self.training["ema"]:
                ema.load_state_dict(self.training["ema"])
            else:
                ema.reset()
                warnings.append("the state has no running average of the weights: it begins anew from here")
        elif self.training["ema"]:
            warnings.append("the state's running average of the weights is dropped, since ema_decay is empty")
        return warnings

    def warnings(self, settings: TrainSettings, pictures: int | None = None) -> list[str]:
        """What is different now from when the state was saved, where that changes the training."""
        now = json.loads(json.dumps(asdict(settings)))
        told = []
        for name in sorted(now.keys() & self.settings.keys()):
            before, after = self.settings[name], now[name]
            if name in _FREE or name.startswith(_FREE_BEGINNINGS) or _essence(name, before) == _essence(name, after):
                continue
            rule = "the state's stays in force" if name in _IN_THE_STATE else "from here on the new one holds"
            told.append(f"{name} was {before!r} when the state was saved and is {after!r} now; {rule}")
        if None not in (pictures, self.pictures) and pictures != self.pictures:
            told.append(f"there were {self.pictures} pictures when the state was saved and there are {pictures} now")
        return told

    def _check_network(self, present: Mapping[str, Tensor]) -> None:
        saved = {name: list(tensor.shape) for name, tensor in self.network.items()}
        here = {name: list(tensor.shape) for name, tensor in present.items()}
        remedy = "Choose the network settings that the state was saved with: see its settings.json"
        if only := sorted(saved.keys() ^ here.keys()):
            side = "in the state only" if only[0] in saved else "in this run only"
            what = f"another network: {len(only)} of its tensors differ, such as {only[0]}, which is {side}"
            raise UserError(what, where=self.folder, remedy=remedy)
        if changed := sorted(name for name in saved if saved[name] != here[name]):
            name = changed[0]
            what = f"another network: {name} is {saved[name]} in the state and {here[name]} in this run"
            raise UserError(what, where=self.folder, remedy=remedy)

    def _check_optimizer(self, optimizer: Optimizer, schedule: Any) -> None:
        def differs(what: str, remedy: str) -> UserError:
            return UserError(what, where=self.folder, remedy=remedy)

        name, here = self.training["optimizer_name"], type(optimizer).__name__
        if name != here:
            remedy = "Set the optimizer_type of the state's settings.json, or begin with its weights as network_weights"
            raise differs(f"it was saved with the optimizer {name}, this run has {here}", remedy)
        name, here = self.training["schedule_name"], type(schedule).__name__
        if name != here:
            remedy = "Set lr_scheduler and lr_scheduler_type as in the state's settings.json"
            raise differs(f"it was saved with the schedule {name}, this run has {here}", remedy)
        remedy = "Train the same parts, with rates for the same parts, as the state's settings.json does"
        saved, present = self.training["groups"], _shapes(optimizer)
        if len(saved) != len(present):
            raise differs(f"it has {len(saved)} groups of parameters, this run has {len(present)}", remedy)
        for number, (one, other) in enumerate(zip(saved, present, strict=True), 1):
            if len(one) != len(other):
                raise differs(f"its group {number} has {len(one)} parameters, in this run {len(other)}", remedy)
            for a, b in zip(one, other, strict=True):
                if a != b:
                    raise differs(f"its group {number} has a parameter of shape {a}, in this run {b}", remedy)

    def _load_optimizer(self, optimizer: Optimizer) -> None:
        """The optimizer's own loading, then the precision of what it cast to that of the parameters."""
        state = dict(self.training["optimizer"])
        state["param_groups"] = [
            {**saved, **{name: own[name] for name in _IMPLEMENTATION if name in own and name in saved}}
            for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
        ]
        optimizer.load_state_dict(state)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        numbers = [n for group in state["param_groups"] for n in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, saved in state["state"].get(number, {}).items():
                loaded = optimizer.state[parameter].get(name)
                if isinstance(saved, Tensor) and isinstance(loaded, Tensor) and saved.dtype != loaded.dtype:
                    optimizer.state[parameter][name] = saved.to(loaded.device)


def load_state(folder: str | Path) -> State:
    """Read a state and check every byte of it. Raises UserError: what is wrong with it, and what to resume instead."""
    folder = Path(folder)
    try:
        _recover(folder)
        _check_files(folder)
        raw = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise TypeError("settings.json")
        network, tensors = _read_tensors(folder / NETWORK), _read_tensors(folder / TRAINING)
        position = _decode(raw["position"], tensors)
        training = {name: raw[name] for name in ("optimizer_name", "schedule_name", "groups")}
        training |= {name: _decode(raw[name], tensors) for name in _PLACES}
        return State(folder, network, training, position, raw["pictures"], settings)
    except (ValueError, LookupError, TypeError, AttributeError, SafetensorError, OSError, struct.error) as error:
        raise _no_state(folder, f"the state can't be read ({type(error).__name__}: {error})") from None


def _check_files(folder: Path) -> None:
    """Raises UserError unless the manifest is there and every file is as it says."""
    if folder.is_file():
        remedy = "Name the folder of a state, or give the file as network_weights"
        raise UserError("this is a file, a state is a folder", where=folder, remedy=remedy)
    if not folder.is_dir():
        raise _no_state(folder, "there is no such folder")
    if not (folder / MANIFEST).is_file():
        if any((folder / name).exists() for name in _PICKLED):
            raise UserError(
                "this is a state of sd-scripts; it is pickled and not opened for safety",
                where=folder,
                remedy=f"Its LoRA can be gone on with: give {folder / 'model.safetensors'} as network_weights",
            )
        raise _no_state(folder, "it is no saved state, or was never finished")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if manifest["version"] > VERSION:
        raise UserError(
            "the state was saved by a newer version of Train LoRA", where=folder, remedy="Update Train LoRA"
        )
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise _no_state(folder, f"the state's {name} is missing")
        if path.stat().st_size != entry["size"] or file_hash(path) != entry["sha256"]:
            raise _no_state(folder, f"the state's {name} is damaged")


def _no_state(folder: Path, what: str) -> UserError:
    """The error for a folder that can't be resumed, naming the newest one beside it that may."""
    try:
        others = [p.parent for p in folder.parent.glob(f"*-state/{MANIFEST}") if p.parent != folder]
        newest = max(others, key=lambda path: path.stat().st_mtime, default=None)
    except OSError:
        newest = None
    remedy = f"Choose another state, such as {newest}" if newest else "Choose another state, or start anew"
    return UserError(what, where=folder, remedy=remedy)


class _Tensors:
    """Takes the tensors out of nested state dictionaries. One that is held in several places is kept once."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}
        self._seen: dict[tuple, tuple[str, Tensor]] = {}  # with the tensor, lest another one comes to its address

    def encode(self, value: Any) -> Any:
        """`value` in JSON: lists are lists; what JSON doesn't know is a table of one entry that names its kind."""
        if isinstance(value, Tensor):
            return self._tensor(value.detach())
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        if isinstance(value, Mapping):
            return {"dict": [[self.encode(key), self.encode(entry)] for key, entry in value.items()]}
        if isinstance(value, (list, tuple)):
            items = [self.encode(item) for item in value]
            return items if isinstance(value, list) else {"tuple": items}
        raise UserError(
            f"a {type(value).__name__} can't be saved as part of a state",
            where="save_state",
            remedy="Choose an optimizer and a scheduler from the lists, or switch save_state off",
        )

    def _tensor(self, tensor: Tensor) -> dict[str, Any]:
        place = (tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
        if place in self._seen and tensor.numel():
            name, _ = self._seen[place]
        else:
            name = str(len(self.kept))
            self._seen[place] = name, tensor
            plain = tensor.cpu().contiguous()
            self.kept[name] = plain if tensor.dtype in _STORED_AS_THEY_ARE else plain.reshape(-1).view(torch.uint8)
        if tensor.dtype in _STORED_AS_THEY_ARE:
            return {"tensor": name}
        return {"bytes": [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]}


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The opposite of _Tensors.encode."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return struct.unpack(">d", bytes.fromhex(content))[0]
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    if kind == "dict":
        return {_decode(key, tensors): _decode(entry, tensors) for key, entry in content}
    if kind == "bytes":
        name, dtype, shape = content
        return tensors[name].view(getattr(torch, dtype)).reshape(shape)
    raise ValueError(f"unknown kind {kind!r}")


def _shapes(optimizer: Optimizer) -> list[list[list[int]]]:
    """Shapes of the parameters of each group."""
    return [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups]


def _essence(name: str, value: Any) -> Any:
    """What of a setting matters: of a path its last name, since a project may have moved."""
    if name not in _PATHS:
        return value
    return [PureWindowsPath(path).name for path in (value if isinstance(value, list) else [value])]


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():  # safetensors takes no two tensors in one piece of memory
        storage = tensor.untyped_storage()
        shares = storage.data_ptr() in seen or storage.nbytes() != tensor.numel() * tensor.element_size()
        seen.add(storage.data_ptr())
        apart[name] = tensor.clone() if shares else tensor
    with replace_file(path) as temporary:
        try:
            save_file(apart, temporary)
        except SafetensorError as error:
            raise _unwritten(path, error) from None


def _unwritten(path: Path, error: Exception) -> UserError:
    remedy = "Free some space, check the folder's permissions, or choose another output_dir"
    return UserError(f"the state can't be written ({error})", where=path, remedy=remedy)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Copies, so that no tensor stays tied to a file that may be replaced or removed."""
    with safe_open(path, framework="pt", device="cpu") as handle:
        return {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118 (not a dictionary)


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False))


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f".{folder.name}.{ending}")


def _replace_folder(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; one that is there moves aside until the new one has its place."""
    old = _beside(folder, "old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        _recover(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Finish a replacement that was interrupted: the old state takes its place again where the new one hasn't come."""
    old = _beside(folder, "old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(folder)
