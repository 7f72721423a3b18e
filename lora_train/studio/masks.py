"""Masks: which part of a picture the training learns from. White is learnt, black isn't, grey counts in part.

They lie in the project, masks/<folder of the picture>/<its name>.png, where masked training looks for them
(conditioning_data_dir). A training with masks wants one for every picture: `complete` adds white ones.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from PIL import Image, ImageOps

from ..dataset import images
from ..dataset.folders import shown
from ..errors import UserError
from . import project as projects
from .journal import Change
from .project import Project

WAYS = ("alpha", "background", "white", "invert")
"""Where a mask comes from: transparency, what rembg takes for the background, all of it, its own negative."""

Remove = Callable[[Image.Image], Image.Image]
"""Of an RGB picture: mode L of its size, white where it is no background."""

_LOADED: dict[tuple[str, Path, int], Any] = {}
"""The session that was used last: a model takes seconds to load."""
_LOADING, _RUNNING = threading.Lock(), threading.Lock()
_MOST = 2048  # pixels of a mask's longer side; training looks at fewer

REMOVERS = {
    "isnet-general-use": "fc16ebd8b0c10d971d3513d564d01e29",
    "u2net": "60024c5c889badc19c04ad937298a77b",
    "isnet-anime": "6f184e756bb3bd901c8849220a83e38e",
    "birefnet-general": "7a35a0141cbbc80de11d9c9a28f52697",
    "birefnet-general-lite": "4fab47adc4ff364be1713e97b7e66334",
    "birefnet-portrait": "c3a64a6abf20250d090cd055f12a3b67",
    "birefnet-massive": "33e726a2136a3d59eb0fdf613e31e3e9",
    "birefnet-hrsod": "c017ade5de8a50ff0fd74d790d268dda",
    "birefnet-dis": "2d4d44102b446f33a4ebb2e56c051f2b",
    "birefnet-cod": "f6d0d21ca89d287f17e7afe9f5fd3b45",
    "bria-rmbg": "",
    "u2net_human_seg": "c09ddc2e0104f800e3e1bb4652583d1f",
    "silueta": "55e59e0d8062d2f5d013f4725ee84782",
    "u2netp": "8e83ca70e441ab06c318d82300c84806",
}
"""rembg's models that tell what is in front, the first of them that is there is used; MD5 of the published files.

Its u2net_cloth_seg (three masks), sam (needs points) and custom ones (need a path) are none of them.
"""


@dataclass(frozen=True)
class Masked:
    """How many masks were written, and why others weren't."""

    written: int
    problems: tuple[UserError, ...] = ()
    stopped: bool = False


# Where they are


def folder(project: Project, pictures: Path) -> Path:
    """Where the masks of a folder of pictures lie. Raises UserError for regularisation, which has none."""
    return projects.mask_folder(project, pictures)


def known(project: Project, pictures: Path) -> set[str]:
    """Names, without endings, of the masks of a folder of pictures."""
    try:
        names = os.listdir(folder(project, pictures))  # noqa: PTH208 - 10,000 names, which need no Path
    except (OSError, UserError):
        return set()
    split = (os.path.splitext(name) for name in names)  # noqa: PTH122
    return {stem for stem, suffix in split if suffix.lower() in images.SUFFIXES and not stem.startswith(".")}


def find(project: Project, picture: Path) -> Path | None:
    """A picture's mask; None where it has none."""
    try:
        place = folder(project, picture.parent)
    except UserError:
        return None
    candidates = (place / f"{picture.stem}{suffix}" for suffix in (".png", *sorted(images.SUFFIXES - {".png"})))
    return next((path for path in candidates if path.is_file()), None)


# What is made


def put(change: Change, project: Project, picture: Path, mask: Image.Image) -> Path:
    """Write a picture's mask as part of a change of the journal, in the place of the one it had."""
    width, height, _ = images.inspect(picture)
    factor = min(1.0, _MOST / max(width, height))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    made = mask.convert("L")
    made = made if made.size == size else made.resize(size, Image.Resampling.LANCZOS)
    written = io.BytesIO()
    made.save(written, "PNG", optimize=True)
    target = folder(project, picture.parent) / f"{picture.stem}.png"
    former = find(project, picture)
    if former is not None and former != target:
        change.move(former, _aside(project, former))
    return change.write(target, written.getvalue())


def make(
    project: Project,
    pictures: Sequence[Path],
    way: str,
    remove: Remove | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
) -> Masked:
    """Masks of many pictures by one of WAYS, as one change of the journal. What fails is left out and named."""
    if way not in WAYS:
        raise UserError(f"{way!r} is none of its choices", where="way", remedy=f"Choose from {', '.join(WAYS)}")
    if way == "background" and remove is None:
        remove = remover()
    written = 0
    problems: list[UserError] = []
    title = f"mask of {shown(pictures[0].name)}" if len(pictures) == 1 else f"masks of {len(pictures)} pictures"
    with project.journal.change(title) as change:
        for number, picture in enumerate(pictures, 1):
            if stop and stop.is_set():
                return Masked(written, tuple(problems), True)
            try:
                put(change, project, picture, _made(project, picture, way, remove))
                written += 1
            except UserError as error:
                problems.append(error)
            if progress:
                progress(number, len(pictures))
    return Masked(written, tuple(problems))


def complete(project: Project) -> int:
    """White masks for the pictures that are trained on and have none; how many. One change of the journal."""
    lacking = missing(project)
    return make(project, lacking, "white").written if lacking else 0


def missing(project: Project) -> list[Path]:
    """The pictures that are trained on and have no mask."""
    return [
        picture
        for concept in project.concepts()
        if concept.used and not concept.is_reg
        for there in [known(project, concept.folder)]
        for picture in concept.pictures
        if picture.stem not in there
    ]


def take_away(project: Project, pictures: Iterable[Path]) -> int:
    """Pictures have no masks any more; how many had one. Undone as everything is."""
    found = [mask for picture in pictures if (mask := find(project, picture))]
    title = f"mask taken away: {shown(found[0].name)}" if len(found) == 1 else f"{len(found)} masks taken away"
    with project.journal.change(title) as change:
        for mask in found:
            change.move(mask, _aside(project, mask))
    return len(found)


def _made(project: Project, picture: Path, way: str, remove: Remove | None) -> Image.Image:
    if way == "white":
        width, height, _ = images.inspect(picture)
        return Image.new("L", (width, height), 255)
    if way == "invert":
        former = find(project, picture)
        if former is None:
            raise UserError("it has no mask", where=picture.name, remedy="Make one first")
        return ImageOps.invert(images.read(former).convert("L"))
    if way == "alpha":
        alpha = images.read(picture, alpha=True).getchannel("A")
        if not any(alpha.histogram()[:255]):
            raise UserError("it is transparent nowhere", where=picture.name, remedy="Choose another way")
        return alpha
    assert remove is not None
    return remove(images.read(picture))


def _aside(project: Project, mask: Path) -> Path:
    return project.work / "aside" / f"{time.time_ns():x}" / mask.parent.name / mask.name


# Background removal, by rembg where the host has it. rembg itself would fetch a model that is missing, and replace one
# that isn't the published file; here it only ever opens the file that is there.


def removers(models: Sequence[Path] = ()) -> list[str]:
    """Names of rembg's models that are on this machine. models: the host's folders of models, looked into."""
    if importlib.util.find_spec("rembg") is None:
        return []
    return [name for name in REMOVERS if _model(name, models)]


def lacking(models: Sequence[Path] = ()) -> UserError | None:
    """What the removal of backgrounds needs here; None where it has it."""
    if importlib.util.find_spec("rembg") is None:
        remedy = "Install rembg and onnxruntime in this Python, or draw the masks by hand"
        return UserError("rembg isn't installed here", where="background", remedy=remedy)
    if removers(models):
        return None
    return _without("rembg has no model", models)


def remover(name: str = "", models: Sequence[Path] = ()) -> Remove:
    """What takes a picture's background away. Raises UserError where it isn't installed or has no model."""
    if problem := lacking(models):
        raise problem
    if name and name not in REMOVERS:
        what = f"rembg has no model {name} that tells front from back"
        raise UserError(what, where="background", remedy=f"Choose from {', '.join(removers(models))}")
    name = name or removers(models)[0]
    file = _model(name, models)
    if file is None:
        raise _without(f"rembg has no model {name}", models, name)
    with _LOADING:
        key = name, file, file.stat().st_mtime_ns
        if key not in _LOADED:
            _LOADED.clear()
            _LOADED[key] = _session(name, file)
        session = _LOADED[key]

    def removed(picture: Image.Image) -> Image.Image:
        import rembg

        try:
            with _RUNNING:
                found: Image.Image = rembg.remove(picture.convert("RGB"), session=session, only_mask=True)
        except Exception as error:  # a network may fail in any way
            what = f"rembg failed ({_said(error)})"
            raise UserError(what, where="background", remedy="Draw the mask by hand") from error
        return found.convert("L").resize(picture.size)

    return removed


def _session(name: str, file: Path) -> Any:
    """rembg's session of that name over that file. Raises UserError."""
    try:
        import onnxruntime
        from rembg.sessions import sessions_class
    except (Exception, SystemExit) as error:  # rembg ends the program where onnxruntime is missing
        missing = importlib.util.find_spec("onnxruntime") is None
        what = "rembg needs onnxruntime" if missing else f"rembg can't be loaded ({_said(error)})"
        raise UserError(what, where="background", remedy="Install rembg and onnxruntime anew") from error
    kind = next((one for one in sessions_class if one.name() == name), None)
    if kind is None:
        raise UserError(f"this rembg doesn't know {name}", where="background", remedy="Update rembg")
    local = type(kind.__name__, (kind,), {"download_models": classmethod(lambda cls, *args, **kwargs: str(file))})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return local(name, options)
    except Exception as error:  # a file may hold anything
        expected = REMOVERS[name]
        strange = expected and _checksum(file) != expected
        what = f"{shown(file.name)} can't be loaded ({_said(error)})"
        if strange:
            what = f"{shown(file.name)} can't be loaded, and isn't the file that rembg published (MD5 {expected})"
        raise UserError(what, where="background", remedy="Download it again, or take it away") from error


def _without(what: str, models: Sequence[Path], name: str = "") -> UserError:
    wanted = f"{name}.onnx" if name else "isnet-general-use.onnx, u2net.onnx or isnet-anime.onnx"
    place = shown(str(_places(models)[0]))
    remedy = f"Put {wanted}, from the releases page of rembg, into {place}; nothing is downloaded by itself"
    return UserError(what, where="background", remedy=remedy)


def _model(name: str, models: Sequence[Path]) -> Path | None:
    """The file of that model, which isn't empty."""
    files = (place / f"{name}.onnx" for place in _places(models))
    return next((file for file in files if file.is_file() and file.stat().st_size), None)


def _places(models: Sequence[Path]) -> list[Path]:
    """rembg's own folder, and those that extensions of a WebUI use."""
    home = os.environ.get("U2NET_HOME") or os.path.join(os.environ.get("XDG_DATA_HOME") or "~", ".u2net")  # noqa: PTH118
    return [Path(home).expanduser(), *(folder / name for folder in models for name in ("u2net", "rembg"))]


def _checksum(file: Path) -> str:
    found = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _said(error: BaseException) -> str:
    """The first line of what a library says, which may be a page."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


# Whether the training uses them


def used(project: Project) -> bool:
    """Whether the project's training has masks."""
    return projects.masked(project)


def use(project: Project, wanted: bool) -> None:
    """Train with the project's masks, or without."""
    projects.mask(project, wanted)
