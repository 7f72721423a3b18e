"""Which pictures look alike: a perceptual hash of 64 bits, and groups of hashes that are near each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 64
NEAR = 8
"""Bits that may differ between a picture and its resized, recompressed or slightly changed copy."""

_SIDE, _LOW = 32, 8
_FLAT = 1.0  # grey levels of deviation; below, a hash would tell of noise alone
_BLOCK = 256  # rows of distances at a time
_WAVES: NDArray[np.float64] = np.cos(np.pi * np.arange(_LOW)[:, None] * (2 * np.arange(_SIDE) + 1) / (2 * _SIDE))


def phash(grey: Image.Image) -> int | None:
    """The 64 lowest frequencies of a picture of mode L, each above or below their median; None for a flat picture.

    The pHash of Johannes Buchner's ImageHash (github.com/JohannesBuchner/imagehash, phash), which follows Neal Krawetz.
    """
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0), np.float64)
    if small.std() < _FLAT:
        return None
    low = _WAVES @ small @ _WAVES.T
    bits = (low > sum(np.partition(low, (31, 32), axis=None)[31:33]) / 2).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distance(one: int, other: int) -> int:
    """How many bits differ."""
    return (one ^ other).bit_count()


def groups(hashes: Sequence[int | None], near: int = NEAR) -> list[list[int]]:
    """Indices of pictures that look alike, in groups of two and more, by their first member.

    Every member is at most `near` bits from the first, so that a long chain of small changes makes no huge group.
    Distances are exact, by matrix products: 10,000 hashes take about half a second and 10 MB.
    """
    known = [index for index, value in enumerate(hashes) if value is not None]
    by_hash: dict[int, list[int]] = {}
    for index in known:
        by_hash.setdefault(hashes[index] or 0, []).append(index)
    if not (distinct := list(by_hash)):
        return []
    raw = np.frombuffer(b"".join(value.to_bytes(8, "big") for value in distinct), np.uint8).reshape(-1, 8)
    signs = np.unpackbits(raw, axis=1).astype(np.float32) * 2 - 1
    taken: NDArray[np.bool_] = np.zeros(len(distinct), bool)
    found = []
    for start in range(0, len(distinct), _BLOCK):
        close = signs[start : start + _BLOCK] @ signs.T >= BITS - 2 * near
        for row in np.flatnonzero(close.sum(axis=1) > 1):
            if not taken[start + row]:
                members = np.flatnonzero(close[row] & ~taken)
                taken[members] = True
                found.append([index for member in members for index in by_hash[distinct[member]]])
    alone = (by_hash[value] for value, is_taken in zip(distinct, taken, strict=True) if not is_taken)
    return sorted(sorted(group) for group in (*found, *alone) if len(group) > 1)
