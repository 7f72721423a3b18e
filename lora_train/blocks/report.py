"""What a bake wrote and how exact it is: per module, per block, in total."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .families import SD15, blocks_of

LORA, DIFFERENCE, NORM = "LoRA", "diff", "norm"


@dataclass(frozen=True)
class ModuleResult:
    """One module as it stands in the file.

    norm: ‖ΔW‖_F as wanted; error: ‖ΔW − what is in the file‖_F; full_rank: the sum of the sources' ranks; form: LORA,
    or DIFFERENCE or NORM, whose rank is 0: the tensors are whole.
    """

    name: str
    block: str
    rank: int
    full_rank: int
    norm: float
    error: float
    form: str = LORA


@dataclass(frozen=True)
class BlockResult:
    """All modules of a block, or of the file, taken together."""

    block: str
    modules: int
    ranks: tuple[int, int]  # least, greatest of the LoRA modules; 0 where there is none
    norm: float
    error: float

    @property
    def relative_error(self) -> float:
        return self.error / self.norm if self.norm else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "block": self.block,
            "modules": self.modules,
            "rank_min": self.ranks[0],
            "rank_max": self.ranks[1],
            "norm": self.norm,
            "error": self.error,
            "relative_error": self.relative_error,
        }


@dataclass(frozen=True)
class Report:
    """What a bake wrote.

    left_out: modules whose sum is 0; unlisted: blocks in the files that are not among the numbers given for them;
    bundled: names of embeddings that came along.
    """

    out: Path
    recipe: str
    precision: str
    target_error: float | None
    modules: list[ModuleResult]
    left_out: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    family: str = SD15
    bundled: list[str] = field(default_factory=list)

    def blocks(self) -> list[BlockResult]:
        """One result a block, in the order of the blocks."""
        groups: dict[str, list[ModuleResult]] = defaultdict(list)
        for module in self.modules:
            groups[module.block].append(module)
        return [_together(block, groups[block]) for block in blocks_of(self.family) if block in groups]

    def total(self) -> BlockResult:
        return _together("total", self.modules)

    @property
    def relative_error(self) -> float:
        return self.total().relative_error

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "out": str(self.out),
            "recipe": self.recipe,
            "family": self.family,
            "precision": self.precision,
            "target_error": self.target_error,
            "blocks": [block.as_dict() for block in self.blocks()],
            "total": self.total().as_dict(),
            "whole": sum(module.form != LORA for module in self.modules),
            "modules": [asdict(module) for module in self.modules],
            "left_out": self.left_out,
            "unlisted": self.unlisted,
            "bundled": self.bundled,
        }


def _together(block: str, modules: list[ModuleResult]) -> BlockResult:
    ranks = [module.rank for module in modules if module.form == LORA] or [0]
    size, error = (math.hypot(*values) for values in ([m.norm for m in modules], [m.error for m in modules]))
    return BlockResult(block, len(modules), (min(ranks), max(ranks)), size, error)
