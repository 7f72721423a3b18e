"""Side by side with sd-scripts: same checkpoint, pictures and settings, in turns, on one machine."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .inputs import checkpoint, pictures
from .runs import OURS, THEIRS, Cost, Trainer, ours, run, sd_scripts

CASES = {"unet only": {"network_train_unet_only": True}, "both": {}}
GIB = 2**30
_ROWS = {
    "step_cpu": ("CPU s per step", 1),
    "step_wall": ("wall s per step", 1),
    "first_step": ("start to first step done, wall s", 1),
    "first_step_cpu": ("start to first step done, CPU s", 1),
    "whole": ("start to last file written, wall s", 1),
    "whole_cpu": ("whole run, CPU s", 1),
    "rss": ("peak memory, GiB", GIB),
    "gpu": ("peak memory on the GPU, GiB", GIB),
}
Costs = dict[str, list[Cost]]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every measurement with a model."""
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("data/bench.safetensors"), help="made, with random weights, if missing"
    )
    parser.add_argument("--resolution", type=int, default=128, help="pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--gpu", action="store_true", help="on the GPU; otherwise one thread of the CPU")
    parser.add_argument("--json", type=Path, help="where to write all numbers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the measurements side by side."""
    add_model_arguments(parser)
    here = Path(os.environ["TRAIN_LORA_SD_SCRIPTS"]) if "TRAIN_LORA_SD_SCRIPTS" in os.environ else None
    parser.add_argument("--sd-scripts", type=Path, default=here, help="its checkout (TRAIN_LORA_SD_SCRIPTS)")
    parser.add_argument(
        "--python",
        default=os.environ.get("TRAIN_LORA_SD_SCRIPTS_PYTHON"),
        help="a Python with what it needs (TRAIN_LORA_SD_SCRIPTS_PYTHON)",
    )
    parser.add_argument("--tokenizer-cache-dir", help="sd-scripts' option of that name, where there is no network")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each trainer, in turns: A B B A …")


def settings(args: argparse.Namespace, data: Path, epochs: int) -> dict[str, Any]:
    """What both trainers are told, in sd-scripts' names."""
    return {
        "pretrained_model_name_or_path": str(args.checkpoint.absolute()),
        "train_data_dir": str(data),
        "resolution": f"{args.resolution},{args.resolution}",
        "train_batch_size": args.batch,
        "max_train_epochs": epochs,
        "network_dim": 16,
        "network_alpha": 8,
        "learning_rate": 1e-4,
        "optimizer_type": "AdamW",
        "cache_latents": True,
        "caption_extension": ".txt",
        "save_model_as": "safetensors",
        "save_precision": "fp16",
        "save_every_n_epochs": 1,
        "mixed_precision": args.mixed_precision,
        "seed": 1,
    }


def trainers(args: argparse.Namespace) -> list[Trainer]:
    """Ours and theirs, with the checkpoint there is or is made."""
    checkpoint(args.checkpoint)
    return [ours(), sd_scripts(args.sd_scripts, args.python, args.checkpoint, args.tokenizer_cache_dir)]


def in_turns(both: list[Trainer], given: dict[str, Any], steps: int, args: argparse.Namespace) -> Costs:
    """A B B A …, so that a slow spell of the machine meets both."""
    costs: Costs = defaultdict(list)
    for n in range(args.rounds):
        for trainer in both if n % 2 == 0 else reversed(both):
            costs[trainer.name].append(run(trainer, given, steps, args.gpu))
            last = costs[trainer.name][-1]
            print(f"{trainer.name}: {last.step_cpu:.3f} CPU s per step, {last.whole:.1f} s in all", file=sys.stderr)
    return costs


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Run all; returns every number, and prints a Markdown table of medians."""
    both = trainers(args)
    found: dict[str, Any] = {"machine": machine(), "resolution": args.resolution, "batch": args.batch, "cases": {}}
    with tempfile.TemporaryDirectory() as folder:
        data = pictures(Path(folder) / "data", args.steps * args.batch, args.resolution)
        for case in args.case or CASES:
            given = {**settings(args, data, args.epochs), **CASES[case]}
            costs = in_turns(both, given, args.steps * args.epochs, args)
            found["cases"][case] = {name: [asdict(cost) for cost in several] for name, several in costs.items()}
            title = f"{case}: {args.resolution} px, batch {args.batch}, {args.epochs} epochs of {args.steps} steps"
            print(f"\n**{title}**\n\n{table(costs)}", flush=True)
    return found


def table(costs: Costs) -> str:
    """Medians of both, and ours by theirs."""
    lines = [f"| | {OURS} | {THEIRS} | ratio |", "| --- | ---: | ---: | ---: |"]
    for field, (title, unit) in _ROWS.items():
        a, b = (statistics.median(getattr(cost, field) for cost in costs[name]) / unit for name in (OURS, THEIRS))
        if b:
            lines.append(f"| {title} | {a:.3g} | {b:.3g} | {a / b:.2f} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}
