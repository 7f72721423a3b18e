"""Which of a run's own files and states to remove once a newer one is there, as sd-scripts counts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..settings import TrainSettings


@dataclass(frozen=True)
class Saved:
    """One thing that this run has written: a LoRA file or a state folder, at an epoch or at a step."""

    path: Path
    kind: Literal["epoch", "step"]
    number: int
    is_state: bool = False


def expired(saved: Sequence[Saved], settings: TrainSettings) -> list[Saved]:
    """What is too old now that the newest of `saved` exists. Files of a run's end are in no such list: they stay.

    save_last_n_epochs counts saves; save_last_n_steps counts steps, rounded to saves. States follow
    save_last_n_{epochs,steps}_state, where it is empty the number for files.
    """
    return [
        item
        for item in saved
        if item.number <= _threshold(item, settings, max(i.number for i in saved if _alike(i, item)))
    ]


def _alike(one: Saved, other: Saved) -> bool:
    return (one.kind, one.is_state) == (other.kind, other.is_state)


def _threshold(item: Saved, settings: TrainSettings, newest: int) -> int:
    """The last number that goes; 0 where everything stays."""
    option = f"save_last_n_{item.kind}s"
    last = (item.is_state and getattr(settings, f"{option}_state", None)) or getattr(settings, option)
    every = getattr(settings, f"save_every_n_{item.kind}s")
    if not last or not every:
        return 0
    if item.kind == "epoch":
        return newest - every * last
    before = newest - last - 1
    return before - before % every


def remove(path: Path) -> str | None:
    """Remove a file or a state. Never raises: what can't be removed is told in a warning."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return None  # somebody was faster
    except OSError as error:
        return f"{path} is old and could not be removed: {error.strerror or error}"
    return None
