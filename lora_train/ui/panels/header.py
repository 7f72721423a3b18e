"""What stands above the steps: which checkpoint is trained on, and what is missing before anything can be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gradio as gr

from ...errors import UserError
from ...jobs.manager import Manager
from .. import guard, texts
from ..compat import QUIET, unsaved
from ..installer import INSTALLER
from ..labels import PREFIX
from .form import button, html, place, told


def build(manager: Manager) -> None:
    """The header's components, tied to the host."""
    choose = getattr(manager.host, "choose", None)
    if cookie := guard.page_cookie():
        gr.HTML(f'<div id="{PREFIX}cookie" data-cookie="{cookie}" hidden></div>')
    with gr.Row(elem_id=f"{PREFIX}header"):
        with gr.Column(scale=8, min_width=280):
            if choose is None:
                place("checkpoint")
            else:
                _choice(manager, choose)
        with gr.Column(scale=2, min_width=120):
            place("language")
    with gr.Column(elem_id=f"{PREFIX}packages"):
        place("packages_text")
        install = button("Install what training needs", "install", "primary")
        refusal = html("install_problems")
        install.click(lambda: told(lambda: _install(manager)), [], [refusal], **QUIET)


def _choice(manager: Manager, choose: Any) -> None:
    """Without a WebUI, the checkpoint is chosen here."""
    current = manager.host.checkpoint()
    known = manager.host.checkpoints()
    titles = Counter(checkpoint.title for checkpoint in known)
    places = {it.title if titles[it.title] == 1 else str(it.path): it.path for it in known}  # gradio 3 shows values
    chosen = next((name for name, path in places.items() if current and path == current.path), None)
    box = unsaved(
        gr.Dropdown(
            choices=list(places),
            value=chosen,
            label="Checkpoint: Stable Diffusion 1.5, 2 or XL",
            elem_id=f"{PREFIX}checkpoint_choice",
        )
    )
    box.change(lambda name: choose(places[name]) if name in places else None, [box], [], **QUIET)


def _install(manager: Manager) -> str:
    if manager.host.restricted():
        remedy = "Open this WebUI on its own machine without --listen, or add --enable-insecure-extension-access"
        raise UserError("this WebUI is open to others, so nothing is installed", remedy=remedy)
    INSTALLER.install()
    return ""


def help_below(manager: Manager) -> None:
    """What a beginner or somebody with a broken installation looks for."""
    if "choose" not in manager.host.capabilities() and "narrow" in manager.host.capabilities():
        _demo_checkpoint(manager)
    with gr.Accordion("Something doesn't work?", open=False, elem_id=f"{PREFIX}help"):
        gr.HTML(
            "<p>This report tells what is installed and how. Paste it into an issue; it names no picture of yours.</p>"
        )
        button("Check my installation", "check")
        place("report")


def _demo_checkpoint(manager: Manager) -> None:
    """In a WebUI, the demo needs its checkpoint among the WebUI's own."""
    with gr.Accordion("No checkpoint at hand?", open=False, elem_id=f"{PREFIX}demo_checkpoint"):
        gr.HTML(
            "<p>The demo checkpoint is a very small Stable Diffusion 1.5 model that draws 64 × 64 pictures. "
            "It shows the whole way, from pictures to the grid, in minutes and without a GPU.</p>"
        )
        put = button("Put the demo checkpoint into the model folder", "put_demo_checkpoint")
        answer = html("demo_checkpoint_answer")
        put.click(lambda: told(lambda: _put_demo_checkpoint(manager)), [], [answer], **QUIET)


def _put_demo_checkpoint(manager: Manager) -> str:
    from ...model import mini

    known = manager.host.checkpoints()
    folder = known[0].path.parent if known else manager.host.lora_dir().parent / "Stable-diffusion"
    placed = mini.install(folder)
    remedy = "Press the reload button beside the checkpoint at the top of the page, then choose it."
    return texts.note("ok", "The demo checkpoint is there", [str(placed), remedy])
