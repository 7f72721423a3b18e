"""The command line: one subcommand a verb. Exit codes: 0 done, 2 bad input, 3 stopped."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys

from . import __version__
from .errors import BAD_INPUT, STOPPED, UserError

_ROOMS = {  # verb: the module whose add_arguments(subparsers) declares it
    "train": "train.cli",
    "replay": "train.cli",
    "project": "studio.cli",
    "scan": "studio.cli",
    "crop": "studio.cli",
    "mask": "studio.cli",
    "captions": "studio.captions_cli",
    "plan-style": "studio.plan_cli",
    "plan-person": "studio.plan_cli",
    "make-set": "host.cli",
    "plan": "plan.cli",
    "lr-find": "train.lr_find_cli",
    "grid": "grid.cli",
    "merge": "blocks.cli",
    "resize": "blocks.cli",
    "presets": "blocks.weights_cli",
    "inspect": "blocks.weights_cli",
    "advise": "blocks.weights_cli",
    "effects": "measure.cli",
    "tune": "measure.cli",
    "mini": "model.mini",
    "demo": "demo.cli",
    "ui": "ui.cli",
}


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand. A user's error is one message on stderr and exit code 2, without a traceback."""
    arguments = sys.argv[1:] if argv is None else argv
    _be_a_good_neighbour()
    try:
        args = _parser(arguments).parse_args(arguments)
        return int(args.run(args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return STOPPED


def _be_a_good_neighbour() -> None:
    """Let idle OpenMP threads sleep. Spinning, they make a step tens of times slower as soon as anything else runs.

    It must be said before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # else it tells at import what it can't do on a CPU


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The parser, with the verb that was asked for; all of them when none was, so that help is complete."""
    parser = argparse.ArgumentParser(prog="python -m lora_train", description="Train, compare and bake LoRAs.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    asked = [_ROOMS[word] for word in arguments[:1] if word in _ROOMS]
    for room in asked or dict.fromkeys(_ROOMS.values()):
        importlib.import_module(f"lora_train.{room}").add_arguments(verbs)
    return parser
