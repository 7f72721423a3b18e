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

_T = Image.Transpose
_TURNS = {  # by EXIF's orientation
    2: _T.FLIP_LEFT_RIGHT,
    3: _T.ROTATE_180,
    4: _T.FLIP_TOP_BOTTOM,
    5: _T.TRANSPOSE,
    6: _T.ROTATE_270,
    7: _T.TRANSVERSE,
    8: _T.ROTATE_90,
}


def small(path: Path, side: int) -> Image.Image:
    """What `images.read` returns, with alpha as RGBA where there is any, shrunk to at most `side` pixels either way.

    Raises UserError for what `images.inspect` refuses and for what can't be decoded.
    """
    images.inspect(path)
    return opened(path, path, side).picture


@dataclass(frozen=True)
class Look:
    """A picture small, and what its file says: format, mode, EXIF orientation from 1 to 8."""

    picture: Image.Image
    format: str
    mode: str
    orientation: int


def opened(file: Any, path: Path, side: int) -> Look:
    """A look at a file or path that `images.inspect` accepted; `path` is named in errors. Raises UserError."""
    try:
        with Image.open(file, formats=images.FORMATS) as image:
            found = Look(image, image.format or "", image.mode, orientation(image))
            if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip
                return replace(found, picture=_shrunk(images.read(path), side))
            image.draft(None, (side, side))
            image.load()
            mode = "RGBA" if has_alpha(image) else "RGB"
            picture = _shrunk(image if image.mode == mode else image.convert(mode), side)
            turn = None if image.format == "TIFF" else _TURNS.get(found.orientation)  # Pillow itself turns TIFF
            return replace(found, picture=picture if turn is None else picture.transpose(turn))
    except UserError:
        raise
    except Exception as error:  # a decoder may raise anything over bad bytes
        what = f"it is broken or cut short ({str(error) or type(error).__name__})"
        raise UserError(what, where=path, remedy="Replace the file or remove it") from error


def has_alpha(image: Image.Image) -> bool:
    """Whether a picture as opened can be transparent somewhere."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info


def transparent(picture: Image.Image) -> bool:
    """Whether a picture of mode RGBA or RGB is transparent anywhere."""
    return picture.mode == "RGBA" and any(picture.getchannel("A").histogram()[:255])


def flat(picture: Image.Image, colour: str = "white") -> Image.Image:
    """As RGB, transparency on a colour."""
    if picture.mode == "RGB":
        return picture
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture).convert("RGB")


def orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts; damaged data say nothing. A PNG isn't decoded for what lies behind its pixels."""
    try:
        found = Image.Image.getexif(image).get(0x0112)
    except Exception:  # noqa: BLE001 - a parser of damaged bytes: whatever it raises, the pixels are sound
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    if max(picture.size) <= side:
        return picture
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.BOX)


def picture_id(path: Path) -> str:
    """Names the picture at this absolute path where the path itself must not be told."""
    return hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()
