"""Small pictures for a page: named by ids, made once, a page of them at a time.

A picture is found by its id among those of a project, never by a path that was sent.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

from ..dataset import images
from ..dataset.folders import shown
from ..errors import UserError
from ..files import replace_file
from . import look
from .look import picture_id
from .project import Concept, Project

__all__ = ["MOST", "SIDES", "Page", "Shown", "find", "page", "picture_id", "pictures", "stamp", "thumbnail"]

SIDES = (128, 256, 512, 1280)
MOST = 500
"""Pictures of one page."""

_KNOWN_PROJECTS = 8
_COARSE = 2_000_000_000  # nanoseconds
_index_lock = Lock()
_file_locks = [Lock() for _ in range(16)]
_decoders = Semaphore(2)


@dataclass(frozen=True)
class Shown:
    """A picture of a project, as a page names it. concept: its folder's name; folder: the folder's id.

    captioned: a text file lies beside it.
    """

    id: str
    path: Path
    concept: str
    is_reg: bool = False
    folder: str = ""
    captioned: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Without its path."""
        told = {"id": self.id, "name": shown(self.path.name), "concept": shown(self.concept), "is_reg": self.is_reg}
        return {**told, "folder": self.folder, "captioned": self.captioned}


@dataclass(frozen=True)
class Page:
    """Some of a project's pictures, and how many there are in all."""

    total: int
    offset: int
    pictures: tuple[Shown, ...]


Stamp = tuple[tuple[str, int], ...]
_index: OrderedDict[Path, tuple[Stamp, tuple[Path, ...], dict[str, Shown]]] = OrderedDict()


def pictures(project: Project) -> dict[str, Shown]:
    """All of a project's pictures by their ids, in their folders' order. What didn't change isn't read again."""
    with _index_lock:
        held = _index.get(project.root)
    if held and held[0] == stamp(project, held[1]):
        return held[2]
    return _read(project)


def page(
    project: Project,
    offset: int = 0,
    limit: int = 100,
    concept: str | None = None,
    wanted: Callable[[Shown], bool] | None = None,
    order: Callable[[Shown], Any] | None = None,
) -> Page:
    """Pictures in their folders' order, of one folder where its name or id is given, and only those `wanted`."""
    found = [
        picture
        for picture in pictures(project).values()
        if concept in (None, picture.concept, picture.folder) and (wanted is None or wanted(picture))
    ]
    if order is not None:
        found.sort(key=order)
    offset, limit = max(0, offset), min(max(1, limit), MOST)
    return Page(len(found), offset, tuple(found[offset : offset + limit]))


def find(project: Project, wanted: str) -> Path:
    """The picture of that id. Raises UserError where the project has none."""
    with _index_lock:
        held = _index.get(project.root)
    known = (held and held[2].get(wanted)) or _read(project).get(wanted)
    if known is None or not known.path.is_file():
        raise UserError("the project has no such picture", where="picture", remedy="Read the folder again")
    return known.path


def thumbnail(project: Project, wanted: str, side: int = 256) -> Path:
    """A JPEG of at most `side` pixels either way, upright, transparency on white; made where it isn't there yet.

    Raises UserError for a picture that the project hasn't or that is broken, and for other sides than SIDES.
    """
    if side not in SIDES:
        raise UserError(f"{side} is no size of thumbnails", where="size", remedy=f"Choose from {SIDES}")
    picture = find(project, wanted)
    state = picture.stat()
    folder = project.work / "thumbnails" / str(side)
    target = folder / f"{wanted}-{state.st_mtime_ns:x}-{state.st_size:x}.jpg"
    with _file_locks[int(wanted[:2], 16) % len(_file_locks)]:
        if target.is_file():
            return target
        with _decoders:
            made = images.flat(look.small(picture, side))
        with replace_file(target) as temporary:
            made.save(temporary, "JPEG", quality=85)
        for old in folder.glob(f"{wanted}-*.jpg"):
            if old != target:
                with suppress(OSError):  # Windows: a page is still reading it
                    old.unlink()
    return target


def _read(project: Project) -> dict[str, Shown]:
    concepts = project.concepts()
    folders = tuple(concept.folder for concept in concepts)
    now = stamp(project, folders)
    found = {picture.id: picture for concept in concepts for picture in _of(concept)}
    with _index_lock:
        _index[project.root] = now, folders, found
        _index.move_to_end(project.root)
        while len(_index) > _KNOWN_PROJECTS:
            _index.popitem(last=False)
    return found


def _of(concept: Concept) -> Iterator[Shown]:
    try:
        names = os.listdir(concept.folder)  # noqa: PTH208 - 10,000 names, which need no Path
    except OSError:
        names = []
    texts = {os.path.splitext(name)[0] for name in names if name.endswith((".txt", ".caption"))}  # noqa: PTH122
    folder = picture_id(concept.folder)
    for path in concept.pictures:
        yield Shown(picture_id(path), path, concept.folder.name, concept.is_reg, folder, path.stem in texts)


def stamp(project: Project, folders: Iterable[Path]) -> Stamp:
    """Changes when files come or go. A folder that changed a moment ago is no proof: its clock may be coarse."""
    places = [project.root, *project.parts(), *folders, project.work / "project.json"]
    stamps = tuple((str(place), place.stat().st_mtime_ns if place.exists() else 0) for place in places)
    fresh = time.time_ns() - max(at for _, at in stamps) < _COARSE
    return (*stamps, ("now", time.monotonic_ns())) if fresh else stamps
