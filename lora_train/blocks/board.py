"""Boards: where mixes are tried. Every try keeps its picture, numbers, note and star, on disk, below one folder.

boards/<id>/board.json and boards/<id>/pictures/<try>-<number>.png, with -small.jpg beside. What is removed is moved
into a folder .removed, noted in a journal, and can be put back. Several processes may work on the same boards: each
change is made to what the file says by then, under a lock.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import UserError
from ..files import replace_file, write_text
from ..process_lock import ProcessLock
from ..studio.journal import Journal
from .mix import Mix, difference, mix_from

_FILE, _PICTURES, _REMOVED = "board.json", "pictures", ".removed"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}")
_MOST_NAME, _MOST_NOTE = 100, 10_000
_PATIENCE = 20.0  # seconds that a change waits for those of other processes
SMALL = 192
"""Longer side of the small pictures."""

FULL, DRAFT, THUMB = ".png", "-draft.png", "-small.jpg"
_PICTURE = re.compile(r"\d{1,4}(\.png|-draft\.png|-small\.jpg)")


@dataclass
class Try:
    """A mix and what it looks like. keys: what each picture is drawn from, "" where that isn't known.

    state: waiting, running, done, failed, superseded; only those that are done are kept. drawn, drafts: which pictures
    are there; texts: what to write into each, while it is on its way.
    """

    id: int
    mix: dict[str, Any]
    parent: int | None = None
    created: float = 0.0
    state: str = "waiting"
    keys: list[str] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    note: str = ""
    star: bool = False
    seconds: float | None = None
    label: str = ""
    error: str | None = None
    texts: list[str] = field(default_factory=list)


@dataclass
class Board:
    """A board as its file holds it. mix: the latest; next: the number of the next try; revision: of changes."""

    id: str
    name: str
    created: float
    mix: dict[str, Any]
    tries: list[Try] = field(default_factory=list)
    removed: list[dict[str, Any]] = field(default_factory=list)
    next: int = 1
    revision: int = 0

    def find(self, number: int) -> Try | None:
        """The try of that number, if it is kept."""
        return next((one for one in self.tries if one.id == number), None)

    def parent_of(self, one: Try) -> int | None:
        """The nearest of the tries before it that is still there."""
        parents = {t.id: t.parent for t in self.tries}
        parents |= {entry["try"]["id"]: entry["try"]["parent"] for entry in self.removed}
        there, parent = {t.id for t in self.tries}, one.parent
        while parent is not None and parent not in there:
            parent = parents.get(parent)
        return parent


class Boards:
    """All boards below one folder. Safe to use from several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._others = ProcessLock(folder / ".lock")
        self._open: dict[str, tuple[tuple[int, int, int], Board]] = {}

    # Boards

    def overview(self) -> list[dict[str, Any]]:
        """Short, the one that changed last first."""
        found = []
        for path in self.folder.glob(f"[!.]*/{_FILE}") if self.folder.is_dir() else ():
            try:
                board, changed = self._load(path.parent.name), path.stat().st_mtime
            except OSError:
                continue  # removed meanwhile
            if board is None:
                continue
            shown = next((one for one in reversed(board.tries) if one.star and one.drawn), None)
            shown = shown or next((one for one in reversed(board.tries) if one.drawn), None)
            found.append(
                {
                    **{name: getattr(board, name) for name in ("id", "name", "created")},
                    "changed": changed,
                    "tries": len(board.tries),
                    "stars": sum(one.star for one in board.tries),
                    "thumb": _url(board.id, shown.id, shown.drawn[0], THUMB) if shown else None,
                }
            )
        return sorted(found, key=lambda board: -board["changed"])

    def view(self, board: str) -> dict[str, Any]:
        """A board for JSON. Raises UserError where there is none."""
        with self._lock:
            the = self._known(board)
            return {
                **{name: getattr(the, name) for name in ("id", "name", "created", "mix", "revision")},
                "tries": [view(the, one) for one in the.tries],
                "removed": len(the.removed),
            }

    def create(self, name: str, mix: Mix) -> str:
        """A new board; its id."""
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:40]}".strip("-_")
        with self._alone():
            for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
                id, gone = stamp + suffix, self.folder / _REMOVED / (stamp + suffix)
                if not (self.folder / id).exists() and not gone.exists():
                    self._write(Board(id, _name(name), time.time(), mix.as_dict()))
                    return id
        raise UserError("too many boards at once", where=self.folder, remedy="Try again")

    def rename(self, board: str, name: str) -> None:
        """Another name for people. Raises UserError."""
        with self.change(board) as the:
            the.name = _name(name)

    def remove(self, board: str) -> None:
        """Move it out of the way; restore brings it back. Raises UserError."""
        with self._alone():
            the = self._known(board)
            with Journal(self.folder).change(f"remove the board {the.name}") as change:
                change.move(self.folder / board, self.folder / _REMOVED / board)
            self._open.pop(board, None)

    def restore(self, board: str) -> None:
        """Bring back a board that was removed, or else the try that was removed from it last. Raises UserError."""
        with self._alone():
            gone = self.folder / _REMOVED / board
            if _ID.fullmatch(board) and not (self.folder / board).exists() and gone.is_dir():
                with Journal(self.folder).change("bring a board back") as change:
                    change.move(gone, self.folder / board)
                return
            with self.change(board) as the:
                if not the.removed:
                    raise UserError("nothing was removed", where=the.name, remedy="There is nothing to bring back")
                entry = the.removed.pop()
                if entry["journal"] is not None:
                    Journal(self.folder / board).undo(entry["journal"])
                the.tries = sorted([*the.tries, Try(**entry["try"])], key=lambda one: one.id)

    def exists(self, board: str) -> bool:
        """Whether there is such a board."""
        return self._load(board) is not None

    def open(self, board: str) -> Board:
        """To be read, not changed. Raises UserError."""
        with self._lock:
            return self._known(board)

    def latest(self, board: str) -> list[str]:
        """Addresses of the pictures of the latest try."""
        the = self.open(board)
        shown = next((one for one in reversed(the.tries) if one.drawn), None)
        return [_url(board, shown.id, number, FULL) for number in shown.drawn] if shown else []

    def keep_mix(self, board: str, mix: Mix) -> None:
        """The latest state of the editor. Raises UserError."""
        with self.change(board) as the:
            the.mix = mix.as_dict()

    # Tries

    def begin(self, board: str, mix: Mix, keys: Sequence[str], parent: int | None, texts: Sequence[str] = ()) -> Try:
        """A new try, not kept yet. Raises UserError for an unknown parent."""
        with self.change(board) as the:
            before = the.find(parent) if parent is not None else None
            if parent is not None and before is None:
                raise UserError(f"there is no try {parent}", where="parent", remedy="Choose one of the history")
            label = difference(mix_from(before.mix), mix) if before else ""
            the.mix = mix.as_dict()
            one = Try(the.next, the.mix, parent, time.time(), keys=list(keys), label=label, texts=list(texts))
            the.next += 1
            return one

    def told(self, board: str, one: Try) -> dict[str, Any]:
        """A try, kept or on its way, for JSON."""
        with self._lock:
            return view(self._known(board), one)

    def keep(self, board: str, one: Try) -> None:
        """Put a try that is done into the history. Raises UserError where the board is gone."""
        with self.change(board) as the:
            one.texts = []
            the.tries = sorted([*(t for t in the.tries if t.id != one.id), one], key=lambda t: t.id)

    def known(self, board: str, keys: Sequence[str]) -> Try | None:
        """The latest try of exactly these pictures."""
        with self._lock:
            the = self._known(board)
            return next((one for one in reversed(the.tries) if one.keys == list(keys) and all(keys)), None)

    def drawn(self, board: str, key: str) -> Path | None:
        """A picture that was drawn from the same before."""
        with self._lock:
            for one in reversed(self._known(board).tries):
                for number in one.drawn:
                    if key and one.keys[number] == key:
                        path = self._path(board, one.id, number, FULL)
                        if path.is_file():
                            return path
        return None

    def say(self, board: str, number: int, note: str | None = None, star: bool | None = None) -> dict[str, Any]:
        """Write a note or a star to a try; the try for JSON. Raises UserError."""
        if note is not None and len(note) > _MOST_NOTE:
            raise UserError(f"is longer than {_MOST_NOTE} letters", where="note", remedy="Shorten it")
        with self.change(board) as the:
            one = _require(the, number)
            one.note = one.note if note is None else note
            one.star = one.star if star is None else star
            return view(the, one)

    def remove_try(self, board: str, number: int) -> None:
        """Take a try out of the history; restore brings it back. Raises UserError."""
        with self.change(board) as the:
            one = _require(the, number)
            folder, entry = self.folder / board, None
            files = sorted((folder / _PICTURES).glob(f"{number}-*"))
            if files:
                with Journal(folder).change(f"remove the try {number}") as change:
                    for file in files:
                        change.move(file, folder / _REMOVED / file.name)
                entry = Journal(folder).entries()[0].id
            the.tries.remove(one)
            the.removed.append({"try": asdict(one), "journal": entry})

    # Pictures

    def add_picture(self, board: str, one: Try, number: int, picture: Image.Image, draft: bool = False) -> None:
        """Write a picture, and its small one. `one.texts` go into the pictures' own texts."""
        texts = PngInfo()
        if number < len(one.texts):
            texts.add_text("parameters", one.texts[number])
        encoded = {DRAFT if draft else FULL: _encoded(picture, "PNG", pnginfo=texts, compress_level=3)}
        if not draft:
            small = picture.convert("RGB")
            small.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS)
            encoded[THUMB] = _encoded(small, "JPEG", quality=85)
        with self._lock:
            if not (self.folder / board).is_dir():
                raise UserError("the board was removed", where=board, remedy="Bring it back first")
            for ending, data in encoded.items():
                with replace_file(self._path(board, one.id, number, ending)) as temporary:
                    temporary.write_bytes(data)
        listed = one.drafts if draft else one.drawn
        listed[:] = sorted({*listed, number})

    def forget(self, board: str, one: Try) -> None:
        """Drop what was drawn of a try that isn't kept."""
        for path in (self.folder / board / _PICTURES).glob(f"{one.id}-*"):
            with suppress(OSError):  # Windows: a page is still reading it
                path.unlink(missing_ok=True)
        one.drawn, one.drafts = [], []

    def picture(self, board: str, number: int, name: str) -> Path | None:
        """`0.png`, `0-draft.png` or `0-small.jpg` of a try; None where there is none."""
        if not _ID.fullmatch(board) or not _PICTURE.fullmatch(name):
            return None
        path = self.folder / board / _PICTURES / f"{number}-{name}"
        return path if path.is_file() else None

    def full(self, board: str, number: int, place: int) -> Path | None:
        """A picture of a try in the history."""
        path = self._path(board, number, place, FULL) if _ID.fullmatch(board) else None
        return path if path and path.is_file() else None

    def _path(self, board: str, number: int, place: int, ending: str) -> Path:
        return self.folder / board / _PICTURES / f"{number}-{place}{ending}"

    # On disk

    @contextmanager
    def change(self, board: str) -> Iterator[Board]:
        """A board to change; it is written when the block ends without an error. Raises UserError."""
        with self._alone():
            the = self._known(board)
            try:
                yield the
                the.revision += 1
                self._write(the)
            except BaseException:
                self._open.pop(board, None)
                raise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other thread or process changes a board."""
        with self._lock:
            if self._others.held():  # by this thread, further out
                yield
                return
            if not self._others.take(_PATIENCE):
                remedy = "Try again; if it goes on, end other programs that use this folder"
                raise UserError("another program is changing the boards", where="boards", remedy=remedy)
            try:
                yield
            finally:
                self._others.release()

    def _known(self, board: str) -> Board:
        the = self._load(board)
        if the is None:
            raise UserError("there is no such board", where=board, remedy="It may have been removed")
        return the

    def _load(self, board: str) -> Board | None:
        """From the file where that changed since."""
        if not _ID.fullmatch(board):
            return None
        path = self.folder / board / _FILE
        with self._lock:
            try:
                stamp = _stamp(path)
                if board in self._open and self._open[board][0] == stamp:
                    return self._open[board][1]
                values = json.loads(path.read_text(encoding="utf-8"))
                the = Board(**{**values, "id": board, "tries": [Try(**one) for one in values["tries"]]})
                self._open[board] = stamp, the
                return the
            except (OSError, ValueError, TypeError, KeyError):
                self._open.pop(board, None)
                return None

    def _write(self, the: Board) -> None:
        path = self.folder / the.id / _FILE
        write_text(path, json.dumps(asdict(the), ensure_ascii=False))
        self._open[the.id] = _stamp(path), the


def _stamp(path: Path) -> tuple[int, int, int]:
    """What tells a file from one that took its place."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    data = BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def view(board: Board, one: Try) -> dict[str, Any]:
    """A try for JSON. pictures, thumbs, drafts: addresses below the API's root, null where nothing is drawn yet."""
    count = max([len(one.keys), *(number + 1 for number in one.drawn)])

    def addresses(there: Sequence[int], ending: str) -> list[str | None]:
        return [_url(board.id, one.id, number, ending) if number in there else None for number in range(count)]

    known = ("id", "created", "mix", "note", "star", "state", "seconds", "label", "error")
    return {
        **{name: getattr(one, name) for name in known},
        "parent": board.parent_of(one),
        "pictures": addresses(one.drawn, FULL),
        "thumbs": addresses(one.drawn, THUMB),
        "drafts": addresses(one.drafts, DRAFT),
    }


def _url(board: str, number: int, place: int, ending: str) -> str:
    return f"blocks/boards/{board}/pictures/{number}/{place}{ending}"


def _require(board: Board, number: int) -> Try:
    one = board.find(number)
    if one is None:
        raise UserError(f"there is no try {number}", where=board.name, remedy="It may have been removed")
    return one


def _name(name: str) -> str:
    name = " ".join(name.split())
    if not name or len(name) > _MOST_NAME:
        raise UserError(f"a board's name has 1 to {_MOST_NAME} letters", where="name", remedy="Write a name")
    return name
