"""Whole runs in this process, on narrow checkpoints and as small as they get."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from lora_train.events import Event
from lora_train.model.load import load_model
from lora_train.settings import TrainSettings
from lora_train.train import run as run_module
from lora_train.train.loop import Outcome

LAST_BLOCK = ",".join(["0"] * 24 + ["2"])
"""block_dims: rank 2 in the block next to the output alone, so that the backward pass is short."""


@functools.lru_cache(maxsize=8)
def _read_once(*arguments: Any, **more: Any) -> Any:
    return load_model(*arguments, **more)


def pristine(*arguments: Any, **more: Any) -> Any:
    """What load_model gives, each time a new copy of what was read once."""
    model = _read_once(*arguments, **more)
    texts = {part: _copied(module) for part, module in model.text_encoders.items()}
    return replace(model, unet=_copied(model.unet), vae=_copied(model.vae), text_encoders=texts)


_PLAIN = (dict, OrderedDict, list)


def _copied(module: nn.Module) -> nn.Module:
    """A module that shares no tensor with the first; three times as fast as deepcopy."""
    copied = object.__new__(type(module))
    state = {name: value.copy() if type(value) in _PLAIN else value for name, value in vars(module).items()}
    for name, value in module._parameters.items():
        if value is not None:
            state["_parameters"][name] = nn.Parameter(value.detach().clone(), value.requires_grad)
    for name, value in module._buffers.items():
        state["_buffers"][name] = None if value is None else value.clone()
    for name, child in module._modules.items():
        state["_modules"][name] = None if child is None else _copied(child)
    vars(copied).update(state)
    return copied


@dataclass
class Run:
    """What a run told and how it ended."""

    outcome: Outcome
    heard: list[Event] = field(default_factory=list)

    def of(self, name: str) -> list[Event]:
        """The events of one kind."""
        return [e for e in self.heard if e["event"] == name]

    @property
    def losses(self) -> list[float]:
        return [e["loss"] for e in self.of("progress")]

    @property
    def names(self) -> list[str]:
        """Names of the LoRA files, as they were saved."""
        return [Path(e["path"]).name for e in self.of("saved")]


def train(settings: TrainSettings, stop_after: int | None = None) -> Run:
    """A run, stopped after so many steps of its own; the checkpoint is read once for all runs."""
    heard: list[Event] = []

    def stop() -> bool:
        return stop_after is not None and sum(e["event"] == "progress" for e in heard) >= stop_after

    with patch.object(run_module, "load_model", pristine):
        outcome = run_module.run(settings, heard.append, stop)
    return Run(outcome, heard)


def settings_for(folder: Path, checkpoint: Path, **changes: Any) -> TrainSettings:
    """A small run on the pictures in `folder`/set, written into `folder`/out."""
    values: dict[str, Any] = {
        "pretrained_model_name_or_path": str(checkpoint),
        "train_data_dir": str(folder / "set"),
        "output_dir": str(folder / "out"),
        "output_name": "run",
        "resolution": (64, 64),
        "network_dim": 2,
        "network_alpha": 1.0,
        "learning_rate": 1e-2,
        "network_train_unet_only": True,
        "block_dims": LAST_BLOCK,
        "save_precision": "float",
    }
    return TrainSettings(**{**values, **changes})


CAPTIONS = ("first ||| one;;;two, blue, {red|green}, round", "second ||| (soft:1.5), square, old", "third, tall, new")


def drawn(folder: Path, sizes: tuple[tuple[int, int], ...] = ((64, 64), (96, 64), (64, 128)), shift: int = 0) -> Path:
    """Pictures of several sizes, half transparent, with captions in .txt and others in .words."""
    folder.mkdir(parents=True)
    for n, (width, height) in enumerate(sizes):
        picture = Image.new("RGBA", (width, height), ((60 * n + shift) % 255, 90, 160, 255))
        pen = ImageDraw.Draw(picture)
        pen.ellipse((8 + n, 8, width - 20, height - 8 - n), fill=(230, 200 - 30 * n % 200, 40 + shift, 255))
        pen.rectangle((0, 0, width, height // 3), fill=(200, 20 * n, 90, 0))
        picture.save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text(CAPTIONS[n % 3], encoding="utf-8")
        (folder / f"{n}.words").write_text("other words", encoding="utf-8")
    return folder


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(
        value.dtype is other[key].dtype and torch.equal(value, other[key]) for key, value in one.items()
    )
