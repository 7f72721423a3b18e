"""What surrounds the engine: a WebUI, or nothing but diffusers. One small interface, two real implementations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..grid.plan import Grid
from ..grid.sheet import Sheet

__all__ = ["Checkpoint", "Grid", "Host", "Sheet"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file that the host offers. sha256 may be unknown; clip_skip is the host's own setting."""

    path: Path
    title: str
    sha256: str | None = None
    vae: Path | None = None
    clip_skip: int = 1


class Host(Protocol):
    """Everything that the tab, the jobs and the grid ask of their surroundings."""

    @property
    def name(self) -> str:
        """For people: 'Stable Diffusion WebUI v1.10.1', 'standalone'."""

    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint that is loaded or chosen in the host; None where there is none."""

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint that the host knows."""

    def lora_dir(self) -> Path:
        """Where LoRA files go so that the host finds them."""

    def data_dir(self) -> Path:
        """Where the records of jobs and drawn grids are kept."""

    def refresh_loras(self) -> None:
        """Make the host see LoRA files that have just been written."""

    def memory_for_training(self) -> AbstractContextManager[None]:
        """While inside, the host's own model is out of the way; afterwards it is as it was."""

    def draw(self, grid: Grid, on_cell: Callable[[int, int], None]) -> Sheet:
        """Draw a grid on the host's checkpoint; calls on_cell(done, total). Raises UserError."""
