"""The step Grid: what is drawn after a training, and grids of any series of LoRA files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ...errors import UserError
from ...grid import plan
from ...jobs.manager import Manager
from .. import fields
from ..compat import QUIET, unsaved
from ..labels import PREFIX
from .form import Form, button, html, place, told


@dataclass(frozen=True)
class Grid:
    """The step's components that handlers need."""

    tab: Any
    series: Any
    refresh: Any
    draw: Any
    problems: Any


def build(manager: Manager, form: Form, tab: Any) -> Grid:
    """The step's components. tab: the step itself, which lists the LoRAs anew when it is opened."""
    place("grid_view")
    gr.Markdown("### The next grid")
    with gr.Row(elem_id=f"{PREFIX}grid_columns"):
        with gr.Column(scale=6, min_width=320):
            form.add_grid(("enabled",), ("prompts",), ("negative_prompt",))
        with gr.Column(scale=5, min_width=320):
            form.add_grid(("weights",), ("epochs",))
            with gr.Accordion("How it is drawn", open=False, elem_id=f"{PREFIX}grid_more"):
                form.add_grid(("sampler", "steps", "cfg_scale"), ("width", "height", "seed"))
    with gr.Row(elem_id=f"{PREFIX}series_row"):
        series = unsaved(
            gr.Dropdown(
                choices=_choices(manager),
                label="A grid of LoRAs that are there already",
                info="Any series in the LoRA folder, also one that was trained elsewhere",
                scale=8,
                elem_id=f"{PREFIX}series",
            )
        )
        refresh = button("Refresh", "refresh_series", scale=0, min_width=90)
        draw = button("Draw it", "draw_grid", scale=0, min_width=120)
    problems = html("grid_problems")
    return Grid(tab, series, refresh, draw, problems)


def connect(step: Grid, manager: Manager, form: Form) -> None:
    """Tie the step to the manager."""
    for event in (step.refresh.click, step.tab.select):
        event(lambda: gr.update(choices=_choices(manager)), [], [step.series], **QUIET)
    step.draw.click(lambda *held: _draw(manager, held), [step.series, *form.drawing()], [step.problems], **QUIET)


def _draw(manager: Manager, held: Sequence[Any]) -> str:
    def draw() -> str:
        chosen, *drawing = held
        found = _series(manager).get(chosen or "")
        if found is None:
            what = "that series isn't there any more" if chosen else "no series of LoRAs is chosen"
            raise UserError(what, where="series", remedy="Choose one from the list")
        loras = [epoch["lora"] for epoch in found["epochs"]]
        manager.start_grid({"loras": loras, **fields.drawing_values(drawing)})
        return ""

    return told(draw)


def _series(manager: Manager) -> dict[str, dict[str, Any]]:
    """The series of the LoRA folder by what they are called in the list: gradio 3 shows a choice's value only."""
    root = manager.host.lora_dir()
    found = {}
    for one in plan.all_series(root):
        folder = Path(one["folder"])
        place = folder.relative_to(root) if folder.is_relative_to(root) else folder
        found[f"{place / one['name']} ({len(one['epochs'])})"] = one
    return found


def _choices(manager: Manager) -> list[str]:
    try:
        return list(_series(manager))
    except (AttributeError, OSError, UserError):  # a host without a folder of LoRAs has none
        return []
