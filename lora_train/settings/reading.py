"""Configuration files and dictionaries to settings: kohya's spellings, types, bounds, all errors at once."""

from __future__ import annotations

import difflib
import math
import types
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import UserError, raise_all
from ..files import read_table
from .checks import contradictions
from .options import OPTIMIZERS, TYPES, TrainSettings

# sd-scripts options that don't change the result, or are read from the checkpoint: read, named in a warning.
WITHOUT_EFFECT = {
    **dict.fromkeys(("sdpa", "mem_eff_attn"), "attention is PyTorch's own unless xformers is on"),
    **dict.fromkeys(("max_data_loader_n_workers", "persistent_data_loader_workers"), "no workers are needed"),
    **dict.fromkeys(("v2", "sdxl"), "what the checkpoint is, is read from the file"),
    "cache_text_encoder_outputs_to_disk": "they are kept in memory",
    **dict.fromkeys(("lowram", "highvram", "save_model_as", "console_log_level", "ddp_timeout", "cache_info"), ""),
    **dict.fromkeys(("config_file", "output_config", "skip_cache_check", "log_tracker_name", "wandb_run_name"), ""),
}
_FORMS = {"locon": "lora"}  # LyCORIS' name for what networks.lora does with conv_dim
_OPTIMIZER_NAMES = {
    **{name.lower(): name for name in OPTIMIZERS},
    "dadaptation": "DAdaptAdam",
    "dadaptadampreprint": "DAdaptAdam",
}


def load(path: str | Path) -> tuple[TrainSettings, list[str]]:
    """Read a .toml or .json file. Returns the settings and warnings; raises UserError naming every wrong field."""
    return from_dict(read_config(Path(path)))


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a .toml or .json file; TOML tables are flattened, as sd-scripts does."""
    data = read_table(path, "Name an existing .toml or .json file")
    if not isinstance(data, dict):
        raise UserError("not a table of settings", where=path, remedy="Write name = value lines")
    return {
        key: value
        for name, entry in data.items()
        for key, value in (entry if isinstance(entry, dict) else {name: entry}).items()
    }


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
    raise_all(contradictions(settings))
    return settings, warnings


def _is_off(name: str, value: Any) -> bool:
    """Whether an option that isn't known here is switched off, and no misspelling of one that is."""
    return not value and not difflib.get_close_matches(name, TYPES, 1, cutoff=0.8)


def _from_kohya(values: dict[str, Any]) -> dict[str, Any]:
    """Undo the forms in which sd-scripts spells a value: network_args, lists of rates, other names of one thing."""
    values = dict(values)
    for pair in values.pop("network_args", None) or []:
        name, _, value = str(pair).partition("=")
        name, value = name.strip(), value.strip()
        values[{"dropout": "network_dropout"}.get(name, name)] = value
    if isinstance(rates := values.get("text_encoder_lr"), list):
        values["text_encoder_lr"] = rates[0] if rates else None
        if len(rates) > 1:
            values["text_encoder2_lr"] = rates[1]
    if values.get("save_precision") in (None, "fp32", "no") and "save_precision" in values:
        values["save_precision"] = "float"
    if isinstance(optimizer := values.get("optimizer_type"), str):
        values["optimizer_type"] = _OPTIMIZER_NAMES.get(optimizer.lower(), optimizer)
    if values.get("use_8bit_adam"):
        values.setdefault("optimizer_type", "AdamW8bit")
    if isinstance(form := values.get("algo"), str):
        values["algo"] = _FORMS.get(form.lower(), form.lower())
    for name in ("use_8bit_adam", "fp8_base_unet"):
        if values.pop(name, None) and name == "fp8_base_unet":
            values["fp8_base"] = True
    for name, value in values.items():
        if value is None and name in TYPES and not _without_none(TYPES[name])[1]:  # sd-scripts' way to say "off"
            values[name] = _default(name)
    return values


def _default(name: str) -> Any:
    return next(f.default for f in fields(TrainSettings) if f.name == name)


def _checked(name: str, value: Any, bounds: typing.Mapping[str, Any]) -> Any:
    """`value` as the declared type and inside the bounds; raises UserError naming field, value and range."""
    kind = TYPES[name]
    inner, optional = _without_none(kind)
    if optional and (value is None or value == ""):
        return None
    converted = _convert(inner, value)
    if converted is None:
        raise UserError(f"{value!r} is not {_article(inner)}", where=name, remedy=_range(bounds))
    choices = bounds["choices"]
    if choices and converted not in choices and not (bounds["open"] and "." in converted):
        raise UserError(f"{value!r} is not one of the choices", where=name, remedy=_range(bounds))
    low, high = bounds["low"], bounds["high"]
    for number in converted if isinstance(converted, (list, tuple)) else (converted,):
        if (low is not None and number < low) or (high is not None and number > high):
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
    if kind == list[float]:
        return _numbers(float, value)
    if kind == tuple[int, int]:
        sides = _numbers(int, value)
        return tuple(sides * 2 if len(sides) == 1 else sides) if sides and len(sides) <= 2 else None
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


def _numbers(kind: type, value: Any) -> list[Any] | None:
    """Numbers from a list, one number, or text with commas between; None where one of them isn't a number."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    numbers = [_convert(kind, part) for part in parts if part != ""]
    return None if None in numbers else numbers


_ARTICLES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[str]: "a list of texts",
    list[float]: "a list of numbers",
    tuple[int, int]: "a whole number or two of them, width and height",
}


def _article(kind: Any) -> str:
    return _ARTICLES[kind]


def _range(bounds: typing.Mapping[str, Any]) -> str:
    if bounds["choices"]:
        more = ", or the import path of another" if bounds["open"] else ""
        return "Choose from " + ", ".join(str(choice) for choice in bounds["choices"]) + more
    if bounds["low"] is not None:
        return f"Give a value from {bounds['low']:g} to {bounds['high']:g}"
    return "Mend the value"
