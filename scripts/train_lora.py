"""Registers the Train LoRA tab and its routes with the WebUI. Everything else is in the package lora_train.

The WebUI runs this file again at every reload of its UI; the package, and with it a running job, stays loaded.
"""

import sys
import traceback
from pathlib import Path

import gradio as gr
from modules import script_callbacks

ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:  # the WebUI forgets this after loading; a package that is loaded finds its own modules
    sys.path.insert(0, ROOT)


def _tab():
    try:
        from lora_train.jobs.manager import instance
        from lora_train.ui import tab

        page = tab.build(instance())
    except Exception:
        traceback.print_exc()
        page = _problem(traceback.format_exc())
    return [(page, "Train LoRA", "train_lora")]


def _problem(text):
    """A tab that says why there is none."""
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Markdown("Train LoRA can't start. Restart the WebUI after an update; if that doesn't help, report this:")
        gr.Code(text)
    return page


def _routes(_demo, app):
    try:
        from lora_train.jobs.manager import instance
        from lora_train.ui import routes

        routes.add(app, instance())
    except Exception:
        traceback.print_exc()


try:
    import lora_train  # noqa: F401
except Exception:
    traceback.print_exc()

script_callbacks.on_ui_tabs(_tab)
script_callbacks.on_app_started(_routes)
