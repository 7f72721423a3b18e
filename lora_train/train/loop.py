"""The training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..settings import TrainSettings
from .data import TrainingData
from .metadata import Counts
from .position import Position, due
from .report import Report
from .save import Saver
from .step import Step


@dataclass
class Outcome:
    """How a run ended: the steps done, the files written, and whether it was stopped before its end."""

    steps: int
    files: list[Path]
    stopped: bool


def train(
    step: Step,
    data: TrainingData,
    counts: Counts,
    saver: Saver,
    report: Report,
    settings: TrainSettings,
    at: Position,
    stop: Callable[[], bool],
    agree: Callable[[bool], bool] = bool,
) -> Outcome:
    """Train from `at` to the end; LoRA and state are saved before anything is measured or drawn.

    Of several processes one has a saver and a report that act; `stop` has the same answer in all, and `agree` is
    whether any of them says so.
    """
    stopped = False
    report.before(at)
    for epoch in range(at.epoch, counts.epochs + 1):
        at.epoch = epoch
        for window in data.epoch(epoch, at.in_epoch):
            result = step(window)
            at.done, at.in_epoch = at.done + 1, at.in_epoch + 1
            report.after(at, result)
            if due(settings.save_every_n_steps, at.done):
                saver.at_step(at)
            report.measure_step(at)
            stopped = at.done < counts.steps and stop()
            if stopped or at.done == counts.steps:
                break
        if stopped:
            saver.stopped(at)
            return Outcome(at.done, saver.files, stopped=True)
        if due(settings.save_every_n_epochs, epoch) or at.done == counts.steps:
            saver.epoch(at)
        report.measure_epoch(at)
        if at.done == counts.steps or agree(report.stalled):
            break
        at.in_epoch = 0
    saver.last(at)
    return Outcome(at.done, saver.files, stopped=False)
