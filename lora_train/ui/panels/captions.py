"""The step Captions: what is there, what the host can write, and how captions are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ...dataset.tagging import SORTS, TagOptions
from ...errors import UserError
from ...jobs.manager import Manager
from .. import texts
from ..compat import QUIET, unsaved
from ..labels import CAPTIONS, PREFIX
from ..routes.captions import Captions as Routes
from .form import Form, button, html, onward, place, told

_EXISTING = (
    ("Keep it as it is", "keep"),
    ("Put the new one behind it", "append"),
    ("Put the new one before it", "prepend"),
    ("Replace it", "replace"),
)
_NONE = (
    "This program can't write captions by itself.",
    [
        "Write them by hand: a text file beside each picture, of the same name, ending in .txt.",
        "A picture without one takes the words of its folder's name: those of 10_mira are “mira”.",
        "Or write them in a WebUI that has deepbooru or BLIP, and come back with the folder.",
    ],
)


@dataclass(frozen=True)
class Captions:
    """view: of the captions; again: the button that reads them anew; the others are None without a captioner."""

    view: Any
    again: Any
    captioner: Any = None
    options: dict[str, Any] | None = None
    existing: Any = None
    trigger: Any = None
    write: Any = None
    problems: Any = None


def build(manager: Manager, form: Form) -> Captions:
    """The step's components."""
    with gr.Row(elem_id=f"{PREFIX}captions_columns"):
        with gr.Column(scale=5, min_width=320):
            made = _writing(manager)
            gr.Markdown("### While training")
            form.add(*CAPTIONS)
            onward("Training")
        with gr.Column(scale=6, min_width=320):
            place("captions_view")
            view = html("captions", texts.tags(None))
            again = button("Read the captions again", "read_captions")
    return Captions(view, again, **made)


def _writing(manager: Manager) -> dict[str, Any]:
    """The fields of the host's captioners, or what there is without one."""
    captioners = manager.host.captioners()
    if not captioners:
        gr.HTML(texts.note("note", *_NONE), elem_id=f"{PREFIX}no_captioner")
        return {}
    at = PREFIX + "caption_"
    gr.Markdown("### Write captions")
    captioner = unsaved(
        gr.Radio(
            choices=[(one.title, one.name) for one in captioners],
            value=captioners[0].name,
            label="Written by",
            elem_id=f"{at}captioner",
        )
    )
    trigger = unsaved(
        gr.Textbox(
            label="Trigger word",
            info="Stands first in every caption; a word that nothing else is called by. May be empty",
            max_lines=1,
            elem_id=f"{at}trigger",
        )
    )
    existing = unsaved(
        gr.Radio(
            choices=list(_EXISTING), value="keep", label="Where there is a caption already", elem_id=f"{at}existing"
        )
    )
    options = _options(at)
    write = button("Write captions for the folder of pictures", "write_captions", "primary")
    problems = html("captions_problems")
    return {
        "captioner": captioner,
        "options": options,
        "existing": existing,
        "trigger": trigger,
        "write": write,
        "problems": problems,
    }


def _options(at: str) -> dict[str, Any]:
    """Of TagOptions by name."""
    begins = TagOptions(threshold=0.35)
    options = {
        "threshold": gr.Slider(
            *(0, 1, begins.threshold),
            step=0.01,
            label="Threshold",
            info="deepbooru writes the tags that it is surer of than this: 0.35 usually, 0.5 for ornate pictures",
            elem_id=f"{at}threshold",
        ),
        "exclude": gr.Textbox(label="Leave out", info="Tags with commas between", max_lines=2, elem_id=f"{at}exclude"),
    }
    with gr.Accordion("More about how captions are written", open=False, elem_id=f"{at}more"):
        with gr.Row():
            options["spaces"] = gr.Checkbox(begins.spaces, label="Spaces for underscores", elem_id=f"{at}spaces")
            options["escape"] = gr.Checkbox(begins.escape, label="Escape brackets", elem_id=f"{at}escape")
        with gr.Row():
            named = {"confidence": "Surest first", "alphabet": "By the alphabet"}
            options["sort"] = gr.Radio(
                choices=[(named[one], one) for one in SORTS],
                value=begins.sort,
                label="Order of tags",
                elem_id=f"{at}sort",
            )
        with gr.Row():
            for name, text in (("min_length", "Shortest sentence"), ("max_length", "Longest sentence")):
                options[name] = gr.Number(
                    getattr(begins, name), precision=0, label=text, info="BLIP, in tokens", elem_id=f"{at}{name}"
                )
            options["beams"] = gr.Number(
                begins.beams, precision=0, label="Beams", info="BLIP: more are slower and better", elem_id=f"{at}beams"
            )
    return {name: unsaved(component) for name, component in options.items()}


def connect(step: Captions, manager: Manager, form: Form) -> None:
    """Tie the button to the route's own work."""
    if step.options is None:
        return
    routes, names = Routes(manager), list(step.options)
    given = [
        form.settings["train_data_dir"],
        form.settings["caption_extension"],
        step.captioner,
        step.existing,
        step.trigger,
    ]

    def write(*held: Any) -> str:
        return told(lambda: _write(routes, held[:5], dict(zip(names, held[5:], strict=True))))

    step.write.click(write, [*given, *step.options.values()], [step.problems], **QUIET)


def _write(routes: Routes, held: Sequence[Any], options: dict[str, Any]) -> str:
    """Begin the task; how far it is stands in the status."""
    folder, extension, captioner, existing, trigger = held
    if not str(folder or "").strip():
        raise UserError("no folder is given", where="train_data_dir", remedy="Name it in the step Pictures")
    writing = {"existing": existing, "trigger": str(trigger or "").strip(), "extension": str(extension or "")}
    known = {name: value for name, value in options.items() if value is not None}
    routes.start({"folder": str(folder).strip(), "captioner": captioner, "options": known, "writing": writing})
    return ""
