"""Pictures and folders made in code, good ones and bad ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def noise(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """An RGB picture without any symmetry."""
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file of format `kind`."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def place(path: Path, picture: Image.Image | None = None, caption: str | None = None) -> Path:
    """Write a picture, and its caption where one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or noise()).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path
