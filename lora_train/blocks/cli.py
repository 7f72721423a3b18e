"""`python -m lora_train merge RECIPE …`: bake a recipe and say how exact the result is."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..network.kohya import PRECISIONS
from .bake import bake
from .presets import BUILTIN, read_presets
from .report import BlockResult, Report

_EPILOG = """RECIPE is NAME:STRENGTH[:WEIGHTS] with commas between; WEIGHTS is a preset or 17 (26) numbers with commas.
Without WEIGHTS every block has weight 1. Presets known without a file: """ + ", ".join(BUILTIN)


def add_arguments(subparsers: Any) -> None:
    """Add the verb `merge` to the result of ArgumentParser.add_subparsers; `run` is its default."""
    parser = subparsers.add_parser("merge", help="merge LoRAs with block weights into one", epilog=_EPILOG)
    parser.add_argument("recipe", metavar="RECIPE", help='for example "Test0:1:GP1,BASE:-1:GP2"')
    parser.add_argument(
        "--lora-dir", required=True, metavar="DIR", help="where the LoRAs are; folders below are searched too"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the .safetensors to write")
    parser.add_argument("--presets", metavar="FILE", help="preset lines NAME:17 numbers, as LoRA Block Weight has them")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--rank", type=int, metavar="N", help="at most this rank per layer (default: exact, the sum of ranks)"
    )
    size.add_argument(
        "--target-error", type=float, metavar="E", help="the least rank per layer that errs less, for example 0.01"
    )
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp16", help="default: %(default)s")
    parser.add_argument(
        "--unlisted",
        type=float,
        default=0.0,
        metavar="W",
        help="weight of the blocks that 17 numbers don't name (default: 0)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Bake and print. Raises UserError; returns 0."""
    presets = BUILTIN | (read_presets(args.presets) if args.presets else {})
    report = bake(
        args.recipe,
        args.lora_dir,
        presets,
        args.out,
        rank=args.rank,
        target_error=args.target_error,
        precision=args.precision,
        unlisted=args.unlisted,
    )
    text = json.dumps(report.as_dict(), ensure_ascii=False) if args.json else "\n".join(lines(report, args.unlisted))
    print(text)
    return 0


def lines(report: Report, unlisted: float = 0.0) -> list[str]:
    """The report as a table, one row a block, and what is worth knowing below it."""
    head = f"{'block':<6} {'modules':>7} {'rank':>9} {'norm':>11} {'relative error':>15}"
    rows = [head, *map(_row, report.blocks()), _row(report.total())]
    notes = [f"wrote {report.out} in {report.precision}"]
    if report.left_out:
        notes.append(f"left out because their sum is 0: {len(report.left_out)} modules")
    if report.unlisted:
        notes.append(
            f"{', '.join(report.unlisted)} are not among the 17 blocks: weight {unlisted:g} there (--unlisted)"
        )
    if report.target_error is not None and report.relative_error > report.target_error:
        notes.append(
            f"the error is above {report.target_error:g}: {report.precision} rounds too much; try --precision float"
        )
    return [*rows, *notes]


def _row(result: BlockResult) -> str:
    least, greatest = result.ranks
    ranks = str(least) if least == greatest else f"{least}-{greatest}"
    return f"{result.block:<6} {result.modules:>7} {ranks:>9} {result.norm:>11.4g} {result.relative_error:>15.2e}"
