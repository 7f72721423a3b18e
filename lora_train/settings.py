"""The one settings object. Its declaration is the form, the file, the command line, the API and the metadata.

Names are kohya sd-scripts' names, so that its configuration files are read as they are.
"""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import UserError, raise_all

# sd-scripts options that don't change the result, and options whose effect isn't there yet: read, named in a warning.
WITHOUT_EFFECT = {
    **dict.fromkeys(("xformers", "sdpa", "mem_eff_attn"), "attention is always PyTorch's own"),
    **dict.fromkeys(("cache_latents", "cache_latents_to_disk", "vae_batch_size"), "latents are cached in memory"),
    **dict.fromkeys(("max_data_loader_n_workers", "persistent_data_loader_workers"), "no workers are needed"),
    **dict.fromkeys(("logging_dir", "log_with", "log_prefix"), "there is no log for TensorBoard yet"),
    **dict.fromkeys(
        ("enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"),
        "there are no buckets yet: every picture is cropped to one square",
    ),
    **dict.fromkeys(("lowram", "highvram", "no_half_vae", "save_model_as", "console_log_level", "ddp_timeout"), ""),
}


def option(default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: tuple = ()) -> Any:
    """Declare one setting: its default, one line of help, and its bounds (inclusive) or choices."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class TrainSettings:
    """Everything a training run is told. Units: pixels, optimizer steps, epochs, learning rate per step."""

    pretrained_model_name_or_path: str = option("", "Checkpoint file to train on (.safetensors or .ckpt)")
    train_data_dir: str = option("", "Folder that holds <repeats>_<name> folders of pictures")
    output_dir: str = option("", "Folder for the LoRA files")
    output_name: str = option("lora", "Name of the LoRA files")

    network_module: str = option("networks.lora", "Kind of network", choices=("networks.lora",))
    network_dim: int = option(
        16, "Rank of the LoRA: larger holds more detail and makes a larger file", low=1, high=1024
    )
    network_alpha: float = option(8.0, "Scale of the LoRA is alpha / dim; half of dim is common", low=1e-3, high=1024)
    conv_dim: int = option(0, "Rank for the 3x3 convolutions (LoCon); 0 leaves them out", low=0, high=1024)
    conv_alpha: float = option(1.0, "Alpha for the 3x3 convolutions", low=1e-3, high=1024)
    network_train_unet_only: bool = option(False, "Train the UNet alone")
    network_train_text_encoder_only: bool = option(False, "Train the text encoder alone")

    learning_rate: float = option(1e-4, "Learning rate where no other is given", low=0, high=10)
    unet_lr: float | None = option(None, "Learning rate of the UNet; empty: learning_rate", low=0, high=10)
    text_encoder_lr: float | None = option(
        None, "Learning rate of the text encoder; empty: learning_rate", low=0, high=10
    )
    optimizer_type: str = option("AdamW", "Optimizer", choices=("AdamW",))
    optimizer_args: list[str] = option([], "Arguments of the optimizer, each name=value")
    lr_scheduler: str = option(
        "constant",
        "How the learning rate goes over the run",
        choices=("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts"),
    )
    lr_warmup_steps: float = option(0, "Steps of warm-up; below 1: that share of all steps", low=0, high=1e9)
    lr_scheduler_num_cycles: int = option(1, "Cycles of cosine_with_restarts", low=1, high=1000)
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; 0: never", low=0, high=1e9)

    max_train_epochs: int | None = option(None, "Epochs; when given, max_train_steps is ignored", low=1, high=100_000)
    max_train_steps: int = option(1600, "Steps, when no epochs are given", low=1, high=100_000_000)
    train_batch_size: int = option(1, "Pictures a step", low=1, high=1024)
    save_every_n_epochs: int | None = option(
        1, "A LoRA file every n epochs; empty: at the end only", low=1, high=100_000
    )
    resolution: int = option(512, "Pictures are scaled and cropped to a square of this side", low=64, high=2048)
    seed: int = option(42, "The same seed gives the same run", low=0, high=2**32 - 1)

    caption_extension: str = option(".txt", "Ending of the caption file beside a picture")
    shuffle_caption: bool = option(False, "Shuffle the tags of a caption at each use")
    keep_tokens: int = option(0, "This many tags at the start stay in place", low=0, high=1000)
    clip_skip: int | None = option(None, "Use the text encoder's n-th layer from the end", low=1, high=12)
    max_token_length: int | None = option(
        None, "Tokens of a caption that count: 75, 150 or 225", choices=(75, 150, 225)
    )

    noise_offset: float = option(
        0.0, "Shifts the noise of a channel as a whole, for darker and lighter pictures", low=0, high=1
    )
    min_snr_gamma: float | None = option(None, "Weighs the loss by min(SNR, gamma) / SNR; 5 is common", low=0, high=100)

    mixed_precision: str = option("no", "Precision of the frozen model", choices=("no", "fp16", "bf16"))
    save_precision: str = option("fp16", "Precision of the saved file", choices=("fp16", "bf16", "float"))
    training_comment: str = option("", "A note kept in the file's metadata")

    @property
    def unet_rate(self) -> float:
        """Learning rate of the UNet; 0 where it isn't trained."""
        return 0.0 if self.network_train_text_encoder_only else _either(self.unet_lr, self.learning_rate)

    @property
    def text_encoder_rate(self) -> float:
        """Learning rate of the text encoder; 0 where it isn't trained."""
        return 0.0 if self.network_train_unet_only else _either(self.text_encoder_lr, self.learning_rate)

    def warmup_steps(self, total: int) -> int:
        """Steps of warm-up in a run of `total` steps."""
        return int(self.lr_warmup_steps * total) if self.lr_warmup_steps < 1 else int(self.lr_warmup_steps)

    def to_json(self) -> str:
        """The settings as the JSON text that `load` reads."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def _either(value: float | None, default: float) -> float:
    return default if value is None else value


_TYPES = typing.get_type_hints(TrainSettings)


def schema() -> list[dict[str, Any]]:
    """One row a setting: name, type, default, help, low, high, choices."""
    return [
        {"name": f.name, "type": _type_name(_TYPES[f.name]), "default": _default(f), **f.metadata}
        for f in fields(TrainSettings)
    ]


def _default(f: Any) -> Any:
    return f.default if f.default is not MISSING else f.default_factory()


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def load(path: str | Path) -> tuple[TrainSettings, list[str]]:
    """Read a .toml or .json file. Returns the settings and warnings; raises UserError naming every wrong field."""
    return from_dict(read_config(Path(path)))


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a .toml or .json file; TOML tables are flattened, as sd-scripts does."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("there is no such file", where=path, remedy="Name an existing .toml or .json file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the file can't be read as text ({error})", where=path, remedy="Save it as UTF-8") from None
    try:
        data = json.loads(text) if path.suffix.lower() == ".json" else _toml(text)
    except ValueError as error:
        raise UserError(f"not a valid configuration: {error}", where=path, remedy="Mend that line") from None
    if not isinstance(data, dict):
        raise UserError("not a table of settings", where=path, remedy="Write name = value lines")
    return {
        key: value
        for name, entry in data.items()
        for key, value in (entry if isinstance(entry, dict) else {name: entry}).items()
    }


def _toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(text)


def from_dict(values: dict[str, Any]) -> tuple[TrainSettings, list[str]]:
    """Check `values` (kohya's names) and build the settings. Returns them with warnings; raises all errors together."""
    known = {f.name: f for f in fields(TrainSettings)}
    errors: list[UserError] = []
    warnings = []
    checked: dict[str, Any] = {}
    for name, value in _from_kohya(values).items():
        if name in known:
            try:
                checked[name] = _checked(name, value, known[name].metadata)
            except UserError as error:
                errors.append(error)
        elif name in WITHOUT_EFFECT or _is_off(name, value):
            reason = WITHOUT_EFFECT.get(name)
            warnings.append(f"{name} has no effect here" + (f": {reason}" if reason else ""))
        else:
            near = difflib.get_close_matches(name, known, 1)
            errors.append(
                UserError("no such setting", where=name, remedy=f"Did you mean {near[0]}?" if near else "Remove it")
            )
    raise_all(errors)
    settings = TrainSettings(**checked)
    raise_all(_contradictions(settings))
    return settings, warnings


def _is_off(name: str, value: Any) -> bool:
    """Whether an option that isn't known here is switched off, and no misspelling of one that is."""
    return not value and not difflib.get_close_matches(name, _TYPES, 1, cutoff=0.8)


def _from_kohya(values: dict[str, Any]) -> dict[str, Any]:
    """Undo the forms in which sd-scripts spells a value: network_args, "512,512", lists of one, "fp32"."""
    values = dict(values)
    for pair in values.pop("network_args", None) or []:
        name, _, value = str(pair).partition("=")
        values[name.strip()] = value.strip()
    if isinstance(size := values.get("resolution"), (str, list)):
        sides = [part.strip() for part in size.split(",")] if isinstance(size, str) else size
        values["resolution"] = sides[0] if len({str(side) for side in sides}) == 1 else size
    if isinstance(rate := values.get("text_encoder_lr"), list):
        values["text_encoder_lr"] = rate[0] if rate else None
    if values.get("save_precision") in (None, "fp32", "no") and "save_precision" in values:
        values["save_precision"] = "float"
    if values.get("noise_offset", 0) is None:
        values["noise_offset"] = 0.0
    return values


def _checked(name: str, value: Any, bounds: typing.Mapping[str, Any]) -> Any:
    """`value` as the declared type and inside the bounds; raises UserError naming field, value and range."""
    kind = _TYPES[name]
    inner, optional = _without_none(kind)
    if optional and (value is None or value == ""):
        return None
    converted = _convert(inner, value)
    if converted is None:
        raise UserError(f"{value!r} is not {_article(inner)}", where=name, remedy=_range(bounds))
    low, high, choices = bounds["low"], bounds["high"], bounds["choices"]
    if choices and converted not in choices:
        raise UserError(f"{value!r} is not one of the choices", where=name, remedy=_range(bounds))
    if (low is not None and converted < low) or (high is not None and converted > high):
        raise UserError(f"{value!r} is out of range", where=name, remedy=_range(bounds))
    return converted


def _without_none(kind: Any) -> tuple[Any, bool]:
    if isinstance(kind, types.UnionType):
        return next(arg for arg in typing.get_args(kind) if arg is not type(None)), True
    return kind, False


def _convert(kind: Any, value: Any) -> Any:
    """`value` as `kind`, or None where it isn't one."""
    if kind == list[str]:
        return [str(item) for item in value] if isinstance(value, (list, tuple)) else None
    if kind is bool:
        return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
    if kind is str:
        return value if isinstance(value, str) and "\0" not in value else None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        return None
    return int(value) if kind is int and isinstance(value, int) else kind(number)


def _article(kind: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, "a list of texts")


def _range(bounds: typing.Mapping[str, Any]) -> str:
    if bounds["choices"]:
        return "Choose from " + ", ".join(str(choice) for choice in bounds["choices"])
    if bounds["low"] is not None:
        return f"Give a value from {bounds['low']:g} to {bounds['high']:g}"
    return "Mend the value"


def _contradictions(settings: TrainSettings) -> list[UserError]:
    """Errors that no single field shows."""
    errors = []
    if settings.network_train_unet_only and settings.network_train_text_encoder_only:
        errors.append(
            UserError("nothing is left to train", where="network_train_unet_only", remedy="Switch one of the two off")
        )
    elif settings.unet_rate == 0 and settings.text_encoder_rate == 0:
        errors.append(UserError("every learning rate is 0", where="learning_rate", remedy="Give a rate such as 1e-4"))
    if settings.lr_scheduler == "constant" and settings.lr_warmup_steps:
        errors.append(UserError("constant has no warm-up", where="lr_scheduler", remedy="Choose constant_with_warmup"))
    if settings.resolution % 8:
        errors.append(
            UserError("not a multiple of 8", where="resolution", remedy="Choose 512, 768 or another multiple of 8")
        )
    return errors
