"""A manager that only remembers what it was told."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_train.errors import UserError, UserErrors
from lora_train.host.base import Checkpoint
from lora_train.jobs.record import Record
from lora_train.ui import installer

EVIL = '<img src=x onerror="alert(1)">'
IDLE: dict[str, Any] = {**Record("", "", "", state="idle", began=0.0).to_dict(), "log": []}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gradio leaves event loops behind wherever a page is built; that isn't ours to mend."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


class FakeManager:
    """Has one job of the id "job-1", whose folder is `folder`."""

    def __init__(self, folder: Path) -> None:
        self.host = SimpleNamespace(
            name=EVIL, checkpoint=lambda: Checkpoint(Path("m.safetensors"), EVIL), checkpoints=list
        )
        self.job, self.now = folder, dict(IDLE)
        self.started: list[tuple[Any, Any]] = []
        self.stopped = 0
        self.problems: list[UserError] = []

    def start(self, values: dict[str, Any], grid: dict[str, Any] | None = None) -> str:
        if self.problems:
            raise UserErrors(self.problems)
        self.started.append((values, grid))
        return "job-1"

    def stop(self) -> None:
        self.stopped += 1

    def status(self) -> dict[str, Any]:
        return dict(self.now)

    def history(self) -> list[dict[str, Any]]:
        return [dict(self.now)]

    def folder(self, job: str) -> Path | None:
        return self.job if job == "job-1" else None


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    """What gradio left behind goes here, not in another room's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def manager(tmp_path: Path) -> FakeManager:
    return FakeManager(tmp_path)


@pytest.fixture(autouse=True)
def _no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may look for packages in another process, or install them."""
    monkeypatch.setattr(installer.packages, "status", lambda: installer.packages.Status(True))
    monkeypatch.setattr(installer.packages, "install", lambda progress: pytest.fail("a test installs packages"))
