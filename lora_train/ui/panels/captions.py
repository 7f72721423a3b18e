"""The step Captions: what is there, what the host can write, and how captions are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ...dataset.tagging import SORTS, TagOptions
from ...errors import UserError
from ...jobs.manager import Manager
from ...studio import onnx_tagger
from ...studio import project as projects
from ...studio.onnx_tagger import MODEL, TAGS, OnnxTagger
from .. import texts
from ..compat import QUIET, unsaved
from ..labels import CAPTIONS, PREFIX
from ..routes.captions import TAGGERS
from ..routes.captions import Captions as Routes
from .form import Form, button, html, onward, place, told

_EXISTING = (
    ("Keep it as it is", "keep"),
    ("Put the new one behind it", "append"),
    ("Put the new one before it", "prepend"),
    ("Replace it", "replace"),
)
_NO_ONNX = "It runs by onnxruntime, which isn't there: install it into the Python that runs this page."
_ONNX_FROM = "Such files are called wd-v1-4-… and wd-…-tagger-v3 on Hugging Face."
_NONE = (
    "This program has no captioner of its own.",
    [
        "Write the captions in the table: click the line beside a picture.",
        "Or use a WD14 tagger that you have as a file, below.",
        "A picture without one takes the words of its folder's name: those of 10_mira are “mira”.",
    ],
)


@dataclass(frozen=True)
class Captions:
    """options: of the captioners by name; tagger: the folder of a tagger's files."""

    captioner: Any
    options: dict[str, Any]
    existing: Any
    trigger: Any
    tagger: Any
    write: Any
    problems: Any


def build(manager: Manager, form: Form) -> Captions:
    """The step's components: on one side what writes captions, on the other the studio, which the scripts fill."""
    with gr.Row(elem_id=f"{PREFIX}captions_columns"):
        with gr.Column(scale=3, min_width=290):
            trigger = unsaved(
                gr.Textbox(
                    label="Trigger word",
                    info="What calls your LoRA in a prompt: a word that nothing else is called by. A style needs none",
                    max_lines=1,
                    elem_id=f"{PREFIX}caption_trigger",
                )
            )
            place("trigger_place")
            made = _writing(manager)
            place("captions_view")
            gr.Markdown("### While training")
            form.add(*CAPTIONS)
            onward("Training")
        with gr.Column(scale=8, min_width=320):
            place("caption_studio", f"{PREFIX}caption_studio_place")
    return Captions(trigger=trigger, **made)


def _writing(manager: Manager) -> dict[str, Any]:
    """The fields of the captioners: the host's, and a tagger from a file."""
    captioners = manager.host.captioners()
    choices = [*((one.title, one.name) for one in captioners), (OnnxTagger.title, OnnxTagger.name)]
    place_of_taggers = manager.host.data_dir() / TAGGERS
    at = PREFIX + "caption_"
    hidden = manager.host.restricted()
    has_own = bool(captioners or onnx_tagger.folders(place_of_taggers))
    if not has_own:
        gr.HTML(texts.note("note", *_NONE), elem_id=f"{PREFIX}no_captioner")
    with gr.Accordion("Let a program write captions", open=has_own, elem_id=f"{at}writing"):
        captioner = unsaved(
            gr.Radio(choices=choices, value=choices[0][1], label="Written by", elem_id=f"{at}captioner")
        )
        existing = unsaved(
            gr.Radio(
                choices=list(_EXISTING), value="keep", label="Where there is a caption already", elem_id=f"{at}existing"
            )
        )
        options = _options(at)
        with gr.Accordion("A WD14 tagger from a file", open=not captioners, elem_id=f"{at}onnx"):
            tagger = unsaved(
                gr.Textbox(
                    label="Folder of the tagger",
                    info=f"It holds {MODEL} and {TAGS}"
                    if hidden
                    else f"It holds {MODEL} and {TAGS}. Empty: {place_of_taggers}",
                    max_lines=1,
                    elem_id=f"{at}tagger",
                )
            )
            gr.HTML(_about_onnx())
        write = button("Write captions for the folder of pictures", "write_captions", "primary")
        problems = html("captions_problems")
    return {
        "captioner": captioner,
        "options": options,
        "existing": existing,
        "tagger": tagger,
        "write": write,
        "problems": problems,
    }


def _about_onnx() -> str:
    if onnx_tagger.available():
        return f'<p class="train-lora-hint">{_ONNX_FROM}</p>'
    return f'<p class="train-lora-hint"><span>{_NO_ONNX}</span> <span>{_ONNX_FROM}</span></p>'


def _options(at: str) -> dict[str, Any]:
    """Of TagOptions by name."""
    begins = TagOptions(threshold=0.35)
    options = {
        "threshold": gr.Slider(
            *(0, 1, begins.threshold),
            step=0.01,
            label="Threshold",
            info="Tags that are surer than this are written: 0.35 usually, 0.5 for ornate pictures",
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
    routes, names = Routes(manager), list(step.options)
    given = [
        form.settings["train_data_dir"],
        form.settings["dataset_config"],
        form.settings["caption_extension"],
        step.captioner,
        step.existing,
        step.trigger,
        step.tagger,
    ]

    def write(*held: Any) -> str:
        count = len(given)
        return told(lambda: _write(routes, held[:count], dict(zip(names, held[count:], strict=True))))

    step.write.click(write, [*given, *step.options.values()], [step.problems], **QUIET)


def _write(routes: Routes, held: Sequence[Any], options: dict[str, Any]) -> str:
    """Begin the task; how far it is stands in the status."""
    folder, dataset, extension, captioner, existing, trigger, tagger = held
    project = projects.of_dataset_file(str(dataset or "").strip())
    folder = str(folder or "").strip() or (str(project.root) if project else "")
    if not folder:
        raise UserError("no folder is given", where="train_data_dir", remedy="Name it in the step Pictures")
    writing = {"existing": existing, "trigger": str(trigger or "").strip(), "extension": str(extension or "")}
    known = {name: value for name, value in options.items() if value is not None}
    asked = {"folder": folder, "captioner": captioner, "tagger": str(tagger or "")}
    routes.start({**asked, "options": known, "writing": writing})
    return ""
