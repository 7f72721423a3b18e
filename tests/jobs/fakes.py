"""A host that draws grey cells and an engine that only pretends to train."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train.grid.plan import Grid
from lora_train.grid.sheet import Cell, OnCell, Page
from lora_train.host.base import Checkpoint, Sheet
from lora_train.jobs.child import Engine

FAKE = Path(__file__).with_name("fake_engine.py")
posix = pytest.mark.skipif(os.name == "nt", reason="signals")


class FakeEngine(Engine):
    """Runs the stand-in."""

    def command(self, config: Path) -> list[str]:
        return [sys.executable, str(FAKE), str(config)]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def device(self, environment: dict[str, str]) -> str:
        return environment.get("DEVICE", "")


class FakeHost:
    """Draws grey cells, and remembers what it was asked."""

    name = "fake"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.drawn: Grid | None = None
        self.cell_seconds = 0.0
        self.failure: Exception | None = None
        self.vae: Path | None = None
        self.clip_skip = 1
        self.open_to_others = False
        checkpoint = folder / "model.safetensors"
        if not checkpoint.exists():
            checkpoint.write_bytes(b"x")

    def checkpoint(self) -> Checkpoint | None:
        path = self.folder / "model.safetensors"
        return Checkpoint(path, "model [1234]", vae=self.vae, clip_skip=self.clip_skip)

    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(self.folder / "model.safetensors", "model [1234]")]

    def lora_dir(self) -> Path:
        return self.folder / "loras"

    def data_dir(self) -> Path:
        return self.folder / "data"

    def restricted(self) -> bool:
        return self.open_to_others

    def picture_folders(self) -> list[Path]:
        return [self.folder / "pictures"]

    def environment(self) -> dict[str, str]:
        return {}

    def refresh_loras(self) -> None:
        self.calls.append("refresh")

    @contextlib.contextmanager
    def memory_for_training(self) -> Iterator[None]:
        self.calls.append("unload")
        yield
        self.calls.append("bring back")

    def draw(self, grid: Grid, on_cell: OnCell) -> Sheet:
        self.calls.append("draw")
        if self.failure:
            raise self.failure
        self.drawn = grid
        for done in range(grid.count):
            time.sleep(self.cell_seconds)
            row, column = divmod(done, len(grid.weights))
            picture = Image.new("RGB", (8, 8))
            on_cell(done + 1, grid.count, Cell(0, row, column, picture) if row < len(grid.loras) else None)
        cell = Image.new("RGB", (8, 8))
        page = Page(cell, tuple(tuple(cell for _ in grid.weights) for _ in grid.loras))
        return Sheet(tuple(page for _ in grid.prompts))


def values(host: FakeHost, orders: str = "", **more: Any) -> dict[str, Any]:
    return {"train_data_dir": str(host.folder / "pictures"), "output_name": "cat", "training_comment": orders, **more}


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it didn't happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has waited for doesn't."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return not sys.platform.startswith("linux")
