"""The step Pictures: which folder is trained on, what was understood of it, and the studio, which scripts draw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ... import settings as settings_module
from ...paths import ASSETS, DEMO_PICTURES
from .. import fields, texts
from ..compat import QUIET
from ..labels import OTHER_PICTURES, PICTURES, PREFIX, SHAPES
from .form import Form, button, html, onward, place

_LAYOUT = """<details class="train-lora-help"><summary>How the folder should look</summary>
<p>One folder for each thing that is learnt, called by how often its pictures are used in an epoch and a name.
Beside each picture lies a text file of the same name with its caption.</p>
<pre>image
└ 10_mira
   ├ 001.png
   ├ 001.txt
   └ …</pre>
<p>A folder of pictures alone will do too: its pictures are used once, and its name is their caption.</p></details>"""


@dataclass(frozen=True)
class Pictures:
    """view: of the pictures; again: the button that reads the folder anew; demo: the one that fills in the demo."""

    view: Any
    again: Any
    demo: Any


def build(form: Form) -> Pictures:
    """The step's components."""
    with gr.Row(elem_id=f"{PREFIX}pictures_columns"):
        with gr.Column(scale=5, min_width=320):
            form.add(PICTURES)
            with gr.Row():
                again = button("Read the folder again", "read_pictures")
                demo = button("Fill in the demo", "demo", visible=DEMO_PICTURES.is_dir())
            place("project_view")
            gr.HTML(_LAYOUT)
        with gr.Column(scale=6, min_width=320):
            view = html("pictures", texts.pictures(None))
    place("pictures_view", f"{PREFIX}pictures_place")
    place("plans_view", f"{PREFIX}plans_place")
    with gr.Accordion("Pictures of different shapes", open=False, elem_id=f"{PREFIX}shapes"):
        form.add(*SHAPES)
    with gr.Accordion("Regularisation, or a dataset file", open=False, elem_id=f"{PREFIX}other_pictures"):
        form.add(*OTHER_PICTURES)
    onward("Captions")
    return Pictures(view, again, demo)


def connect(step: Pictures, form: Form) -> None:
    """One click for a first training: the demo's pictures and values."""
    names = [name for name in form.settings if name not in ("pretrained_model_name_or_path", "output_dir")]
    outputs = [*(form.settings[name] for name in names), *(form.grid[name] for name in ("prompts", "weights", "steps"))]
    step.demo.click(lambda: demo_values(names), [], outputs, **QUIET)


def demo_values(names: Sequence[str]) -> list[Any]:
    """The demo's settings for `names`, then its grid's prompts, weights and steps."""
    config, rows = ASSETS / "demo" / "config.toml", fields.rows()
    given = settings_module.read_config(config) if config.is_file() else {"resolution": 64, "output_name": "demo"}
    given |= {"train_data_dir": str(DEMO_PICTURES)}
    shown = [fields.shown(rows[name], given[name]) if name in given else gr.update() for name in names]
    grid = _demo_grid(ASSETS / "demo" / "grid.json")
    weights = ", ".join(f"{weight:g}" for weight in grid["weights"]) if "weights" in grid else gr.update()
    return [*shown, grid.get("prompt", gr.update()), weights, grid.get("steps", gr.update())]


def _demo_grid(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
