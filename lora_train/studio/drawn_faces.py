"""Finding drawn faces by a small convolutional network in numpy, which `tools/faces` trained on what it drew.

It looks for faces of 22 to 48 pixels in the picture at sizes that lie half an octave apart.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats: TypeAlias = "NDArray[np.float32]"

STRIDES = (2, 2, 1, 2, 1, 1)
"""Of its 3 x 3 convolutions."""
STRIDE, SIDE = 8, 32.0  # pixels between two answers, and of the face that they are reckoned against
_LONGEST, _SHORTEST = 512, 56  # pixels of the picture's longer side at its largest and smallest
_STEP = 2**-0.5


@dataclass(frozen=True)
class Found:
    """A square in pixels of the picture, score from 0 to 1."""

    left: float
    top: float
    side: float
    score: float

    def with_(self, other: Found) -> Found:
        """What two that saw the same face say together."""
        left, top, side = ((a + b) / 2 for a, b in zip(self._square(), other._square(), strict=True))
        return Found(left, top, side, 1 - (1 - self.score) * (1 - other.score))

    def _square(self) -> tuple[float, float, float]:
        return self.left, self.top, self.side


class Network:
    """The network's file. Raises ValueError for what isn't one."""

    def __init__(self, file: Path) -> None:
        weights = _read(file)
        try:
            self.layers = [
                (weights[f"{n}.weight"].reshape(len(weights[f"{n}.bias"]), -1).T.copy(), weights[f"{n}.bias"])
                for n in range(len(STRIDES))
            ]
            self.head = weights["head.weight"].reshape(4, -1).T.copy(), weights["head.bias"]
        except (KeyError, ValueError) as error:
            raise ValueError(f"it is no such network ({error})") from error

    def look(self, picture: Image.Image, least: float = 0.5) -> list[Found]:
        """The faces of an RGB picture with that score or more, the surest first."""
        found: list[Found] = []
        longest = min(_LONGEST, max(picture.size) * 2.0)
        while longest >= _SHORTEST:
            factor = longest / max(picture.size)
            size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
            if min(size) < STRIDE:
                break
            small = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
            found += [
                Found(one.left / factor, one.top / factor, one.side / factor, one.score)
                for one in self._at(np.asarray(small, dtype=np.float32) / 127.5 - 1, least)
            ]
            longest *= _STEP
        return apart(found)

    def seen(self, pixels: Floats) -> Floats:
        """What the convolutions make of a picture [height, width, 3] of -1 to 1: [height / 8, width / 8, 64]."""
        for (weight, bias), stride in zip(self.layers, STRIDES, strict=True):
            pixels = np.maximum(_patches(pixels, stride) @ weight + bias, 0)
        return pixels

    def _at(self, pixels: Floats, least: float) -> list[Found]:
        """Faces of a picture [height, width, 3] of -1 to 1 at the size that it has."""
        said = self.seen(pixels) @ self.head[0] + self.head[1]
        rows, columns = np.nonzero(said[..., 0] >= np.log(least / (1 - least)))
        faces = []
        for row, column in zip(rows, columns, strict=True):
            logit, right, down, large = (float(value) for value in said[row, column])
            side = SIDE * float(np.exp(np.clip(large, -1, 1)))
            x, y = (column + 0.5) * STRIDE + right * SIDE, (row + 0.5) * STRIDE + down * SIDE
            faces.append(Found(x - side / 2, y - side / 2, side, 1 / (1 + float(np.exp(-logit)))))
        return faces


def apart(found: list[Found]) -> list[Found]:
    """The surest of those that lie over each other, the surest first."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda face: -face.score):
        if all(_shared(one, other) < 0.3 for other in kept):
            kept.append(one)
    return kept


def same(one: Found, other: Found) -> bool:
    """Whether two squares are of one face: they lie over each other and aren't of very different sizes."""
    return _shared(one, other) > 0.5 and min(one.side, other.side) > 0.5 * max(one.side, other.side)


def _shared(one: Found, other: Found) -> float:
    """Of the smaller square, how much lies in the other one."""
    wide = min(one.left + one.side, other.left + other.side) - max(one.left, other.left)
    high = min(one.top + one.side, other.top + other.side) - max(one.top, other.top)
    return max(0.0, wide) * max(0.0, high) / min(one.side, other.side) ** 2


def _patches(pixels: Floats, stride: int) -> Floats:
    """[rows, columns, channels * 9]: what each 3 x 3 convolution sees, zeros around the picture."""
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::stride, ::stride]
    return np.ascontiguousarray(windows).reshape(*windows.shape[:2], -1)


def _read(file: Path) -> dict[str, Floats]:
    try:
        with np.load(file, allow_pickle=False) as weights:
            return {name: np.asarray(weights[name], dtype=np.float32) for name in weights.files}
    except (OSError, EOFError, zipfile.BadZipFile, AttributeError, ValueError) as error:
        raise ValueError(f"it can't be read ({error})") from error
