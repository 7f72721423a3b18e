"""`python -m bench`: compare, profile, cache, scan, grid, bake."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lora_train.errors import UserError

from . import bake, cache, compare, grid, scan


def _profile(args: argparse.Namespace) -> dict[str, Any]:
    from .profile import profile  # loads diffusers, which the others need in child processes alone

    return profile(args)


def main() -> int:
    """Run one measurement."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    verbs = parser.add_subparsers(required=True)

    side_by_side = verbs.add_parser("compare", help="a short run, side by side with sd-scripts")
    compare.add_arguments(side_by_side)
    side_by_side.add_argument("--case", choices=list(compare.CASES), action="append", help="default: all")
    side_by_side.add_argument("--epochs", type=int, default=5)
    side_by_side.add_argument("--steps", type=int, default=20, help="in an epoch")
    side_by_side.set_defaults(measure=compare.compare)

    latents = verbs.add_parser("cache", help="pictures to latents, side by side with sd-scripts")
    compare.add_arguments(latents)
    latents.add_argument("--pictures", type=int, default=40)
    latents.set_defaults(measure=cache.cache)

    step = verbs.add_parser("profile", help="where one step's time goes, and what the frozen model alone would need")
    compare.add_model_arguments(step)
    step.add_argument("--both", action="store_true", help="train the text encoder too")
    step.add_argument("--rounds", type=int, default=5)
    step.add_argument("--operators", action="store_true", help="torch.profiler's table of one step too")
    step.set_defaults(measure=_profile)

    folders = verbs.add_parser("scan", help="time and memory of looking at a large dataset")
    folders.add_argument("--pictures", type=int, default=10000)
    folders.set_defaults(measure=scan.scan)

    cells = verbs.add_parser("grid", help="the time of a grid against that of its pictures alone")
    grid.add_arguments(cells)
    cells.set_defaults(measure=grid.measure)

    sums = verbs.add_parser("bake", help="sums of LoRAs: error, time and memory, beside SuperMerger's and sd-scripts'")
    bake.add_arguments(sums)
    sums.set_defaults(measure=bake.measure)

    args = parser.parse_args()
    try:
        found: dict[str, Any] = args.measure(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if where := getattr(args, "json", None):
        Path(where).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
