"""Numbers for people while a run goes on."""

from __future__ import annotations

import time
from typing import Any

from .step import StepResult


class Progress:
    """Smoothed loss and remaining time."""

    def __init__(self, total: int, steps_per_epoch: int) -> None:
        self.total, self.steps_per_epoch = total, steps_per_epoch
        self.start = time.monotonic()
        self.first = 0.0
        self.latest: dict[int, float] = {}

    def after(self, done: int, epoch: int, result: StepResult) -> dict[str, Any]:
        """The fields of a progress event after `done` steps.

        loss_average is the mean over one epoch's worth of latest losses, which is what sd-scripts shows.
        """
        self.latest[(done - 1) % self.steps_per_epoch] = result.loss
        now = time.monotonic()
        if done == 1:
            self.first = now - self.start
        elapsed = now - self.start
        a_step = (elapsed - self.first) / (done - 1) if done > 1 else elapsed
        return {
            "step": done,
            "total": self.total,
            "epoch": epoch,
            "loss": result.loss,
            "loss_average": sum(self.latest.values()) / len(self.latest),
            "lr": result.rates,
            "grad_norm": result.grad_norm,
            "seconds": round(elapsed, 2),
            "eta": round(a_step * (self.total - done), 1),
        }
