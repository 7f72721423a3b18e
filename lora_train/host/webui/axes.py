"""Our axes in the WebUI's own X/Y/Z plot: which epoch of a run, at which weight, with which block preset.

Each changes the `<lora:…>` of the prompt, so that every cell's text says all that is needed to draw it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...blocks.families import count_problem
from ...blocks.presets import Presets, format_numbers, look_up
from ...errors import UserError
from ...grid.plan import all_series, epoch_file, run_of
from . import live, prompts
from .inside import shared

EPOCH, WEIGHT, PRESET = "LoRA epoch", "LoRA weight", "Block preset"
_ALL = " (all epochs)"
_TAG = re.compile(r"<lora:([^:>]+)((?::[^:>]*)*)>")
_BLOCK_WEIGHT = "lora block weight"
_FIELDS = ("prompt", "hr_prompt")


def register() -> None:
    """Add the axes to the plot's list; to be called before the UI is built.

    The list is a new one at each reload of the UI, save where the host keeps it: then the axes are there already.
    """
    from modules import scripts

    plot: Any = next(
        (data.module for data in scripts.scripts_data if data.script_class.__module__ == "xyz_grid.py"), None
    )
    if not hasattr(plot, "axis_options") or not hasattr(plot, "AxisOption"):
        return
    there = {option.label for option in plot.axis_options}
    plot.axis_options.extend(option for option in _options(plot.AxisOption) if option.label not in there)


def _options(make: Callable[..., Any]) -> list[Any]:
    """The axes. The block preset is done by the extension LoRA Block Weight where that is loaded, else by ourselves."""
    epoch = make(EPOCH, str, set_epoch, format_value=_epoch_label, confirm=expand, cost=0.3, choices=choices)
    weight = make(WEIGHT, float, set_weight, format_value=lambda p, option, x: f"weight {x:g}")
    preset = make(PRESET, str, set_preset, format_value=lambda p, option, x: x, confirm=check_presets, choices=_presets)
    return [epoch, weight, preset]


def choices() -> list[str]:
    """For each run in the LoRA folder, the newest first: the run as a whole, and its files by the WebUI's names."""
    runs = all_series(_lora_dir())
    return [name for run in runs for name in (run["name"] + _ALL, *(Path(e["lora"]).stem for e in run["epochs"]))]


def expand(p: Any, names: list[str]) -> None:
    """Put a run's files in its place in the list of values, each file once. Raises UserError for an unknown name."""
    runs = {run["name"] + _ALL: [Path(e["lora"]).stem for e in run["epochs"]] for run in all_series(_lora_dir())}
    expanded = dict.fromkeys(name for given in names for name in runs.get(given, [given]))
    known = {path.stem for path in _lora_dir().rglob("*.safetensors")}
    for name in expanded:
        if name not in known:
            raise UserError("there is no such LoRA file", where=name, remedy="Choose from the list")
        if any(mark in name for mark in ":<>="):
            raise UserError("a prompt can't hold this file name", where=name, remedy="Rename the file")
    names[:] = expanded


def set_epoch(p: Any, name: str, names: Sequence[str]) -> None:
    """Put the file in the place of one of its run; where the prompt has none, at the prompt's end."""
    run = run_of(Path(name))

    def replaced(prompt: str) -> str:
        tag = next((tag for tag in _TAG.finditer(prompt) if run_of(Path(tag[1])) == run), None)
        if tag:
            return prompt[: tag.start()] + f"<lora:{name}{tag[2] or ':' + _usual_weight()}>" + prompt[tag.end() :]
        return f"{prompt} <lora:{name}:{_usual_weight()}>".strip()

    _change(p, replaced)
    p.train_lora_name = name
    for finish in getattr(p, "train_lora_later", ()):
        finish(p)


def set_weight(p: Any, weight: float, weights: Sequence[float]) -> None:
    """Set the weight, of text encoder and UNet alike, of the LoRA that the plot is about."""

    def weighted(rest: list[str]) -> list[str]:
        others = [part for part in rest if "=" in part and part.partition("=")[0] not in ("te", "unet")]
        return [f"{weight:g}", *others]

    _retag(p, weighted)


def set_preset(p: Any, preset: str, presets: Sequence[str]) -> None:
    """Give the LoRA that the plot is about the preset's block weights."""
    numbers = format_numbers(_all_presets()[preset])

    def blocked(rest: list[str]) -> list[str]:
        return [*(part for part in rest if not part.startswith("lbw=")), f"lbw={numbers}"]

    _retag(p, blocked)


def check_presets(p: Any, names: list[str]) -> None:
    """Raises UserError for a preset that is unknown or for other models, and where LoRA Block Weight would not act."""
    found, file = _all_presets(), prompts.presets()
    for name in names:
        try:
            look_up(name, found, live.family(), file.faults)
        except UserError as error:
            raise UserError(error.what, where=PRESET, remedy=error.remedy or "Choose from the list") from None
    if not prompts.block_weight_is_there():
        return
    running = getattr(getattr(p, "scripts", None), "alwayson_scripts", [])
    script = next((script for script in running if _BLOCK_WEIGHT in str(script.title()).lower()), None)
    arguments = list(p.script_args)[script.args_from : script.args_to] if script else []
    if len(arguments) < 2 or not arguments[1]:
        raise UserError("LoRA Block Weight is not active", where=PRESET, remedy="Tick Active in its panel")


def _retag(p: Any, change: Callable[[list[str]], list[str]]) -> None:
    """Change what follows the name in the LoRA's tag: now, or once the plot's epoch axis has put it there."""
    if _epoch_axis_in_use() and not getattr(p, "train_lora_name", None):
        p.train_lora_later = (*getattr(p, "train_lora_later", ()), lambda cell: _retag_now(cell, change))
        return
    _retag_now(p, change)


def _retag_now(p: Any, change: Callable[[list[str]], list[str]]) -> None:
    name = getattr(p, "train_lora_name", None) or _subject(p.prompt)

    def changed(prompt: str) -> str:
        return _TAG.sub(lambda tag: _tag(name, change(_rest(tag[2]))) if tag[1] == name else tag[0], prompt)

    _change(p, changed)


def _subject(prompt: str) -> str:
    """The LoRA in a prompt that a plot without epochs is about: the first that is one of a run's, else the first."""
    names = [tag[1] for tag in _TAG.finditer(prompt)]
    found = next((name for name in names if run_of(Path(name)) != name), names[0] if names else None)
    if found is None:
        raise UserError("the prompt has no <lora:…>", where="prompt", remedy=f"Put one there, or use the axis {EPOCH}")
    return found


def _rest(text: str) -> list[str]:
    return [part for part in text.split(":")[1:] if part]


def _tag(name: str, rest: list[str]) -> str:
    """A tag with its weight in front: what follows it is read by name."""
    first = rest if rest and "=" not in rest[0] else [_usual_weight(), *rest]
    return f"<lora:{':'.join([name, *first])}>"


def _change(p: Any, change: Callable[[str], str]) -> None:
    for field in _FIELDS:
        if isinstance(getattr(p, field, None), str) and (field == "prompt" or getattr(p, field)):
            setattr(p, field, change(getattr(p, field)))


def _epoch_axis_in_use() -> bool:
    """The plot tells its axes before it draws."""
    infos = (getattr(shared().state, f"xyz_plot_{axis}", None) for axis in "xyz")
    return any(getattr(getattr(info, "axis", None), "label", None) == EPOCH for info in infos)


def _usual_weight() -> str:
    return f"{float(getattr(shared().opts, 'extra_networks_default_multiplier', 1.0)):g}"


def _epoch_label(p: Any, option: Any, name: str) -> str:
    file = epoch_file(Path(name))
    return name if file.last else f"{file.name} {file.label}"


def _presets() -> list[str]:
    """Those for the loaded checkpoint."""
    family = live.family()
    return [name for name, numbers in _all_presets().items() if not count_problem(len(numbers), family)]


def _all_presets() -> Presets:
    """The user's own and ours; of equal names the user's."""
    return prompts.presets().with_builtin


def _lora_dir() -> Path:
    from .host import WebUIHost

    return WebUIHost().lora_dir()
