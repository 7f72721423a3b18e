"""Settings from a file of sd-scripts' or ours, and into one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ... import settings as settings_module
from ...errors import UserError, UserErrors
from ...settings import TrainSettings
from .. import fields, texts
from ..compat import QUIET
from ..labels import PREFIX
from .form import Form, button, html, told

_OURS = ("pretrained_model_name_or_path", "train_data_dir", "reg_data_dir", "dataset_config", "output_dir")
"""Where things lie on this machine: a file that doesn't say leaves them as they are."""


@dataclass(frozen=True)
class Files:
    """The fold's components."""

    given: Any
    answer: Any
    save: Any
    saved: Any
    problems: Any


def build() -> Files:
    """The fold's components."""
    with gr.Accordion("Load or save these settings", open=False, elem_id=f"{PREFIX}settings_file"):
        given = gr.File(label="A .toml or .json of kohya's option names", elem_id=f"{PREFIX}load_settings")
        answer = html("loaded_settings")
        save = button("Save these settings as a file", "save_settings")
        problems = html("save_errors")
        saved = gr.File(label="Your settings", visible=False, interactive=False, elem_id=f"{PREFIX}saved_settings")
    return Files(given, answer, save, saved, problems)


def connect(step: Files, form: Form) -> None:
    """Tie the fold to the form."""
    names = list(form.settings)
    boxes = list(form.settings.values())
    step.given.change(lambda file: load(file, names), [step.given], [step.answer, *boxes], **QUIET)
    step.save.click(lambda *held: save(names, held), boxes, [step.problems, step.saved], **QUIET)


def load(file: Any, names: Sequence[str]) -> list[Any]:
    """What was understood of an uploaded file, then the fields' values. What it doesn't name gets its default."""
    unchanged = [gr.update() for _ in names]
    if not file:
        return ["", *unchanged]
    shown: list[Any] = unchanged

    def read() -> str:
        nonlocal shown
        settings, taken, refused = understood(settings_module.read_config(Path(getattr(file, "name", file))))
        rows, values = fields.rows(), asdict(settings)
        keep = {name for name in _OURS if not values[name]}
        if taken:
            shown = [gr.update() if name in keep else fields.shown(rows[name], values[name]) for name in names]
        return texts.imported({name: fields.shown(rows[name], values[name]) for name in taken}, refused)

    answer = told(read)
    return [answer, *shown]


def understood(values: dict[str, Any]) -> tuple[TrainSettings, list[str], list[tuple[str, str]]]:
    """(settings, names that the file gave, (name, reason) of what isn't taken over) of a file's values."""
    values, refused = dict(values), []
    path = values.get("pretrained_model_name_or_path")
    if path and not Path(str(path)).is_file():
        refused.append(("pretrained_model_name_or_path", "there is no such file here"))
        del values["pretrained_model_name_or_path"]
    while True:
        try:
            settings, warnings = settings_module.from_dict(values)
            break
        except UserError as error:
            wrong = {
                single.where: single.what for single in (error.errors if isinstance(error, UserErrors) else [error])
            }
            known = [name for name in wrong if name in values]
            if not known:  # it doesn't stand under its own name, such as a part of network_args
                raise
            refused += [(name, wrong[name]) for name in known]
            values = {name: value for name, value in values.items() if name not in known}
    refused += [(name, rest) for name, _, rest in (text.partition(" ") for text in warnings)]
    defaults = asdict(TrainSettings())
    given = {name: value for name, value in asdict(settings).items() if name in values or value != defaults[name]}
    return settings, list(given), refused


def save(names: Sequence[str], held: Sequence[Any]) -> list[Any]:
    """Problems, and the file of the settings that the fields hold; what stands at its default is left out."""
    path: Path | None = None

    def write() -> str:
        nonlocal path
        settings, _ = settings_module.from_dict(fields.values_of(names, held))
        path = Path(tempfile.mkdtemp(prefix="train-lora-")) / f"{_file_name(settings.output_name)}.toml"
        path.write_text(to_toml(settings), encoding="utf-8")
        return ""

    answer = told(write)
    return [answer, gr.update(value=str(path) if path else None, visible=path is not None)]


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)[:60] or "settings"


def to_toml(settings: TrainSettings) -> str:
    """Everything that isn't at its default, as `settings.load` and sd-scripts read it."""
    defaults, lines = asdict(TrainSettings()), []
    for name, value in asdict(settings).items():
        if value != defaults[name]:
            held = ",".join(map(str, value)) if isinstance(value, tuple) else value
            lines.append(f"{name} = {json.dumps(held, ensure_ascii=False)}\n")
    return "".join(lines)
