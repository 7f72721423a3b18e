"""The whole product once, in minutes, on the embedded checkpoint: train, grid, bake, chart.

Everything goes the way that the tab goes: the same job, the same child process, the same grid and bake.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import settings as settings_module
from ..blocks.bake import bake
from ..blocks.presets import BUILTIN
from ..errors import UserError
from ..files import write_text
from ..host.standalone import StandaloneHost
from ..jobs.manager import Manager
from ..jobs.record import chart
from ..paths import ASSETS, MINI_CHECKPOINT

CONFIG, GRID, PICTURES = ASSETS / "demo" / "config.toml", ASSETS / "demo" / "grid.json", ASSETS / "demo" / "image"
BAKE = "{name}:0.9:GP1"
Watcher = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class DemoResult:
    """Where everything is. seconds: of the whole demo."""

    epochs: tuple[Path, ...]
    grid: Path
    baked: Path
    chart: Path
    seconds: float


def run(out: Path, watch: Watcher) -> DemoResult:
    """Train on the demo's pictures, draw the grid, bake. `watch` is called with the job's status. Raises UserError."""
    began = time.monotonic()
    loras = out / "loras"
    manager = Manager(StandaloneHost(MINI_CHECKPOINT, loras, out))
    values = settings_module.read_config(CONFIG)
    name = values["output_name"]
    values |= {
        "pretrained_model_name_or_path": str(MINI_CHECKPOINT),
        "train_data_dir": str(PICTURES),
        "output_dir": str(loras),
    }
    job = manager.start(values, json.loads(GRID.read_text(encoding="utf-8")))
    try:
        for status in _statuses(manager):
            watch(status)
    except BaseException:
        manager.stop()
        manager.wait(60)
        raise
    status = manager.status()
    if status["state"] != "done" or not status["grid"] or not status["grid"]["path"]:
        raise UserError(status["error"] or "; ".join(status["warnings"]) or "the demo was stopped", where="demo")
    watch({**status, "state": "bake"})
    baked = out / f"{name}-baked.safetensors"
    bake(BAKE.format(name=name), loras, BUILTIN, baked)
    folder = manager.folder(job) or out
    picture = folder / "loss.svg"
    write_text(picture, chart(status))
    epochs = tuple(Path(file) for file in status["files"])
    return DemoResult(epochs, Path(status["grid"]["path"]), baked, picture, time.monotonic() - began)


def _statuses(manager: Manager) -> Iterator[dict[str, Any]]:
    """The job's status twice a second until it has ended."""
    while not manager.wait(0.5):
        yield manager.status()
    yield manager.status()
