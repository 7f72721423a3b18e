"""Masks: which part of a picture the training learns from. White is learnt, black isn't, grey counts in part.

They lie in the project, masks/<folder of the picture>/<its name>.png, where masked training looks for them
(conditioning_data_dir). A training with masks wants one for every picture: `complete` adds white ones.
"""

from __future__ import annotations

import importlib.util
import io
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

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

_MOST = 2048  # pixels of a mask's longer side; training looks at fewer
_MODELS = ("isnet-general-use", "u2net", "isnet-anime", "u2net_human_seg", "silueta", "u2netp")


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


# Background removal, by rembg where the host has it


def removers() -> list[str]:
    """Names of rembg's models that are on this machine; nothing is downloaded."""
    if importlib.util.find_spec("rembg") is None:
        return []
    home = _home()
    found = sorted(path.stem for path in home.glob("*.onnx")) if home.is_dir() else []
    return [*(name for name in _MODELS if name in found), *(name for name in found if name not in _MODELS)]


def remover(name: str = "") -> Remove:
    """What takes a picture's background away. Raises UserError where it isn't installed or has no model."""
    there = removers()
    if importlib.util.find_spec("rembg") is None:
        what, remedy = "rembg isn't installed here", "Install it, or draw the masks by hand"
        raise UserError(what, where="background", remedy=remedy)
    if not there or (name and name not in there):
        remedy = f"Put such a model into {shown(str(_home()))}"
        raise UserError(f"rembg has no model {name}".rstrip(), where="background", remedy=remedy)
    try:
        import rembg

        session = rembg.new_session(name or there[0])
    except Exception as error:  # a package of the host's, in any state
        what = f"rembg can't be loaded ({type(error).__name__}: {error})"
        raise UserError(what, where="background", remedy="Install it anew") from error
    lock = threading.Lock()

    def removed(picture: Image.Image) -> Image.Image:
        try:
            with lock:
                found: Image.Image = rembg.remove(picture.convert("RGB"), session=session, only_mask=True)
        except Exception as error:  # a network may fail in any way
            what = f"rembg failed ({type(error).__name__}: {error})"
            raise UserError(what, where="background", remedy="Draw the mask by hand") from error
        return found.convert("L").resize(picture.size)

    return removed


def _home() -> Path:
    given = os.environ.get("U2NET_HOME")
    return Path(given) if given else Path(os.environ.get("XDG_DATA_HOME") or Path.home()) / ".u2net"


# Whether the training uses them


def used(project: Project) -> bool:
    """Whether the project's training has masks."""
    return projects.masked(project)


def use(project: Project, wanted: bool) -> None:
    """Train with the project's masks, or without."""
    projects.mask(project, wanted)
