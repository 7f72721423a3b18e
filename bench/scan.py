"""Time and memory of looking at a large dataset: planning the run, and the studio's scan of every picture."""

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
_PEAK = """
import sys
from pathlib import Path
def peak():  # MiB; Linux's getrusage would count that of the process that made this one
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM")) / 2**10
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
"""
_CHILD = """
import json, time
from lora_train.settings import TrainSettings
from lora_train.dataset.source import open_dataset
from lora_train.plan.steps import plan
before, wall, cpu = peak(), time.perf_counter(), time.process_time()
settings = TrainSettings(train_data_dir=sys.argv[1], resolution=(512, 512))
dataset = open_dataset(settings)
planned = plan(settings, dataset)
print(json.dumps({
    "pictures": dataset.picture_count, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu,
    "more_memory_mib": peak() - before,
}))
"""

_STUDIO = """
import json, os, time
from lora_train.studio.scan import scan
root, before, times = Path(sys.argv[1]), peak(), []
def used():  # of the processes that help too
    return sum(os.times()[:4])
for _ in range(2):
    wall, cpu = time.perf_counter(), used()
    report = scan(root, root.parent / "scan.json")
    times.append((time.perf_counter() - wall, used() - cpu))
print(json.dumps({
    "pictures": len(report.usable), "alike": sum(len(group) for group in report.similar), "wall_s": times[0][0],
    "cpu_s": times[0][1], "again_s": times[1][0], "more_memory_mib": peak() - before,
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
            whole = original.read_bytes()  # with a comment of its own, so that no two files are the same
            (inner / f"{n:05d}.jpg").write_bytes(whole[:2] + b"\xff\xfe\0\6" + n.to_bytes(4, "big") + whole[2:])
            (inner / f"{n:05d}.txt").write_bytes(original.with_suffix(".txt").read_bytes())
        found, looked = _measured(_CHILD, data), _measured(_STUDIO, data)
    print(
        f"plan: {found['pictures']} pictures: {found['wall_s']:.2f} s ({found['cpu_s']:.2f} CPU s), "
        f"{found['more_memory_mib']:.0f} MiB more memory than before"
    )
    print(
        f"studio: {looked['pictures']} pictures: {looked['wall_s']:.2f} s ({looked['cpu_s']:.2f} CPU s), "
        f"{looked['more_memory_mib']:.0f} MiB more memory than before; again: {looked['again_s']:.2f} s"
    )
    return {**found, "studio": looked}


def _measured(code: str, data: Path) -> dict[str, Any]:
    child = subprocess.run([sys.executable, "-c", _PEAK + code, str(data)], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(child.stdout)
    return found
