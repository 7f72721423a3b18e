"""What a run tells while it goes on: progress, validation, previews, logs."""

from __future__ import annotations

import sys

import psutil
import torch

from ..events import Listener, event
from ..settings import TrainSettings
from .advice import advise
from .log import Log, step_values, validation_values
from .position import Position, due
from .previews import Previews
from .progress import Progress
from .step import Step, StepResult
from .validation import Validation, candidate_band, has_stalled

_AT_ONCE = 10
"""Steps whose losses are fetched from a GPU together: each fetch waits for it."""


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has had at most: of the GPU where it trains on one, else of main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_now(device: torch.device) -> int:
    """Bytes that this process holds: of the GPU where it trains on one, else of main memory."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return int(psutil.Process().memory_info().rss)


class Report:
    """Listens to the loop; nothing here changes the weights."""

    def __init__(
        self,
        step: Step,
        progress: Progress,
        settings: TrainSettings,
        emit: Listener,
        validation: Validation | None = None,
        previews: Previews | None = None,
        log: Log | None = None,
        pictures: tuple[int, float] = (0, 0.0),
    ) -> None:
        """pictures: how many are trained on, and their mean repeats."""
        self.pictures = pictures
        self.step, self.progress, self.settings, self.emit = step, progress, settings, emit
        self.validation, self.previews, self.log = validation, previews, log
        self.every = settings.validate_every_n_epochs or 1
        self._fetched: list[tuple[int, int, StepResult]] = []
        self.stalled = False

    def before(self, at: Position) -> None:
        """Before the first step of a run that isn't resumed."""
        if at.done == 0 and self.previews and self.previews.due(None, 0):
            self._preview(None, at)

    def after(self, at: Position, result: StepResult) -> None:
        """After every step."""
        self._fetched.append((at.done, at.epoch, result))
        if self.step.waits or len(self._fetched) >= _AT_ONCE or at.done == self.progress.total:
            self.flush()

    def flush(self) -> None:
        """Fetch what the device has computed since the last time, judge it and tell it."""
        if not self._fetched:
            return
        numbers = torch.stack([torch.stack([r.loss.float(), r.grad_norm.float()]) for *_, r in self._fetched]).tolist()
        names = [str(group.get("name", i)) for i, group in enumerate(self.step.optimizer.param_groups)]
        memory = memory_now(self.step.model.device)
        for (done, epoch, result), (loss, norm) in zip(self._fetched, numbers, strict=True):
            if not self.step.waits:
                self.step.watch.check(loss, norm, result.skipped)
            told = self.progress.after(done, epoch, loss, norm, result.rates)
            rates = dict(zip(names, result.rates, strict=True))
            a_step = round(self.progress.a_step, 4)
            self.emit(event("progress", **told, rates=rates, seconds_per_step=a_step, memory=memory))
            if self.log:
                average = told["loss_average"]
                self.log.scalars(done, step_values(loss, average, norm, names, result.rates, self.settings))
        self._fetched.clear()
        while self.step.watch.warnings:
            self.emit(event("warning", text=self.step.watch.warnings.pop(0)))

    def measure_step(self, at: Position) -> None:
        """What is due every n steps."""
        if self.validation and due(self.settings.validate_every_n_steps, at.done):
            self._validate(at, within=True)
        if self.previews and self.previews.due(None, at.done):
            self._preview(None, at)

    def measure_epoch(self, at: Position) -> None:
        """What is due at the end of an epoch."""
        self.flush()
        if self.validation and due(self.every, at.epoch):
            self._validate(at)
        if self.previews and self.previews.due(at.epoch, at.done):
            self._preview(at.epoch, at)

    def close(self, at: Position) -> None:
        """What the run took, advice from the curves, and the end of the log."""
        self.flush()
        memory = peak_memory(self.step.model.device)
        self.emit(event("measured", seconds_per_step=round(self.progress.a_step, 4), memory=memory))
        if lines := self._advice(at):
            self.emit(event("advice", lines=lines))
        if self.log:
            self.log.close()

    def _advice(self, at: Position) -> list[str]:
        pictures, repeats = self.pictures
        return advise(at.curves, self.settings, every=self.every, pictures=pictures, repeats=repeats)

    def _validate(self, at: Position, within: bool = False) -> None:
        """Measure; at an epoch's end the curves grow, and tell which epochs are candidates and whether to stop."""
        assert self.validation is not None
        with self.step.resting():
            measured = self.validation.measure()
        if self.log:
            self.log.scalars(at.done, validation_values(measured, "step" if within else "epoch"))
        if within:
            self.emit(event("validation", step=at.done, epoch=at.epoch, within=True, band=None, **measured))
            return
        for name, value in measured.items():
            if value is not None:
                at.curves.setdefault(name, []).append(value)
        held_out = at.curves.get("held_out", [])
        band = candidate_band(held_out, self.every)
        candidates = [band.first, band.last] if band else None
        self.emit(event("validation", step=at.done, epoch=at.epoch, within=False, band=candidates, **measured))
        patience = self.settings.early_stop_epochs
        if patience and has_stalled(held_out, patience, self.every):
            self.stalled = True
            text = f"the held-out loss hasn't fallen for {patience} epochs: the training ends here"
            self.emit(event("stage", text=text))

    def _preview(self, epoch: int | None, at: Position) -> None:
        assert self.previews is not None
        with self.step.resting():
            paths = self.previews.draw(epoch, at.done)
        self.emit(event("preview", paths=[str(path) for path in paths], epoch=epoch, step=at.done))
