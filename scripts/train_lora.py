"""Registers with the WebUI: the tab Train LoRA, its routes, its axes of the X/Y/Z plot, block weights in prompts. All
else is in lora_train.

The WebUI runs this file again at every reload of its UI; the package, and with it a running job, stays loaded.
"""

import sys
import traceback
from pathlib import Path

import gradio as gr
from modules import script_callbacks

ROOT = Path(__file__).resolve().parent.parent
UPDATED = """### Train LoRA was updated
Close the WebUI and start it again: reloading the page or the UI is not enough, the old version is still loaded.

A training that is running goes on meanwhile. Closing the WebUI pauses it; you can resume it here afterwards."""

if str(ROOT) not in sys.path:  # the WebUI drops this after loading; a package that is loaded still finds its modules
    sys.path.insert(0, str(ROOT))


def _build_tab():
    from lora_train import stamp
    from lora_train.jobs.manager import instance
    from lora_train.ui import tab

    if not stamp.outdated():
        return tab.build(instance())
    with gr.Blocks(analytics_enabled=False) as page, gr.Column(elem_id="train_lora_outdated"):
        gr.Markdown(UPDATED)
    return page


def _add_routes(_, app):
    from lora_train.jobs.manager import instance
    from lora_train.ui import routes

    routes.add(app, instance())


def _add_axes():
    from lora_train.host.webui import axes

    axes.register()


def _tabs():
    try:
        page = _build_tab()
    except Exception:  # noqa: BLE001 (whatever it is, the WebUI must start, and the tab has to say it)
        reason = traceback.format_exc()
        sys.stderr.write(reason)
        with gr.Blocks(analytics_enabled=False) as page:
            gr.Markdown("Train LoRA can't start. Restart the WebUI; if that doesn't help, report this:")
            gr.Code(f"Python {sys.version}, gradio {gr.__version__}\n{reason}")
    return [(page, "Train LoRA", "train_lora")]


try:
    import lora_train.stamp  # noqa: F401 (while its folder is on the path, and before all else of ours)
    from lora_train.host.webui import prompts

    BlockWeights = prompts.script()  # the WebUI takes the scripts that it finds in this file
    script_callbacks.on_infotext_pasted(prompts.pasted)
except Exception:  # noqa: BLE001 (the tab will say it)
    traceback.print_exc()

script_callbacks.on_before_ui(_add_axes)
script_callbacks.on_ui_tabs(_tabs)
script_callbacks.on_app_started(_add_routes)
