"""`python -m lora_train ui`."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from ..paths import ROOT

LOCAL, EVERYWHERE = "127.0.0.1", "0.0.0.0"


def add_arguments(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    outputs = ROOT / "outputs"
    ui = subparsers.add_parser("ui", help="the Train LoRA page, in the browser, without a WebUI")
    ui.add_argument("--port", type=int, default=7862, help="port of the page (default: %(default)s)")
    ui.add_argument("--listen", action="store_true", help="let other machines in; needs --auth")
    ui.add_argument("--auth", metavar="USER:PASSWORD", help="ask for this name and password")
    ui.add_argument("--checkpoint", type=Path, help="checkpoint file to train on (default: the embedded miniature)")
    ui.add_argument("--lora-dir", type=Path, default=outputs / "loras", help="folder for LoRAs (default: %(default)s)")
    ui.add_argument("--data-dir", type=Path, default=outputs, help="folder for jobs and grids (default: %(default)s)")
    ui.add_argument("--no-browser", action="store_true", help="don't open the page")
    ui.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from . import standalone  # gradio takes seconds to import

    folders = (path.expanduser().absolute() for path in (args.lora_dir, args.data_dir))
    checkpoint = args.checkpoint.expanduser().absolute() if args.checkpoint else None
    app = standalone.app(standalone.host(checkpoint, *folders), auth=standalone.login(args.auth, args.listen))
    standalone.serve(app, EVERYWHERE if args.listen else LOCAL, args.port, lambda url: _ready(url, not args.no_browser))
    return 0


def _ready(url: str, browser: bool) -> None:
    print(f"Train LoRA is at {url}  (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(url)
