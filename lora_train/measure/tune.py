"""Block weights tuned by gradient against two goals: keep the subject, and keep everything else as it was.

The subject: how much nearer to held-out pictures of it denoising leads than by the checkpoint alone, where the way from
one to the other is made `emphasis` times as long. (Without that the weights settle where the loss is least, and there
pictures show the subject less surely: a LoRA that overshoots a little draws it better.) Everything else: how far the
prediction at neutral prompts moves away from the checkpoint's own. Both are smooth in the 17 numbers of a LoRA; all
weights of the model and of the LoRAs are frozen, and every step looks at the same few noises and timesteps (common
random numbers), so that Adam sees the numbers and not the chance.

Both enter as logarithms, each divided by how fast it grows with the strength of the whole: at keep = 0.5 nothing is won
by making the LoRA stronger or weaker as a whole. What is won, is won by moving strength from blocks that leak to blocks
that carry the subject.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..blocks.families import topology
from ..errors import UserError
from ..model.load import StableDiffusion
from .cases import Cases, How, guided, picture_weight, plain
from .dials import Dials
from .effects import Progress, Stopped

_NUDGE, _LEAST, _FRESH = 0.1, 0.1, 0.2

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
    emphasis: float = 2.0


@dataclass(frozen=True)
class Score:
    """Of some weights. won: of the subject's mean square error, against the checkpoint alone; drift: mean square, of
    neutral prompts; loss: of plain denoising, at the captions and without guidance, as training has it.
    """

    name: str
    won: float
    drift: float
    loss: float = math.nan


@dataclass(frozen=True)
class Tuned:
    """weights: the result; history: (step, won, drift) as they were met, each on its own few cases."""

    weights: Numbers
    history: list[tuple[int, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Goals:
    """What weights are judged on: cases of both kinds, on one model."""

    model: StableDiffusion
    subject: Sequence[Cases]
    neutral: Sequence[Cases]
    how: How
    emphasis: float = 2.0

    def won(self, cases: Cases) -> Tensor:
        """Of one batch of the subject, with gradients where they are on.

        ‖aim − ε₀‖² − ‖aim − ε‖² with aim = ε₀ + emphasis · (wanted − ε₀), as errors of the pictures that are meant.
        """
        moved = self._moved(cases)
        way = (cases.wanted - cases.alone).to(moved.device)
        won = self._mean(2 * self.emphasis * moved * way - moved.square(), cases)
        return (won * picture_weight(cases.t, self.how.v_prediction).to(won.device)).mean()

    def drift(self, cases: Cases) -> Tensor:
        """Of one batch of neutral prompts."""
        return self._mean(self._moved(cases).square(), cases).mean()

    def _moved(self, cases: Cases) -> Tensor:
        return guided(self.model, cases, self.how) - cases.alone.to(self.model.device)

    def _mean(self, values: Tensor, cases: Cases) -> Tensor:
        """[B]; masks as in training."""
        return (values if cases.mask is None else values * cases.mask.to(values.device)).mean((1, 2, 3))

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
        parts = [(self.subject, self.won), (self.neutral, self.drift)]
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
    balance = _balance(goals, dials, start, stop)
    vector = _Vector(dials, start, options)
    optimizer = torch.optim.Adam([vector.free], lr=options.rate, betas=(0.8, 0.95), eps=1e-3)
    history, tail = [], []
    for step in range(options.steps):
        if stop():
            raise Stopped
        for group in optimizer.param_groups:
            group["lr"] = options.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * step / options.steps)))
        dials.vector(vector.full())
        won = drift = torch.zeros(())
        if options.keep < 1:
            won = goals.won(goals.subject[step % len(goals.subject)])
        if options.keep > 0:
            drift = goals.drift(goals.neutral[step % len(goals.neutral)])
        aim = balance.aim(won, drift, options.keep)
        optimizer.zero_grad()
        (aim + vector.pull()).backward()
        if bool(torch.isfinite(vector.free.grad).all()):
            optimizer.step()
        vector.clamp()
        if step >= options.steps * 2 // 3:
            tail.append(vector.free.detach().clone())
        history.append((step, float(won.detach()), float(drift.detach())))
        progress(step + 1, options.steps, "tuning")
    if tail:
        vector.free.data = torch.stack(tail).mean(0)
    return Tuned(vector.numbers(), history)


class _Balance:
    """Both goals as one number. Means of the last few batches stand for the means of all, whose logarithms are meant.

    by_strength: d log won / d log strength and the same of drift, where tuning begins.
    """

    def __init__(self, won: float, drift: float, by_strength: tuple[float, float]) -> None:
        self._least, self.by_strength = (won * _LEAST, drift * _LEAST), by_strength
        self._means = [won, drift]

    def aim(self, won: Tensor, drift: Tensor, keep: float) -> Tensor:
        total = torch.zeros((), device=won.device)
        for n, (value, weight) in enumerate(((won, keep - 1), (drift.to(won.device), keep))):
            if weight:
                self._means[n] += _FRESH * (float(value.detach()) - self._means[n])
                total = total + 2 * weight * value / (max(self._means[n], self._least[n]) * self.by_strength[n])
        return total


def _balance(goals: Goals, dials: Dials, start: Numbers, stop: Callable[[], bool]) -> _Balance:
    """Raises UserError for a LoRA that does nothing."""
    ends = []
    for factor in (1 - _NUDGE, 1 + _NUDGE):
        weights = [{block: factor * value for block, value in its.items()} for its in start]
        ends.append(goals.score(dials, "", weights, stop, with_loss=False))
    low, high = ends
    won, drift = (low.won + high.won) / 2, (low.drift + high.drift) / 2
    if drift <= 0:
        what = "it changes no prediction"
        raise UserError(what, where="mix", remedy="Choose a LoRA, a strength and weights other than 0")
    least = max(won, _LEAST * drift)  # of a LoRA that doesn't bring the pictures nearer
    steep = max((high.won - low.won) / (2 * _NUDGE * least), _LEAST)
    return _Balance(least, drift, (steep, max((high.drift - low.drift) / (2 * _NUDGE * drift), _LEAST)))


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


def table(scores: Sequence[Score], flat: Score) -> list[dict[str, Any]]:
    """For JSON and people. subject: how much nearer to its pictures than the checkpoint alone, relative to the LoRA at
    1 everywhere (more is better); drift: relative to that too (less is better); loss: of plain denoising."""
    return [
        {
            "name": one.name,
            "subject": one.won / flat.won if flat.won > 0 else None,
            "drift": one.drift / flat.drift if flat.drift else None,
            "loss": one.loss,
        }
        for one in scores
    ]
