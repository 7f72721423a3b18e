"""WD14-style taggers from a file, for hosts without a captioner: model.onnx with selected_tags.csv beside it.

They run by onnxruntime where that can be imported; nothing is installed or downloaded.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..dataset import images
from ..dataset.tagging import Tagged, TagOptions, tags_text
from ..errors import UserError

MODEL, TAGS = "model.onnx", "selected_tags.csv"
RATING, CHARACTER = 9, 4
"""Categories of tags, as the file has them; 0 is everything else."""

CHARACTER_THRESHOLD = 0.85
"""How sure a name has to be at least: a wrong one does harm."""

OnCaption = Callable[[int, int, Path, str], None]


class Session(Protocol):
    """As much of onnxruntime.InferenceSession as is used."""

    def get_inputs(self) -> Sequence[Any]:
        """One, with `name` and `shape`: pictures, height, width, 3."""

    def run(self, names: None, feed: dict[str, Any], /) -> Sequence[NDArray[np.float32]]:
        """The first result: pictures x tags, from 0 to 1."""


@dataclass(frozen=True)
class Label:
    """A tag and its category."""

    name: str
    category: int = 0


def available() -> bool:
    """Whether onnxruntime can be imported here."""
    return importlib.util.find_spec("onnxruntime") is not None


def folders(place: Path) -> list[Path]:
    """Those of `place`, itself included, that hold a tagger."""
    if not place.is_dir():
        return []
    return [one for one in (place, *sorted(place.iterdir())) if (one / MODEL).is_file() and (one / TAGS).is_file()]


class OnnxTagger:
    """Tags of Danbooru's by one of these models; implements host.base.Captioner.

    `start` opens a model; by onnxruntime where none is given.
    """

    name, title, kind = "onnx", "WD14 tagger (ONNX file)", "tags"

    def __init__(self, place: Path, start: Callable[[Path], Session] | None = None) -> None:
        """place: the tagger's folder, or one of several of which the first counts."""
        self.place, self._start = place, start or _onnxruntime

    def note(self) -> str:
        """What is missing."""
        try:
            self._folder()
        except UserError as error:
            return str(error)
        return "" if available() or self._start is not _onnxruntime else _NO_RUNTIME

    def tag(self, pictures: Sequence[Path], options: TagOptions, on_done: OnCaption, stop: Event) -> Tagged:
        """Caption pictures a batch at a time; see host.base.Captioner."""
        folder = self._folder()
        labels = read_labels(folder / TAGS)
        session = self._start(folder / MODEL)
        source = session.get_inputs()[0]
        side = _side(source.shape, folder / MODEL)
        fixed = source.shape[0] if isinstance(source.shape[0], int) and source.shape[0] > 0 else None
        captions: dict[Path, str] = {}
        problems: list[UserError] = []
        left = iter(pictures)
        done = 0
        while not stop.is_set() and (batch := list(islice(left, fixed or options.batch_size))):
            read = [_read(path, side) for path in batch]
            sound = [pixels for pixels in read if not isinstance(pixels, UserError)]
            made = iter(self._run(session, source.name, sound, fixed, labels, folder))
            for path, pixels in zip(batch, read, strict=True):
                done += 1
                if isinstance(pixels, UserError):
                    problems.append(pixels)
                else:
                    captions[path] = _caption(labels, next(made), options)
                on_done(done, len(pictures), path, captions.get(path, ""))
        return Tagged(captions, tuple(problems), done < len(pictures))

    def _run(
        self,
        session: Session,
        name: str,
        sound: list[NDArray[np.float32]],
        fixed: int | None,
        labels: list[Label],
        folder: Path,
    ) -> NDArray[np.float32]:
        """Scores, a row a picture. A model of a fixed number of pictures gets empty ones for those that lack."""
        if not sound:
            return np.zeros((0, len(labels)), np.float32)
        pixels = np.stack(sound)
        if fixed and len(pixels) < fixed:
            pixels = np.concatenate([pixels, np.zeros((fixed - len(pixels), *pixels.shape[1:]), np.float32)])
        try:
            scores = np.asarray(session.run(None, {name: pixels})[0], np.float32)
        except Exception as error:  # onnxruntime's own errors are many
            what = f"the model fails ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            raise UserError(what, where=folder / MODEL, remedy="Use another, or a smaller batch_size") from error
        if scores.ndim != 2 or scores.shape[1] != len(labels):
            what = f"the model scores {scores.shape[-1]} tags, and {TAGS} names {len(labels)}"
            raise UserError(what, where=folder, remedy="Take both files from the same place")
        return scores[: len(sound)]

    def _folder(self) -> Path:
        found = folders(self.place)
        if not found:
            what = "there is no tagger"
            raise UserError(what, where=self.place, remedy=f"Put a WD14 tagger's {MODEL} and {TAGS} there")
        return found[0]


def read_labels(path: Path) -> list[Label]:
    """The model's tags in order. Raises UserError."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            rows = list(csv.DictReader(handle))
        labels = [Label(row["name"], int(row["category"])) for row in rows]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        what = f"it isn't a list of tags with the columns name and category ({error})"
        raise UserError(what, where=path, remedy="Take it from where the model is from") from None
    return labels


_NO_RUNTIME = "This program's Python has no onnxruntime, which WD14 taggers need: install it there, and start again"


def _onnxruntime(model: Path) -> Session:
    try:
        import onnxruntime
    except ImportError as error:
        remedy = "Install it into this program's Python (pip install onnxruntime), or write the captions by hand"
        raise UserError(f"onnxruntime can't be imported ({error})", where="captioner", remedy=remedy) from None
    try:
        session: Session = onnxruntime.InferenceSession(str(model), providers=onnxruntime.get_available_providers())
    except Exception as error:  # its errors are of many kinds
        what = f"the model can't be opened ({(str(error) or type(error).__name__).splitlines()[0]})"
        raise UserError(what, where=model, remedy="Download it again") from error
    return session


def _side(shape: Sequence[Any], model: Path) -> int:
    if len(shape) == 4 and shape[3] == 3 and isinstance(shape[1], int) and shape[1] == shape[2]:
        return shape[1]
    what = f"its input is {list(shape)}, not pictures x side x side x 3"
    raise UserError(what, where=model, remedy="Use a WD14 tagger in its usual ONNX form")


def _read(path: Path, side: int) -> NDArray[np.float32] | UserError:
    """side x side x 3 from 0 to 255, blue first, as these models learnt: whole, on a white square."""
    try:
        picture = images.read(path)
    except UserError as error:
        return error
    length = max(picture.size)
    square = Image.new("RGB", (length, length), "white")
    square.paste(picture, ((length - picture.width) // 2, (length - picture.height) // 2))
    pixels = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), np.float32)
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _caption(labels: list[Label], scores: NDArray[np.float32], options: TagOptions) -> str:
    sure = [
        (label.name, float(score))
        for label, score in zip(labels, scores, strict=True)
        if label.category != RATING and (label.category != CHARACTER or score >= CHARACTER_THRESHOLD)
    ]
    return tags_text([name for name, _ in sure], [score for _, score in sure], options)
