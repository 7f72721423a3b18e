"""Where a run is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Position:
    """Optimizer steps done in all, the epoch (from 1), steps done in it; what was measured after each epoch so far."""

    done: int = 0
    epoch: int = 1
    in_epoch: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)


def due(every: int | None, count: int) -> bool:
    """Whether `count` is one of every n."""
    return bool(every) and count % (every or 1) == 0
