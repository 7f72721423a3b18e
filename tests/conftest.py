"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small tensors, and children on the same cores


LONGEST = ("demo", "test_options", "test_parity", "test_resume", "test_distributed", "test_families", "test_train")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no worker is left alone with one at the end."""

    def place(item: pytest.Item) -> int:
        names = (item.path.parent.name, item.path.stem)
        return next((n for n, name in enumerate(LONGEST) if name in names), len(LONGEST))

    items.sort(key=place)


@pytest.fixture
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may ask a model hub for anything."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
