"""Settings as options of a command."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from .options import TrainSettings
from .presets import PRESETS, apply
from .reading import from_dict, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --preset and every setting as an option; `given` reads them."""
    names = [preset.name for preset in PRESETS]
    parser.add_argument("--preset", choices=names, help="fill in a recipe; file and options win over it")
    for field in dataclasses.fields(TrainSettings):
        kind = str(field.type)
        many: dict[str, Any] = {"nargs": "*"} if kind.startswith("list") else {}
        if kind == "bool":
            many = {"nargs": "?", "const": True}
        parser.add_argument(
            f"--{field.name}", default=argparse.SUPPRESS, metavar="VALUE", help=argparse.SUPPRESS, **many
        )
    parser.epilog = (
        "Every setting of the file can be given as an option too, such as --max_train_epochs 5; "
        "docs/settings.md lists them."
    )


def given(
    args: argparse.Namespace, config: Path | None, more: dict[str, Any] | None = None
) -> tuple[TrainSettings, list[str]]:
    """The settings of preset, file, options and `more`, the later ones winning, and warnings. Raises UserError."""
    values = read_config(config) if config else {}
    values |= {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainSettings) if hasattr(args, f.name)}
    values |= more or {}
    return from_dict(apply(args.preset, values) if args.preset else values)
