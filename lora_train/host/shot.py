"""One picture that a host is asked for, and the LoRAs in it, each with its strengths and the weights of its blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..blocks.families import BASE, SD15, blocks_of
from ..blocks.mix import Scene
from ..errors import UserError
from ..grid.plan import Grid

_ALIKE = ("negative_prompt", "steps", "cfg_scale", "sampler", "width", "height")


def never() -> bool:
    """For a picture that nobody calls off."""
    return False


Cancelled = Callable[[], bool]
"""Asked a few times a second, also from other threads; once it has said yes the picture is given up."""


@dataclass(frozen=True)
class Applied:
    """One LoRA of a picture. te, unet: strengths on the text encoders and on the UNet.

    weights: block -> what its strength is multiplied by; a block that isn't named has 1, None: 1 everywhere.
    """

    path: Path
    te: float = 1.0
    unet: float = 1.0
    weights: Mapping[str, float] | None = None

    def factors(self, family: str = SD15) -> dict[str, float]:
        """Strength times weight of every block. Raises UserError: an unknown block, no finite number."""
        known, weights = blocks_of(family), self.weights or {}
        unknown = [block for block in weights if block not in known]
        if unknown:
            remedy = f"{family} has {', '.join(known)}"
            raise UserError(f"there is no block {unknown[0]!r}", where=self.path, remedy=remedy)
        found = {block: (self.te if block == BASE else self.unet) * weights.get(block, 1.0) for block in known}
        wrong = next((block for block, factor in found.items() if not math.isfinite(factor)), None)
        if wrong is not None:
            raise UserError(f"the strength of {wrong} is not a finite number", where=self.path, remedy="Write a number")
        return found

    @property
    def is_plain(self) -> bool:
        """Whether its two strengths say all."""
        return not self.weights or all(weight == 1 for weight in self.weights.values())


@dataclass(frozen=True)
class Shot:
    """One picture; sizes in pixels, samplers by the names that grids have for them."""

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    steps: int = 20
    cfg_scale: float = 7.0
    sampler: str = Grid.sampler
    width: int = 512
    height: int = 512
    clip_skip: int = 1
    loras: tuple[Applied, ...] = ()

    @classmethod
    def of(cls, scene: Scene, prompt: str, seed: int, loras: tuple[Applied, ...]) -> Shot:
        """One of a scene's pictures."""
        return cls(prompt, seed=seed, clip_skip=scene.clip_skip, loras=loras, **_alike(scene))

    @property
    def cell(self) -> Grid:
        """The same without its LoRAs, as a grid of one prompt."""
        return Grid(loras=(), prompts=(self.prompt,), seed=self.seed, clip_skip=self.clip_skip, **_alike(self))


def scene_of(grid: Grid, page: int, clip_skip: int) -> Scene:
    """What a page of a grid shows, without its LoRAs. clip_skip: where the grid names none."""
    return Scene(grid.prompts[page], seeds=(grid.seed,), clip_skip=grid.clip_skip or clip_skip, **_alike(grid))


def _alike(one: Scene | Shot | Grid) -> dict[str, Any]:
    return {name: getattr(one, name) for name in _ALIKE}
