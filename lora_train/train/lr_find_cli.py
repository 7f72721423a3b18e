"""`lr-find` on the command line. torch is imported once the arguments are known to be right."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from ..chart import rate_chart
from ..errors import DONE
from ..events import event
from ..files import write_text
from ..settings import cli as settings_cli
from .cli import Bar, StopSignal


def add_arguments(verbs: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("lr-find", help="find a learning rate for a configuration's pictures")
    parser.add_argument("config", type=Path, help=".toml or .json with kohya's option names, as for train")
    parser.add_argument("--json", action="store_true", help="the result as JSON, with every step's rate")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the rate over the steps as SVG")
    settings_cli.add_arguments(parser)
    parser.set_defaults(run=_lr_find)


def _lr_find(args: argparse.Namespace) -> int:
    settings, notes = settings_cli.given(args, args.config)
    bar = Bar()
    for note in notes:
        bar(event("warning", text=note))
    from .lr_find import find

    with redirect_stdout(sys.stderr):  # the optimizer's library prints
        try:
            result = find(settings, bar, StopSignal().is_set)
        finally:
            bar.close()
    if args.chart:
        write_text(args.chart, rate_chart(result.curve, result.unet_lr if result.flat_at is not None else None))
    sys.stdout.write((json.dumps(result.values()) if args.json else result.text()) + "\n")
    return DONE
