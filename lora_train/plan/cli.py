"""`plan` on the command line: what a run will be, without beginning it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from ..dataset.source import open_dataset
from ..errors import DONE
from ..settings import TrainSettings
from ..settings import cli as settings_cli


def add_arguments(verbs: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("plan", help="count the steps of a run and guess its memory and time")
    parser.add_argument("dataset", nargs="?", help="folder of pictures, or a dataset file; else what the file says")
    parser.add_argument("--config", type=Path, help=".toml or .json with kohya's option names")
    parser.add_argument("--target-steps", type=_count, metavar="N", help="also: which repeats or epochs make N steps")
    parser.add_argument("--history", type=Path, metavar="FOLDER", help="folder of former jobs, to tell the time from")
    parser.add_argument("--json", action="store_true", help="print JSON")
    settings_cli.add_arguments(parser)
    parser.set_defaults(run=_plan)


def _count(text: str) -> int:
    if not 0 < (number := int(text)) < 10**9:
        raise ValueError
    return number


def _plan(args: argparse.Namespace) -> int:
    from .costs import estimate
    from .history import read
    from .steps import aim, plan

    settings, notes = settings_cli.given(args, args.config, _named(args.dataset))
    dataset = open_dataset(settings)
    if settings.validation_split:
        notes.append(f"{settings.validation_split:.0%} of the pictures will be held out; they are counted here")
    planned = plan(settings, dataset)
    costs = estimate(settings, planned, read(args.history) if args.history else ())
    aimed = aim(settings, dataset, args.target_steps) if args.target_steps else None
    if args.json:
        report = {**planned.as_dict(), "estimate": costs.as_dict(), "notes": notes}
        print(json.dumps({**report, **({"target": dataclasses.asdict(aimed)} if aimed else {})}, indent=2))
        return DONE
    for line in _lines(settings, planned, costs, aimed):
        print(line)
    for note in (*notes, *planned.warnings):
        print(f"warning: {note}")
    return DONE


def _named(dataset: str | None) -> dict[str, str]:
    """The settings that name the dataset, where one is given first."""
    if not dataset:
        return {}
    is_file = Path(dataset).is_file()
    return {"train_data_dir": "" if is_file else dataset, "dataset_config": dataset if is_file else ""}


def _lines(settings: TrainSettings, planned: Any, costs: Any, aimed: Any) -> list[str]:
    """A short report for people."""
    lines = table(
        ["folder", "pictures", "repeats", "an epoch"],
        [
            [f.name + (" (regularisation)" if f.is_reg else ""), f.pictures, f.repeats, f.images]
            for f in planned.folders
        ],
    )
    lines += ["", *table(["size", "an epoch", "batches", "empty places"], [_row(b) for b in planned.buckets]), ""]
    if planned.extra_batches:
        lines.append(f"{planned.extra_batches:,} batches of an epoch more than if all had one shape")
    if planned.enlarged:
        lines.append(f"{planned.enlarged:,} pictures are smaller than what they are trained at, and are enlarged")
    accumulated = settings.gradient_accumulation_steps
    over = f" ÷ {accumulated}" if accumulated > 1 else ""
    lines += [
        f"{planned.batches_per_epoch:,} batches{over} = {planned.steps_per_epoch:,} steps an epoch; "
        f"{planned.epochs:,} epochs, {planned.steps:,} steps in all",
    ]
    if aimed:
        named = ", ".join(f"{f.name} {n}" for f, n in zip(planned.folders, aimed.repeats, strict=True) if not f.is_reg)
        lines += [
            f"{aimed.wanted:,} steps: repeats {named} make {aimed.steps_by_repeats:,} in {aimed.epochs_kept} epochs,",
            f"or {aimed.epochs:,} epochs as it is, which make {aimed.steps_by_epochs:,}",
        ]
    low, high = (size / 2**30 for size in costs.memory)
    lines += [
        "",
        f"about {low:.1f} to {high:.1f} GiB of memory, {_time(costs.seconds[0])} to {_time(costs.seconds[1])}",
        *(f"  {note}" for note in costs.basis),
    ]
    return lines


def _row(shape: Any) -> list[Any]:
    return [f"{shape.width} x {shape.height}", shape.images, shape.batches, shape.empty]


def table(heads: list[str], rows: list[list[Any]]) -> list[str]:
    """Columns of one width: the first to the left, numbers to the right."""
    cells = [heads, *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
