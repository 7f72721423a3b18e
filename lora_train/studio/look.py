"""A picture small, as a thumbnail or a measurement needs it, decoded no larger than that where its format can."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..dataset import images
from ..errors import UserError


def small(path: Path, side: int) -> Image.Image:
    """What `images.read` returns, with alpha as RGBA where there is any, shrunk to at most `side` pixels either way.

    Raises UserError for what `images.inspect` refuses and for what can't be decoded.
    """
    images.inspect(path)
    return shrunk(opened(path, path, side).picture, side)


@dataclass(frozen=True)
class Look:
    """A picture, not much larger than it was asked for, and what its file says: format, mode, EXIF orientation."""

    picture: Image.Image
    format: str
    mode: str
    orientation: int


def opened(file: Any, path: Path, side: int) -> Look:
    """A look at a file or path that `images.inspect` accepted; `path` is named in errors. Raises UserError.

    The longer side of what is larger than `side` becomes less than twice that, as far as it can be had cheaply.
    """
    try:
        with Image.open(file, formats=images.FORMATS) as image:
            found = Look(image, image.format or "", image.mode, images.orientation(image))
            if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip
                return replace(found, picture=_reduced(images.read(path), side))
            image.draft(None, (side, side))
            image.load()
            mode = "RGBA" if images.has_transparency(image) else "RGB"
            picture = _reduced(image if image.mode == mode else image.convert(mode), side)
            return replace(found, picture=images.upright(picture, image))
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything over bad bytes
        raise images.broken(error, path) from error


def transparent(picture: Image.Image) -> bool:
    """Whether a picture of mode RGBA or RGB is transparent anywhere."""
    return picture.mode == "RGBA" and any(picture.getchannel("A").histogram()[:255])


def shrunk(picture: Image.Image, side: int) -> Image.Image:
    """At most `side` pixels either way."""
    if max(picture.size) <= side:
        return picture
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return _reduced(picture, side).resize(size, Image.Resampling.BOX)


def _reduced(picture: Image.Image, side: int) -> Image.Image:
    """By a whole factor, to `side` pixels or somewhat more: several times faster than any resizing."""
    factor = max(picture.size) // side
    return picture.reduce(factor) if factor > 1 else picture


def picture_id(path: Path) -> str:
    """Names the picture at this absolute path where the path itself must not be told."""
    return hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()
