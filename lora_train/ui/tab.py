"""The tab: its steps from left to right. What is going on is shown by the scripts in javascript/."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..jobs.manager import Manager
from . import fields
from .compat import step_of, unsaved
from .installer import INSTALLER
from .labels import PREFIX
from .panels import blocks, captions, grid, header, pictures, plans, training
from .panels.form import Form

TITLE = "Train LoRA"
STEPS = ("Pictures", "Captions", "Training", "Grid", "Blocks")


def build(manager: Manager) -> gr.Blocks:
    """The whole tab."""
    INSTALLER.check()
    with gr.Blocks(analytics_enabled=False, title=TITLE) as page, gr.Column(elem_id="train_lora"):
        header.build(manager)
        fill(manager)
        header.help_below(manager)
        gr.HTML(fields.data())
    return page


def fill(manager: Manager) -> Form:
    """The steps, tied to each other."""
    form = Form()
    with unsaved(gr.Tabs(elem_id=f"{PREFIX}steps")):
        with _step("Pictures"):
            of_pictures = pictures.build(form)
        with _step("Captions"):
            of_captions = captions.build(manager, form)
        with _step("Training"):
            of_training = training.build(manager, form)
        with _step("Grid") as tab:
            of_grid = grid.build(manager, form, tab)
        with _step("Blocks"):
            blocks.build(manager)
    pictures.connect(of_pictures, form)
    captions.connect(of_captions, manager, form)
    views, again = [of_pictures.view], [of_pictures.again]
    training.connect(of_training, manager, form, views, again)
    grid.connect(of_grid, manager, form)
    plans.build(form)
    return form


def _step(title: str) -> Any:
    return step_of(title, f"{PREFIX}step_{title.lower()}")
