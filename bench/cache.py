"""How fast pictures become latents, side by side with sd-scripts' own code for it."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .compare import in_turns, machine, settings, trainers
from .inputs import pictures
from .runs import OURS, THEIRS


def cache(args: argparse.Namespace) -> dict[str, Any]:
    """Both trainers cache the latents of all pictures and train for one step; only the caching is timed."""
    both = trainers(args)
    with tempfile.TemporaryDirectory() as folder:
        data = pictures(Path(folder) / "data", args.pictures, args.resolution * 5 // 4)
        given = {**settings(args, data, 1), "max_train_steps": 1, "network_train_unet_only": True}
        del given["max_train_epochs"], given["save_every_n_epochs"]
        costs = in_turns(both, given, 1, args)
    print("| | CPU s per picture | pictures per s | peak memory, GiB |\n| --- | ---: | ---: | ---: |")
    cost = {}
    for name in (OURS, THEIRS):
        cpu, wall = (statistics.median(getattr(c, f"caching_{kind}") for c in costs[name]) for kind in ("cpu", "wall"))
        rss = statistics.median(c.rss for c in costs[name]) / 2**30
        cost[name] = cpu
        print(f"| {name} | {cpu / args.pictures:.3f} | {args.pictures / wall:.3g} | {rss:.2f} |")
    print(f"\n{cost[THEIRS] / cost[OURS]:.2f} times as many pictures per CPU second, at {args.resolution} px")
    runs = {name: [asdict(cost) for cost in several] for name, several in costs.items()}
    return {"machine": machine(), "resolution": args.resolution, "pictures": args.pictures, "runs": runs}
