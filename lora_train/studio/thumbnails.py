"""Small pictures for a page: named by ids, made once, a page of them at a time.

A picture is found by its id among those of a project, never by a path that was sent.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

from ..errors import UserError
from ..files import replace_file
from . import look
from .look import picture_id
from .project import Concept, Project

__all__ = ["MOST", "SIDES", "Page", "Shown", "find", "page", "picture_id", "thumbnail"]

SIDES = (128, 256, 512)
MOST = 500
"""Pictures of one page."""

_KNOWN_PROJECTS = 8
_index_lock = Lock()
_file_locks = [Lock() for _ in range(16)]
_decoders = Semaphore(2)


@dataclass(frozen=True)
class Shown:
    """A picture of a project, as a page names it. concept: its folder's name; name: the file's."""

    id: str
    path: Path
    concept: str
    is_reg: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Without its path."""
        return {"id": self.id, "name": self.path.name, "concept": self.concept, "is_reg": self.is_reg}


@dataclass(frozen=True)
class Page:
    """Some of a project's pictures, and how many there are in all."""

    total: int
    offset: int
    pictures: tuple[Shown, ...]


_index: OrderedDict[Path, dict[str, Shown]] = OrderedDict()


def page(project: Project, offset: int = 0, limit: int = 100, concept: str | None = None) -> Page:
    """Pictures in their folders' order, of one folder where its name is given. Reads the folders anew."""
    found = list(_read(project).values())
    if concept is not None:
        found = [shown for shown in found if shown.concept == concept]
    offset, limit = max(0, offset), min(max(1, limit), MOST)
    return Page(len(found), offset, tuple(found[offset : offset + limit]))


def find(project: Project, wanted: str) -> Path:
    """The picture of that id. Raises UserError where the project has none."""
    with _index_lock:
        known = _index.get(project.root, {}).get(wanted)
    known = known or _read(project).get(wanted)
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
            made = look.flat(look.small(picture, side))
        with replace_file(target) as temporary:
            made.save(temporary, "JPEG", quality=85)
        for old in folder.glob(f"{wanted}-*.jpg"):
            if old != target:
                old.unlink(missing_ok=True)
    return target


def _read(project: Project) -> dict[str, Shown]:
    found = {
        shown.id: shown for concept in project.concepts() for shown in (_shown(concept, p) for p in concept.pictures)
    }
    with _index_lock:
        _index[project.root] = found
        _index.move_to_end(project.root)
        while len(_index) > _KNOWN_PROJECTS:
            _index.popitem(last=False)
    return found


def _shown(concept: Concept, path: Path) -> Shown:
    return Shown(picture_id(path), path, concept.folder.name, concept.is_reg)
