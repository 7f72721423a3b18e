"""One gradio component a setting, made from the one schema; and back from what they hold to values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import gradio as gr

from ..grid.plan import DEFAULT_WEIGHTS, Grid
from ..settings import schema
from .compat import unsaved
from .labels import FIRST, HINTS, PLACEHOLDERS, element, label

SAMPLERS = ("Euler", "Euler a", "DDIM", "DPM++ 2M")
DRAWING = (
    "prompts",
    "negative_prompt",
    "weights",
    "epochs",
    "seed",
    "steps",
    "cfg_scale",
    "sampler",
    "width",
    "height",
)
GRID = ("enabled", *DRAWING)
Row = dict[str, Any]
AS_THE_MODEL = "auto"
"""As the model has it. The same in every language: what a dropdown shows is not translated."""


def rows() -> dict[str, Row]:
    """The schema by name."""
    return {row["name"]: row for row in schema()}


def setting(row: Row) -> Any:
    """The component of one row of the schema. Rates and what may be empty are text: 1e-4 stays as typed."""
    name, kind = row["name"], row["type"]
    value = first(row)
    common = {"label": label(name), "info": HINTS.get(name, row["help"]), "elem_id": element(name), "min_width": 130}
    if kind == "bool":
        return unsaved(gr.Checkbox(value=value, **common))
    if row["choices"]:
        return unsaved(gr.Dropdown(choices=_choices(row), value=value, allow_custom_value=row["open"], **common))
    if kind == "int":
        return unsaved(gr.Number(value=value, precision=0, **common))
    return unsaved(gr.Textbox(value=value, placeholder=PLACEHOLDERS.get(name), max_lines=1, **common))


def shown(row: Row, value: Any) -> Any:
    """A value as the row's component shows it."""
    as_it_is = row["type"] in ("bool", "int") and not row["choices"]
    return value if as_it_is else _text(value)


def first(row: Row) -> Any:
    """What the row's component shows before anyone changes it."""
    return shown(row, FIRST.get(row["name"], row["default"]))


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
    wanted, *rest = held
    return drawing_values(rest) if wanted else None


def drawing_values(held: Iterable[Any]) -> dict[str, Any]:
    """How a grid is drawn, from the fields of DRAWING. Each line of the prompts that isn't empty is a prompt."""
    values = dict(zip(DRAWING, held, strict=True))
    values["prompts"] = [line.strip() for line in str(values["prompts"] or "").splitlines() if line.strip()]
    return {name: value for name, value in values.items() if value not in (None, "", [])}


def grid_field(name: str) -> Any:
    """The component of one of the grid's fields."""
    return unsaved(_GRID_FIELDS[name]({"elem_id": element(f"grid.{name}"), "min_width": 100}))


def data() -> str:
    """What the page's script knows of the fields: {element id: label, name, range, default, first value, section}.

    As an element without text. first: what the field shows before anyone changes it.
    """
    known = {element(name): _described(row) for name, row in rows().items()}
    held = escape(json.dumps(known, ensure_ascii=False, separators=(",", ":")))
    return f'<div id="train_lora_fields_data" data-fields="{held}"></div>'


def _described(row: Row) -> dict[str, Any]:
    name, begins = row["name"], first(row)
    return {
        "name": name,
        "label": label(name),
        "section": row["section"],
        "low": None if row["choices"] else row["low"],
        "high": None if row["choices"] else row["high"],
        "default": shown(row, row["default"]),
        "first": AS_THE_MODEL if begins == "" and row["choices"] else begins,
        "empty": begins == "",
    }


def _choices(row: Row) -> list[Any]:
    choices = [_text(choice) for choice in row["choices"]]
    return [(AS_THE_MODEL, ""), *choices] if "None" in row["type"] else choices


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
    "prompts": lambda at: gr.Textbox(
        label="Prompts",
        info="One a line; each makes a page of its own. Empty: the first caption of your pictures",
        lines=3,
        max_lines=8,
        **at,
    ),
    "negative_prompt": lambda at: gr.Textbox(label="Negative prompt", max_lines=2, **at),
    "weights": lambda at: gr.Textbox(
        value=", ".join(f"{weight:g}" for weight in DEFAULT_WEIGHTS),
        label="Weights",
        info="The columns: every epoch is drawn at each of them",
        max_lines=1,
        **at,
    ),
    "epochs": lambda at: gr.Radio(
        choices=[("All of them", "all"), ("The candidates only", "band")],
        value="all",
        label="Rows",
        info="Candidates are the epochs of the lowest loss on held-out pictures",
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
