"""What is known of one job: built from its events, kept in its folder, shown in the tab."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..chart import loss_chart
from ..events import Event
from ..files import write_text

RUNNING = ("starting", "training", "grid")
_POINTS = 500
_FILE = "record.json"


@dataclass
class GridRecord:
    """How far the grid is, and where its sheet lies."""

    done: int = 0
    total: int = 0
    path: str | None = None
    error: str | None = None


@dataclass
class Record:
    """One job. state: starting, training, grid, done, stopped, failed; from disk also interrupted. Times in seconds.

    validation: {step, train, held_out} after each epoch; band: first and last candidate epoch; resume: the newest state
    to go on from; estimate: what the start reckoned with, seconds_per_step and memory (bytes) what it took.
    """

    id: str
    name: str
    checkpoint: str
    state: str = "starting"
    stage: str = ""
    step: int = 0
    total: int = 0
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    loss_average: float | None = None
    eta: float | None = None
    seconds: float = 0.0
    began: float = field(default_factory=time.time)
    output_dir: str = ""
    steps_per_epoch: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    band: list[int] | None = None
    previews: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    resume: str = ""
    estimate: dict[str, Any] | None = None
    seconds_per_step: float = 0.0
    memory: int = 0
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    grid: GridRecord | None = None

    def apply(self, e: Event) -> None:
        """Take in one event of the child."""
        handler = getattr(self, f"_on_{e['event']}", None)
        if handler:
            handler(e)

    def _on_stage(self, e: Event) -> None:
        self.stage = e["text"]

    def _on_cache(self, e: Event) -> None:
        self.stage = f"encoding {e['what']}, {e['done']} of {e['total']}"

    def _on_start(self, e: Event) -> None:
        self.total, self.epochs, self.stage = e["steps"], e["epochs"], "training"
        self.steps_per_epoch, self.estimate = e["steps_per_epoch"], e.get("estimate")

    def _on_progress(self, e: Event) -> None:
        self.step, self.epoch, self.eta = e["step"], e["epoch"], e.get("eta")
        self.loss, self.loss_average = _finite(e["loss"]), _finite(e.get("loss_average"))
        if self.loss is not None:
            self.losses.append((e["step"], self.loss))

    def _on_saved(self, e: Event) -> None:
        self.files.append(e["path"])

    def _on_state(self, e: Event) -> None:
        self.resume = e["path"]

    def _on_validation(self, e: Event) -> None:
        if not e["within"]:
            self.validation.append(
                {"step": e["step"], "train": _finite(e["train"]), "held_out": _finite(e["held_out"])}
            )
            self.band = e["band"]

    def _on_preview(self, e: Event) -> None:
        self.previews += e["paths"]

    def _on_advice(self, e: Event) -> None:
        self.advice = list(e["lines"])

    def _on_measured(self, e: Event) -> None:
        self.seconds_per_step, self.memory = e["seconds_per_step"], e["memory"]

    def _on_warning(self, e: Event) -> None:
        self.warnings.append(e["text"])

    def _on_error(self, e: Event) -> None:
        self.error = e["text"]

    def running(self) -> bool:
        """Whether the job was under way when this was known."""
        return self.state in RUNNING

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it; of the losses every n-th and the last, 500 at most."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        copies = {
            **{name: list(getattr(self, name)) for name in ("files", "validation", "previews", "advice")},
            "warnings": list(self.warnings),
            "grid": asdict(self.grid) if self.grid else None,
        }
        return {**values, **copies, "losses": [list(point) for point in thinned(self.losses, _POINTS)]}

    def save(self, folder: Path) -> None:
        """Replace the record in the job's folder."""
        write_text(folder / _FILE, json.dumps(self.to_dict(), indent=1, ensure_ascii=False))


def load(folder: Path) -> Record | None:
    """The record in a job's folder; None where there is none that can be read."""
    try:
        values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        known = {f.name: values[f.name] for f in fields(Record) if f.name in values}
        if known.get("grid"):
            known["grid"] = GridRecord(**known["grid"])
        return Record(**known)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most `most` of the points, evenly spread, the last one included."""
    points = list(points)
    stride = -(-len(points) // most) or 1
    return points[::-1][::stride][::-1]


def epoch_ends(record: dict[str, Any]) -> list[int]:
    """The last steps of the epochs that have ended."""
    each = record["steps_per_epoch"]
    if not each:
        return []
    ends = (min(each * number, record["total"]) for number in range(1, record["epochs"] + 1))
    return [end for end in ends if end <= record["step"]]


def chart(record: dict[str, Any]) -> str:
    """The record's losses, measured curves and candidate band as SVG."""
    curves: dict[str, list[tuple[int, float]]] = {
        name: [(m["step"], m[name]) for m in record["validation"] if m[name] is not None]
        for name in ("train", "held_out")
    }
    band = tuple(record["band"]) if record["band"] else None
    return loss_chart([(step, loss) for step, loss in record["losses"]], epoch_ends(record), **curves, band=band)
