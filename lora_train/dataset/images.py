"""Pictures: any file to upright RGB, and RGB to the square that is trained on."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MAX_PIXELS = 89_000_000  # where Pillow begins to warn of a decompression bomb, unless some program switched that off
MAX_ASPECT = 20  # beyond, a crop shows next to nothing of the picture, and covering a square takes gigabytes

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ANIMATED_FORMATS = {"GIF", "PNG", "WEBP", "TIFF"}  # not MPO: a telephone's JPEG with a preview in it
_PLAIN_MODES = {"RGB", "L", "1", "P", "CMYK", "YCbCr", "RGBX"}
_ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa"}
_ROWS = 16  # rows shrunk at a time: keeps the weight matrices and the memory small


def read(path: str | Path) -> Image.Image:
    """The picture as upright RGB: EXIF orientation applied, transparency on white, first frame of an animation.

    Raises UserError for everything that isn't a sound picture of one of FORMATS and of a sensible size.
    kohya leaves the orientation aside and shows the colours hidden below transparency; this is on purpose different.
    """
    return _read(Path(path))[0]


def inspect(path: str | Path) -> tuple[int, int, str]:
    """(width, height, note) of what `read` returns, having decoded the whole picture. Raises as `read` does."""
    picture, note = _read(Path(path))
    return picture.width, picture.height, note


def _read(path: Path) -> tuple[Image.Image, str]:
    head = b""
    try:
        if not path.is_file():
            raise UserError("it is no regular file", where=path, remedy="Remove it or put a picture in its place")
        with path.open("rb") as handle:
            head = handle.read(16)
            handle.seek(0)
            return _decoded(handle, path)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(_unknown(head), where=path, remedy="Save it as PNG or JPEG") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path) from None
    except Exception as error:  # a decoder may raise anything over bad bytes; Pillow's own list isn't complete
        raise UserError(_broken(error), where=path, remedy="Replace the file or remove it") from error


def _decoded(handle: Any, path: Path) -> tuple[Image.Image, str]:
    with Image.open(handle, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _too_large(path)
        if max(width, height) > MAX_ASPECT * min(width, height):
            what = f"it is {width} x {height}: more than {MAX_ASPECT} times as long as wide"
            raise UserError(what, where=path, remedy="Crop it")
        animated = image.format in _ANIMATED_FORMATS and getattr(image, "is_animated", False)
        image.load()
        note = "animated or of several pages, the first is used" if animated else ""
        return _upright(_rgb(image, path), image), note


def _upright(picture: Image.Image, source: Image.Image) -> Image.Image:
    """Turn `picture` as the EXIF data of `source` says; damaged data say nothing. Pillow itself turns TIFF."""
    if source.format == "TIFF":
        return picture
    try:
        orientation = source.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - a parser of damaged bytes: whatever it raises, the pixels are sound
        return picture
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if method is None else picture.transpose(method)


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    """A loaded picture of any mode as RGB; transparent parts become white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image), path)
    if image.mode in _ALPHA_MODES or (image.mode in _PLAIN_MODES and "transparency" in image.info):
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured).convert("RGB")
    if image.mode in _PLAIN_MODES:
        return image.convert("RGB")
    raise UserError(f"its kind of pixels ({image.mode}) isn't read", where=path, remedy="Save it as an 8-bit RGB PNG")


def _from_16_bit(values: NDArray[Any], path: Path) -> Image.Image:
    """Grey of 0 … 65535 as RGB; Pillow's own conversion would clip all above 255."""
    if values.min() < 0 or values.max() > 65535:
        raise UserError("its pixels are 32-bit numbers", where=path, remedy="Save it as an 8-bit RGB PNG")
    grey = (values.astype(np.float32) / 257 + 0.5).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _too_large(path: Path) -> UserError:
    what = f"it has more than {MAX_PIXELS // 1_000_000} million pixels"
    return UserError(what, where=path, remedy="Save it smaller: far fewer are trained on")


def _broken(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return f"it can't be opened ({os.strerror(error.errno)})"
    return f"it is broken or cut short ({str(error) or type(error).__name__})"


def _unknown(head: bytes) -> str:
    """What is wrong with a file that begins with `head` and that no decoder takes."""
    if not head:
        return "the file is empty"
    if head[4:8] == b"ftyp":
        return "it is a HEIC, AVIF or video file, whatever its name says"
    return "it is no JPEG, PNG, WebP, BMP, GIF or TIFF picture"


def cover_crop(picture: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """Scale an RGB picture until it covers `width` x `height` and cut out the centre: uint8 [height, width, 3].

    kohya's rule to the pixel: averaging areas where both sides shrink, Lanczos otherwise.
    """
    size = covering_size(picture.size, width, height)
    if size == picture.size:
        pixels = np.asarray(picture)
    elif size[0] <= picture.width and size[1] <= picture.height:
        pixels = area_resize(np.asarray(picture), *size)
    else:
        pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def covering_size(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """(width, height) of a picture of `size` scaled to cover `width` x `height`."""
    w, h = size
    scale = height / h if w / h > width / height else width / w
    return int(w * scale + 0.5), int(h * scale + 0.5)


def area_resize(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Shrink uint8 [H, W, C] to [height, width, C]: each new pixel is the mean of the area that it covers.

    OpenCV's INTER_AREA, its roundings included: halves go up when both sides are halved, else to the even number.
    """
    source_height, source_width, channels = pixels.shape
    rows = _sums(pixels.reshape(source_height, -1), height).reshape(height, source_width, channels)
    columns = _sums(rows.transpose(1, 0, 2).reshape(source_width, -1), width).reshape(width, height, channels)
    means = columns.transpose(1, 0, 2) * (width * height / (source_width * source_height))
    halved = source_width == 2 * width and source_height == 2 * height
    rounded = np.floor(means + 0.5) if halved else np.rint(means)
    return np.clip(rounded, 0, 255).astype(np.uint8)


def _sums(values: NDArray[Any], size: int) -> NDArray[np.float64]:
    """[n, m] to [size, m]: sums over n / size rows each, rows at the border counted by the share that lies inside."""
    count = len(values)
    scale = count / size
    out = np.empty((size, values.shape[1]))
    for start in range(0, size, _ROWS):
        stop = min(start + _ROWS, size)
        first, last = int(start * scale), min(math.ceil(stop * scale), count)
        edges = np.arange(start, stop + 1)[:, None] * scale
        rows = np.arange(first, last)
        weights = np.clip(np.minimum(edges[1:], rows + 1) - np.maximum(edges[:-1], rows), 0, 1)
        out[start:stop] = weights @ values[first:last].astype(np.float64)
    return out
