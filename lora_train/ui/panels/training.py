"""The step Training: recipes, fields, the sum beside them, and the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ...jobs.manager import Manager
from ...settings.presets import PRESETS, preset
from .. import fields, texts
from ..compat import QUIET, unsaved
from ..labels import PREFIX, RECIPES, TRAINING, groups
from ..sums import INPUTS, read_again, reckon
from . import files
from .form import Form, button, followed, html, place, told

AS_IT_IS = "My own"
_OWN_NOTE = "A recipe fills in the fields below; My own leaves them as they are."


@dataclass(frozen=True)
class Training:
    """The step's components that handlers need."""

    recipe: Any
    recipe_note: Any
    total: Any
    wanted: Any
    aim: Any
    take: Any
    problems: Any
    starts: tuple[Any, ...]
    share: Any
    files: files.Files
    reset_name: Any
    reset: Any


def build(manager: Manager, form: Form) -> Training:
    """The step's components."""
    in_webui = not hasattr(manager.host, "choose")
    with gr.Row(elem_id=f"{PREFIX}columns"):
        with gr.Column(scale=6, min_width=320, elem_id=f"{PREFIX}form"):
            choices = [(AS_IT_IS, ""), *((one.title_en, one.name) for one in PRESETS)]
            recipe = unsaved(gr.Radio(choices=choices, value="", label="Recipe", elem_id=f"{PREFIX}recipe"))
            recipe_note = html("recipe_note", recipe_text(""))
            form.add(*TRAINING)
            unsaved(
                gr.Textbox(
                    label="Find a setting",
                    placeholder="noise, bucket, dropout …",
                    max_lines=1,
                    elem_id=f"{PREFIX}find",
                )
            )
            place("found")
            _folded(form)
            settings_files = files.build()
            with gr.Row(elem_id=f"{PREFIX}reset_row"):
                reset_name = unsaved(gr.Textbox(show_label=False, container=False, elem_id=f"{PREFIX}reset_name"))
                reset = button("Reset this field", "reset")
        with gr.Column(scale=6, min_width=320, elem_id=f"{PREFIX}side"):
            total = html("arithmetic", texts.arithmetic(None))
            with gr.Accordion("Plan backwards from a number of steps", open=False, elem_id=f"{PREFIX}aim_fold"):
                with gr.Row():
                    wanted = unsaved(
                        gr.Number(
                            value=None,
                            precision=0,
                            label="Wanted steps",
                            info="3000 to 5000 are common for a person",
                            elem_id=f"{PREFIX}wanted",
                        )
                    )
                    take = button("Take these epochs", "take_epochs")
                aim = html("aim")
            problems = html("errors")
            with gr.Row(elem_id=f"{PREFIX}buttons"):
                start = button("Start training", "start", "primary")
                more = button("Add to the queue", "enqueue", "primary")
            share = unsaved(
                gr.Checkbox(
                    value=False,
                    label="Keep the WebUI's model on the GPU meanwhile",
                    info="Pictures can be generated while it trains; both need to fit into the GPU's memory",
                    visible=in_webui,
                    elem_id=f"{PREFIX}share_gpu",
                )
            )
            place("live", f"{PREFIX}live_place")
            place("queue", f"{PREFIX}queue_place")
    return Training(
        *(recipe, recipe_note, total, wanted, aim, take, problems, (start, more), share),
        *(settings_files, reset_name, reset),
    )


def _folded(form: Form) -> None:
    """Every setting that has no place in front, by section."""
    left = [name for name in fields.rows() if name not in form.settings]
    with gr.Column(elem_id=f"{PREFIX}more"):
        for title, names in groups(left).items():
            with gr.Accordion(title, open=False, elem_id=f"{PREFIX}group_{title.split()[0].lower()}"):
                form.add(*(names[first : first + 2] for first in range(0, len(names), 2)))


def connect(step: Training, manager: Manager, form: Form, views: Sequence[Any], again: Sequence[Any]) -> None:
    """Tie the step to the form. views: of the pictures; again: buttons that read them anew."""
    host, sources = manager.host, [form.settings[name] for name in INPUTS]

    def everything(wanted: Any, *held: Any) -> list[str]:
        found = reckon(fields.values_of(INPUTS, held), host, _whole(wanted))
        return [texts.arithmetic(found), texts.aimed(found, _whole(wanted)), texts.pictures(found)]

    inputs, outputs = [step.wanted, *sources], [step.total, step.aim, *views]
    followed([*sources, step.wanted], everything, inputs, outputs)
    for reading in again:
        reading.click(read_again, [], [], **QUIET).then(everything, inputs, outputs, **QUIET)

    def epochs(wanted: Any, *held: Any) -> Any:
        found = reckon(fields.values_of(INPUTS, held), host, _whole(wanted))
        return str(found.aim.epochs) if isinstance(found, texts.Sum) and found.aim else gr.update()

    step.take.click(epochs, inputs, [form.settings["max_train_epochs"]], **QUIET)

    for start in step.starts:
        start.click(lambda *held: _start(manager, form, held), [step.share, *form.inputs()], [step.problems], **QUIET)
    names = list(form.settings)
    filled = [step.recipe_note, *form.settings.values()]
    step.recipe.change(lambda name: [recipe_text(name), *recipe_values(name, names)], [step.recipe], filled, **QUIET)
    step.reset.click(lambda name: reset_values(name, names), [step.reset_name], list(form.settings.values()), **QUIET)
    files.connect(step.files, form)


def _whole(number: Any) -> int | None:
    return int(number) if isinstance(number, (int, float)) and 0 < number < 10**9 else None


def _start(manager: Manager, form: Form, held: Sequence[Any]) -> str:
    """Start, or line up; the problems as HTML, or nothing."""

    def start() -> str:
        share, *rest = held
        manager.start(*form.read(rest), share_gpu=bool(share))
        return ""

    return told(start)


def recipe_text(name: str) -> str:
    """What a recipe is for, and what it leaves to people."""
    if not name:
        return f'<p class="train-lora-hint">{_OWN_NOTE}</p>'
    note = texts.escape(preset(name).note)
    more = f'<details class="train-lora-help"><summary>What it leaves to you</summary><p>{note}</p></details>'
    return f'<p class="train-lora-hint">{texts.escape(RECIPES[name])}</p>{more}'


def recipe_values(name: str, names: Sequence[str]) -> list[Any]:
    """What the fields of `names` show for a recipe; no change where it says nothing of them."""
    rows, given = fields.rows(), preset(name).values if name else {}
    return [fields.shown(rows[one], given[one]) if one in given else gr.update() for one in names]


def reset_values(name: str, names: Sequence[str]) -> list[Any]:
    """The first value for the field of that name, no change for the others."""
    return [fields.first(fields.rows()[one]) if one == name else gr.update() for one in names]
