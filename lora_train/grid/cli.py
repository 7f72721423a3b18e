"""python -m lora_train grid: which epoch, at which weight."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from ..errors import UserError
from ..header import usual_side
from ..paths import MINI_CHECKPOINT
from .files import save
from .plan import DEFAULT_WEIGHTS, Grid, choose, series


def add_arguments(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `grid`."""
    parser = subparsers.add_parser("grid", help="draw every epoch of a run at several weights, on one labelled sheet")
    parser.add_argument(
        "--checkpoint", type=Path, default=MINI_CHECKPOINT, help="checkpoint to draw on (the embedded miniature)"
    )
    parser.add_argument("--lora-dir", type=Path, required=True, help="folder of the run's LoRA files")
    parser.add_argument("--name", required=True, help="the run's name: NAME-000001.safetensors and so on")
    parser.add_argument(
        "--prompt", action="append", required=True, help="the same for every cell; given again: a sheet for each"
    )
    parser.add_argument("--epochs", default="all", help="all, numbers such as 2,4-6, or band (needs --events)")
    parser.add_argument(
        "--events", type=Path, help="what `train --events` wrote: its last candidate band is what `--epochs band` draws"
    )
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument(
        "--weights", type=weights, default=DEFAULT_WEIGHTS, help="numbers with commas; 0 is without the LoRA"
    )
    parser.add_argument("--seed", type=int, default=Grid.seed)
    parser.add_argument("--steps", type=int, default=Grid.steps)
    parser.add_argument("--cfg-scale", type=float, default=Grid.cfg_scale)
    parser.add_argument("--sampler", default=Grid.sampler, help="Euler, Euler a, DDIM or DPM++ 2M")
    parser.add_argument("--width", type=int, help="pixels (512; SDXL: 1024; the miniature: 64)")
    parser.add_argument("--height", type=int, help="pixels (512; SDXL: 1024; the miniature: 64)")
    parser.add_argument("--clip-skip", type=int)
    parser.add_argument(
        "--out", type=Path, required=True, help="the sheet, FILE.png; its cells go into the folder FILE"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw and save; the exit code. Raises UserError."""
    from ..model.load import load_model  # diffusers takes seconds to import
    from .run import make, placement

    out = _png(args.out)
    grid = grid_of(args)
    model = load_model(args.checkpoint, *placement())
    with tqdm(total=grid.count, unit="cell") as bar:

        def drawn(done: int, total: int, cell: object) -> None:
            bar.update(done - bar.n)

        sheet = make(model, grid, drawn)
    written = save(sheet, grid, out, args.checkpoint.stem)
    for path in written[: len(sheet.pages)]:
        print(f"Sheet: {path}")
    cells = written[len(sheet.pages) :]
    print(f"{len(cells)} cells: {', '.join(dict.fromkeys(str(path.parent) for path in cells))}")
    for error in sheet.errors:
        print(f"Not drawn: {error}", file=sys.stderr)
    return 0


def grid_of(args: argparse.Namespace) -> Grid:
    """The grid that the arguments ask for."""
    side = usual_side(args.checkpoint)
    return Grid(
        loras=choose(series(args.lora_dir, args.name), args.epochs, _band(args.epochs, args.events)),
        prompts=tuple(args.prompt),
        weights=tuple(args.weights),
        negative_prompt=args.negative_prompt,
        seed=args.seed,
        steps=args.steps,
        cfg_scale=args.cfg_scale,
        sampler=args.sampler,
        width=args.width or side,
        height=args.height or side,
        clip_skip=args.clip_skip,
    )


def _band(epochs: str, events: Path | None) -> list[int] | None:
    """The candidate epochs that a training has told last."""
    if epochs.strip().lower() != "band":
        return None
    remedy = "Give --events FILE of a training with validation pictures, or --epochs 2,4-6"
    if events is None:
        raise UserError("the candidate band is not known", where="--epochs band", remedy=remedy)
    try:
        lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines() if line.strip()]
        bands = [line["band"] for line in lines if line.get("event") == "validation" and line.get("band")]
    except (OSError, ValueError, AttributeError):
        raise UserError("these are no events of a training", where=events, remedy=remedy) from None
    if not bands:
        raise UserError("the training has found no candidate band", where=events, remedy=remedy)
    return list(bands[-1])


def weights(text: str) -> tuple[float, ...]:
    """'0.2, 0.5,1' to numbers."""
    try:
        return tuple(float(part) for part in text.replace("，", ",").split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers with commas, such as 0.5,0.8,1") from None


def _png(out: Path) -> Path:
    if out.suffix.lower() != ".png":
        raise UserError("the sheet is a PNG", where=out, remedy="Give a name that ends with .png")
    return out
