"""Hosts on stand-ins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_train.host.webui import xyz

from . import standins


@pytest.fixture
def webui(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Just enough of A1111's `modules.*`."""
    monkeypatch.setattr(xyz, "_LOOK_EVERY", 0.01)
    return standins.install(monkeypatch, tmp_path)


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch, webui: SimpleNamespace) -> SimpleNamespace:
    """The same as Forge has it."""
    return standins.become_forge(monkeypatch, webui)


@pytest.fixture
def classic(monkeypatch: pytest.MonkeyPatch, webui: SimpleNamespace) -> SimpleNamespace:
    """The same as Forge Classic has it."""
    return standins.become_classic(monkeypatch, webui)
