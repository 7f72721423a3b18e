"""What is known of one job: built from its events, kept in its folder, shown in the tab."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..chart import loss_chart, smoothed
from ..events import Event, parse
from ..files import write_text

RUNNING = ("starting", "training", "pausing", "grid")
"""States of a job that is under way."""

UNFINISHED = (*RUNNING, "queued", "paused", "interrupted")
EVENTS = "events.jsonl"
_POINTS, _POINTS_OF_MANY = 500, 100
_FILE = "record.json"
_TOLD = (
    *("step", "total", "epoch", "epochs", "steps_per_epoch", "loss", "loss_average", "losses", "rates", "validation"),
    *("band", "previews", "epochs_saved", "files"),
)
_EPOCH_FILE = re.compile(r"-\d{6}$")

Point = tuple[int, float]


@dataclass
class GridRecord:
    """How far the grid is; where its sheets lie, one a prompt (path is the first one's)."""

    done: int = 0
    total: int = 0
    path: str | None = None
    error: str | None = None
    pages: list[str] = field(default_factory=list)


@dataclass
class Record:
    """One job. Times in seconds, memory in bytes.

    kind: training, grid, effects or tune. state: queued, starting, training, pausing, paused, grid, done, stopped,
    failed; one that was under way when its process ended is read from disk as interrupted. created, began: when it was
    asked for and when it first ran; seconds: how long it has run in all. taken_over: what the host's own settings gave,
    by name.
    losses: (step, loss); rates: (step, rate) by the optimizer group's name; validation: {step, epoch, train, held_out}
    after each epoch; band: first and last candidate epoch. epochs_saved: {epoch, step, path} of the numbered files;
    previews: {epoch, step, paths}; files: all LoRA files. resume: the newest state to go on from; trained: whether the
    training has done all it was told. estimate: what the start reckoned with; seconds_per_step, memory (at most):
    what it took; memory_now: what it holds.
    """

    id: str
    name: str
    checkpoint: str
    kind: str = "training"
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
    created: float = field(default_factory=time.time)
    began: float = 0.0
    output_dir: str = ""
    taken_over: dict[str, Any] = field(default_factory=dict)
    steps_per_epoch: int = 0
    losses: list[Point] = field(default_factory=list)
    rates: dict[str, list[Point]] = field(default_factory=dict)
    validation: list[dict[str, Any]] = field(default_factory=list)
    band: list[int] | None = None
    previews: list[dict[str, Any]] = field(default_factory=list)
    epochs_saved: list[dict[str, Any]] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    resume: str = ""
    trained: bool = False
    estimate: dict[str, Any] | None = None
    seconds_per_step: float = 0.0
    memory: int = 0
    memory_now: int = 0
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    grid: GridRecord | None = None

    def apply(self, e: Event) -> None:
        """Take in one event of the child."""
        handler = getattr(self, f"_on_{e['event']}", None)
        if handler:
            handler(e)

    def warn(self, text: str) -> None:
        """Keep a warning, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def cut(self, step: int) -> None:
        """Forget what came after a step: a run that goes on from there does it again."""
        self.losses[:] = [point for point in self.losses if point[0] <= step]
        for points in self.rates.values():
            points[:] = [point for point in points if point[0] <= step]
        dropped = {entry["path"] for entry in self.epochs_saved if entry["step"] > step}
        self.files[:] = [path for path in self.files if path not in dropped]
        self.epochs_saved[:] = [entry for entry in self.epochs_saved if entry["step"] <= step]
        self.previews[:] = [entry for entry in self.previews if entry["step"] <= step]
        measured = [entry for entry in self.validation if entry["step"] <= step]
        if len(measured) < len(self.validation):
            self.validation[:], self.band = measured, None
        self.loss = self.losses[-1][1] if self.losses else None
        self.step, self.loss_average, self.eta = step, None, None
        self.epoch = -(-step // self.steps_per_epoch) if self.steps_per_epoch else 0

    def _on_stage(self, e: Event) -> None:
        self.stage = e["text"]

    def _on_cache(self, e: Event) -> None:
        self.stage = f"encoding {e['what']}, {e['done']} of {e['total']}"

    def _on_measuring(self, e: Event) -> None:
        self.step, self.total, self.stage, self.eta = e["done"], e["total"], e["what"], e.get("eta")

    def _on_resumed(self, e: Event) -> None:
        """Told by the job, not by the child: from here on it is as after this step."""
        self.cut(e["step"])

    def _on_start(self, e: Event) -> None:
        self.total, self.epochs, self.stage = e["steps"], e["epochs"], "training"
        self.steps_per_epoch, self.estimate = e["steps_per_epoch"], e.get("estimate")

    def _on_progress(self, e: Event) -> None:
        self.step, self.epoch, self.eta = e["step"], e["epoch"], e.get("eta")
        self.loss, self.loss_average = _finite(e["loss"]), _finite(e.get("loss_average"))
        self.memory_now = e.get("memory", self.memory_now)
        self.seconds_per_step = e.get("seconds_per_step", self.seconds_per_step)
        if self.loss is not None:
            self.losses.append((e["step"], self.loss))
        for name, rate in e.get("rates", {}).items():
            if (finite := _finite(rate)) is not None:
                _extend(self.rates.setdefault(name, []), (e["step"], finite))

    def _on_saved(self, e: Event) -> None:
        if e["path"] not in self.files:
            self.files.append(e["path"])
        if _EPOCH_FILE.search(Path(e["path"]).stem):
            self.epochs_saved.append({"epoch": e["epoch"], "step": e["step"], "path": e["path"]})

    def _on_state(self, e: Event) -> None:
        self.resume = e["path"]

    def _on_validation(self, e: Event) -> None:
        if not e["within"]:
            measured = {"train": _finite(e["train"]), "held_out": _finite(e["held_out"])}
            self.validation.append({"step": e["step"], "epoch": e["epoch"], **measured})
            self.band = e["band"]

    def _on_preview(self, e: Event) -> None:
        self.previews.append({"epoch": e["epoch"], "step": e["step"], "paths": list(e["paths"])})

    def _on_advice(self, e: Event) -> None:
        self.advice = list(e["lines"])

    def _on_measured(self, e: Event) -> None:
        self.seconds_per_step, self.memory = e["seconds_per_step"], e["memory"]

    def _on_warning(self, e: Event) -> None:
        self.warn(e["text"])

    def _on_error(self, e: Event) -> None:
        self.error = e["text"]

    def _on_done(self, e: Event) -> None:
        self.trained = True

    def running(self) -> bool:
        """Whether the job was under way when this was known."""
        return self.state in RUNNING

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it, with `smoothed`; of a curve every n-th point and the last, 500 at most."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        lists = ("files", "validation", "previews", "epochs_saved", "advice", "warnings")
        losses = list(self.losses)
        most = _POINTS if len(self.rates) <= 4 else _POINTS_OF_MANY
        return {
            **values,
            **{name: list(getattr(self, name)) for name in lists},
            "taken_over": dict(self.taken_over),
            "grid": asdict(self.grid) if self.grid else None,
            "losses": [list(point) for point in thinned(losses, _POINTS)],
            "smoothed": [list(point) for point in thinned(steady(losses), _POINTS)],
            "rates": {name: [list(point) for point in thinned(points, most)] for name, points in self.rates.items()},
        }

    def save(self, folder: Path) -> None:
        """Replace the record in the job's folder."""
        write_text(folder / _FILE, json.dumps(self.to_dict(), indent=1, ensure_ascii=False))

    def read_events(self, folder: Path) -> None:
        """Take from the job's events what this record lacks: it is written every few seconds, and thinned."""
        whole = Record(self.id, self.name, self.checkpoint)
        try:
            with open(folder / EVENTS, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if told := parse(line):
                        whole.apply(told)
        except (OSError, LookupError, TypeError):
            return
        if len(whole.losses) >= len(self.losses):
            for name in _TOLD:
                setattr(self, name, getattr(whole, name))
            for text in whole.warnings:
                self.warn(text)


def record_path(folder: Path) -> Path:
    """Where a job's record lies in its folder."""
    return folder / _FILE


def load(folder: Path) -> Record | None:
    """The record in a job's folder; None where there is none that can be read."""
    try:
        values = json.loads(record_path(folder).read_text(encoding="utf-8"))
        known = {f.name: values[f.name] for f in fields(Record) if f.name in values}
        if known.get("grid"):
            names = {f.name for f in fields(GridRecord)}
            known["grid"] = GridRecord(**{name: value for name, value in known["grid"].items() if name in names})
        record = Record(**known)
        if "created" not in known:
            record.created = record.began
        record.losses = [(step, loss) for step, loss in record.losses]
        record.rates = {name: [(step, rate) for step, rate in points] for name, points in record.rates.items()}
        record.previews = [_preview(entry) for entry in record.previews]
        record.validation = [{"epoch": None, **entry} for entry in record.validation]
        return record
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _preview(entry: Any) -> dict[str, Any]:
    """Earlier versions kept paths alone."""
    return {"epoch": None, "step": 0, "paths": [entry]} if isinstance(entry, str) else entry


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _extend(points: list[Point], point: Point) -> None:
    """Add a point; of a run of equal values the first and the last are kept."""
    if len(points) >= 2 and points[-1][1] == points[-2][1] == point[1]:
        points[-1] = point
    else:
        points.append(point)


def thinned(points: Iterable[Point], most: int) -> list[Point]:
    """At most `most` of the points, evenly spread, the last one included."""
    points = list(points)
    stride = -(-len(points) // most) or 1
    return points[::-1][::stride][::-1]


def steady(points: Sequence[Point]) -> list[Point]:
    """The chart's moving average, forwards and then backwards, so that it doesn't lag behind the losses."""
    return smoothed(smoothed(points)[::-1])[::-1]


def epoch_ends(record: dict[str, Any]) -> list[int]:
    """The last steps of the epochs that have ended."""
    each = record["steps_per_epoch"]
    if not each:
        return []
    ends = (min(each * number, record["total"]) for number in range(1, record["epochs"] + 1))
    return [end for end in ends if end <= record["step"]]


def chart(record: dict[str, Any]) -> str:
    """The record's losses, measured curves and candidate band as SVG."""
    curves: dict[str, list[Point]] = {
        name: [(m["step"], m[name]) for m in record["validation"] if m[name] is not None]
        for name in ("train", "held_out")
    }
    band = tuple(record["band"]) if record["band"] else None
    return loss_chart([(step, loss) for step, loss in record["losses"]], epoch_ends(record), **curves, band=band)
