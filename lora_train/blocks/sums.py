"""One module of a bake: what several files add to one weight becomes one set of tensors, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..network.kohya import cast_finite
from .algebra import (
    LowRank,
    factored,
    gram,
    norm,
    numerical_rank,
    rank_for,
    rounded_sum,
    rounding_error,
    spectrum,
    truncate,
    weighted_sum,
)
from .kinds import Delta
from .report import DIFFERENCE, LORA, NORM, ModuleResult

_NOTHING = 1e-13  # a sum this small against its terms is what float64 leaves of terms that cancel

Baked = tuple[dict[str, Tensor], ModuleResult]


@dataclass(frozen=True)
class Limit:
    """How far the rank may be reduced, and the dtype of the file."""

    rank: int | None
    target_error: float | None
    dtype: torch.dtype

    @property
    def reduces(self) -> bool:
        return self.rank is not None or self.target_error is not None

    @property
    def tail(self) -> float:
        """What truncation may add: it is orthogonal to rounding, which is at most 2u relative, u = eps / 2."""
        target = self.target_error or 0.0
        return math.sqrt(max(0.0, target**2 - torch.finfo(self.dtype).eps ** 2))


@dataclass(frozen=True)
class Term:
    """One file's share of a module, times factor."""

    factor: float
    delta: Delta
    path: Path


def combine(name: str, block: str, terms: Sequence[Term], limit: Limit) -> Baked | None:
    """Tensors for the file and what they are worth; None where the sum is 0. Raises UserError for unequal shapes."""
    _require_equal_shapes(name, terms)
    is_norm = any(term.delta.is_norm for term in terms)
    weights = [term for term in terms if term.delta.matrix is not None]
    baked = _weight(name, block, weights, limit, is_norm) if weights else None
    biases = [(term.factor, term.delta.bias) for term in terms if term.delta.bias is not None]
    extra = _bias(name, block, biases, limit, is_norm) if biases else None
    if baked is None or extra is None:
        return baked or extra
    (tensors, result), (more, bias) = baked, extra
    size, error = math.hypot(result.norm, bias.norm), math.hypot(result.error, bias.error)
    return {**tensors, **more}, ModuleResult(name, block, result.rank, result.full_rank, size, error, result.form)


def _require_equal_shapes(name: str, terms: Sequence[Term]) -> None:
    known = [term for term in terms if term.delta.shape]
    for term in known[1:]:
        if term.delta.shape != known[0].delta.shape or term.delta.is_norm != known[0].delta.is_norm:
            first = known[0]
            what = (
                f"{name} has the shape {list(term.delta.shape)} here and {list(first.delta.shape)} in {first.path.name}"
            )
            raise UserError(what, where=term.path, remedy="These LoRAs are made for different models")


def _weight(name: str, block: str, terms: Sequence[Term], limit: Limit, is_norm: bool) -> Baked | None:
    row = max((term.delta.row for term in terms), key=len)
    low = [(t.factor * t.delta.scale, t.delta.matrix) for t in terms if isinstance(t.delta.matrix, LowRank)]
    full_rank = sum(x.rank for _, x in low)
    if len(low) == len(terms):
        smallest = min(low[0][1].B.shape[0], low[0][1].A.shape[1])
        if limit.reduces or (full_rank > smallest and not all(term.delta.is_plain for term in terms)):
            return _reduced(name, block, weighted_sum(low), row, full_rank, limit)
        return _exact(name, block, low, row, limit)
    dense = torch.stack([term.factor * term.delta.dense() for term in terms]).sum(0)
    if limit.reduces and dense.dim() == 2:
        return _reduced(name, block, factored(dense), row, min(dense.shape), limit)
    size = float(dense.norm())
    if size <= _NOTHING * sum(abs(term.factor) * float(term.delta.dense().norm()) for term in terms):
        return None
    form, part = (NORM, "w_norm") if is_norm else (DIFFERENCE, "diff")
    key = f"{name}.{part}"
    stored = cast_finite(key, dense.reshape(-1, *row) if row else dense, limit.dtype)
    error = float((stored.double().reshape(dense.shape) - dense).norm())
    return {key: stored}, ModuleResult(name, block, 0, full_rank, size, error, form)


def _bias(name: str, block: str, terms: Sequence[tuple[float, Tensor]], limit: Limit, is_norm: bool) -> Baked | None:
    total = torch.stack([factor * bias.double() for factor, bias in terms]).sum(0)
    if not bool(total.any()):
        return None
    key = f"{name}.{'b_norm' if is_norm else 'diff_b'}"
    stored = cast_finite(key, total, limit.dtype)
    error = float((stored.double() - total).norm())
    form = NORM if is_norm else DIFFERENCE
    return {key: stored}, ModuleResult(name, block, 0, 0, float(total.norm()), error, form)


def _exact(
    name: str, block: str, terms: Sequence[tuple[float, LowRank]], row: tuple[int, ...], limit: Limit
) -> Baked | None:
    rank = sum(x.rank for _, x in terms)
    quick = rounded_sum(terms, limit.dtype) if limit.dtype.itemsize == 2 and _holds(limit.dtype, rank) else None
    if quick is not None:
        tensors = _tensors(name, quick.matrix, row, limit.dtype)
        return tensors, ModuleResult(name, block, rank, rank, quick.norm, quick.error)
    wanted = weighted_sum(terms)
    size = norm(wanted)
    if size <= _nothing(wanted):
        return None
    tensors = _tensors(name, wanted, row, limit.dtype)
    error = rounding_error(wanted, _stored(name, tensors), gram(wanted.A.T))
    return tensors, ModuleResult(name, block, rank, rank, size, error)


def _holds(dtype: torch.dtype, rank: int) -> bool:
    return float(torch.tensor(float(rank)).to(dtype)) == rank


def _nothing(x: LowRank) -> float:
    """The norm below which the sum of terms that cancel is 0 to all digits of float64."""
    return _NOTHING * float(x.A.norm()) * float(x.B.norm())


def _reduced(
    name: str, block: str, wanted: LowRank, row: tuple[int, ...], full_rank: int, limit: Limit
) -> Baked | None:
    s = spectrum(wanted)
    size = float(s.sigma.norm())
    if size <= _nothing(wanted):
        return None
    r = numerical_rank(s.sigma)
    if limit.rank is not None:
        r = min(r, limit.rank)
    elif limit.target_error is not None:
        r = min(r, rank_for(s.sigma, limit.tail))
    nearest = truncate(s, r)
    tensors = _tensors(name, nearest, row, limit.dtype)
    rounding = rounding_error(nearest, _stored(name, tensors), gram(nearest.A.T))
    error = math.hypot(float(s.sigma[r:].norm()), rounding)
    return tensors, ModuleResult(name, block, r, full_rank, size, error, LORA)


def _tensors(name: str, x: LowRank, row: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """up, down and alpha = rank for the file. Where `dtype` must round alpha, up makes up for it."""
    alpha = torch.tensor(float(x.rank)).to(dtype)
    B = x.B if _holds(dtype, x.rank) else x.B * (x.rank / float(alpha))
    up = B.reshape(-1, x.rank, *([1] * (len(row) - 1)))
    tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": x.A.reshape(x.rank, *row)}
    return {key: cast_finite(key, tensor, dtype) for key, tensor in {**tensors, f"{name}.alpha": alpha}.items()}


def _stored(name: str, tensors: Mapping[str, Tensor]) -> LowRank:
    """What a reader of the file makes of it: alpha / rank · up @ down."""
    up, down = (tensors[f"{name}.lora_{part}.weight"].flatten(1) for part in ("up", "down"))
    rank, alpha = down.shape[0], float(tensors[f"{name}.alpha"])
    return LowRank(up if alpha == rank else up.double() * (alpha / rank), down)
