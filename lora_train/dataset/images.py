"""Pictures: any file to upright RGB, and RGB to the size that is trained on."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile

from ..errors import UserError
from .buckets import Fit, Size

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
_ROWS = 16  # rows shrunk at a time: few enough for the weight matrices to stay small and the rows in the cache
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_NOTES = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}  # chunks that may tell the orientation

_T = TypeVar("_T")


def read(path: str | Path, alpha: bool = False) -> Image.Image:
    """The picture as upright RGB: EXIF orientation applied, transparency on white, first frame of an animation.

    alpha: as RGBA instead, with the colours that the file holds below its transparency.
    Raises UserError for everything that isn't a sound picture of one of FORMATS and of a sensible size.
    kohya leaves the orientation aside and shows the colours hidden below transparency; this is on purpose different.
    """
    return _guarded(Path(path), lambda handle, path: _decoded(handle, path, alpha))


def inspect(path: str | Path, data: bytes | None = None) -> tuple[int, int, str]:
    """(width, height, note) of what `read` returns, from the file's header and end. Raises as `read` does.

    Only files that don't end as whole ones do are decoded; damage in the midst of a file shows in `read` alone.
    data: the file's bytes, where they are at hand.
    """
    return _guarded(Path(path), _described, data)


def _guarded(path: Path, action: Callable[[Any, Path], _T], data: bytes | None = None) -> _T:
    """`action` on the opened file; whatever a decoder raises becomes a UserError."""
    head = b""
    try:
        if data is None and not path.is_file():
            raise UserError("it is no regular file", where=path, remedy="Remove it or put a picture in its place")
        with path.open("rb") if data is None else io.BytesIO(data) as handle:
            head = handle.read(16)
            handle.seek(0)
            return action(handle, path)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(_unknown(head), where=path, remedy="Save it as PNG or JPEG") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path) from None
    except Exception as error:  # a decoder may raise anything over bad bytes; Pillow's own list isn't complete
        raise broken(error, path) from error


def _decoded(handle: Any, path: Path, alpha: bool) -> Image.Image:
    with Image.open(handle, formats=FORMATS) as image:
        _check(image, path)
        image.load()
        return upright(_rgba(image, path) if alpha else _rgb(image, path), image)


def _described(handle: Any, path: Path) -> tuple[int, int, str]:
    with Image.open(handle, formats=FORMATS) as image:
        _check(image, path)
        animated = image.format in _ANIMATED_FORMATS and getattr(image, "is_animated", False)
        note = "animated or of several pages, the first is used" if animated else ""
        width, height = image.size
        if not _ends_as_whole(handle, image):
            if image.format == "JPEG":
                image.draft(None, (1, 1))  # an eighth of the size: found broken much sooner
            image.load()
        if image.format == "TIFF":  # Pillow has turned it
            return *image.size, note
        return (height, width, note) if orientation(image) >= 5 else (width, height, note)


def _check(image: Image.Image, path: Path) -> None:
    """Raises UserError where the header alone rules the picture out."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(path)
    if max(width, height) > MAX_ASPECT * min(width, height):
        what = f"it is {width} x {height}: more than {MAX_ASPECT} times as long as wide"
        raise UserError(what, where=path, remedy="Crop it")
    if not (image.mode == "I" or image.mode.startswith("I;16") or image.mode in _ALPHA_MODES | _PLAIN_MODES):
        what = f"its kind of pixels ({image.mode}) isn't read"
        raise UserError(what, where=path, remedy="Save it as an 8-bit RGB PNG")


def _ends_as_whole(handle: Any, image: Image.Image) -> bool:
    """Whether the file ends as one of its format does; False also where only decoding would tell."""
    place = handle.tell()
    size = handle.seek(0, os.SEEK_END)
    try:
        if image.format in ("JPEG", "MPO"):
            return _slice(handle, size - 2, 2) == b"\xff\xd9"
        if image.format == "PNG":
            return _slice(handle, size - 12, 12) == _PNG_END and not _notes_behind(handle, size)
        if image.format == "WEBP":
            return int.from_bytes(_slice(handle, 4, 4), "little") + 8 <= size
        if image.format == "GIF":
            return _slice(handle, size - 1, 1) == b";"
        if isinstance(image, BmpImageFile) and image.tile and image.tile[0][0] == "raw":
            rows = (image.width * _bits(handle) + 31) // 32 * 4 * image.height
            return image.tile[0][2] + rows <= size
        return False
    finally:
        handle.seek(place)


def _bits(handle: Any) -> int:
    """Bits of a pixel, as the header of a BMP says."""
    return int.from_bytes(_slice(handle, 24 if _slice(handle, 14, 1) == b"\x0c" else 28, 2), "little")


def _slice(handle: Any, start: int, length: int) -> bytes:
    handle.seek(max(start, 0))
    return handle.read(length)


def _notes_behind(handle: Any, size: int) -> bool:
    """Whether a PNG has text or EXIF behind its pixels, where Pillow finds it by decoding them."""
    place, pixels = 8, False
    while place + 8 <= size:
        head = _slice(handle, place, 8)
        pixels = pixels or head[4:] == b"IDAT"
        if pixels and head[4:] in _PNG_NOTES:
            return True
        place += 12 + int.from_bytes(head[:4], "big")
    return False


def upright(picture: Image.Image, source: Image.Image) -> Image.Image:
    """Turn `picture` as the EXIF data of `source` say. Pillow itself turns TIFF."""
    method = None if source.format == "TIFF" else _UPRIGHT.get(orientation(source))
    return picture if method is None else picture.transpose(method)


def orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts; damaged data say nothing. A PNG is not decoded for what lies behind its pixels."""
    try:
        found = Image.Image.getexif(image).get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - a parser of damaged bytes: whatever it raises, the pixels are sound
        return 1
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def has_transparency(image: Image.Image) -> bool:
    """Whether a picture as opened can be transparent somewhere."""
    return image.mode in _ALPHA_MODES or (image.mode in _PLAIN_MODES and "transparency" in image.info)


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    """A loaded picture of any mode as RGB; transparent parts become white."""
    if image.mode not in _ALPHA_MODES | _PLAIN_MODES:
        return _from_16_bit(np.asarray(image), path)
    return flat(image.convert("RGBA")) if has_transparency(image) else image.convert("RGB")


def flat(picture: Image.Image, colour: str = "white") -> Image.Image:
    """An RGBA picture as RGB, its transparency on a colour; an RGB picture as it is."""
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture).convert("RGB")


def _rgba(image: Image.Image, path: Path) -> Image.Image:
    """A loaded picture of any mode as RGBA, the colours below its transparency as they are."""
    return image.convert("RGBA") if has_transparency(image) else _rgb(image, path).convert("RGBA")


def _from_16_bit(values: NDArray[Any], path: Path) -> Image.Image:
    """Grey of 0 … 65535 as RGB; Pillow's own conversion would clip all above 255."""
    if values.min() < 0 or values.max() > 65535:
        raise UserError("its pixels are 32-bit numbers", where=path, remedy="Save it as an 8-bit RGB PNG")
    grey = (values.astype(np.float32) / 257 + 0.5).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _too_large(path: Path) -> UserError:
    what = f"it has more than {MAX_PIXELS // 1_000_000} million pixels"
    return UserError(what, where=path, remedy="Save it smaller: far fewer are trained on")


def broken(error: Exception, path: Path) -> UserError:
    """What a decoder's error says of the file."""
    if isinstance(error, OSError) and error.errno:
        what = f"it can't be opened ({os.strerror(error.errno)})"
    else:
        what = f"it is broken or cut short ({str(error) or type(error).__name__})"
    return UserError(what, where=path, remedy="Replace the file or remove it")


def _unknown(head: bytes) -> str:
    """What is wrong with a file that begins with `head` and that no decoder takes."""
    if not head:
        return "the file is empty"
    if head[4:8] == b"ftyp":
        return "it is a HEIC, AVIF or video file, whatever its name says"
    return "it is no JPEG, PNG, WebP, BMP, GIF or TIFF picture"


@dataclass(frozen=True)
class Crop:
    """A picture as it is trained: pixels uint8 [h, w, 3], and mask uint8 [h, w], 255 where the loss counts fully.

    top, left: of the cut, in the scaled picture.
    """

    pixels: NDArray[np.uint8]
    top: int
    left: int
    mask: NDArray[np.uint8] | None = None

    def flipped(self) -> Crop:
        """Its mirror image."""
        mask = None if self.mask is None else np.ascontiguousarray(self.mask[:, ::-1])
        return replace(self, pixels=np.ascontiguousarray(self.pixels[:, ::-1]), mask=mask)


def crop(
    path: str | Path, fit: Fit, *, alpha: bool = False, mask: str | Path | None = None, random: Random | None = None
) -> Crop:
    """Read a picture, scale it as `fit` says and cut its bucket out: at the centre, or at random places.

    mask: a picture of the same shape whose red tells where the loss counts; else, with `alpha`, the transparency does,
    and the colours below it are kept, as kohya does. Raises UserError as `read` does, and where a mask doesn't fit.
    """
    picture = read(path, alpha=alpha and mask is None)
    if picture.size != fit.size:
        what = f"it is {picture.width} x {picture.height} now, not {fit.size[0]} x {fit.size[1]}"
        raise UserError(what, where=path, remedy="Leave the pictures as they are while a run begins")
    pixels = resize(picture, fit.resized)
    if mask is not None:
        pixels = np.concatenate([pixels, _mask(Path(mask), fit)], axis=2)
    left, top = (_start(fit.resized[axis] - fit.bucket[axis], random) for axis in (0, 1))
    cut = pixels[top : top + fit.bucket[1], left : left + fit.bucket[0]]
    masked = cut.shape[2] == 4
    return Crop(np.ascontiguousarray(cut[..., :3]), top, left, np.ascontiguousarray(cut[..., 3]) if masked else None)


def _start(spare: int, random: Random | None) -> int:
    """Where the cut begins. kohya draws, first for the width, only where there is something to cut off."""
    return spare // 2 if random is None or not spare else random.randint(0, spare)


def _mask(path: Path, fit: Fit) -> NDArray[np.uint8]:
    """[h, w, 1] of the picture's scaled size: red, whatever the transparency."""
    picture = read(path, alpha=True)
    if abs(picture.width / picture.height / (fit.size[0] / fit.size[1]) - 1) > 0.01:
        what = f"the mask is {picture.width} x {picture.height}, its picture {fit.size[0]} x {fit.size[1]}"
        raise UserError(what, where=path, remedy="Make the mask of the picture's size")
    return resize(picture.getchannel("R"), fit.resized)


def resize(picture: Image.Image, size: Size) -> NDArray[np.uint8]:
    """Scale to (width, height): uint8 [height, width, channels].

    kohya's rule to the pixel: averaging areas where both sides shrink, Lanczos otherwise.
    """
    if size == picture.size:
        pixels = np.asarray(picture)
    elif size[0] <= picture.width and size[1] <= picture.height:
        pixels = np.asarray(picture)
        return area_resize(pixels if pixels.ndim == 3 else pixels[..., None], *size)
    else:
        pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    return pixels if pixels.ndim == 3 else pixels[..., None]


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


def _sums(values: NDArray[Any], size: int) -> NDArray[np.float32]:
    """[n, m] to [size, m]: sums over n / size rows each, rows at the border counted by the share that lies inside.

    In single precision, as OpenCV: whole shares are exact, and others as near to OpenCV's as double precision comes.
    """
    count = len(values)
    scale = count / size
    step = max(2, _ROWS // math.ceil(scale))
    out = np.empty((size, values.shape[1]), np.float32)
    for start in range(0, size, step):
        stop = min(start + step, size)
        first, last = int(start * scale), min(math.ceil(stop * scale), count)
        edges = np.arange(start, stop + 1)[:, None] * scale
        rows = np.arange(first, last)
        weights = np.clip(np.minimum(edges[1:], rows + 1) - np.maximum(edges[:-1], rows), 0, 1)
        np.matmul(weights.astype(np.float32), values[first:last].astype(np.float32), out=out[start:stop])
    return out
