"""Block weights tuned by gradient against two goals: keep the subject, and keep everything else as it was.

The subject: the loss of denoising pictures of it (relative to that of the LoRA at 1 everywhere). Everything else: how
far the guided prediction at neutral prompts moves away from the checkpoint's own (relative to the same). Both are
smooth in the 17 numbers a LoRA; all weights of the model and of the LoRAs are frozen, and every step looks at the same
few noises and timesteps (common random numbers), so that Adam sees the numbers and not the chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..blocks.families import topology
from ..model.load import StableDiffusion
from .cases import Cases, How, guided, plain
from .dials import Dials
from .effects import Progress, Stopped

Numbers = list[dict[str, float]]
"""Weights of each LoRA's blocks."""


@dataclass(frozen=True)
class Options:
    """keep: 0 is the subject alone, 1 everything else alone. low, high: bounds of each number; tied: one number a block
    for all LoRAs of the mix; smooth, near: how much neighbours are pulled together and every number to its start.
    """

    keep: float = 0.5
    low: float = 0.0
    high: float = 2.0
    steps: int = 60
    rate: float = 0.06
    tied: bool = False
    smooth: float = 0.002
    near: float = 0.002


@dataclass(frozen=True)
class Score:
    """Of some weights. loss: of denoising the subject, mean square error; drift: mean square of the guided prediction's
    move at neutral prompts.
    """

    name: str
    loss: float
    drift: float


@dataclass(frozen=True)
class Tuned:
    """weights: the result; history: (step, loss, drift) as they were met, each on its own few cases."""

    weights: Numbers
    history: list[tuple[int, float, float]] = field(default_factory=list)


def loss(model: StableDiffusion, cases: Cases, how: How) -> Tensor:
    """Mean square error of denoising; masks as in training."""
    error = (plain(model, cases, how) - cases.wanted.to(model.device)).square()
    return (error if cases.mask is None else error * cases.mask.to(error.device)).mean()


def drift(model: StableDiffusion, cases: Cases, how: How) -> Tensor:
    """Mean square of the guided prediction's distance from the checkpoint's own."""
    return (guided(model, cases, how) - cases.wanted.to(model.device)).square().mean()


@torch.no_grad()
def score(
    model: StableDiffusion,
    dials: Dials,
    name: str,
    weights: Sequence[Mapping[str, float]],
    subject: Sequence[Cases],
    neutral: Sequence[Cases],
    how: How,
    stop: Callable[[], bool] = lambda: False,
) -> Score:
    """Both goals of some weights, on all cases."""
    dials.turn(weights)
    sums = []
    for cases, measure in ((subject, loss), (neutral, drift)):
        total = 0.0
        for one in cases:
            if stop():
                raise Stopped
            total += float(measure(model, one, how)) * len(one)
        sums.append(total / sum(map(len, cases)))
    return Score(name, *sums)


def tune(
    model: StableDiffusion,
    dials: Dials,
    start: Numbers,
    subject: Sequence[Cases],
    neutral: Sequence[Cases],
    how: How,
    options: Options,
    *,
    progress: Progress = lambda done, total, what: None,
    stop: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Adam on the numbers of the blocks that the LoRAs have, from `start`; blocks that they lack stay as they are.

    The result is the mean of the last third of the steps, which lies nearer to the optimum than the last step. Raises
    Stopped.
    """
    flat = score(model, dials, "start", start, subject, neutral, how, stop)
    vector = _Vector(dials, start, options)
    optimizer = torch.optim.Adam([vector.free], lr=options.rate, betas=(0.8, 0.95), eps=1e-4)
    history, tail = [], []
    for step in range(options.steps):
        if stop():
            raise Stopped
        for group in optimizer.param_groups:
            group["lr"] = options.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / options.steps)))
        dials.vector(vector.full())
        its_loss = its_drift = torch.zeros(())
        if options.keep < 1:
            its_loss = loss(model, subject[step % len(subject)], how)
        if options.keep > 0:
            its_drift = drift(model, neutral[step % len(neutral)], how)
        aim = (1 - options.keep) * its_loss / (flat.loss or 1.0) + options.keep * its_drift / (flat.drift or 1.0)
        optimizer.zero_grad()
        (aim + vector.pull()).backward()
        if bool(torch.isfinite(vector.free.grad).all()):  # type: ignore[union-attr]
            optimizer.step()
        vector.clamp()
        if step >= options.steps * 2 // 3:
            tail.append(vector.free.detach().clone())
        history.append((step, float(its_loss), float(its_drift)))
        progress(step + 1, options.steps, "tuning")
    if tail:
        vector.free.data = torch.stack(tail).mean(0)
    return Tuned(vector.numbers(), history)


class _Vector:
    """The numbers that are free, [LoRAs or 1, blocks present], and the tensor [LoRAs, blocks] that the dials take."""

    def __init__(self, dials: Dials, start: Numbers, options: Options) -> None:
        self._options, self._blocks, self._start = options, dials.blocks, start
        self._rows = [list(range(len(start)))] if options.tied else [[n] for n in range(len(start))]
        present = [set().union(*(dials.present[n] for n in row)) for row in self._rows]
        self._mask = torch.tensor([[block in its for block in self._blocks] for its in present])
        first = [[start[row[0]].get(block, 0.0) for block in self._blocks] for row in self._rows]
        self._fixed = torch.tensor([[its.get(block, 0.0) for block in self._blocks] for its in start])
        self._device = dials.device
        self.begin = torch.tensor(first)
        self.free = self.begin.clone().clamp(options.low, options.high).requires_grad_(True)
        unet = [block for block in topology(dials.family).blocks[1:]]
        places = [self._blocks.index(block) for block in unet]
        self._chains = [[p for p in places if bool(mask[p])] for mask in self._mask]

    def full(self) -> Tensor:
        rows = [n for row in range(len(self._rows)) for n in self._rows[row]]
        spread = torch.stack([self.free[self._row(n)] for n in sorted(rows)])
        mask = torch.stack([self._mask[self._row(n)] for n in sorted(rows)])
        return torch.where(mask, spread, self._fixed).to(self._device)

    def pull(self) -> Tensor:
        """To the start, and of neighbours to each other."""
        away = ((self.free - self.begin) * self._mask).square().sum()
        bends = [
            (row[chain][1:] - row[chain][:-1]).square().sum()
            for row, chain in zip(self.free, self._chains, strict=True)
        ]
        return self._options.near * away + self._options.smooth * torch.stack(bends).sum()

    @torch.no_grad()
    def clamp(self) -> None:
        self.free.clamp_(self._options.low, self._options.high)

    def numbers(self) -> Numbers:
        with torch.no_grad():
            rows = self.full().tolist()
        return [{block: round(value, 3) for block, value in zip(self._blocks, row, strict=True)} for row in rows]

    def _row(self, lora: int) -> int:
        return next(n for n, row in enumerate(self._rows) if lora in row)


def table(scores: Sequence[Score], nothing: Score, flat: Score) -> list[dict[str, Any]]:
    """For JSON and people. kept: share of what the LoRA at 1 learnt of the subject, by the loss (1: all of it, more is
    better); drift: relative to the LoRA at 1 (less is better)."""
    gain = nothing.loss - flat.loss
    return [
        {
            "name": one.name,
            "loss": one.loss,
            "kept": (nothing.loss - one.loss) / gain if gain > 0 else None,
            "drift": one.drift / flat.drift if flat.drift else None,
            "drift_absolute": one.drift,
        }
        for one in scores
    ]
