"""One gradio component a setting, made from the one schema; and back from what they hold to values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr

from ..grid.plan import DEFAULT_WEIGHTS, Grid
from ..settings import schema
from .compat import unsaved
from .labels import FIRST, HINTS, PLACEHOLDERS, element, label

SAMPLERS = ("Euler", "Euler a", "DDIM", "DPM++ 2M")
GRID = ("enabled", "prompt", "negative_prompt", "weights", "seed", "steps", "cfg_scale", "sampler", "width", "height")
Row = dict[str, Any]


def rows() -> dict[str, Row]:
    """The schema by name."""
    return {row["name"]: row for row in schema()}


def setting(row: Row) -> Any:
    """The component of one row of the schema. Rates and what may be empty are text: 1e-4 stays as typed."""
    name, kind = row["name"], row["type"]
    value = shown(row, FIRST.get(name, row["default"]))
    common = {"label": label(name), "info": HINTS.get(name, row["help"]), "elem_id": element(name), "min_width": 100}
    if kind == "bool":
        return unsaved(gr.Checkbox(value=value, **common))
    if row["choices"]:
        return unsaved(gr.Dropdown(choices=_choices(row), value=value, **common))
    if kind == "int":
        return unsaved(gr.Number(value=value, precision=0, **common))
    return unsaved(gr.Textbox(value=value, placeholder=PLACEHOLDERS.get(name), max_lines=1, **common))


def shown(row: Row, value: Any) -> Any:
    """A value as the row's component shows it."""
    as_it_is = row["type"] in ("bool", "int") and not row["choices"]
    return value if as_it_is else _text(value)


def value_of(row: Row, held: Any) -> Any:
    """What a component holds, as `settings.from_dict` reads it."""
    if row["type"].startswith("list"):
        return str(held or "").split()
    if held is None:
        return ""
    return held.strip() if isinstance(held, str) else held


def values_of(names: Sequence[str], held: Iterable[Any]) -> dict[str, Any]:
    """Settings from the components' values."""
    known = rows()
    return {name: value_of(known[name], value) for name, value in zip(names, held, strict=True)}


def grid_values(held: Iterable[Any]) -> dict[str, Any] | None:
    """The grid's fields; None where none is wanted. What is empty is left to the engine's own choice."""
    values = dict(zip(GRID, held, strict=True))
    if not values.pop("enabled"):
        return None
    return {name: value for name, value in values.items() if value is not None and value != ""}


def grid_field(name: str) -> Any:
    """The component of one of the grid's fields."""
    return unsaved(_GRID_FIELDS[name]({"elem_id": element(f"grid.{name}"), "min_width": 100}))


def _choices(row: Row) -> list[Any]:
    choices = [_text(choice) for choice in row["choices"]]
    return [("as the model has it", ""), *choices] if "None" in row["type"] else choices


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return str(value[0]) if len(set(value)) == 1 else ",".join(map(str, value))
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


_GRID_FIELDS: dict[str, Any] = {
    "enabled": lambda at: gr.Checkbox(value=True, label="Draw a grid after the training", **at),
    "prompt": lambda at: gr.Textbox(
        label="Prompt", info="Empty: the first caption of your pictures", lines=2, max_lines=4, **at
    ),
    "negative_prompt": lambda at: gr.Textbox(label="Negative prompt", max_lines=2, **at),
    "weights": lambda at: gr.Textbox(
        value=", ".join(f"{weight:g}" for weight in DEFAULT_WEIGHTS),
        label="Weights",
        info="Every epoch is drawn at each of them",
        max_lines=1,
        **at,
    ),
    "seed": lambda at: gr.Number(value=Grid.seed, precision=0, label="Sampling seed", **at),
    "steps": lambda at: gr.Number(value=Grid.steps, precision=0, label="Sampling steps", **at),
    "cfg_scale": lambda at: gr.Number(value=Grid.cfg_scale, label="CFG scale", **at),
    "sampler": lambda at: gr.Dropdown(
        choices=list(SAMPLERS), value=Grid.sampler, label="Sampler", allow_custom_value=True, **at
    ),
    "width": lambda at: gr.Textbox(label="Width", placeholder="as in training", max_lines=1, **at),
    "height": lambda at: gr.Textbox(label="Height", placeholder="as in training", max_lines=1, **at),
}
