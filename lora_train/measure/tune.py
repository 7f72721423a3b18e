"""Block weights tuned by gradient against two goals: keep the subject, and keep everything else as it was.

The subject: how far from held-out pictures of it denoising leads, where their difference from what the checkpoint alone
would draw counts `emphasis` times (with 1 the weights settle where the loss is least, and pictures show the subject
less surely than at 1 everywhere). Everything else: how far the prediction at neutral prompts moves away from the
checkpoint's own. Both are smooth in the 17 numbers of a LoRA; all weights of the model and of the LoRAs are frozen, and
every step looks at the same few noises and timesteps (common random numbers), so that Adam sees the numbers and not the
chance.

The two are weighed so that at keep = 0.5 nothing is won by making the LoRA stronger or weaker as a whole: what is won,
is won by moving strength from blocks that leak to blocks that carry the subject.
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
from .cases import Cases, How, guided, picture_weight, plain
from .dials import Dials
from .effects import Progress, Stopped

_NUDGE, _LEAST = 0.1, 0.05

Numbers = list[dict[str, float]]
"""Weights of each LoRA's blocks."""


@dataclass(frozen=True)
class Options:
    """keep: 0 is the subject alone, 1 everything else alone, 0.5 as strong as it is. low, high: bounds of each number.

    tied: one number a block for all LoRAs of the mix; smooth, near: how much neighbours are pulled together and every
    number to its start; emphasis: see above.
    """

    keep: float = 0.5
    low: float = 0.0
    high: float = 2.0
    steps: int = 60
    rate: float = 0.06
    tied: bool = False
    smooth: float = 0.01
    near: float = 0.01
    emphasis: float = 1.5


@dataclass(frozen=True)
class Score:
    """Of some weights, all mean squares. miss: of the subject, from the exaggerated pictures; drift: of neutral
    prompts; loss: of plain denoising, at the captions and without guidance, as training has it.
    """

    name: str
    miss: float
    drift: float
    loss: float = math.nan


@dataclass(frozen=True)
class Tuned:
    """weights: the result; history: (step, miss, drift) as they were met, each on its own few cases."""

    weights: Numbers
    history: list[tuple[int, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Goals:
    """What weights are judged on: cases of both kinds, on one model."""

    model: StableDiffusion
    subject: Sequence[Cases]
    neutral: Sequence[Cases]
    how: How
    emphasis: float = 1.5

    def miss(self, cases: Cases) -> Tensor:
        """Of one batch of the subject, with gradients where they are on."""
        return self._distance(cases, cases.alone + self.emphasis * (cases.wanted - cases.alone))

    def drift(self, cases: Cases) -> Tensor:
        """Of one batch of neutral prompts."""
        return self._distance(cases, cases.alone)

    def _distance(self, cases: Cases, aim: Tensor) -> Tensor:
        error = (guided(self.model, cases, self.how) - aim.to(self.model.device)).square()
        if cases.mask is not None:
            error = error * cases.mask.to(error.device)
        weight = picture_weight(cases.t, self.how.v_prediction).to(error.device)
        return (error.mean((1, 2, 3)) * weight).mean()

    def _loss(self, cases: Cases) -> Tensor:
        return (plain(self.model, cases, self.how) - cases.wanted.to(self.model.device)).square().mean()

    @torch.no_grad()
    def score(
        self,
        dials: Dials,
        name: str,
        weights: Sequence[Mapping[str, float]],
        stop: Callable[[], bool] = lambda: False,
        with_loss: bool = True,
    ) -> Score:
        """Of these weights, on all cases."""
        dials.turn(weights)
        parts = [(self.subject, self.miss), (self.neutral, self.drift)]
        if with_loss:
            parts.append((self.subject, self._loss))
        means = []
        for cases, measure in parts:
            total = 0.0
            for one in cases:
                if stop():
                    raise Stopped
                total += float(measure(one)) * len(one)
            means.append(total / sum(map(len, cases)))
        return Score(name, *means)


def tune(
    goals: Goals,
    dials: Dials,
    start: Numbers,
    options: Options,
    *,
    progress: Progress = lambda done, total, what: None,
    stop: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Adam on the numbers of the blocks that the LoRAs have, from `start`; blocks that they lack stay as they are.

    The result is the mean of the last third of the steps, which lies nearer to the optimum than the last step. Raises
    Stopped.
    """
    per_miss, per_drift = _weighing(goals, dials, start, stop)
    vector = _Vector(dials, start, options)
    optimizer = torch.optim.Adam([vector.free], lr=options.rate, betas=(0.8, 0.95), eps=1e-3)
    history, tail = [], []
    for step in range(options.steps):
        if stop():
            raise Stopped
        for group in optimizer.param_groups:
            group["lr"] = options.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / options.steps)))
        dials.vector(vector.full())
        miss = drift = torch.zeros(())
        if options.keep < 1:
            miss = goals.miss(goals.subject[step % len(goals.subject)])
        if options.keep > 0:
            drift = goals.drift(goals.neutral[step % len(goals.neutral)])
        aim = 2 * ((1 - options.keep) * per_miss * miss + options.keep * per_drift * drift)
        optimizer.zero_grad()
        (aim + vector.pull()).backward()
        if bool(torch.isfinite(vector.free.grad).all()):
            optimizer.step()
        vector.clamp()
        if step >= options.steps * 2 // 3:
            tail.append(vector.free.detach().clone())
        history.append((step, float(miss.detach()), float(drift.detach())))
        progress(step + 1, options.steps, "tuning")
    if tail:
        vector.free.data = torch.stack(tail).mean(0)
    return Tuned(vector.numbers(), history)


def _weighing(goals: Goals, dials: Dials, start: Numbers, stop: Callable[[], bool]) -> tuple[float, float]:
    """Factors of miss and drift by which a change of the whole strength changes both alike, at `start`.

    Where more strength doesn't bring the subject nearer any more, the miss is taken relative to what the LoRA won.
    """
    ends = []
    for factor in (1 - _NUDGE, 1 + _NUDGE):
        weights = [{block: factor * value for block, value in its.items()} for its in start]
        ends.append(goals.score(dials, "", weights, stop, with_loss=False))
    now, nothing = ends[-1], goals.score(dials, "", [{}] * len(start), stop, with_loss=False)
    won = max(nothing.miss - now.miss, _LEAST * nothing.miss, 1e-12)
    by_strength = max((ends[0].miss - ends[1].miss) / (2 * _NUDGE), _LEAST * won)
    costs = max((ends[1].drift - ends[0].drift) / (2 * _NUDGE), _LEAST * now.drift, 1e-12)
    return 1 / by_strength, 1 / costs


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
        places = [self._blocks.index(block) for block in topology(dials.family).blocks[1:]]
        self._chains = [[p for p in places if bool(mask[p])] for mask in self._mask]

    def full(self) -> Tensor:
        rows = [n for row in range(len(self._rows)) for n in self._rows[row]]
        spread = torch.stack([self.free[self._row(n)] for n in sorted(rows)])
        mask = torch.stack([self._mask[self._row(n)] for n in sorted(rows)])
        return torch.where(mask, spread, self._fixed).to(self._device)

    def pull(self) -> Tensor:
        """To the start, and of neighbours to each other."""
        away = ((self.free - self.begin) * self._mask).square().sum()
        rows = zip(self.free, self._chains, strict=True)
        bends = [(row[chain][1:] - row[chain][:-1]).square().sum() for row, chain in rows]
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
    """For JSON and people. subject: how much nearer to its pictures than the checkpoint alone, relative to the LoRA at
    1 everywhere (more is better); drift: relative to that too (less is better); loss: of plain denoising."""
    won = nothing.miss - flat.miss
    return [
        {
            "name": one.name,
            "subject": (nothing.miss - one.miss) / won if won > 0 else None,
            "drift": one.drift / flat.drift if flat.drift else None,
            "loss": one.loss,
        }
        for one in scores
    ]
