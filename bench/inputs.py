"""What is trained in a measurement: a checkpoint with random weights and drawn pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lora_train.model.checkpoint import Family
from tests import support


def checkpoint(path: Path, family: Family = Family.SD15) -> Path:
    """A checkpoint of full size with random fp16 weights, written once."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        support.checkpoint(path, support.FULL[family], family=family)
    return path


def pictures(folder: Path, count: int, size: int, repeats: int = 1) -> Path:
    """A dataset folder of `count` square JPEGs with captions of twenty tags, as rough as photos are."""
    inner = folder / f"{repeats}_thing"
    inner.mkdir(parents=True)
    for n in range(count):
        chance = np.random.default_rng(n)
        coarse = chance.integers(0, 256, (max(2, size // 8), max(2, size // 8), 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(inner / f"{n:05d}.jpg", quality=90)
        tags = ", ".join(f"tag {t}" for t in chance.integers(0, 400, 20))
        (inner / f"{n:05d}.txt").write_text(f"thing, {tags}", encoding="utf-8")
    return folder
