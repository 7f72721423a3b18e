"""What gradio 3.41, 4.40 and 6 do differently, as far as the tab needs it."""

from __future__ import annotations

from typing import Any

import gradio as gr

MAJOR = int(gr.__version__.split(".", maxsplit=1)[0])
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_name": False}
"""For handlers that answer at once: no queue (--no-gradio-queue works too), no spinner, not in the host's API."""


def unsaved(component: Any) -> Any:
    """Keep a WebUI from freezing the component's default in its ui-config.json."""
    component.do_not_save_to_config = True
    return component
