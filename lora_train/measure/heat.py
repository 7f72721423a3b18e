"""A map of numbers as a picture to lay over another: nothing where it is low, dark to bright where it is high."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_COLOURS = ((20, 11, 53), (114, 31, 129), (205, 64, 113), (252, 137, 97), (252, 253, 191))  # magma: even in lightness
_OPAQUE, _BEND, _PEAK = 215, 0.7, 99.5


def overlay(values: NDArray[np.floating], width: int, height: int) -> Image.Image:
    """RGBA of width × height pixels. values [h, w] ≥ 0; the brightest half per cent is full."""
    field = np.asarray(values, dtype=np.float32)
    peak = float(np.percentile(field, _PEAK)) or 1.0
    small = Image.fromarray(np.clip(field / peak, 0, 1))
    shares = np.clip(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)
    channels = [np.interp(shares, _STOPS, [colour[n] for colour in _COLOURS]) for n in range(3)]
    return Image.fromarray(np.stack([*channels, _OPAQUE * shares**_BEND], axis=-1).round().astype(np.uint8), "RGBA")
