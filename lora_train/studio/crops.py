"""Cutting pictures to what shall be learnt: which box, and the picture that is made of it.

A box is in pixels of the upright picture. What is made goes into the project as PNG, listed in its journal; the picture
it was made of is only read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageColor

from ..dataset import images
from ..errors import UserError
from ..files import check_output_name
from . import look
from .journal import Change
from .project import Project
from .scan import SHAPES

__all__ = ["SHAPES", "Box", "Cut", "Face", "Made", "Options", "Rendered"]

ALPHA = ("flat", "mask", "keep")
SIDES = (512, 768, 1024)
PARTS = ("face", "clothes", "shoes", "body")
"""Of one person in one photograph."""

Enlarge = Callable[[Image.Image, int, int], Image.Image]
"""(picture, width, height): the RGB picture at that size, which is larger, as a host's upscaler makes it."""

_LOOK, _CELL = 256, 8
_FACE_LOOK = 1024
_ENLARGED = 4  # times beyond which an enlarged picture holds too little


@dataclass(frozen=True)
class Box:
    """A part of a picture; never empty."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """The first column beyond it."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """The first row beyond it."""
        return self.top + self.height

    def scaled(self, factor: float) -> Box:
        """In a picture `factor` times as large."""
        left, top = round(self.left * factor), round(self.top * factor)
        return Box(left, top, max(1, round(self.width * factor)), max(1, round(self.height * factor)))


@dataclass(frozen=True)
class Face:
    """A face that a detector found: from the brows to the chin, score from 0 to 1."""

    box: Box
    score: float = 1.0


# Boxes


def inside(left: float, top: float, width: float, height: float, size: tuple[int, int]) -> Box:
    """A box moved into a picture, and made smaller in proportion where it is too large for it."""
    factor = min(1.0, size[0] / width, size[1] / height)
    wide, high = min(size[0], max(1, round(width * factor))), min(size[1], max(1, round(height * factor)))
    x, y = left + (width - wide) / 2, top + (height - high) / 2
    return Box(min(max(0, round(x)), size[0] - wide), min(max(0, round(y)), size[1] - high), wide, high)


def checked(box: Box, size: tuple[int, int]) -> Box:
    """`box`, if it lies in a picture of that size. Raises UserError."""
    if box.width < 1 or box.height < 1 or min(box.left, box.top) < 0 or box.right > size[0] or box.bottom > size[1]:
        what = f"the box {box.left}, {box.top}, {box.width} x {box.height} isn't in a picture of {size[0]} x {size[1]}"
        raise UserError(what, where="box", remedy="Give left, top, width and height inside it")
    return box


def ratio(shape: str) -> float:
    """Width to height of "2:3" and the like. Raises UserError."""
    wide, _, high = shape.partition(":")
    try:
        value = float(wide) / float(high)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not 1 / images.MAX_ASPECT <= value <= images.MAX_ASPECT:
        raise UserError(f"{shape!r} is no aspect ratio", where="shape", remedy=f"Write one such as {', '.join(SHAPES)}")
    return value


def largest(size: tuple[int, int], aspect: float) -> tuple[int, int]:
    """Width and height of the largest box of that aspect in a picture."""
    width, height = size
    if width > height * aspect:
        return max(1, round(height * aspect)), height
    return width, max(1, min(height, round(width / aspect)))


def centred(size: tuple[int, int], aspect: float) -> Box:
    """The largest box of that aspect, in the middle."""
    width, height = largest(size, aspect)
    return Box((size[0] - width) // 2, (size[1] - height) // 2, width, height)


def head(face: Box, size: tuple[int, int], shoulder: float = 0.6) -> Box:
    """The square around a head with hair above and some shoulder below; `shoulder` in heights of the face."""
    side = face.height * (1.55 + shoulder)
    box = inside(face.left + face.width / 2 - side / 2, face.top - 0.55 * face.height, side, side, size)
    left = _holding(box.left, box.width, face.left, face.width)
    return Box(left, _holding(box.top, box.height, face.top, face.height), box.width, box.height)


def _holding(start: int, length: int, wanted: int, extent: int) -> int:
    """Where a stretch begins that is moved no more than it must be to hold another one, as far as it is long enough."""
    low, high = sorted((wanted, wanted + extent - length))
    return min(max(start, low), high)


def parts(face: Box, size: tuple[int, int]) -> dict[str, Box]:
    """Boxes of one standing person for folders of their own: face, clothes, shoes, body without the face.

    Proposals by the proportions of a body of seven and a half heads; parts that the picture doesn't show are missing.
    """
    tall = face.height * 1.4  # of the head
    crown, middle = face.bottom - tall, face.left + face.width / 2
    bands = {"clothes": (1.05, 5.5, 3.0), "shoes": (6.7, 7.7, 2.0), "body": (1.0, 7.7, 3.4)}
    found = {"face": head(face, size, 0.3)}
    for name, (start, stop, width) in bands.items():
        top, bottom = max(0.0, crown + start * tall), min(float(size[1]), crown + stop * tall)
        left, right = max(0.0, middle - width * tall / 2), min(float(size[0]), middle + width * tall / 2)
        if bottom - top >= 0.6 * (stop - start) * tall and right - left >= 8:
            found[name] = inside(left, top, right - left, bottom - top, size)
    return found


def focal(
    picture: Image.Image, size: tuple[int, int], aspect: float, zoom: float = 1.0, faces: Sequence[Box] = ()
) -> Box:
    """The box of that aspect with most in it: edges, varied tones, faces, and what is near the middle.

    picture: RGB, small, of a picture of `size`, as are `faces`; zoom above 1 makes the box smaller than the largest.
    """
    weights = interest(picture)
    rows, columns = weights.shape
    width, height = (side / max(1.0, zoom) for side in largest(size, aspect))
    wide, high = (max(1, round(part)) for part in (width / size[0] * columns, height / size[1] * rows))
    wide, high = min(wide, columns), min(high, rows)
    for face in faces:
        x, y = (
            slice(*_cells(face.left, face.right, size[0], columns)),
            slice(*_cells(face.top, face.bottom, size[1], rows)),
        )
        weights[y, x] += 3 * weights.max()
    sums = np.zeros((rows + 1, columns + 1))
    sums[1:, 1:] = weights.cumsum(0).cumsum(1)
    windows = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    best = np.argwhere(windows >= windows.max() * (1 - 1e-9))
    y, x = best[len(best) // 2]  # among equals the one in the middle
    return inside(x / columns * size[0], y / rows * size[1], width, height, size)


def interest(picture: Image.Image) -> NDArray[np.float64]:
    """How much there is to see in each cell, [rows, columns]: edges, entropy of tones, nearness to the middle."""
    side = max(_CELL, min(_LOOK, max(picture.size)))
    factor = side / max(picture.size)
    size = tuple(max(_CELL, round(length * factor) // _CELL * _CELL) for length in picture.size)
    grey = np.asarray(picture.convert("L").resize(size, Image.Resampling.BOX)).astype(np.float64)
    across, down = np.abs(np.diff(grey, axis=1, prepend=grey[:, :1])), np.abs(np.diff(grey, axis=0, prepend=grey[:1]))
    edges = _in_cells(across + down).mean(axis=2)
    tones = (_in_cells(grey) // 16).astype(np.int64)
    shares = np.stack([(tones == tone).mean(axis=2) for tone in range(16)])
    entropy = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=0)
    y, x = (np.linspace(-1, 1, length) for length in edges.shape)
    middle = np.exp(-(y[:, None] ** 2 + x[None] ** 2))
    return 0.6 * _unit(edges) + 0.3 * _unit(entropy) + 0.1 * middle


def split(size: tuple[int, int], aspect: float, overlap: float = 0.2, threshold: float = 1.3) -> list[Box]:
    """Boxes of that aspect along a picture that is much longer than it; one, in the middle, where it isn't.

    overlap: the least share of a box that lies in the next one; threshold: how many boxes long the picture must be.
    """
    _check_overlap(overlap)
    width, height = largest(size, aspect)
    if max(size[0] / width, size[1] / height) < threshold:
        return [centred(size, aspect)]
    return tiles(size, (width, height), overlap)


def tiles(size: tuple[int, int], tile: tuple[int, int], overlap: float = 0.2) -> list[Box]:
    """Boxes of one size that cover a picture evenly, each reaching `overlap` of a box or more into the next."""
    _check_overlap(overlap)
    width, height = min(tile[0], size[0]), min(tile[1], size[1])
    across, down = _starts(size[0], width, overlap), _starts(size[1], height, overlap)
    return [Box(left, top, width, height) for top in down for left in across]


def _check_overlap(overlap: float) -> None:
    if not 0 <= overlap <= 0.9:
        raise UserError(f"{overlap!r} is not between 0 and 0.9", where="overlap", remedy="Change it")


def _starts(length: int, box: int, overlap: float) -> list[int]:
    count = max(1, math.ceil((length - box * overlap) / (box * (1 - overlap)) - 1e-9))
    return [round(n * (length - box) / (count - 1)) for n in range(count)] if count > 1 else [0]


def _cells(start: int, stop: int, length: int, count: int) -> tuple[int, int]:
    first = max(0, min(count - 1, start * count // length))
    return first, max(first + 1, math.ceil(stop * count / length))


def _in_cells(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[h, w] to [rows, columns, values of a cell]."""
    rows, columns = (length // _CELL for length in values.shape)
    return values.reshape(rows, _CELL, columns, _CELL).swapaxes(1, 2).reshape(rows, columns, -1)


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values / values.max() if values.max() > 0 else values


# What is made


@dataclass(frozen=True)
class Cut:
    """A picture to be made: of what, which part (None: all of it), into which <repeats>_<name> folder of the project.

    suffix: put behind its name, for several from one picture: "face".
    """

    picture: Path
    folder: str
    box: Box | None = None
    suffix: str = ""


@dataclass(frozen=True)
class Options:
    """side: pixels of the shorter side; None keeps the size. background: a colour below what is transparent.

    alpha: "flat" (on the background), "mask" (that, and the transparency as a picture in the project's masks/), "keep".
    captions: whether the text file beside the picture is copied. remove: tells what is no background, which becomes
    transparent before anything else is done; see masks.remover.
    """

    side: int | None = None
    background: str = "white"
    alpha: str = "flat"
    captions: bool = True
    extension: str = ".txt"
    remove: Callable[[Image.Image], Image.Image] | None = None

    def check(self) -> Options:
        """Itself. Raises UserError."""
        if self.side is not None and not 64 <= self.side <= 4096:
            raise UserError(f"{self.side} is not between 64 and 4096", where="side", remedy=f"Choose from {SIDES}")
        if self.alpha not in ALPHA:
            remedy = f"Choose from {', '.join(ALPHA)}"
            raise UserError(f"{self.alpha!r} is none of its choices", where="alpha", remedy=remedy)
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise UserError(f"{self.background!r} is no colour", where="background", remedy='Write "#ffffff"') from None
        return self


@dataclass(frozen=True)
class Rendered:
    """A picture as it will be; mask: mode L of its size, white where it is opaque. factor: how much it is enlarged."""

    picture: Image.Image
    mask: Image.Image | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Made:
    """New pictures, what the user should know of them, and why others weren't made."""

    pictures: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[UserError, ...] = ()
    stopped: bool = False


def check_folder(name: str) -> str:
    """A name for a folder of cuts. Raises UserError."""
    try:
        return check_output_name(name)
    except UserError as error:
        remedy = "Write repeats, an underscore and a name, such as 10_hina"
        raise UserError(error.what, where="into", remedy=remedy) from None


def render(cut: Cut, options: Options, enlarge: Enlarge | None = None) -> Rendered:
    """The picture of a cut, which is not written anywhere. Raises UserError."""
    whole = images.read(cut.picture, alpha=True)
    if options.remove is not None:
        kept = options.remove(images.flat(whole))
        whole.putalpha(ImageChops.multiply(whole.getchannel("A"), kept.convert("L")))
    box = checked(cut.box, whole.size) if cut.box else Box(0, 0, *whole.size)
    picture = whole.crop((box.left, box.top, box.right, box.bottom))
    factor = options.side / min(picture.size) if options.side else 1.0
    size = tuple(max(1, round(length * factor)) for length in picture.size)
    if max(size) > images.MAX_ASPECT * min(size):
        what = f"it is more than {images.MAX_ASPECT} times as long as wide"
        raise UserError(what, where=cut.picture.name, remedy="Choose another box")
    alpha = picture.getchannel("A") if look.transparent(picture) else None
    if alpha is not None and options.alpha != "keep":
        picture = images.flat(picture, options.background)
    picture = _sized(picture.convert("RGB"), size, enlarge)
    if alpha is None or options.alpha == "flat":
        return Rendered(picture, None, factor)
    mask = alpha.resize(size, Image.Resampling.LANCZOS)
    if options.alpha == "keep":
        picture.putalpha(mask)
        return Rendered(picture, None, factor)
    return Rendered(picture, mask, factor)


def make(
    project: Project,
    cuts: Sequence[Cut],
    options: Options | None = None,
    enlarge: Enlarge | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
) -> Made:
    """Write the pictures of all cuts as one change of the project's journal. What fails is left out and named.

    Smaller pictures are made larger by `enlarge`, by Lanczos where it is None. Raises UserError for wrong options and
    folder names, before anything is written.
    """
    options = (options or Options()).check()
    for folder in {cut.folder for cut in cuts}:
        check_folder(folder)
    made: list[Path] = []
    problems: list[UserError] = []
    notes: list[str] = []
    folders = ", ".join(sorted({cut.folder for cut in cuts}))
    with project.journal.change(f"{len(cuts)} cut{'' if len(cuts) == 1 else 's'} into {folders}") as change:
        for number, cut in enumerate(cuts, 1):
            if stop and stop.is_set():
                return Made(tuple(made), tuple(notes), tuple(problems), True)
            try:
                made.append(_made(project, change, cut, options, enlarge, notes))
            except UserError as error:
                problems.append(error)
            if progress:
                progress(number, len(cuts))
    return Made(tuple(made), tuple(notes), tuple(problems))


def _made(
    project: Project, change: Change, cut: Cut, options: Options, enlarge: Enlarge | None, notes: list[str]
) -> Path:
    rendered = render(cut, options, enlarge)
    stem = f"{cut.picture.stem}-{cut.suffix}" if cut.suffix else cut.picture.stem
    caption = cut.picture.with_suffix(options.extension)
    target = _free(project.image / cut.folder, stem, options.extension)
    if rendered.mask is not None:
        mask = rendered.mask
        change.create(project.masks / cut.folder / target.name, lambda path: mask.save(path, "PNG"))
    change.create(target, lambda path: rendered.picture.save(path, "PNG"))
    if options.captions and caption.is_file():
        change.copy(caption, target.with_suffix(options.extension))
    if rendered.factor > _ENLARGED:
        notes.append(f"{target.name}: enlarged {rendered.factor:.1f} times, so there is little in it to learn")
    return target


def _free(folder: Path, stem: str, extension: str) -> Path:
    """A name that neither a picture nor a caption in the folder has."""
    taken = {os.path.splitext(name)[0] for name in os.listdir(folder)} if folder.is_dir() else set()  # noqa: PTH122, PTH208
    names = (stem, *(f"{stem}-{n}" for n in range(2, 100_000)))
    return folder / f"{next(name for name in names if name not in taken)}.png"


def _sized(picture: Image.Image, size: tuple[int, ...], enlarge: Enlarge | None) -> Image.Image:
    width, height = size
    if picture.size == (width, height):
        return picture
    if enlarge is not None and width > picture.width:
        made = enlarge(picture, width, height)
        if made.size != (width, height):
            what = f"the upscaler made {made.width} x {made.height}, not {width} x {height}"
            raise UserError(what, where="upscaler", remedy="Choose another")
        return made.convert("RGB")
    return picture.resize((width, height), Image.Resampling.LANCZOS)


# Cuts of many pictures

Detect = Callable[[Image.Image], Sequence[Face]]
"""The faces of an RGB picture, the surest first; see faces.detector."""


def faces_of(picture: Path, detect: Detect) -> tuple[tuple[int, int], list[Face]]:
    """(upright size, faces in its pixels, the largest first). Raises UserError for a broken picture."""
    width, height, _ = images.inspect(picture)
    small = images.flat(look.small(picture, _FACE_LOOK))
    factor = width / small.width
    found = [Face(_clipped(face.box.scaled(factor), (width, height)), face.score) for face in detect(small)]
    return (width, height), sorted(found, key=lambda face: -face.box.width * face.box.height)


def heads(
    pictures: Iterable[Path], detect: Detect, folder: str, shoulder: float = 0.6, every: bool = False
) -> tuple[list[Cut], list[UserError]]:
    """Cuts around the largest head of each picture, or every head; and which pictures have none or are broken."""
    cuts: list[Cut] = []
    problems: list[UserError] = []
    for picture, size, found in _seen(pictures, detect, problems):
        chosen = found if every else found[:1]
        suffixes = [""] if len(chosen) == 1 else [f"face{n}" for n in range(1, len(chosen) + 1)]
        cuts += [Cut(picture, folder, head(f.box, size, shoulder), s) for f, s in zip(chosen, suffixes, strict=True)]
    return cuts, problems


def persons(pictures: Iterable[Path], detect: Detect, folders: dict[str, str]) -> tuple[list[Cut], list[UserError]]:
    """Cuts of one person's parts into folders of their own: {"face": "100_hina woman", "shoes": "20_hina shoes"}."""
    cuts: list[Cut] = []
    problems: list[UserError] = []
    for picture, size, found in _seen(pictures, detect, problems):
        boxes = parts(found[0].box, size)
        cuts += [Cut(picture, folders[part], box, part) for part, box in boxes.items() if part in folders]
    return cuts, problems


def _seen(
    pictures: Iterable[Path], detect: Detect, problems: list[UserError]
) -> Iterator[tuple[Path, tuple[int, int], list[Face]]]:
    """(picture, size, faces) where there is a face; the others are added to `problems`."""
    for picture in pictures:
        try:
            size, found = faces_of(picture, detect)
            if not found:
                raise UserError("no face was found", where=picture.name, remedy="Draw its box by hand")
        except UserError as error:
            problems.append(error)
        else:
            yield picture, size, found


def shaped(
    pictures: Iterable[Path],
    folder: str,
    aspect: float,
    way: str = "focal",
    overlap: float = 0.2,
    detect: Detect | None = None,
) -> tuple[list[Cut], list[UserError]]:
    """Cuts of that aspect: "focal" (where most is to be seen), "centre", or "split" (several from a long picture)."""
    if way not in ("focal", "centre", "split"):
        raise UserError(f"{way!r} is none of its choices", where="way", remedy="Choose focal, centre or split")
    cuts: list[Cut] = []
    problems: list[UserError] = []
    for picture in pictures:
        try:
            boxes = _boxes(picture, aspect, way, overlap, detect)
        except UserError as error:
            problems.append(error)
            continue
        suffixes = [""] if len(boxes) == 1 else [str(n) for n in range(1, len(boxes) + 1)]
        cuts += [Cut(picture, folder, box, suffix) for box, suffix in zip(boxes, suffixes, strict=True)]
    return cuts, problems


def _boxes(picture: Path, aspect: float, way: str, overlap: float, detect: Detect | None) -> list[Box]:
    width, height, _ = images.inspect(picture)
    if way == "centre":
        return [centred((width, height), aspect)]
    if way == "split":
        return split((width, height), aspect, overlap)
    found = [face.box for face in faces_of(picture, detect)[1]] if detect else []
    return [focal(images.flat(look.small(picture, _LOOK)), (width, height), aspect, faces=found)]


def _clipped(box: Box, size: tuple[int, int]) -> Box:
    left, top = min(max(0, box.left), size[0] - 1), min(max(0, box.top), size[1] - 1)
    return Box(left, top, max(1, min(box.right, size[0]) - left), max(1, min(box.bottom, size[1]) - top))
