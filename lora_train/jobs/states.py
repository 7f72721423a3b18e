"""The states on disk that a job can go on from. The training process reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MANIFEST = "manifest.json"
_MAY_DIFFER = {"resume"}
_CLOCKS = 5.0
"""Seconds by which a file system's time may be behind ours."""


@dataclass(frozen=True)
class SavedState:
    """A state folder and the optimizer steps that it was saved after."""

    folder: Path
    step: int


def saved_states(settings: dict[str, Any], since: float) -> Iterator[SavedState]:
    """The states of a job in its output folder, the furthest first.

    settings: the job's, by name; since: when it was made. Those of other runs are left out, and unfinished ones.
    """
    found = []
    for manifest in Path(settings["output_dir"]).glob(f"*-state/{_MANIFEST}"):
        folder = manifest.parent
        try:
            if manifest.stat().st_mtime < since - _CLOCKS or not _complete(folder):
                continue
            saved_with = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
            step = json.loads((folder / "train_state.json").read_text(encoding="utf-8"))["current_step"]
            if isinstance(step, int) and _same(saved_with, settings):
                found.append(SavedState(folder, step))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
    yield from sorted(found, key=lambda state: state.step, reverse=True)


def whole(state: SavedState) -> bool:
    """Whether every file of a state is as it was written: reads all of it."""
    from ..network.kohya import file_hash

    try:
        files = json.loads((state.folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(file_hash(state.folder / name) == entry["sha256"] for name, entry in files.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _complete(folder: Path) -> bool:
    """Whether every file is there in its full size."""
    files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
    return all((folder / name).stat().st_size == entry["size"] for name, entry in files.items())


def _same(saved_with: dict[str, Any], settings: dict[str, Any]) -> bool:
    common = (saved_with.keys() & settings.keys()) - _MAY_DIFFER
    return all(saved_with[name] == settings[name] for name in common)
