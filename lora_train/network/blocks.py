"""Settings with one value for each block of the UNet: ranks, alphas, factors on the learning rate.

As sd-scripts 48d368fa, networks/lora.py: get_block_dims_and_alphas, parse_block_lr_kwargs, get_block_lr_weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..errors import UserError
from ..settings import TrainSettings

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Layout:
    """How many blocks a UNet has on each side. ends: kohya counts SDXL's embeddings and last layer as blocks too."""

    side: int
    middle: int
    ends: int

    @property
    def count(self) -> int:
        """Values in a list of ranks or alphas."""
        return 2 * self.side + self.middle + 2 * self.ends


SD, XL = Layout(12, 1, 0), Layout(9, 3, 1)

_PRESETS: dict[str, Callable[[int, int], float]] = {
    "cosine": lambda n, last: math.sin(math.pi * ((last - n) / last) / 2),
    "sine": lambda n, last: math.sin(math.pi * (n / last) / 2),
    "linear": lambda n, last: n / last,
    "reverse_linear": lambda n, last: (last - n) / last,
    "zeros": lambda n, last: 0.0,
}
"""Factor on the rate of block n of 0 … last on its side of the UNet."""


def per_block(settings: TrainSettings, field: str, layout: Layout, kind: type[Number]) -> list[Number] | None:
    """A comma-separated list with one number for each block; None where the setting is empty. Raises UserError."""
    text = getattr(settings, field)
    if not text.strip():
        return None
    values = _numbers(text, field, kind)
    if len(values) != layout.count:
        raise UserError(
            f"{len(values)} values are given, {layout.count} are needed",
            where=field,
            remedy=f"Give one for each of the {layout.count} blocks, with commas between",
        )
    if any(value < 0 for value in values):
        raise UserError("a value is below 0", where=field, remedy="0 leaves a block out")
    return values


def rate_factors(settings: TrainSettings, layout: Layout) -> list[float] | None:
    """Factor on the UNet's rate for each block, 0 where a block is left out; None where no factor is given.

    What a list lacks is 1. Raises UserError for lists that are too long or unreadable.
    """
    if not (settings.down_lr_weight or settings.mid_lr_weight or settings.up_lr_weight):
        return None
    down = _factors(settings.down_lr_weight, "down_lr_weight", layout.side)
    middle = _factors(settings.mid_lr_weight, "mid_lr_weight", layout.middle)
    up = _factors(settings.up_lr_weight, "up_lr_weight", layout.side)
    least = settings.block_lr_zero_threshold
    factors = [factor if factor > least else 0.0 for factor in (*down, *middle, *up)]
    ends = [1.0] * layout.ends
    return [*ends, *factors, *ends]


def _factors(text: str, field: str, count: int) -> list[float]:
    text = text.strip()
    if not text:
        return [1.0] * count
    name, _, base = text.partition("+")
    if name in _PRESETS and field != "mid_lr_weight":
        extra = _numbers(base, field, float)[0] if base else 0.0
        return [_PRESETS[name](n, count - 1) + extra for n in range(count)]
    values = _numbers(text, field, float)
    if len(values) > count:
        raise UserError(
            f"{len(values)} values are given, {count} are the most", where=field, remedy="Remove some of them"
        )
    return values + [1.0] * (count - len(values))


def _numbers(text: str, field: str, kind: type[Number]) -> list[Number]:
    """Numbers between commas; an empty place is 0, as in sd-scripts."""
    try:
        values = [kind(value.strip() or 0) for value in text.split(",")]
        if not all(math.isfinite(value) for value in values):
            raise ValueError
        return values
    except (ValueError, OverflowError):
        presets = f", or one of {', '.join(_PRESETS)}" if field in ("down_lr_weight", "up_lr_weight") else ""
        raise UserError(
            f"{text!r} is not a list of numbers",
            where=field,
            remedy=f"Write {'whole ' if field.endswith('dims') else ''}numbers with commas between{presets}",
        ) from None
