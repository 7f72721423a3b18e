"""The tab as a page of its own, without a WebUI. Nothing is asked of the network: no fonts, no analytics."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI

from ..errors import UserError
from ..host.standalone import StandaloneHost
from ..jobs.manager import Manager
from ..paths import ROOT
from . import compat, routes, tab

Login = tuple[str, str] | None
_FONTS = ["system-ui", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK SC", "sans-serif"]
_CSS = """footer { display: none !important }
.gradio-container { width: 100%; max-width: 1400px !important; margin: 0 auto }"""


def host(checkpoint: Path | None, lora_dir: Path, data_dir: Path) -> StandaloneHost:
    """The host, its folders made. Raises UserError."""
    if checkpoint and not checkpoint.is_file():
        raise UserError("there is no such file", where=checkpoint, remedy="Give --checkpoint an existing file")
    for folder in (lora_dir, data_dir):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"the folder can't be made ({error.strerror})"
            raise UserError(what, where=folder, remedy="Give another") from None
    return StandaloneHost(checkpoint, lora_dir, data_dir)


def login(auth: str | None, listen: bool) -> Login:
    """The name and password of --auth. Raises UserError for an open door."""
    user, colon, password = (auth or "").partition(":")
    if auth and not (user and colon and password):
        raise UserError("is not USER:PASSWORD", where="--auth", remedy="Write for example --auth me:secret")
    if listen and not auth:
        what = "anyone on the network could read and write files here"
        raise UserError(what, where="--listen", remedy="Add --auth USER:PASSWORD")
    return (user, password) if auth else None


def app(host: StandaloneHost, auth: Login = None) -> FastAPI:
    """The page and its routes."""
    manager = Manager(host)
    outer = FastAPI(title=tab.TITLE, docs_url=None, redoc_url=None, openapi_url=None)
    inner = compat.mount(
        outer,
        tab.build(manager),
        auth=auth,
        css=(ROOT / "style.css").read_text(encoding="utf-8") + _CSS,
        scripts=[path.read_text(encoding="utf-8") for path in sorted((ROOT / "javascript").glob("*.js"))],
        theme=gr.themes.Default(font=_FONTS, font_mono=["ui-monospace", "Consolas", "monospace"]),
    )
    routes.add(outer, manager, login=inner)
    return outer


def serve(app: FastAPI, address: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; `ready` is called with the page's address. Raises UserError where the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            what = f"the port can't be used ({error.strerror})"
            raise UserError(what, where=port, remedy="Give another --port") from None
    server = uvicorn.Server(uvicorn.Config(app, host=address, port=port, log_level="warning"))
    url = f"http://{'127.0.0.1' if address == '0.0.0.0' else address}:{port}/"
    threading.Thread(target=_announce, args=(server, url, ready), daemon=True).start()
    server.run()


def _announce(server: uvicorn.Server, url: str, ready: Callable[[str], None]) -> None:
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.1)
    ready(url)
