"""A manager of fakes, at rest again after each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_train.jobs.manager import Manager

from .fakes import FakeEngine, FakeHost


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    pictures = tmp_path / "pictures" / "1_cat"
    pictures.mkdir(parents=True)
    (pictures / "a.txt").write_text("a red cat\n", encoding="utf-8")
    return FakeHost(tmp_path)


@pytest.fixture
def manager(host: FakeHost) -> Iterator[Manager]:
    manager = Manager(host, FakeEngine(), grace=1.0, patience=5.0)
    yield manager
    while not manager.wait(0.1):
        manager.stop()
