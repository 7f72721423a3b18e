"""What the tab asks for, checked as a whole before anything is created."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import settings as settings_module
from ..errors import UserError, UserErrors, raise_all
from ..files import check_output_name
from ..grid.plan import DEFAULT_WEIGHTS, Grid
from ..host.base import Host
from ..settings import OPTIMIZERS, TrainSettings

_RANGES = {"steps": (1, 150), "width": (64, 2048), "height": (64, 2048), "seed": (0, 2**32 - 1), "clip_skip": (1, 12)}
_WORDS = ("prompt", "negative_prompt", "sampler")
_MOST_WEIGHTS = 50
_PATHS = (
    *("pretrained_model_name_or_path", "vae", "train_data_dir", "reg_data_dir", "dataset_config", "output_dir"),
    *("network_weights", "resume", "validation_data_dir", "conditioning_data_dir", "logging_dir"),
)


@dataclass(frozen=True)
class Request:
    """A checked job: settings, the checkpoint's name for people, the grid without its LoRA files (None: no grid)."""

    settings: TrainSettings
    checkpoint: str
    grid: Grid | None
    warnings: list[str] = field(default_factory=list)


def check(host: Host, values: dict[str, Any], grid: dict[str, Any] | None) -> Request:
    """Fill in what the host knows and check everything. Raises all problems together."""
    errors: list[UserError] = []
    warnings: list[str] = []
    settings, plan = None, None
    title = _fill_in(host, values := dict(values))
    try:
        settings, warnings = settings_module.from_dict(values)
        settings = _absolute(settings)
        errors += _problems(host, settings)
    except UserError as error:
        errors.append(error)
    try:
        plan = None if grid is None or grid.get("enabled") is False else _grid(grid, settings)
    except UserError as error:
        errors.append(error)
    raise_all([single for error in errors for single in (error.errors if isinstance(error, UserErrors) else [error])])
    assert settings is not None
    return Request(settings, title or Path(settings.pretrained_model_name_or_path).stem, plan, warnings)


def rows(files: list[str], found: tuple[str, ...]) -> tuple[str, ...]:
    """Of the LoRA files `found` in a folder, those that this run has written; all of them where it names none."""
    written = {Path(file).name for file in files}
    return tuple(file for file in found if Path(file).name in written) or found


def prompt_of(data_dir: Path, caption_extension: str) -> str:
    """The first caption of a data set: what to draw where no prompt was given."""
    for caption in sorted(data_dir.rglob(f"*{caption_extension}")):
        text = caption.read_text(encoding="utf-8-sig", errors="replace").strip()
        if text:
            return text.splitlines()[0]
    folders = sorted(
        folder.name.partition("_")[2] for folder in data_dir.iterdir() if folder.is_dir() and "_" in folder.name
    )
    return next(filter(None, folders), "")


def _fill_in(host: Host, values: dict[str, Any]) -> str:
    """Put the host's checkpoint and folder where none is given; returns the host's title of its checkpoint."""
    title = ""
    if not values.get("pretrained_model_name_or_path"):
        checkpoint = host.checkpoint()
        if checkpoint:
            title = checkpoint.title
            values["pretrained_model_name_or_path"] = str(checkpoint.path)
    if not values.get("output_dir"):
        name = values.get("output_name") or TrainSettings.output_name
        values["output_dir"] = str(host.lora_dir() / str(name))
    return title


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
    if not settings.train_data_dir:
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
    if not getattr(host, "restricted", lambda: False)():
        return []
    problems = []
    remedy = "This WebUI is open to others: see --enable-insecure-extension-access"
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


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _grid(values: dict[str, Any], training: TrainSettings | None) -> Grid:
    """A grid without LoRA files from the tab's fields; what isn't given is as in training. Raises UserErrors."""
    known = {*_RANGES, *_WORDS, "weights", "cfg_scale", "enabled", "loras"}
    errors = [UserError("is not a field of a grid", where=f"grid.{name}") for name in values if name not in known]
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known - {"enabled", "loras"} or value is None or value == "":
            continue
        try:
            checked[name] = _value(name, value)
        except (ValueError, TypeError):
            errors.append(UserError(f"{value!r} is not possible", where=f"grid.{name}", remedy=_remedy(name)))
    raise_all(errors)
    if training and max(training.resolution) <= _RANGES["width"][1]:
        checked = {"width": training.resolution[0], "height": training.resolution[1], **checked}
    return Grid(**{"loras": (), "prompt": "", **checked})


def _value(name: str, value: Any) -> Any:
    if name in _WORDS:
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
    low, high = _RANGES[name]
    multiple = ", a multiple of 8" if name in ("width", "height") else ""
    return f"Give a whole number from {low} to {high}{multiple}"
