"""What the planners' scripts need of gradio: a hidden way in which they set fields of the form, of whatever kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from .. import fields
from ..compat import QUIET, unsaved
from ..labels import PREFIX
from .form import Form, button


def build(form: Form) -> None:
    """The hidden components, tied to the form: a text of {setting: value}, and the button that puts them in."""
    with gr.Row(elem_id=f"{PREFIX}plan_row"):
        values = unsaved(gr.Textbox(show_label=False, container=False, elem_id=f"{PREFIX}plan_values"))
        take = button("Take these values", "plan_take")
    names = list(form.settings)
    take.click(lambda text: taken(text, names), [values], list(form.settings.values()), **QUIET)


def taken(text: str, names: Sequence[str]) -> list[Any]:
    """What the fields of `names` show: the given values, else no change. Unknown names are passed over."""
    try:
        given = json.loads(text)
    except ValueError:
        given = {}
    given = given if isinstance(given, dict) else {}
    rows = fields.rows()
    return [fields.shown(rows[name], given[name]) if name in given else gr.update() for name in names]
