"""Finding faces: with models that the host has, for OpenCV's YuNet, facexlib's RetinaFace or a cascade of drawn faces;
else with our own detector, which is always there: a cascade for photographs, a small network for drawings, in numpy.

Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .. import paths
from ..errors import UserError
from .cascade import Cascade
from .crops import Box, Detect, Face
from .drawn_faces import Found, Network, apart, same

ORDER = ("yunet", "retinaface", "anime", "bundled", "haar")
"""The best first."""

TITLES = {
    "yunet": "OpenCV YuNet",
    "retinaface": "RetinaFace (facexlib)",
    "anime": "OpenCV cascade of drawn faces (lbpcascade_animeface.xml among the models)",
    "bundled": "Own detector (frontal faces, photographed or drawn)",
    "haar": "OpenCV Haar cascade (frontal faces of photographs)",
}

_YUNET, _RETINA, _ANIME, _HAAR = (
    "face_detection_yunet*.onnx",
    "detection_Resnet50_Final.pth",
    "lbpcascade_animeface*.xml",
    "haarcascade_frontalface_alt2.xml",
)
_SIDE = 640  # pixels of the longer side that YuNet and RetinaFace are given
_FRONTAL, _DRAWN = "haarcascade_frontalface_alt2.xml.gz", "drawn.npz"
_PHOTOGRAPH = 448  # pixels of the longer side that the cascade is given
_HALF_SURE, _ALONE = 0.5, 0.8  # scores of what both find, or one of them
_LEAST = 1 / 14  # of the shorter side: the smallest face that is worth a cut


@dataclass(frozen=True)
class Detector:
    """name is one of ORDER; title is for people; `detect` may be called from one thread at a time or several."""

    name: str
    title: str
    detect: Detect


def available(models: Sequence[Path] = ()) -> list[str]:
    """Names of the detectors that work here, the best first. models: the host's folders of models, looked into."""
    return [name for name in ORDER if _file(name, models)]


def detector(name: str = "", models: Sequence[Path] = ()) -> Detector:
    """The detector of that name, the best one for "". Raises UserError where there is none, or it can't be loaded."""
    found = available(models)
    if name and name not in found:
        what = f"there is no face detector {name!r} here"
        raise UserError(what, where="detector", remedy=f"Choose from {', '.join(found)}")
    name = name or found[0]
    file = _file(name, models)
    assert file is not None
    try:
        detect = _MAKERS[name](file)
    except Exception as error:  # a model file may be broken in any way
        remedy = f"Remove or replace {file.name}, or choose another"
        raise UserError(f"it can't be loaded ({_said(error)})", where=TITLES[name], remedy=remedy) from error
    return Detector(name, TITLES[name], _guarded(detect, TITLES[name]))


def _guarded(detect: Detect, title: str) -> Detect:
    """Networks of OpenCV and torch modules keep state while they run: one picture at a time."""
    lock = threading.Lock()

    def guarded(picture: Image.Image) -> Sequence[Face]:
        try:
            with lock:
                return sorted(detect(picture.convert("RGB")), key=lambda face: -face.score)
        except Exception as error:  # a network may fail in any way
            raise UserError(f"it failed ({_said(error)})", where=title, remedy="Choose another detector") from error

    return guarded


def _file(name: str, models: Sequence[Path]) -> Path | None:
    """What the detector reads; None where it or its package is missing."""
    if name == "bundled":
        return paths.FACES / _FRONTAL
    if name == "anime":
        return next(_named(models, _ANIME), None)
    if importlib.util.find_spec("facexlib" if name == "retinaface" else "cv2") is None:
        return None
    if name == "retinaface":
        return next(_named(models, _RETINA), None)
    try:
        import cv2
    except Exception:  # noqa: BLE001 - of a system library that is missing, for one
        return None
    if name == "yunet":
        return next(_named(models, _YUNET), None) if hasattr(cv2, "FaceDetectorYN") else None
    cascade = Path(getattr(getattr(cv2, "data", None), "haarcascades", "")) / _HAAR
    return cascade if cascade.is_file() else None


def _named(folders: Sequence[Path], pattern: str) -> Iterator[Path]:
    """Files of that name in the folders and in those directly in them."""
    for folder in folders:
        if folder.is_dir():
            yield from sorted(p for p in (*folder.glob(pattern), *folder.glob(f"*/{pattern}")) if p.is_file())


def _bundled(file: Path) -> Detect:
    """The frontal cascade and the network: what both find counts at once, what one finds alone must be surer."""
    photographed, drawn = _cascade(file), Network(file.with_name(_DRAWN))

    def detect(picture: Image.Image) -> list[Face]:
        seen = drawn.look(picture, _HALF_SURE)
        found: list[Found] = []
        for face in photographed(picture):
            one = Found(face.box.left, face.box.top, face.box.width, face.score)
            twin = next((other for other in seen if same(one, other)), None)
            if twin:
                seen.remove(twin)
                found.append(one.with_(twin))
            elif one.score >= _ALONE:
                found.append(one)
        found += [one for one in seen if one.score >= _ALONE]
        return [Face(_box((one.left, one.top, one.side, one.side)), one.score) for one in apart(found)]

    return detect


def _cascade(file: Path) -> Detect:
    """A cascade in numpy."""
    cascade = Cascade(file)

    def detect(picture: Image.Image) -> list[Face]:
        small, factor = _within(picture, _PHOTOGRAPH)
        least = max(cascade.side, min(small.size) * _LEAST)
        windows = cascade.look(ImageOps.equalize(small.convert("L")), least, factor=1.12, agree=5)
        enough = windows.agreed.max(initial=0) / 3
        return [
            Face(_box((*square[:2], square[2], square[2])).scaled(factor), float(1 - 0.5 ** (agreed / 6)))
            for square, agreed in zip(windows.squares, windows.agreed, strict=True)
            if agreed >= enough
        ]

    return detect


def _haar(file: Path) -> Detect:
    """A cascade by OpenCV."""
    import cv2

    cascade = cv2.CascadeClassifier(str(file))
    if cascade.empty():
        raise ValueError("OpenCV can't read it")

    def detect(picture: Image.Image) -> list[Face]:
        grey = cv2.equalizeHist(np.asarray(picture.convert("L")))
        least = max(24, min(picture.size) // 16)
        boxes, _, weights = cascade.detectMultiScale3(grey, 1.1, 5, 0, (least, least), outputRejectLevels=True)
        return [Face(_box(box), _squashed(weight)) for box, weight in zip(boxes, np.ravel(weights), strict=True)]

    return detect


def _yunet(file: Path) -> Detect:
    import cv2

    network = cv2.FaceDetectorYN.create(str(file), "", (_SIDE, _SIDE), 0.7, 0.3)

    def detect(picture: Image.Image) -> list[Face]:
        small, factor = _within(picture)
        network.setInputSize(small.size)
        _, rows = network.detect(np.ascontiguousarray(np.asarray(small)[..., ::-1]))
        return [] if rows is None else [Face(_box(row[:4]).scaled(factor), float(row[-1])) for row in rows]

    return detect


def _retinaface(file: Path) -> Detect:
    """On the CPU, so that it takes nothing of the memory that drawing or training needs."""
    from facexlib.detection import init_detection_model

    network = init_detection_model("retinaface_resnet50", device="cpu", model_rootpath=str(file.parent))

    def detect(picture: Image.Image) -> list[Face]:
        import torch

        small, factor = _within(picture)
        with torch.no_grad():
            rows = network.detect_faces(np.ascontiguousarray(np.asarray(small)[..., ::-1]), 0.8)
        if not len(rows):
            return []
        boxes = [(x0, y0, x1 - x0, y1 - y0, score) for x0, y0, x1, y1, score in np.asarray(rows)[:, :5]]
        return [Face(_box(row[:4]).scaled(factor), float(row[4])) for row in boxes]

    return detect


_MAKERS: dict[str, Callable[[Path], Detect]] = {
    "haar": _haar,
    "anime": _cascade,
    "bundled": _bundled,
    "yunet": _yunet,
    "retinaface": _retinaface,
}


def _within(picture: Image.Image, side: int = _SIDE) -> tuple[Image.Image, float]:
    """(the picture at most `side` pixels long, how many times larger it was)."""
    factor = max(picture.size) / side
    if factor <= 1:
        return picture, 1.0
    size = (max(1, round(picture.width / factor)), max(1, round(picture.height / factor)))
    return picture.resize(size, Image.Resampling.BILINEAR), factor


def _box(row: Any) -> Box:
    left, top, width, height = (round(float(value)) for value in row)
    return Box(left, top, max(1, width), max(1, height))


def _said(error: Exception) -> str:
    """The first line of what a library says, which may be a page."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _squashed(weight: float) -> float:
    """A cascade's sum of votes, which has no upper bound, from 0 to 1."""
    return float(1 / (1 + np.exp(-weight)))
