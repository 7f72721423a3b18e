"""Time and memory of a large dataset: planning the run, the studio's scan of every picture, its panels' answers."""

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

_PANELS = """
import time
from fastapi import FastAPI
from starlette.testclient import TestClient
from lora_train.host.standalone import StandaloneHost
from lora_train.jobs.manager import Manager
from lora_train.ui import routes
import json
root = Path(sys.argv[1])
app = FastAPI()
routes.add(app, Manager(StandaloneHost(None, root.parent / "loras", root.parent / "host")))
client, at = TestClient(app), "/lora-train/v1"
def ask(path, body=None):
    answer = client.get(at + path) if body is None else client.post(at + path, json=body)
    assert answer.status_code == 200, (path, answer.text)
    return answer
def wait(task):
    while True:
        (one,) = (one for one in ask("/status").json()["tasks"] if one["id"] == task)
        if one["state"] != "running":
            assert one["state"] == "done", one
            return
        time.sleep(0.2)
project = ask("/pictures/make", {"folder": str(root)}).json()
own, planner, folder = "/pictures/" + project["id"], "/sets/" + project["id"] + "/style", project["folder"]
wait(ask(own + "/scan", {}).json()["task"])
wait(ask(planner + "/look", {"detector": ""}).json()["task"])
one = ask(own + "/page?limit=1").json()["pictures"][0]
captions = {"folder": folder, "limit": 30}
edit = {"folder": folder, "filter": {}, "edits": [{"edit": "add", "tags": ["new"]}]}
asked = {
    "project": (own, None),
    "page of pictures": (own + "/page?offset=5000&limit=100", None),
    "page of a search": (own + "/page?search=7&limit=100", None),
    "page of a finding": (own + "/page?finding=alike&limit=100", None),
    "ids of all": (own + "/ids", None),
    "report": (own + "/report", None),
    "thumbnail": (own + "/thumbnails/" + one["id"] + "/256.jpg", None),
    "style: plan": (planner, None),
    "style: page of a class": (planner + "/pictures?class=face&offset=5000&limit=100", None),
    "style: ids of a class": (planner + "/ids?class=face", None),
    "style: one is sorted": (planner, {"classes": {one["id"]: "main"}}),
    "person": ("/sets/" + project["id"] + "/person", None),
    "captions: table": ("/caption-studio/table", captions),
    "captions: search": ("/caption-studio/table", {**captions, "filter": {"text": "tag 7"}}),
    "captions: read anew": ("/caption-studio/table", {**captions, "fresh": True}),
    "captions: tags": ("/caption-studio/tags", {"folder": folder}),
    "captions: audit": ("/caption-studio/audit", {"folder": folder}),
    "captions: preview of all": ("/caption-studio/preview", edit),
}
found = {}
for name, (path, body) in asked.items():
    times = []
    for _ in range(6):
        wall, cpu = time.perf_counter(), time.process_time()
        answer = ask(path, body)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    again = [sorted(column)[2] for column in zip(*times[1:])]
    found[name] = {"first_s": times[0][0], "again_s": again[0], "again_cpu_s": again[1], "bytes": len(answer.content)}
before = peak()
for _ in range(3):
    for path, body in asked.values():
        ask(path, body)
print(json.dumps({"answers": found, "peak_mib": peak(), "more_memory_mib": peak() - before}))
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
        found, looked, panels = (_measured(code, data) for code in (_CHILD, _STUDIO, _PANELS))
    print(
        f"plan: {found['pictures']} pictures: {found['wall_s']:.2f} s ({found['cpu_s']:.2f} CPU s), "
        f"{found['more_memory_mib']:.0f} MiB more memory than before"
    )
    print(
        f"studio: {looked['pictures']} pictures: {looked['wall_s']:.2f} s ({looked['cpu_s']:.2f} CPU s), "
        f"{looked['more_memory_mib']:.0f} MiB more memory than before; again: {looked['again_s']:.2f} s"
    )
    print(f"\n{'panel':28} first ms  again ms    CPU ms     bytes")
    for name, one in panels["answers"].items():
        times = "  ".join(f"{1000 * one[key]:8.0f}" for key in ("first_s", "again_s", "again_cpu_s"))
        print(f"{name:28} {times}  {one['bytes']:8,}")
    more = f"{panels['more_memory_mib']:.0f} MiB more after all of them three times again"
    print(f"peak {panels['peak_mib']:.0f} MiB; {more}")
    return {**found, "studio": looked, "panels": panels}


def _measured(code: str, data: Path) -> dict[str, Any]:
    child = subprocess.run([sys.executable, "-c", _PEAK + code, str(data)], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(child.stdout)
    return found
