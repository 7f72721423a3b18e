"""Changes of block weights as the editor makes them: functions from weights to new weights, by the blocks' names.

Weights are a mapping of every block to its number (families.weights_by_block). `locked` blocks are never changed. A
slider's moves keep to a range and a step; a number that is typed may be any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import UserError
from .families import SD15, topology

Weights = Mapping[str, float]
_PLACES = 9  # decimals that sums are rounded to: 0.1 + 0.2 is 0.3


@dataclass(frozen=True)
class Range:
    """What a slider can reach. step 0: no steps."""

    low: float = -1.0
    high: float = 2.0
    step: float = 0.05

    def clamp(self, value: float) -> float:
        """The nearest number of the range. NaN raises UserError."""
        return min(self.high, max(self.low, number(value)))

    def snap(self, value: float) -> float:
        """The nearest number of the range that is a whole number of steps, counted from 0."""
        value = self.clamp(value)
        if not self.step:
            return value
        return self.clamp(tidy(round(value / self.step) * self.step))

    def nudge(self, value: float, steps: int) -> float:
        """So many steps further. A number beyond the range, or between two steps, goes to one that a slider has."""
        return self.snap(value + steps * self.step)


SLIDER = Range()
FREE = Range(-math.inf, math.inf, 0.0)
"""For numbers that are typed."""


def number(value: float) -> float:
    """`value` when it is finite, without a sign of 0. Raises UserError."""
    if not math.isfinite(value):
        raise UserError(f"{value} is not a number that a weight can have")
    return value + 0.0


def tidy(value: float) -> float:
    """`value` without what rounding left of it behind the ninth decimal."""
    return round(value, _PLACES) + 0.0


def blocks_of_group(group: str, family: str = SD15, present: Collection[str] | None = None) -> tuple[str, ...]:
    """Blocks of a group (BASE, IN, MID, OUT, 64, 32 …), of a single block, or of ALL; only those `present`, if given.

    Raises UserError for a name that the family hasn't.
    """
    the = topology(family)
    known = {"ALL": the.blocks, **{block: (block,) for block in the.blocks}, **the.groups}
    if group not in known:
        raise UserError(f"{group!r} is no block or group of {family}", remedy=f"Groups are {', '.join(the.groups)}")
    return tuple(block for block in known[group] if present is None or block in present)


def change(
    weights: Weights,
    blocks: Iterable[str],
    new: Callable[[float], float],
    within: Range = FREE,
    locked: Collection[str] = (),
) -> dict[str, float]:
    """Weights with `new` of the old number in these blocks. Blocks that the weights don't have are left out."""
    chosen = {block for block in blocks if block in weights and block not in locked}
    return {block: within.snap(tidy(new(old))) if block in chosen else old for block, old in weights.items()}


def put(weights: Weights, values: Weights, within: Range = FREE, locked: Collection[str] = ()) -> dict[str, float]:
    """Weights with these values, those of locked blocks aside."""
    return {
        block: within.snap(values[block]) if block in values and block not in locked else old
        for block, old in weights.items()
    }


def shift(
    weights: Weights, blocks: Iterable[str], by: float, within: Range = SLIDER, locked: Collection[str] = ()
) -> dict[str, float]:
    """Blocks moved up or down together. A number already beyond the range doesn't jump back against the move."""

    def moved(old: float) -> float:
        new = within.snap(tidy(old + by))
        return new if (new - old) * by > 0 else old

    return change(weights, blocks, moved, FREE, locked)


def scale(
    weights: Weights,
    blocks: Iterable[str],
    factor: float,
    about: float = 0.0,
    within: Range = FREE,
    locked: Collection[str] = (),
) -> dict[str, float]:
    """Distances from `about` multiplied: 0 weakens or strengthens, 1 flattens towards the plain LoRA or sharpens."""
    return change(weights, blocks, lambda old: about + factor * (old - about), within, locked)


def invert(
    weights: Weights, blocks: Iterable[str], within: Range = FREE, locked: Collection[str] = ()
) -> dict[str, float]:
    """1 − x: what is full becomes none, as ZYX of sd-webui-lora-block-weight."""
    return change(weights, blocks, lambda old: 1.0 - old, within, locked)


def mirror(
    weights: Weights, family: str = SD15, locked: Collection[str] = (), present: Collection[str] | None = None
) -> dict[str, float]:
    """The two ends of each skip connection exchanged: INn and OUT(last − n). Pairs with a locked block stay.

    present: the blocks that are shown; a pair of which one is not shown stays too.
    """
    partners = topology(family).partners
    fixed = set(locked) | (set() if present is None else set(partners) - set(present))

    def source(block: str) -> str:
        partner = partners.get(block, block)
        return block if {block, partner} & fixed or partner not in weights else partner

    return {block: weights[source(block)] for block in weights}


def blend(first: Weights, second: Weights, t: float, locked: Collection[str] = ()) -> dict[str, float]:
    """(1 − t) of the first and t of the second; t beyond 0 … 1 goes on in that direction. Locked: the first's."""
    t = number(t)
    return {
        block: old if block in locked or block not in second else tidy((1 - t) * old + t * second[block])
        for block, old in first.items()
    }


def difference(weights: Weights, base: Weights) -> dict[str, float]:
    """How far each block is from `base`, in order; only those that differ."""
    apart = {block: tidy(value - base[block]) for block, value in weights.items() if block in base}
    return {block: by for block, by in apart.items() if by}


def through(points: Sequence[tuple[float, float]], count: int, smooth: bool = True) -> tuple[float, ...]:
    """Numbers at the places 0 … count − 1 of a curve through points (place, number); level before and behind them.

    smooth: a monotone cubic (Fritsch, Carlson 1980), which never goes beyond its points; else straight lines. Of points
    at one place the last counts. Raises UserError without points.
    """
    curve = sorted({number(x): number(y) for x, y in points}.items())
    if not curve:
        raise UserError("a curve needs at least one point")
    xs, ys = [x for x, _ in curve], [y for _, y in curve]
    slopes = _slopes(xs, ys) if smooth else []
    return tuple(tidy(_at(float(place), xs, ys, slopes)) for place in range(count))


def _at(x: float, xs: list[float], ys: list[float], slopes: list[float]) -> float:
    n = next((n for n, right in enumerate(xs) if x <= right), len(xs))
    if n in (0, len(xs)):
        return ys[min(n, len(xs) - 1)]
    width, rise = xs[n] - xs[n - 1], ys[n] - ys[n - 1]
    t = (x - xs[n - 1]) / width
    if not slopes:
        return ys[n - 1] + t * rise
    ease = t * t * (3 - 2 * t)
    start, end = t * (1 - t) ** 2 * slopes[n - 1] * width, t * t * (t - 1) * slopes[n] * width
    low, high = sorted(ys[n - 1 : n + 1])
    return min(high, max(low, ys[n - 1] + ease * rise + start + end))


def _slopes(xs: list[float], ys: list[float]) -> list[float]:
    """Slopes at the points with which the cubic is monotone wherever they are."""
    steps = [right - left for left, right in pairwise(xs)]
    secants = [(after - before) / w for (before, after), w in zip(pairwise(ys), steps, strict=True)]
    if not secants:
        return [0.0]
    inner = [
        0.0 if left * right <= 0 else (w + v) / (w / left + v / right)  # weighted harmonic mean
        for (left, right), (w, v) in zip(pairwise(secants), pairwise(steps), strict=True)
    ]
    return [0.0, *inner, 0.0]
