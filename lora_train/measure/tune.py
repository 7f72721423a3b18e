"""Block weights tuned by gradient against two goals: keep the subject, and keep everything else as it was.

The subject: how much nearer to held-out pictures of it denoising leads than by the checkpoint alone, where the way from
one to the other is made `emphasis` times as long. (Without that the weights settle where the loss is least, and there
pictures show the subject less surely: a LoRA that overshoots a little draws it better.) Everything else: how far the
prediction at neutral prompts moves away from the checkpoint's own. All weights of the model and the LoRAs are frozen,
and everything looks at the same noises and timesteps (common random numbers).

The prediction is nearly linear in the 17 numbers of a LoRA (Gauss-Newton): its slope along each is measured on all
cases, both goals are quadratic forms of the numbers then, and Adam goes down on these, in no time and without noise.

Where pictures can be drawn, another function of the numbers stands for the subject (see `screen`): how surely drawn
pictures show it. What is won then only says which slopes to expect.

Both enter as logarithms, each divided by how fast it grows with the strength of the whole: at keep = 0.5 little is won
by making the LoRA stronger or weaker as a whole. What is won, is won by moving strength from blocks that leak to blocks
that carry the subject.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..blocks.families import topology
from ..errors import UserError
from ..model.load import StableDiffusion
from .cases import Cases, How, guided, picture_weight, plain
from .dials import Dials
from .effects import Progress, Stopped

_NUDGE, _LEAST, _STEP = 0.1, 0.05, 0.3

Numbers = list[dict[str, float]]
"""Weights of each LoRA's blocks."""
Aim = Callable[[Tensor], Tensor]
"""What is to grow, as a function of the numbers that are free, [count]."""


@dataclass(frozen=True)
class Options:
    """keep: 0 is the subject alone, 1 everything else alone, 0.5 as strong as it is. low, high: bounds of each number.

    tied: one number a block for all LoRAs of the mix; smooth, near: how much neighbours are pulled together and every
    number to its start; emphasis: see above.
    """

    keep: float = 0.5
    low: float = 0.0
    high: float = 2.0
    steps: int = 600
    rate: float = 0.02
    rounds: int = 1
    tied: bool = False
    smooth: float = 0.01
    near: float = 0.01
    emphasis: float = 2.0


@dataclass(frozen=True)
class Score:
    """Of some weights. won: of the subject's mean square error, against the checkpoint alone; drift: mean square at
    neutral prompts, as errors of pictures; loss: of plain denoising, at the captions and without guidance, as training
    has it.
    """

    name: str
    won: float
    drift: float
    loss: float = math.nan


@dataclass(frozen=True)
class Tuned:
    """weights: the result; others: the same for other values of keep; history: (step, won, drift) as the linear
    prediction has them."""

    weights: Numbers
    others: list[Numbers] = field(default_factory=list)
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
        moved = self.moved(cases)
        way = (cases.wanted - cases.alone).to(moved.device)
        won = self._mean(2 * self.emphasis * moved * way - moved.square(), cases)
        return (won * picture_weight(cases.t, self.how.v_prediction).to(won.device)).mean()

    def drift(self, cases: Cases) -> Tensor:
        """Of one batch of neutral prompts, as errors of the pictures that are meant."""
        moved = self._mean(self.moved(cases).square(), cases)
        return (moved * picture_weight(cases.t, self.how.v_prediction).to(moved.device)).mean()

    def weights(self, cases: Cases) -> Tensor:
        """Of every value of the prediction in the mean: the mask's and the timestep's. [B, 4, h, w]."""
        weight = picture_weight(cases.t, self.how.v_prediction).view(-1, 1, 1, 1).expand_as(cases.alone)
        return weight if cases.mask is None else weight * cases.mask

    def moved(self, cases: Cases) -> Tensor:
        """Guided prediction, less that of the checkpoint alone."""
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
        won = self._over(self.subject, self.won, stop)
        loss = self._over(self.subject, self._loss, stop) if with_loss else math.nan
        return Score(name, won, self._over(self.neutral, self.drift, stop), loss)

    @torch.no_grad()
    def drifted(
        self, dials: Dials, weights: Sequence[Mapping[str, float]], stop: Callable[[], bool] = lambda: False
    ) -> float:
        """The drift of these weights alone."""
        dials.turn(weights)
        return self._over(self.neutral, self.drift, stop)

    def _over(self, batches: Sequence[Cases], measure: Callable[[Cases], Tensor], stop: Callable[[], bool]) -> float:
        total = 0.0
        for one in batches:
            if stop():
                raise Stopped
            total += float(measure(one)) * len(one)
        return total / sum(map(len, batches))


def tune(
    goals: Goals,
    dials: Dials,
    start: Numbers,
    options: Options,
    *,
    keeps: Sequence[float] = (),
    screen: Callable[[Vector, Form], Aim] | None = None,
    progress: Progress = lambda done, total, what: None,
    stop: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Adam on the numbers of the blocks that the LoRAs have, from `start`; blocks that they lack stay as they are.

    The prediction is taken as linear in the numbers: its slope along each is measured once on all cases, which makes
    both goals quadratic forms of the numbers. `rounds` above 1 measure again where the last round ended. `keeps` asks
    for results at other values of keep, too, which cost nothing. `screen` gives another measure of the subject in place
    of what is won. Raises Stopped, and UserError for a LoRA that does
    nothing.
    """
    vector, history = Vector(dials, start, options), list[tuple[int, float, float]]()
    at = vector.numbers()
    rounds = max(1, options.rounds)
    for turn in range(rounds):
        won, drift = _forms(goals, dials, vector, at, turn, rounds, progress, stop)
        if turn == 0:
            subject: Aim = screen(vector, won) if screen else won
            balance = _balance(subject, drift, vector.now())
        elif not screen:
            subject = won
        begun = vector.free.detach().clone()
        history += _descend(vector, subject, drift, balance, options)
        at = vector.numbers()
    others = []
    for keep in keeps:
        with torch.no_grad():
            vector.free.copy_(begun)
        _descend(vector, subject, drift, balance, replace(options, keep=keep))
        others.append(vector.numbers())
    return Tuned(at, others, history)


@dataclass
class Form:
    """c + a·d + dᵀHd of d = numbers − origin, all in the order of the free numbers."""

    c: Tensor
    a: Tensor
    H: Tensor
    origin: Tensor

    def __call__(self, numbers: Tensor) -> Tensor:
        d = numbers - self.origin
        return self.c + self.a @ d + d @ self.H @ d

    def slope(self, numbers: Tensor) -> Tensor:
        """[count]."""
        return self.a + 2 * self.H @ (numbers - self.origin)


@torch.no_grad()
def _forms(
    goals: Goals,
    dials: Dials,
    vector: Vector,
    at: Numbers,
    turn: int,
    rounds: int,
    progress: Progress,
    stop: Callable[[], bool],
) -> tuple[Form, Form]:
    """won and drift around `at`, over all cases."""
    nudged = [at, *(vector.nudged(at, n, -_STEP) for n in range(vector.count))]
    total = rounds * len(nudged) * (len(goals.subject) + len(goals.neutral))
    done, forms = turn * total // rounds, []
    for cases, is_subject in ((goals.subject, True), (goals.neutral, False)):
        c, a, H = torch.zeros(()), torch.zeros(vector.count), torch.zeros(vector.count, vector.count)
        for one in cases:
            moved = []
            for weights in nudged:
                if stop():
                    raise Stopped
                dials.turn(weights)
                moved.append(goals.moved(one).cpu().flatten(1))
                done += 1
                progress(done, total, "tuning")
            here, slopes = moved[0], (moved[0] - torch.stack(moved[1:])) / _STEP  # [B, n], [P, B, n]
            weight = goals.weights(one).flatten(1) * len(one) / sum(map(len, cases))
            weight = weight / here.numel()
            H += torch.einsum("pbn,bn,qbn->pq", slopes, weight, slopes)
            if is_subject:
                way = goals.emphasis * (one.wanted - one.alone).flatten(1)
                c += ((2 * way * here - here.square()) * weight).sum()
                a += torch.einsum("pbn,bn->p", slopes, 2 * (way - here) * weight)
            else:
                c += (here.square() * weight).sum()
                a += torch.einsum("pbn,bn->p", slopes, 2 * here * weight)
        forms.append(Form(c, a, -H if is_subject else H, vector.now()))
    return forms[0], forms[1]


def _balance(won: Aim, drift: Form, now: Tensor) -> tuple[float, float]:
    """d log won / d log strength and the same of drift, where tuning begins."""
    if float(drift(now)) <= 0:
        remedy = "Choose a LoRA, a strength and weights other than 0"
        raise UserError("it changes no prediction", where="mix", remedy=remedy)
    ends = [(float(won(now * f)), float(drift(now * f))) for f in (1 - _NUDGE, 1 + _NUDGE)]
    least = max(float(won(now)), _LEAST * float(drift(now)))  # of a LoRA that doesn't bring the pictures nearer
    steep = (ends[1][0] - ends[0][0]) / (2 * _NUDGE * least)
    costs = (ends[1][1] - ends[0][1]) / (2 * _NUDGE * float(drift(now)))
    return max(steep, _LEAST), max(costs, _LEAST)


def _descend(
    vector: Vector, won: Aim, drift: Form, balance: tuple[float, float], options: Options
) -> list[tuple[int, float, float]]:
    """Adam on both forms; (step, won, drift) now and then."""
    optimizer = torch.optim.Adam([vector.free], lr=options.rate)
    least = _LEAST * max(float(won(vector.now())), _LEAST * float(drift(vector.now())))
    history = []
    for step in range(options.steps):
        numbers = vector.chosen()
        its_won, its_drift = won(numbers), drift(numbers)
        aim = torch.zeros(())
        if options.keep < 1:
            aim = aim - 2 * (1 - options.keep) * torch.log(its_won.clamp_min(least)) / balance[0]
        if options.keep > 0:
            aim = aim + 2 * options.keep * torch.log(its_drift.clamp_min(1e-12)) / balance[1]
        optimizer.zero_grad()
        (aim + vector.pull()).backward()
        optimizer.step()
        vector.clamp()
        if step % 10 == 0 or step == options.steps - 1:
            history.append((step, float(its_won.detach()), float(its_drift.detach())))
    return history


class Vector:
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
        self.reach = math.inf  # how far a number may go from where it began
        self.free = self.begin.clone().clamp(options.low, options.high).requires_grad_(True)
        places = [self._blocks.index(block) for block in topology(dials.family).blocks[1:]]
        self._chains = [[p for p in places if bool(mask[p])] for mask in self._mask]

    @property
    def count(self) -> int:
        """How many numbers are free."""
        return int(self._mask.sum())

    def chosen(self) -> Tensor:
        """The free numbers, [count], with gradients."""
        return self.free[self._mask]

    def now(self) -> Tensor:
        """The same without."""
        return self.chosen().detach().clone()

    def nudged(self, at: Numbers, number: int, change: float) -> Numbers:
        """`at` with one free number changed, in every LoRA that it stands for."""
        row, place = self._mask.nonzero()[number].tolist()
        block = self._blocks[place]
        return [
            {**its, block: its.get(block, 0.0) + change} if n in self._rows[row] else its for n, its in enumerate(at)
        ]

    def placed(self, chosen: Tensor) -> Numbers:
        """The free numbers [count], each in its place; everything else as it is."""
        found = [dict(its) for its in self._start]
        for value, (row, place) in zip(chosen.tolist(), self._mask.nonzero().tolist(), strict=True):
            for n in self._rows[row]:
                found[n][self._blocks[place]] = value
        return found

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
        near = self.free.clamp(self.begin - self.reach, self.begin + self.reach)
        self.free.copy_(near.clamp(self._options.low, self._options.high))

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
