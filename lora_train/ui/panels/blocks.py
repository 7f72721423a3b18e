"""The step Blocks: the workbench that javascript/train_lora_blocks*.js fills, and the bake by text alone."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ...blocks.presets import BUILTIN, format_presets
from ...errors import UserError
from ...jobs.manager import Manager
from ...network.kohya import PRECISIONS
from .. import texts
from ..compat import QUIET, unsaved
from ..labels import PREFIX
from ..routes.merges import Merges
from .form import button, html, place, told

_LIMITS = (("Exact", "exact"), ("At most this rank", "rank"), ("At most this error", "error"))
_HELP = """<details class="train-lora-help"><summary>How a recipe is written</summary>
<p>Name, strength and weights of each LoRA, with commas between them:</p><pre>Test0:1:GP1,BASE:-1:GP2</pre>
<p>Weights are the name of a preset, or 17 numbers; without them the whole LoRA counts.
A negative strength takes a LoRA away.</p></details>"""


def build(manager: Manager) -> None:
    """The place of the workbench; below it the plain form, tied to the route's own work."""
    place("blocks_view")
    with gr.Accordion("Bake by text alone", open=False, elem_id=f"{PREFIX}blocks_text"):
        _plain(manager)


def _plain(manager: Manager) -> None:
    at = PREFIX + "bake_"
    with gr.Row(elem_id=f"{PREFIX}blocks_columns"):
        with gr.Column(scale=5, min_width=320):
            recipe = unsaved(
                gr.Textbox(
                    label="LoRAs to bake together",
                    placeholder="my-lora:1:GP1,other:-1:GP2",
                    lines=2,
                    elem_id=f"{at}recipe",
                )
            )
            gr.HTML(_HELP)
            with gr.Row():
                name = unsaved(
                    gr.Textbox(label="Name of the new LoRA", info="Without an ending", max_lines=1, elem_id=f"{at}name")
                )
                precision = unsaved(
                    gr.Dropdown(choices=list(PRECISIONS), value="fp16", label="Saved as", elem_id=f"{at}precision")
                )
            with gr.Row():
                limit = unsaved(gr.Radio(choices=list(_LIMITS), value="exact", label="Size", elem_id=f"{at}limit"))
                most = unsaved(
                    gr.Textbox(
                        label="Rank or error",
                        placeholder="32, or 0.01",
                        max_lines=1,
                        visible=False,
                        elem_id=f"{at}most",
                    )
                )
            overwrite = unsaved(gr.Checkbox(False, label="Replace a file of that name", elem_id=f"{at}overwrite"))
            with gr.Accordion("Presets", open=False, elem_id=f"{at}presets_fold"):
                presets = unsaved(
                    gr.Textbox(
                        format_presets(BUILTIN),
                        label="Block presets",
                        info="A name and 17 numbers a line, as LoRA Block Weight has them",
                        lines=8,
                        max_lines=24,
                        elem_id=f"{at}presets",
                    )
                )
            bake = button("Bake into one LoRA", "bake", "primary")
        with gr.Column(scale=6, min_width=320):
            result = html("baked", _empty())
    merges = Merges(manager)
    inputs = [recipe, name, precision, limit, most, overwrite, presets]
    bake.click(lambda *held: told(lambda: _bake(merges, *held)), inputs, [result], **QUIET)
    limit.change(lambda chosen: gr.update(visible=chosen != "exact"), [limit], [most], **QUIET)


def _empty() -> str:
    return texts.empty("Nothing is baked yet.", ["The error of the new file, block by block, appears here."])


def _bake(
    merges: Merges, recipe: str, name: str, precision: str, limit: str, most: str, overwrite: bool, presets: str
) -> str:
    body: dict[str, Any] = {
        "recipe": (recipe or "").strip(),
        "name": (name or "").strip(),
        "precision": precision,
        "overwrite": bool(overwrite),
        "presets": presets or "",
    }
    if not body["recipe"]:
        raise UserError(
            "no recipe is given", where="LoRAs to bake together", remedy="Write one such as Test0:1:GP1,BASE:-1:GP2"
        )
    if limit == "rank":
        body["rank"] = int(_number(most))
    elif limit == "error":
        body["target_error"] = _number(most)
    try:
        return texts.baked(merges.merge(body)["report"])
    except UserError as error:
        raise merges.refused(error) from None


def _number(text: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        remedy = "Give a rank such as 32, or an error such as 0.01"
        raise UserError(f"{text!r} is not a number", where="Rank or error", remedy=remedy) from None
