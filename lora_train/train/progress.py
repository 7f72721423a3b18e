"""Numbers for people while a run goes on."""

from __future__ import annotations

import time
from typing import Any


class Progress:
    """Smoothed loss and remaining time. a_step: seconds of a step on average, the first one left aside."""

    def __init__(self, total: int, steps_per_epoch: int, before: int = 0) -> None:
        """before: steps done by the run that is resumed."""
        self.total, self.steps_per_epoch, self.before = total, steps_per_epoch, before
        self.start = time.monotonic()
        self.first = self.a_step = 0.0
        self.latest: dict[int, float] = {}

    def after(self, done: int, epoch: int, loss: float, grad_norm: float, rates: list[float]) -> dict[str, Any]:
        """The fields of a progress event after `done` steps.

        loss_average is the mean over one epoch's worth of latest losses, which is what sd-scripts shows.
        """
        self.latest[(done - 1) % self.steps_per_epoch] = loss
        now = time.monotonic()
        here = done - self.before
        elapsed = now - self.start
        if here == 1:
            self.first = elapsed
        self.a_step = (elapsed - self.first) / (here - 1) if here > 1 else elapsed
        return {
            "step": done,
            "total": self.total,
            "epoch": epoch,
            "loss": loss,
            "loss_average": sum(self.latest.values()) / len(self.latest),
            "lr": rates,
            "grad_norm": grad_norm,
            "seconds": round(elapsed, 2),
            "eta": round(self.a_step * (self.total - done), 1),
        }
