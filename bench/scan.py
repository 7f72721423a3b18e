"""Time and memory of looking at a large dataset and planning the run."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .inputs import pictures

_DISTINCT = 50
_CHILD = """
import json, resource, sys, time
from lora_train.settings import TrainSettings
from lora_train.dataset.source import open_dataset
from lora_train.plan.steps import plan
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
before, wall, cpu = peak(), time.perf_counter(), time.process_time()
settings = TrainSettings(train_data_dir=sys.argv[1], resolution=(512, 512))
dataset = open_dataset(settings)
planned = plan(settings, dataset)
print(json.dumps({
    "pictures": dataset.picture_count, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu,
    "more_memory_mib": peak() - before,
}))
"""


def scan(args: argparse.Namespace) -> dict[str, Any]:
    """In a fresh process, on pictures of 320 pixels; the files were just written, so the disk isn't waited for."""
    with tempfile.TemporaryDirectory() as folder:
        data = pictures(Path(folder) / "data", min(args.pictures, _DISTINCT), 320)
        inner = next(data.iterdir())
        drawn = sorted(inner.glob("*.jpg"))
        for n in range(len(drawn), args.pictures):
            original = drawn[n % len(drawn)]
            (inner / f"{n:05d}.jpg").write_bytes(original.read_bytes())
            (inner / f"{n:05d}.txt").write_bytes(original.with_suffix(".txt").read_bytes())
        child = subprocess.run([sys.executable, "-c", _CHILD, str(data)], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(child.stdout)
    print(
        f"{found['pictures']} pictures: {found['wall_s']:.2f} s ({found['cpu_s']:.2f} CPU s), "
        f"{found['more_memory_mib']:.0f} MiB more memory than before"
    )
    return found
