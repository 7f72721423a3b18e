"""Clients of the routes on gradio's own app."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from lora_train.ui.routes import ROOT as V1

__all__ = ["V1", "client_of", "problems"]


@lru_cache
def gradio_app(auth: tuple[str, str] | None) -> Any:
    import gradio as gr
    from gradio.routes import App

    with gr.Blocks() as page:
        gr.Markdown("page")
    page.auth, page.auth_message = auth, None
    app = App.create_app(page)
    app.auth = dict([auth]) if auth else None
    return app


def client_of(manager: Any, auth: tuple[str, str] | None = None) -> Any:
    """Of gradio's own app, with our routes for this manager."""
    from starlette.testclient import TestClient

    from lora_train.ui import routes

    app = gradio_app(auth)
    app.router.routes[:] = [route for route in app.router.routes if not getattr(route, "path", "").startswith(V1)]
    routes.add(app, manager)
    return TestClient(app)


def problems(answer: Any) -> dict[str, str]:
    """What has to be mended, by place."""
    assert answer.status_code in (409, 422), answer.text
    return {problem["where"]: problem["what"] for problem in answer.json()["detail"]}
