"""`python -m lora_train merge RECIPE …` and `resize LORA …`: bake, and say how exact the result is."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..card import write_card, write_preview
from ..errors import UserError
from ..network.kohya import PRECISIONS
from .bake import bake
from .families import UNLISTED
from .into_checkpoint import into_checkpoint
from .presets import BUILTIN, PresetFile, open_presets
from .report import LORA, BlockResult, Report
from .resize import resize

_EPILOG = """RECIPE is NAME:STRENGTH[:WEIGHTS] with commas between; WEIGHTS is a preset or 17 (26) numbers with
commas, 12 (20) for SDXL. Without WEIGHTS every block has weight 1. LoHa and LoKr become plain LoRA. Presets known
without a file: """ + ", ".join(BUILTIN)
_RESIZE = """The result is the nearest LoRA of that rank, by singular values. LoHa, LoKr and whole differences become
plain LoRA. Metadata is kept."""


def add_arguments(subparsers: Any) -> None:
    """Add the verbs to the result of ArgumentParser.add_subparsers; each sets its function as `run`."""
    parser = subparsers.add_parser("merge", help="merge LoRAs with block weights into one", epilog=_EPILOG)
    parser.add_argument("recipe", metavar="RECIPE", help='for example "Test0:1:GP1,BASE:-1:GP2"')
    parser.add_argument(
        "--lora-dir", required=True, metavar="DIR", help="where the LoRAs are; folders below are searched too"
    )
    parser.add_argument(
        "--presets",
        metavar="FILE",
        help="preset lines NAME:17 numbers, as LoRA Block Weight has them; comments are fine",
    )
    parser.add_argument(
        "--into", metavar="CHECKPOINT", help="add the LoRAs to this checkpoint's weights; --out is a checkpoint then"
    )
    _add_output(parser, "at most this rank per layer (default: exact, the sum of ranks)")
    parser.add_argument("--precision", choices=list(PRECISIONS), help="default: fp16; with --into the checkpoint's own")
    parser.add_argument(
        "--unlisted",
        type=float,
        default=UNLISTED,
        metavar="W",
        help="weight of the blocks that a short list of numbers doesn't name (default: 0)",
    )
    parser.add_argument(
        "--other",
        type=float,
        default=1.0,
        metavar="W",
        help="weight of what lies in no block (time and label embeddings, the last convolution) where weights are "
        "given (default: 1)",
    )
    parser.set_defaults(run=run)

    smaller = subparsers.add_parser("resize", help="one LoRA at another rank", epilog=_RESIZE)
    smaller.add_argument("lora", metavar="LORA", help="the .safetensors to read")
    _add_output(smaller, "at most this rank per layer")
    smaller.add_argument("--precision", choices=list(PRECISIONS), help="default: as the LoRA has it")
    smaller.set_defaults(run=run_resize)


def _add_output(parser: argparse.ArgumentParser, rank: str) -> None:
    parser.add_argument("--out", required=True, metavar="FILE", help="the .safetensors to write")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--rank", type=int, metavar="N", help=rank)
    size.add_argument(
        "--target-error", type=float, metavar="E", help="the least rank per layer that errs less, for example 0.01"
    )
    parser.add_argument(
        "--against", metavar="CHECKPOINT", help="whose weights DoRA, IA3 and GLoRA change; without it they are refused"
    )
    parser.add_argument("--preview", type=Path, metavar="PNG", help="copy this picture beside the result, for its card")
    parser.add_argument("--preferred-weight", type=float, metavar="W", help="write this weight into the result's card")
    parser.add_argument("--activation-text", metavar="TEXT", help="write this text into the result's card")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _card(args: argparse.Namespace, out: Path, known: bool) -> None:
    """known: the file was there before, so that its picture is replaced as well."""
    if args.preferred_weight is not None or args.activation_text is not None:
        write_card(out, args.preferred_weight, args.activation_text)
    if args.preview and write_preview(out, args.preview, known) is None:
        print(f"{out.with_suffix('.png')} was there before and stays: --preview is not written", file=sys.stderr)


def _check_preview(args: argparse.Namespace) -> None:
    if args.preview and (args.preview.suffix.lower() != ".png" or not args.preview.is_file()):
        raise UserError("there is no such PNG picture", where=args.preview, remedy="Check --preview")


def run(args: argparse.Namespace) -> int:
    """Bake and print. Raises UserError; returns 0."""
    _check_preview(args)
    known = Path(args.out).exists()
    file = open_presets(args.presets).file if args.presets else PresetFile()
    presets, faults = file.with_builtin, file.faults
    if args.into:
        _refuse_with_into(args)
        report = into_checkpoint(
            args.recipe, args.lora_dir, presets, args.into, args.out, args.unlisted, args.other, faults
        )
    else:
        report = bake(
            args.recipe,
            args.lora_dir,
            presets,
            args.out,
            rank=args.rank,
            target_error=args.target_error,
            precision=args.precision or "fp16",
            unlisted=args.unlisted,
            against=args.against,
            other=args.other,
            faults=faults,
        )
    _card(args, report.out, known)
    return _print(report, args.json, args.unlisted)


def _refuse_with_into(args: argparse.Namespace) -> None:
    for option in ("rank", "target_error", "precision", "against", "preferred_weight", "activation_text"):
        if getattr(args, option) is not None:
            name = "--" + option.replace("_", "-")
            raise UserError("this is not for a merge into a checkpoint", where=name, remedy=f"Leave out {name}")


def run_resize(args: argparse.Namespace) -> int:
    """Resize and print. Raises UserError; returns 0."""
    _check_preview(args)
    known = Path(args.out).exists()
    report = resize(Path(args.lora), args.out, args.rank, args.target_error, args.precision, args.against)
    _card(args, report.out, known)
    return _print(report, args.json)


def _print(report: Report, as_json: bool, unlisted: float = UNLISTED) -> int:
    text = json.dumps(report.as_dict(), ensure_ascii=False) if as_json else "\n".join(lines(report, unlisted))
    print(text)
    return 0


def lines(report: Report, unlisted: float = UNLISTED) -> list[str]:
    """The report as a table, one row a block, and what is worth knowing below it."""
    head = f"{'block':<6} {'modules':>7} {'rank':>9} {'norm':>11} {'relative error':>15}"
    rows = [head, *map(_row, report.blocks()), _row(report.total())]
    notes = [f"wrote {report.out}" + (f" in {report.precision}" if report.precision in PRECISIONS else "")]
    if report.left_out:
        notes.append(f"left out because their sum is 0: {len(report.left_out)} modules")
    if report.unlisted:
        named = ", ".join(report.unlisted)
        notes.append(f"not among the blocks that the numbers name: {named}; weight {unlisted:g} there (--unlisted)")
    whole = sum(module.form != LORA for module in report.modules)
    if whole and report.precision in PRECISIONS:
        notes.append(f"kept whole, which the WebUI reads and some other programs don't: {whole} modules")
    if report.bundled:
        notes.append(f"embeddings that came along: {', '.join(report.bundled)}")
    if report.target_error is not None and report.relative_error > report.target_error:
        notes.append(
            f"the error is above {report.target_error:g}: {report.precision} rounds too much; try --precision float"
        )
    return [*rows, *notes]


def _row(result: BlockResult) -> str:
    least, greatest = result.ranks
    ranks = str(least) if least == greatest else f"{least}-{greatest}"
    shown = ranks if greatest else "whole"
    return f"{result.block:<6} {result.modules:>7} {shown:>9} {result.norm:>11.4g} {result.relative_error:>15.2e}"
