"""A learning rate for these pictures: train with D-Adaptation, whose effective rate climbs and comes to rest.

D-Adaptation (Defazio and Mishchenko, 2023) multiplies the rate, here 1, by its estimate d of the distance to the
solution. Where d x lr stays, AdamW takes it as its rate and Lion a third of it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from ..errors import UserError
from ..events import Event, Listener
from ..settings import TrainSettings
from .run import run

LION = 1 / 3
"""Lion's rate as a share of AdamW's."""

_COMPARED, _RISEN = 50, 2.0  # steps at either end, and by how much their median loss may grow

_ENDINGS = ("saved", "state", "done", "stopped")  # of files that are thrown away, and of a run that isn't the user's


class Plateau:
    """Told (step, rate) one after another, it says when the rate has come to rest.

    That is when it has stayed within `tolerance` for `least` steps and for as long as it took to get there, so that a
    slow climb is none however slow; and has left its start, three times over, before.
    """

    def __init__(self, least: int = 100, tolerance: float = 0.05) -> None:
        self.least, self.tolerance = least, tolerance
        self.curve: list[tuple[int, float]] = []
        self._stretch = 0  # where in the curve the present level begins
        self._low = self._high = 0.0

    def add(self, step: int, rate: float) -> bool:
        """Take in a rate; whether it is at rest now. What is no positive number is passed over."""
        if not (math.isfinite(rate) and rate > 0):
            return self.found
        self._low, self._high = min(self._low, rate), max(self._high, rate)
        if not self.curve or self._high > self._low * (1 + self.tolerance):
            self._stretch, self._low, self._high = len(self.curve), rate, rate
        self.curve.append((step, rate))
        return self.found

    @property
    def found(self) -> bool:
        """Whether the rate is at rest."""
        if not self.risen:
            return False
        first, last = self.curve[0][0], self.curve[-1][0]
        return last - self.level_since >= max(self.least, self.level_since - first)

    @property
    def risen(self) -> bool:
        """Whether it has left its start."""
        return bool(self.curve) and self._low >= 3 * self.curve[0][1]

    @property
    def level_since(self) -> int:
        """The step at which the present level begins."""
        return self.curve[self._stretch][0]

    @property
    def value(self) -> float:
        """The rate in the middle of the present level."""
        return median(rate for _, rate in self.curve[self._stretch :])


@dataclass(frozen=True)
class Result:
    """What was found. curve: (step, d x lr); flat_at: the step where it comes to rest, None where it never does."""

    unet_lr: float
    lion_lr: float
    curve: list[tuple[int, float]]
    flat_at: int | None
    note: str

    def text(self) -> str:
        """For people."""
        lines = [
            f"AdamW8bit: unet_lr {short(self.unet_lr)}; Lion: {short(self.lion_lr)}",
            f"text_encoder_lr is commonly a half to a tenth of that: {short(self.unet_lr / 2)} to "
            f"{short(self.unet_lr / 10)}",
            self.note,
        ]
        return "\n".join(lines)

    def values(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def find(settings: TrainSettings, emit: Listener, stop: Callable[[], bool], plateau: Plateau | None = None) -> Result:
    """Train as `settings` say, with D-Adaptation, until the rate is at rest or the training ends. Keeps no files.

    Progress goes to `emit`, `stop` ends it early. Raises UserError as a training does.
    """
    watched = plateau or Plateau()
    losses: list[float] = []

    def listen(e: Event) -> None:
        if e["event"] == "progress":
            losses.append(e["loss"])
            watched.add(e["step"], e["lr"][-1])  # the UNet's group is the last; D-Adaptation has one d for all
        if e["event"] not in _ENDINGS:
            emit(e)

    with tempfile.TemporaryDirectory() as folder:
        run(derived(settings, folder), listen, lambda: watched.found or stop())
    if not watched.curve:
        raise UserError("it ended before the first step", where="lr-find", remedy="Let it run for some hundred steps")
    return _result(watched, losses)


def derived(settings: TrainSettings, folder: str) -> TrainSettings:
    """The training that finds the rate: the user's, with another optimizer at rate 1, writing only into `folder`."""
    if not settings.unet_rate:
        raise UserError(
            "the UNet isn't trained, and it is its rate that is searched for",
            where="unet_lr",
            remedy="Switch network_train_text_encoder_only off, or give unet_lr 1e-4",
        )
    optimizer: dict[str, Any] = {
        "optimizer_type": "DAdaptAdam",
        "optimizer_args": ["decouple=True", "weight_decay=0.01"],
        "learning_rate": 1.0,
        "unet_lr": 1.0,
        "text_encoder_lr": float(settings.text_encoder_rate > 0),
        "text_encoder2_lr": float(settings.text_encoder2_rate > 0),
        "lr_scheduler": "constant",
        "lr_scheduler_type": "",
        "lr_scheduler_args": [],
        "lr_scheduler_min_lr_ratio": None,
        "lr_warmup_steps": 0,
    }
    # One d for all groups allows no factors between them.
    same_rate: dict[str, Any] = {
        "loraplus_lr_ratio": None,
        "loraplus_unet_lr_ratio": None,
        "loraplus_text_encoder_lr_ratio": None,
        "down_lr_weight": "",
        "mid_lr_weight": "",
        "up_lr_weight": "",
    }
    no_files: dict[str, Any] = {
        "output_dir": folder,
        "output_name": "lr-find",
        "resume": "",
        "logging_dir": "",
        "ema_decay": None,
        "save_every_n_epochs": None,
        "save_every_n_steps": None,
        "save_state": False,
        "save_state_on_train_end": False,
        "sample_prompts": "",
        "sample_at_first": False,
        "sample_every_n_epochs": None,
        "sample_every_n_steps": None,
        "validation_split": 0.0,
        "validation_data_dir": "",
        "early_stop_epochs": None,
        "validate_every_n_epochs": None,
        "validate_every_n_steps": None,
    }
    return replace(settings, **optimizer, **same_rate, **no_files)


def _result(watched: Plateau, losses: list[float]) -> Result:
    steps = watched.curve[-1][0]
    if watched.found:
        note = f"The rate is at rest from step {watched.level_since} on."
    elif watched.risen:
        note = f"A guess: in {steps} steps the rate hasn't come to rest for long. Let it run longer for a surer value."
    else:
        note = f"No answer: in {steps} steps the rate hardly left its start. Let it run longer."
    part = max(1, min(_COMPARED, len(losses) // 2))
    before, after = median(losses[:part]), median(losses[-part:])
    if len(losses) > 1 and after > _RISEN * before:
        note += (
            f" But at this rate the loss rose from {before:.2f} to {after:.2f}: it is too high for this network. "
            f"Begin with a tenth, {short(watched.value / 10)}, and compare."
        )
    flat_at = watched.level_since if watched.found else None
    return Result(watched.value, watched.value * LION, watched.curve, flat_at, note)


def short(rate: float) -> str:
    """A rate in two digits, as people write it: 1.2e-4."""
    digits, _, power = f"{rate:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"
