"""How fast former runs on this machine were, from the records that jobs leave."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from .. import settings as settings_module
from ..dataset.source import open_dataset
from ..errors import UserError
from ..settings import TrainSettings
from .steps import Plan, plan

_FEWEST_STEPS = 20  # below, starting up weighs too much


@dataclass(frozen=True)
class Measured:
    """A run that was, and how long a step took."""

    name: str
    settings: TrainSettings
    plan: Plan
    seconds_per_step: float


def read(jobs: Path, most: int = 3) -> list[Measured]:
    """The newest `most` runs whose records (a folder each with config.json and record.json) tell their speed.

    Runs whose pictures are gone don't count. Newest last.
    """
    try:
        folders = sorted(path.parent for path in jobs.glob("*/record.json"))
    except OSError:
        return []
    found: list[Measured] = []
    for folder in reversed(folders):
        if len(found) < most and (measured := _measured(folder)):
            found.insert(0, measured)
    return found


def _measured(folder: Path) -> Measured | None:
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        steps = int(record["step"])
        seconds = float(record.get("seconds_per_step") or record["seconds"] / steps) if steps else 0.0
        if steps < _FEWEST_STEPS or seconds <= 0:
            return None
        settings, _ = settings_module.from_dict(values)
        dataset = open_dataset(replace(settings, validation_data_dir=""))
        return Measured(str(record.get("name") or folder.name), settings, plan(settings, dataset), seconds)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
