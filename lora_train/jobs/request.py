"""What the tab asks for, checked as a whole before anything is created."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import settings as settings_module
from ..errors import UserError, UserErrors, raise_all
from ..files import check_output_name, write_text
from ..grid.plan import DEFAULT_WEIGHTS, Grid, choose, epoch_file, grid_from, series
from ..host.base import Checkpoint, Host
from ..settings import OPTIMIZERS, TrainSettings
from . import measures

_RANGES = {"steps": (1, 150), "width": (64, 2048), "height": (64, 2048), "seed": (0, 2**32 - 1), "clip_skip": (1, 12)}
_WORDS = ("negative_prompt", "sampler")
_PROMPTS = ("prompts", "prompt")
_FILE = "request.json"
_OPEN = "This WebUI is open to others: see --enable-insecure-extension-access"
_OPEN_FOLDERS = "Put them into the WebUI's folder, or start it with --gradio-allowed-path FOLDER"
_MOST_WEIGHTS, _MOST_PROMPTS = 50, 20
_EPOCHS = re.compile(r"(?i)all|band|[\d\s,，;–-]+")
_PATHS = (
    *("pretrained_model_name_or_path", "vae", "train_data_dir", "reg_data_dir", "dataset_config", "output_dir"),
    *("network_weights", "resume", "validation_data_dir", "conditioning_data_dir", "logging_dir"),
)


_PICTURES = ("train_data_dir", "reg_data_dir", "dataset_config", "validation_data_dir", "conditioning_data_dir")


@dataclass(frozen=True)
class Request:
    """A checked job: a training and its grid, without LoRA files yet (None: no grid), or a grid alone (no settings).

    measure: the task of one that measures, as measures.task makes it, in place of both.
    checkpoint: its name for people; epochs: which of the run's a grid has, as grid.plan.choose takes it; share_gpu: the
    host's model stays where it is; taken_over: what came from the host's own settings, by name.
    """

    name: str
    settings: TrainSettings | None
    checkpoint: str
    grid: Grid | None
    epochs: str = "all"
    share_gpu: bool = False
    taken_over: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    measure: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """training, grid, effects or tune."""
        if self.measure:
            return str(self.measure["kind"])
        return "training" if self.settings else "grid"

    def save(self, folder: Path) -> None:
        """Write it into a job's folder; the settings of a training also as the child's configuration."""
        write_text(folder / _FILE, json.dumps(asdict(self), indent=1, ensure_ascii=False))
        if self.settings:
            write_text(folder / "config.json", self.settings.to_json())
        if self.measure:
            write_text(folder / measures.TASK, json.dumps(self.measure, indent=1, ensure_ascii=False))


def load(folder: Path) -> Request:
    """The request in a job's folder. Raises UserError where it can't be read."""
    try:
        values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        settings, grid = values.pop("settings"), values.pop("grid")
        read = settings_module.from_dict(settings)[0] if settings else None
        return Request(settings=read, grid=grid_from(grid) if grid else None, **values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = "Start it anew, and remove this one"
        raise UserError(f"the job can't be read ({error})", where=folder.name, remedy=remedy) from None


def check(host: Host, values: dict[str, Any], grid: dict[str, Any] | None, share_gpu: bool = False) -> Request:
    """Fill in what the host knows and check everything. Raises all problems together."""
    errors: list[UserError] = []
    warnings: list[str] = []
    plan = None
    title, taken_over, notes = _fill_in(host, values := dict(values))
    settings, warnings, wrong = _settings(values)
    errors += wrong
    if settings:
        settings = _absolute(settings)
        errors += _problems(host, settings)
    try:
        plan = None if grid is None or grid.get("enabled") is False else _grid(grid, settings)
    except UserError as error:
        errors.append(error)
    raise_all(_single(errors))
    assert settings is not None
    title = title or Path(settings.pretrained_model_name_or_path).stem
    epochs = str((grid or {}).get("epochs") or "all")
    return Request(settings.output_name, settings, title, plan, epochs, share_gpu, taken_over, warnings + notes)


def _settings(values: dict[str, Any]) -> tuple[TrainSettings | None, list[str], list[UserError]]:
    """Settings, warnings and what is wrong; without the wrong ones, so that the rest can be checked too."""
    try:
        return *settings_module.from_dict(values), []
    except UserError as error:
        wrong = _single([error])
    try:
        named = {str(one.where) for one in wrong}
        rest = {name: value for name, value in values.items() if name not in named}
        return *settings_module.from_dict(rest), wrong
    except UserError:
        return None, [], wrong


def check_grid(host: Host, values: dict[str, Any]) -> Request:
    """A grid of files that are there: {"loras": paths} or {"folder", "name"} of a run, with the fields of a grid.

    Raises all problems together.
    """
    errors: list[UserError] = []
    plan: Grid | None = None
    files: tuple[str, ...] = ()
    try:
        files = _files(host, values)
    except UserError as error:
        errors.append(error)
    try:
        plan = _grid({name: value for name, value in values.items() if name not in ("folder", "name", "loras")}, None)
    except UserError as error:
        errors.append(error)
    raise_all(_single(errors))
    assert plan is not None
    plan = replace(plan, loras=files)
    raise_all(_grid_problems(host, plan))
    plan = replace(plan, prompts=plan.prompts or (_trained_on(Path(files[-1])),))
    checkpoint = host.checkpoint()
    name = str(values.get("name") or epoch_file(Path(files[0])).name)
    return Request(name, None, checkpoint.title if checkpoint else "", plan)


def check_measure(host: Host, kind: str, values: dict[str, Any]) -> Request:
    """A measurement of a mix, as measures.task has it. Raises all problems together."""
    made = measures.task(host, kind, values)
    checkpoint = host.checkpoint()
    share = bool(values.get("share_gpu", False))
    title = checkpoint.title if checkpoint else ""
    return Request(made["mix"][0]["name"], None, title, None, share_gpu=share, measure=made)


def check_again(host: Host, request: Request) -> None:
    """What may have changed since a job was asked for. Raises all problems together."""
    problems = _problems(host, request.settings) if request.settings else []
    if not request.settings and request.grid:
        problems += _grid_problems(host, request.grid)
    if request.measure:
        problems += measures.still_there(request.measure)
    raise_all(_single(problems))


def rows(files: list[str], found: tuple[str, ...]) -> tuple[str, ...]:
    """Of the LoRA files `found` in a folder, those that this run has written; all of them where it names none."""
    written = {Path(file).name for file in files}
    return tuple(file for file in found if Path(file).name in written) or found


def prompts_of(settings: TrainSettings) -> tuple[str, ...]:
    """What to draw where no prompt was given: the first caption and, where all begin with the same tag, that alone."""
    captions = list(_captions(settings))
    if not captions:
        return (_folder_word(Path(settings.train_data_dir)) if settings.train_data_dir else "",)
    first = captions[0]
    tags = {caption.partition(",")[0].strip() for caption in captions}
    trigger = tags.pop() if len(tags) == 1 and len(captions) > 1 else ""
    return (first, trigger) if trigger and trigger != first else (first,)


def _captions(settings: TrainSettings) -> Iterable[str]:
    if settings.dataset_config:
        from ..dataset.source import open_dataset

        yield from (text for use in open_dataset(settings).uses() if (text := use.picture.caption.strip()))
        return
    for path in sorted(Path(settings.train_data_dir).rglob(f"*{settings.caption_extension}")):
        text = path.read_text(encoding="utf-8-sig", errors="replace").strip()
        if text:
            yield text.splitlines()[0]


def _folder_word(data_dir: Path) -> str:
    """The name of the first concept."""
    folders = sorted(
        folder.name.partition("_")[2] for folder in data_dir.iterdir() if folder.is_dir() and "_" in folder.name
    )
    return next(filter(None, folders), "")


def _fill_in(host: Host, values: dict[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """Put the host's checkpoint, with its VAE and clip skip, and its folder where none is given.

    Returns the host's title of its checkpoint, what was taken over by name, and warnings.
    """
    checkpoint, notes = host.checkpoint(), list[str]()
    taken_over: dict[str, Any] = {}
    given = values.get("pretrained_model_name_or_path")
    if checkpoint and given and Path(str(given)).expanduser().absolute() != checkpoint.path.absolute():
        checkpoint = None
    if checkpoint:
        values["pretrained_model_name_or_path"] = str(checkpoint.path)
        if checkpoint.vae and not values.get("vae"):
            taken_over["vae"] = str(checkpoint.vae)
        if checkpoint.clip_skip > 1 and not values.get("clip_skip"):
            if _has_clip_skip(checkpoint):
                taken_over["clip_skip"] = checkpoint.clip_skip
            elif checkpoint.path.suffix != ".safetensors":
                notes.append(f"clip skip {checkpoint.clip_skip} is not taken over for a {checkpoint.path.suffix} file")
        values.update(taken_over)
    if not values.get("output_dir"):
        name = values.get("output_name") or TrainSettings.output_name
        values["output_dir"] = str(host.lora_dir() / str(name))
    return checkpoint.title if checkpoint else "", taken_over, notes


def _has_clip_skip(checkpoint: Checkpoint) -> bool:
    """SDXL reads its text encoders at layers of its own. A .ckpt would have to be read whole to know."""
    if checkpoint.path.suffix != ".safetensors":
        return False
    from ..model.checkpoint import Family, recognise

    try:
        return recognise(checkpoint.path) in (Family.SD15, Family.SD2)
    except UserError:
        return False  # the training will say what is wrong with it


def _single(errors: list[UserError]) -> list[UserError]:
    return [one for error in errors for one in (error.errors if isinstance(error, UserErrors) else [error])]


def _absolute(settings: TrainSettings) -> TrainSettings:
    """The child has another working folder: every path becomes absolute."""
    given = {name: getattr(settings, name) for name in _PATHS if getattr(settings, name)}
    absolute: dict[str, Any] = {name: str(Path(path).expanduser().absolute()) for name, path in given.items()}
    absolute["base_weights"] = [str(Path(path).expanduser().absolute()) for path in settings.base_weights]
    return replace(settings, **absolute)


def _problems(host: Host, settings: TrainSettings) -> list[UserError]:
    """What can be known wrong before the engine looks."""
    problems = []
    try:
        check_output_name(settings.output_name)
    except UserError as error:
        problems.append(error)
    checkpoint = settings.pretrained_model_name_or_path
    if not checkpoint:
        problems.append(
            UserError("no checkpoint is chosen", where="pretrained_model_name_or_path", remedy="Choose one")
        )
    elif not Path(checkpoint).is_file():
        problems.append(
            UserError(f"there is no file {checkpoint}", where="pretrained_model_name_or_path", remedy="Choose another")
        )
    if settings.dataset_config:
        if not Path(settings.dataset_config).is_file():
            what = f"there is no file {settings.dataset_config}"
            problems.append(UserError(what, where="dataset_config", remedy="Choose another"))
    elif not settings.train_data_dir:
        problems.append(
            UserError("no folder is given", where="train_data_dir", remedy="Name the folder of your pictures")
        )
    elif not Path(settings.train_data_dir).is_dir():
        where = settings.train_data_dir
        problems.append(
            UserError(f"there is no folder {where}", where="train_data_dir", remedy="Name the folder of your pictures")
        )
    return problems + _outside(host, settings)


def _outside(host: Host, settings: TrainSettings) -> list[UserError]:
    """Where the host is open to a network, jobs write among its LoRAs only and read its own checkpoints only."""
    if not _restricted(host):
        return []
    problems, remedy = unreadable(host, settings), _OPEN
    for name in ("output_dir", "logging_dir", "resume", "network_weights"):
        path = getattr(settings, name)
        if path and not _within(Path(path), host.lora_dir()):
            problems.append(UserError("lies outside the LoRA folder", where=name, remedy=remedy))
    if settings.optimizer_type not in OPTIMIZERS:
        problems.append(UserError("is code of its own", where="optimizer_type", remedy=remedy))
    if settings.lr_scheduler_type:
        problems.append(UserError("is code of its own", where="lr_scheduler_type", remedy=remedy))
    known = {checkpoint.path.absolute() for checkpoint in host.checkpoints()}
    if Path(settings.pretrained_model_name_or_path) not in known:
        problems.append(
            UserError("is not one of the WebUI's checkpoints", where="pretrained_model_name_or_path", remedy=remedy)
        )
    return problems


def unreadable(host: Host, settings: TrainSettings) -> list[UserError]:
    """The folders of pictures that an open host must not read: those outside of its own and its owner's choice."""
    if not _restricted(host):
        return []
    given = [(name, str(getattr(settings, name))) for name in _PICTURES if getattr(settings, name)]
    folders = [Path(path).expanduser().absolute() for path in host.picture_folders()]
    outside = [name for name, path in given if not any(_within(Path(path).expanduser(), folder) for folder in folders)]
    return [UserError("lies outside the WebUI's own folders", where=name, remedy=_OPEN_FOLDERS) for name in outside]


def _restricted(host: Host) -> bool:
    return host.restricted()


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _files(host: Host, values: dict[str, Any]) -> tuple[str, ...]:
    """The LoRA files of a grid of its own."""
    epochs = str(values.get("epochs") or "all")
    if loras := values.get("loras"):
        paths = [loras] if isinstance(loras, str) else loras
        if not isinstance(paths, (list, tuple)) or not all(isinstance(path, str) for path in paths):
            raise UserError("is no list of files", where="grid.loras", remedy="Give the paths of LoRA files")
        files = [str(Path(path).expanduser().absolute()) for path in paths]
        return tuple(files) if _outside_loras(host, files) else choose(files, epochs)
    folder, name = values.get("folder"), values.get("name")
    if not folder or not name:
        remedy = "Choose a series, or give the paths of LoRA files"
        raise UserError("no LoRA files are named", where="grid.loras", remedy=remedy)
    place = Path(str(folder)).expanduser().absolute()
    if _restricted(host) and not _within(place, host.lora_dir()):
        raise UserError("lies outside the LoRA folder", where="grid.folder", remedy=_OPEN)
    return choose(series(place, str(name)), epochs)


def _grid_problems(host: Host, grid: Grid) -> list[UserError]:
    """What is wrong with the files of a grid of its own."""
    if outside := _outside_loras(host, grid.loras):
        return [UserError("lies outside the LoRA folder", where=outside[0], remedy=_OPEN)]
    missing = [lora for lora in grid.loras if not Path(lora).is_file()]
    return [UserError("there is no such LoRA file", where=lora, remedy="Choose another") for lora in missing[:5]]


def _outside_loras(host: Host, files: Iterable[str]) -> list[str]:
    """The files that an open host must not touch."""
    return [file for file in files if _restricted(host) and not _within(Path(file), host.lora_dir())]


def _trained_on(lora: Path) -> str:
    """What to draw with a file that was trained elsewhere: its most frequent tag, else its name."""
    from ..header import read_header

    try:
        folders = json.loads(read_header(lora, "LoRA").metadata.get("ss_tag_frequency", ""))
        tags = [(count, tag.strip()) for counts in folders.values() for tag, count in counts.items() if tag.strip()]
        return max(tags)[1]
    except (UserError, OSError, ValueError, AttributeError, TypeError):
        return epoch_file(lora).name


def _grid(values: dict[str, Any], training: TrainSettings | None) -> Grid:
    """A grid without LoRA files from the tab's fields; what isn't given is as in training. Raises UserErrors."""
    known = {*_RANGES, *_WORDS, *_PROMPTS, "weights", "cfg_scale", "epochs"}
    ignored = {"enabled", "loras"}
    errors = [UserError("is not a field of a grid", where=f"grid.{name}") for name in values.keys() - known - ignored]
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known or value is None or value == "":
            continue
        try:
            checked[name] = _value(name, value)
        except (ValueError, TypeError, AttributeError):
            errors.append(UserError(f"{value!r} is not possible", where=f"grid.{name}", remedy=_remedy(name)))
    raise_all(errors)
    if training and max(training.resolution) <= _RANGES["width"][1]:
        checked = {"width": training.resolution[0], "height": training.resolution[1], **checked}
    prompts = (*checked.pop("prompts", ()), *checked.pop("prompt", ()))
    checked.pop("epochs", None)
    return Grid(**{"loras": (), "prompts": prompts, **checked})


def _value(name: str, value: Any) -> Any:
    if name in _WORDS:
        return str(value)
    if name in _PROMPTS:
        lines = value.splitlines() if isinstance(value, str) else value
        prompts = tuple(line.strip() for line in lines if line.strip())
        if len(prompts) > _MOST_PROMPTS:
            raise ValueError
        return prompts
    if name == "epochs":
        if not _EPOCHS.fullmatch(str(value).strip()):
            raise ValueError
        return str(value)
    if name == "weights":
        parts = value.split(",") if isinstance(value, str) else value
        weights = tuple(float(part) for part in parts if str(part).strip())
        if not 0 < len(weights) <= _MOST_WEIGHTS or any(not -10 <= weight <= 10 for weight in weights):
            raise ValueError
        return weights
    if name == "cfg_scale":
        if not 0 <= (scale := float(value)) <= 100:
            raise ValueError
        return scale
    low, high = _RANGES[name]
    number = int(value)
    if number != float(value) or not low <= number <= high or (name in ("width", "height") and number % 8):
        raise ValueError
    return number


def _remedy(name: str) -> str:
    if name == "weights":
        return "Give numbers from -10 to 10 with commas, such as " + ", ".join(
            f"{weight:g}" for weight in DEFAULT_WEIGHTS
        )
    if name == "cfg_scale":
        return "Give a number from 0 to 100"
    if name in _PROMPTS:
        return f"Give one prompt a line, {_MOST_PROMPTS} at most"
    if name == "epochs":
        return 'Give "all", "band" or numbers such as 2,4-6'
    low, high = _RANGES[name]
    multiple = ", a multiple of 8" if name in ("width", "height") else ""
    return f"Give a whole number from {low} to {high}{multiple}"
