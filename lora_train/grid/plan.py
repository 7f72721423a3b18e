"""Which pictures a grid has: LoRA files on one axis, weights on the other, everything else the same."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import UserError

DEFAULT_WEIGHTS = (0.2, 0.25, 0.4, 0.5, 0.75, 0.8, 1.0)


@dataclass(frozen=True)
class Grid:
    """One grid. Sizes in pixels; a row is a LoRA file, a column a weight; (prompt, seed) are the same in every cell."""

    loras: tuple[str, ...]
    prompt: str
    weights: tuple[float, ...] = DEFAULT_WEIGHTS
    negative_prompt: str = ""
    seed: int = 1
    steps: int = 20
    cfg_scale: float = 7.0
    sampler: str = "Euler"
    width: int = 512
    height: int = 512
    clip_skip: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """A short name for each row: the epoch where the file name carries one."""
        return tuple(label(Path(lora)) for lora in self.loras)

    def to_json(self) -> str:
        """The recipe that is kept in the picture's metadata; file names without their folders."""
        names = tuple(Path(lora).name for lora in self.loras)
        return json.dumps(asdict(replace(self, loras=names)), ensure_ascii=False)


def label(lora: Path) -> str:
    """'epoch 3' for run-000003.safetensors, else the file's stem."""
    number = re.fullmatch(r".*-(\d{6})", lora.stem)
    return f"epoch {int(number[1])}" if number else lora.stem


def series(folder: Path, name: str) -> tuple[str, ...]:
    """The epoch files {name}-NNNNNN.safetensors of a run in order; {name}.safetensors alone where there are none.

    Raises UserError when the folder holds neither.
    """
    numbered = re.compile(re.escape(name) + r"-\d{6}\.safetensors")
    epochs = sorted(str(path) for path in folder.glob("*.safetensors") if numbered.fullmatch(path.name))
    last = folder / f"{name}.safetensors"
    if not epochs and not last.is_file():
        remedy = "Give the folder and name of a finished run"
        raise UserError(f"no LoRA files of the name {name!r}", where=folder, remedy=remedy)
    return tuple(epochs) or (str(last),)
