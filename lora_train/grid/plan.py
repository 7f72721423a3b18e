"""Which pictures a grid has: LoRA files on one axis, weights on the other, a page for each prompt."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..header import read_header

DEFAULT_WEIGHTS = (0.2, 0.25, 0.4, 0.5, 0.75, 0.8, 1.0)
OTHERS = "other epochs"
"""The folder, beside the epoch that was chosen, into which the others of its run go."""

_NUMBERED = re.compile(r"(?P<name>.+)-(?:(?P<epoch>\d{6})|step(?P<step>\d{8}))")
_EPOCHS = 'Give "all", "band" or numbers such as 2,4-6'


@dataclass(frozen=True)
class Grid:
    """One grid. Sizes in pixels; a row is a LoRA file, a column a weight, a page a prompt; the seed is everywhere the
    same.
    """

    loras: tuple[str, ...]
    prompts: tuple[str, ...]
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
    def prompt(self) -> str:
        """The first page's."""
        return self.prompts[0] if self.prompts else ""

    @property
    def count(self) -> int:
        """How many cells all pages have."""
        return len(self.prompts) * len(self.loras) * len(self.weights)

    @property
    def labels(self) -> tuple[str, ...]:
        """A short name for each row: the epoch where the file tells it."""
        return tuple(epoch_file(Path(lora)).label for lora in self.loras)

    def to_json(self) -> str:
        """The recipe that is kept in the picture's metadata; file names without their folders."""
        names = tuple(Path(lora).name for lora in self.loras)
        return json.dumps(asdict(replace(self, loras=names)), ensure_ascii=False)


def grid_from(values: Mapping[str, Any]) -> Grid:
    """A grid from JSON. What a later version has added is left out; earlier ones had one `prompt`.

    Raises ValueError, TypeError or KeyError for values of a wrong kind.
    """
    kinds: dict[str, Callable[[Any], Any]] = {
        "loras": lambda loras: tuple(str(lora) for lora in loras),
        "prompts": lambda prompts: tuple(str(prompt) for prompt in prompts),
        "weights": lambda weights: tuple(float(weight) for weight in weights),
        **dict.fromkeys(("negative_prompt", "sampler"), str),
        **dict.fromkeys(("seed", "steps", "width", "height"), int),
        "cfg_scale": float,
        "clip_skip": lambda layer: None if layer is None else int(layer),
    }
    if "prompts" not in values:
        values = {**values, "prompts": [values["prompt"]]}
    return Grid(**{name: kind(values[name]) for name, kind in kinds.items() if name in values})


@dataclass(frozen=True)
class EpochFile:
    """One LoRA file of a run. name: the run's; epoch, step: where they are known; last: named without a number."""

    path: Path
    name: str
    epoch: int | None = None
    step: int | None = None
    last: bool = False

    @property
    def label(self) -> str:
        """'epoch 3', 'step 1000', 'last (epoch 10)', else the file's name without its ending."""
        if self.epoch is not None:
            return f"last (epoch {self.epoch})" if self.last else f"epoch {self.epoch}"
        return self.path.stem if self.step is None else f"step {self.step}"


def epoch_file(path: Path) -> EpochFile:
    """What a file's name says of it and, where that has no number, its metadata.

    kohya names them NAME-000003 by epochs, NAME-step00001000 by steps, and the last one NAME.
    """
    numbered = _NUMBERED.fullmatch(path.stem)
    if not numbered:
        return EpochFile(path, run_of(path), _epoch_in(path), last=True)
    epoch, step = numbered["epoch"], numbered["step"]
    return EpochFile(path, numbered["name"], int(epoch) if epoch else None, int(step) if step else None)


def series(folder: Path, name: str) -> tuple[str, ...]:
    """The LoRA files of a run in order: those of its epochs, or of its steps where it has no epochs', and the last one
    where no numbered file is of its epoch. Raises UserError when the folder holds none.
    """
    found = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    files = _ordered([path for path in found if name in (path.stem, run_of(path))])
    if not files:
        remedy = "Give the folder and name of a finished run"
        raise UserError(f"no LoRA files of the name {name!r}", where=folder, remedy=remedy)
    return tuple(str(file.path) for file in files)


def all_series(lora_dir: Path) -> list[dict[str, Any]]:
    """Every run with numbered files below a folder, the newest first, ready for JSON.

    Each has name, folder, newest (seconds since 1970) and epochs: label, epoch, step and lora (a path) of each file.
    """
    runs: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for folder, folders, names in os.walk(lora_dir):
        folders[:] = sorted(inner for inner in folders if inner != OTHERS and not inner.startswith("."))
        for path in (Path(folder, name) for name in sorted(names) if name.endswith(".safetensors")):
            runs[folder, run_of(path)].append(path)
    found = []
    for (folder, name), paths in runs.items():
        files = _ordered(paths) if any(run_of(path) != path.stem for path in paths) else []
        if files:
            epochs = [{"label": f.label, "epoch": f.epoch, "step": f.step, "lora": str(f.path)} for f in files]
            newest = max(map(_changed, paths))
            found.append({"name": name, "folder": folder, "epochs": epochs, "newest": newest})
    return sorted(found, key=lambda run: (-run["newest"], run["name"]))


def choose(files: Sequence[str], epochs: str = "all", band: Sequence[int] | None = None) -> tuple[str, ...]:
    """The files of the wanted epochs: "all", "band" (all where there is none) or numbers such as "2,4-6".

    Steps count where a file has no epoch. Raises UserError when there is nothing to draw, or for another text.
    """
    wanted = (epochs or "all").strip().lower()
    if wanted == "all" or (wanted == "band" and not band):
        return tuple(files)
    ranges = [(band[0], band[-1])] if wanted == "band" and band else _ranges(wanted)
    found = [(file, epoch_file(Path(file))) for file in files]
    numbers = [(file, it.step if it.epoch is None else it.epoch) for file, it in found]
    chosen = tuple(f for f, number in numbers if number is not None and any(a <= number <= b for a, b in ranges))
    if not chosen:
        there = ", ".join(str(number) for _, number in numbers if number is not None) or "none with a number"
        raise UserError(f"no file is of epoch {epochs}", where="epochs", remedy=f"There are: {there}")
    return chosen


def epoch_of(path: Path) -> int | None:
    """The epoch after which a LoRA file was saved; None where neither name nor metadata tell."""
    return epoch_file(path).epoch


def run_of(path: Path) -> str:
    """The name of the run that wrote a file."""
    numbered = _NUMBERED.fullmatch(path.stem)
    return numbered["name"] if numbered else path.stem


def _ordered(paths: Iterable[Path]) -> list[EpochFile]:
    """Files of one run in order. Steps are left out beside epochs, and the last one where it is there by its number."""
    files = [epoch_file(path) for path in paths]
    numbered = [f for f in files if not f.last and f.epoch is not None] or [f for f in files if f.step is not None]
    numbered.sort(key=lambda f: (f.epoch or 0, f.step or 0))
    known = {f.epoch for f in numbered if f.epoch is not None}
    return numbered + [f for f in files if f.last and f.epoch not in known]


def _ranges(text: str) -> list[tuple[int, int]]:
    ranges = []
    for part in filter(None, re.split(r"[,，;\s]+", re.sub(r"\s*[-–]\s*", "-", text))):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not ends:
            raise UserError(f"{text!r} names no epochs", where="epochs", remedy=_EPOCHS)
        ranges.append((int(ends[1]), int(ends[2] or ends[1])))
    if not ranges:
        raise UserError("no epochs are named", where="epochs", remedy=_EPOCHS)
    return ranges


def _epoch_in(path: Path) -> int | None:
    """ss_epoch, or what the run was to have, in a file's metadata."""
    try:
        metadata = read_header(path, "LoRA").metadata
    except (UserError, OSError):
        return None
    texts = (metadata.get(name, "") for name in ("ss_epoch", "ss_num_epochs"))
    return next((int(text) for text in texts if text.isdecimal() and int(text)), None)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
