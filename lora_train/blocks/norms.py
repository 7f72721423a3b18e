"""How strong a LoRA is in each block, how far two of them point the same way, and what one does to the other there.

Everything a LoRA adds in a block (weights and biases) is one long vector. Norms and angles of these vectors come from
the factors, without the large matrices: ⟨B₁A₁, B₂A₂⟩ = tr((B₂ᵀB₁)(A₁A₂ᵀ)), in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import UserError
from ..network.kohya import LoraFile, open_lora
from .algebra import LowRank, norm
from .kinds import Delta, Weight, read
from .layout import Index, block_of, index_of, require_plain
from .places import open_checkpoint

_CANCELS, _OPPOSES = 0.9, -0.1  # of ‖a + b‖ / ‖a‖, and of the cosine

CANCELS, LITTLE, NOISE = "cancels", "little", "noise"
STRENGTHENS, BESIDE, NOTHING = "strengthens", "beside", "nothing"


@dataclass(frozen=True)
class Subtraction:
    """What b does to a in one block. norm_a, norm_b: with their weights; left: ‖a + b‖ / ‖a‖.

    best: the least that any weight of b could leave, √(1 − cosine²); best_weight: that weight of b; verdict: CANCELS,
    LITTLE (it would, with a larger weight), NOISE, STRENGTHENS, BESIDE (both are added, and have little in common) or
    NOTHING; text: the same for people.
    """

    block: str
    cosine: float
    norm_a: float
    norm_b: float
    left: float
    best: float
    best_weight: float
    verdict: str
    text: str


def norms(path: str | Path, checkpoint: str | Path | None = None) -> dict[str, float]:
    """‖ΔW‖ of each block that the file has, at strength 1, in the order of blocks.

    checkpoint: for DoRA, IA3 and GLoRA, which change a weight by its own value. Raises UserError without it, and for
    files that can't be read.
    """
    with _weights(checkpoint) as weight, _opened(path, weight) as (file, index):
        return {
            block: math.sqrt(sum(_square(read(file, index.modules[name], weight)) for name in names))
            for block, names in index.blocks().items()
        }


def cosine(a: str | Path, b: str | Path, checkpoint: str | Path | None = None) -> dict[str, float]:
    """Of the angle between two LoRAs in each block where both do something: 1 the same direction, 0 none in common,
    −1 the opposite. Raises UserError as `norms`, and for LoRAs of different models.
    """
    with (
        _weights(checkpoint) as weight,
        _opened(a, weight) as (first, ours),
        _opened(b, weight) as (second, theirs),
    ):
        if ours.family != theirs.family:
            what = f"this LoRA is for {theirs.family}, and {Path(a).name} is for {ours.family}"
            raise UserError(what, where=b, remedy="Compare LoRAs for the same kind of checkpoint")
        squares: dict[str, list[float]] = {}
        for name in sorted(ours.modules.keys() | theirs.modules.keys()):
            sums = squares.setdefault(block_of(name, ours.family), [0.0, 0.0, 0.0])
            x = read(first, ours.modules[name], weight) if name in ours.modules else None
            y = read(second, theirs.modules[name], weight) if name in theirs.modules else None
            if x is not None and y is not None:
                if x.shape and y.shape and x.shape != y.shape:
                    what = f"{name} has the shape {list(y.shape)} here and {list(x.shape)} in {Path(a).name}"
                    raise UserError(what, where=b, remedy="These LoRAs are made for different models")
                sums[0] += inner(x, y)
            sums[1] += _square(x) if x is not None else 0.0
            sums[2] += _square(y) if y is not None else 0.0
    order = [*ours.blocks(), *theirs.blocks()]
    found = ((block, squares[block]) for block in dict.fromkeys(order))
    return {block: max(-1.0, min(1.0, s / math.sqrt(n * m))) for block, (s, n, m) in found if n and m}


def subtraction(
    a: Mapping[str, float],
    b: Mapping[str, float],
    angles: Mapping[str, float],
    weights_a: Mapping[str, float] | None = None,
    weights_b: Mapping[str, float] | None = None,
) -> list[Subtraction]:
    """What adding b with its (negative) weights to a does, block by block, where both do something.

    a, b: `norms`; angles: `cosine`; weights: strength × block weight by block, 1 and −1 unless given.
    """
    return [
        _judged(block, angles[block], a[block], b[block], weights_a, weights_b)
        for block in a
        if block in angles and a[block] and b.get(block)
    ]


def _judged(
    block: str,
    angle: float,
    a: float,
    b: float,
    weights_a: Mapping[str, float] | None,
    weights_b: Mapping[str, float] | None,
) -> Subtraction:
    wa = 1.0 if weights_a is None else weights_a.get(block, 0.0)
    wb = -1.0 if weights_b is None else weights_b.get(block, 0.0)
    size_a, size_b = abs(wa) * a, abs(wb) * b
    best, best_weight = math.sqrt(max(0.0, 1 - angle**2)), -wa * angle * a / b
    square = size_a**2 + size_b**2 + 2 * wa * wb * a * b * angle
    left = math.sqrt(max(0.0, square)) / size_a if size_a else math.inf
    at = f"{best_weight:.2f}".replace("-0.00", "0")
    if not size_a or not size_b:
        verdict, text = NOTHING, "one of the two is off here, so nothing is subtracted"
    elif wa * wb * angle > -_OPPOSES * abs(wa * wb):
        verdict = STRENGTHENS
        text = f"the two add up here: {left:.0%} of the first, more than there was"
    elif wa * wb > 0 and abs(angle) <= -_OPPOSES:
        verdict = BESIDE
        text = f"they have little in common here (cosine {angle:.2f}), so each acts on its own"
    elif left < _CANCELS:
        verdict = CANCELS
        text = f"cancels: {left:.0%} of the first is left; the least possible is {best:.0%}, at a weight of {at}"
    elif best < _CANCELS and 0 < wb * best_weight < best_weight**2:
        verdict = LITTLE
        text = f"takes a little away: {left:.0%} of the first is left; {at} would leave {best:.0%}"
    else:
        verdict = NOISE
        text = f"only adds noise: they have little in common (cosine {angle:.2f}), and {left:.0%} is left. "
        text += "Try 0" if best > _CANCELS else f"Nearer to 0 cancels more: {at} would leave {best:.0%}"
    return Subtraction(block, angle, size_a, size_b, left, best, best_weight, verdict, text)


def inner(x: Delta, y: Delta) -> float:
    """⟨ΔW₁, ΔW₂⟩ of one module, biases included. Exact for any two kinds; the shapes must agree."""
    total = 0.0
    if x.matrix is not None and y.matrix is not None:
        total += x.scale * y.scale * _product(x.matrix, y.matrix)
    if x.bias is not None and y.bias is not None:
        total += float((x.bias.double() * y.bias.double()).sum())
    return total


def _product(x: LowRank | Tensor, y: LowRank | Tensor) -> float:
    if isinstance(x, LowRank) and isinstance(y, LowRank):
        x, y = LowRank(x.B.double(), x.A.double()), LowRank(y.B.double(), y.A.double())
        return float(((y.B.T @ x.B) * (y.A @ x.A.T)).sum())
    if isinstance(y, LowRank):
        x, y = y, x
    if isinstance(x, LowRank):
        assert not isinstance(y, LowRank)
        return float((x.B.double() * (y.double().flatten(1) @ x.A.double().T)).sum())
    assert not isinstance(y, LowRank)
    return float((x.double().flatten() * y.double().flatten()).sum())


def _square(x: Delta) -> float:
    """‖ΔW‖² of one module, biases included."""
    total = 0.0
    if isinstance(x.matrix, LowRank):
        total += (x.scale * norm(x.matrix)) ** 2
    elif x.matrix is not None:
        total += (x.scale * float(x.matrix.double().norm())) ** 2
    if x.bias is not None:
        total += float(x.bias.double().square().sum())
    return total


@contextmanager
def _weights(checkpoint: str | Path | None) -> Iterator[Weight | None]:
    if checkpoint is None:
        yield None
        return
    with open_checkpoint(checkpoint) as opened:
        yield opened.weight


@contextmanager
def _opened(path: str | Path, weight: Weight | None) -> Iterator[tuple[LoraFile, Index]]:
    with open_lora(path) as file:
        index = index_of(file.shapes, path)
        if weight is None:
            require_plain(index, path)
        yield file, index
