"""What gradio 3.41, 4.40 and 6 do differently, as far as the tab needs it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from inspect import signature
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

MAJOR = int(gr.__version__.split(".", maxsplit=1)[0])
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_name": False}
"""For handlers that answer at once: no queue (--no-gradio-queue works too), no spinner, not in the host's API."""


def unsaved(component: Any) -> Any:
    """Keep a WebUI from freezing the component's default in its ui-config.json."""
    component.do_not_save_to_config = True
    return component


def step_of(title: str, name: str) -> Any:
    """A tab whose contents are on the page even while another is shown, as gradio before 6 has them anyway."""
    always = {"render_children": True} if "render_children" in signature(gr.Tab.__init__).parameters else {}
    return gr.Tab(title, id=name, elem_id=name, **always)


def mount(
    app: FastAPI, page: gr.Blocks, *, auth: tuple[str, str] | None, css: str, scripts: Sequence[str], theme: Any
) -> FastAPI:
    """Put `page` at the root of `app` with our style and scripts; returns gradio's own app, which asks for `auth`."""
    look: dict[str, Any] = {"css": css, "head": "".join(map(_tag, scripts)), "theme": theme}
    if MAJOR >= 5:  # there gradio rewrites css=, and loses part of it
        look |= {"css": "", "head": f"<style>{css}</style>{look['head']}"}
    mounting = {"auth": auth, "ssr_mode": False, "footer_links": [], **look}
    takes = signature(gr.mount_gradio_app).parameters
    if "css" not in takes:  # before gradio 6 it is the page that has a look
        page = _dressed(page, look, scripts)
    if "auth" not in takes:
        page.auth = [auth] if auth else None
    gr.mount_gradio_app(app, page, path="/", **{name: value for name, value in mounting.items() if name in takes})
    inner: Any = next(route.app for route in app.routes if isinstance(route, Mount))
    return inner


def _dressed(page: gr.Blocks, look: dict[str, Any], scripts: Sequence[str]) -> gr.Blocks:
    """The page inside one that has the look, as a WebUI has its tabs."""
    takes = signature(gr.Blocks.__init__).parameters
    look = {name: value for name, value in look.items() if name in takes}
    with gr.Blocks(analytics_enabled=False, title=page.title, **look) as outer:
        page.render()
        if "head" not in takes:
            outer.load(None, None, None, _js=_LOAD % json.dumps(list(scripts)))
    return outer


_LOAD = """() => {
  for (const text of %s) document.head.append(Object.assign(document.createElement("script"), { textContent: text }));
}"""


def _tag(script: str) -> str:
    return "<script>" + script.replace("</script", "<\\/script") + "</script>"
