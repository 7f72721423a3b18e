"""What the studio changed on disk: listed, and taken back step by step, after a restart too.

One file of JSON lines for each change, below <project>/.studio/journal. A step is written there before it is done, so
that a process killed in the midst of a change leaves nothing that can't be undone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..dataset.folders import listed, shown
from ..dataset.images import SUFFIXES
from ..errors import UserError
from ..files import replace_file

_CHUNK = 1 << 20
_being_made: set[Path] = set()
"""Files of the changes that this process is making."""

_MOST_KNOWN = 10_000
_known: dict[Path, tuple[tuple[int, int, int], Entry]] = {}
"""What entries were read from which states of their files: they may be many, and hold pictures."""


@dataclass(frozen=True)
class Entry:
    """One change. time: seconds since 1970; files: how many files it wrote or moved; whole: it came to its end."""

    id: int
    title: str
    time: float
    files: int
    undone: bool
    whole: bool


@dataclass(frozen=True)
class Undone:
    """What undoing did: files that are as they were before, and files that were edited since and stay as they are."""

    entry: Entry
    restored: tuple[Path, ...]
    changed: tuple[Path, ...]


class Change:
    """A change that is being made; see `Journal.change`. Every method raises UserError, and then did nothing.

    number: its entry's id; steps: how many files it wrote or moved so far.
    """

    def __init__(self, root: Path, handle: Any, number: int) -> None:
        self._root, self._handle, self.number = root, handle, number
        self.steps = 0

    def create(self, path: Path, save: Callable[[Path], None]) -> Path:
        """A new file that `save(temporary)` writes; never in the place of another. Returns `path`."""
        if os.path.lexists(path):
            raise UserError("there is a file of that name", where=path, remedy="Choose another name")
        self._reachable(path)
        self._folders(path.parent)
        with replace_file(path) as temporary:
            save(temporary)
            self._note({"op": "write", "path": self._name(path), "before": None, "after": _digest_of(temporary)})
        return path

    def copy(self, source: Path, target: Path) -> Path:
        """A new file with what another holds."""
        return self.create(target, lambda temporary: _copy(source, temporary))

    def write(self, path: Path, data: bytes) -> Path:
        """A file of these bytes, new or in the place of what is there, which the journal keeps. For small files."""
        self._reachable(path)
        before = path.read_bytes() if path.is_file() else None
        if before == data:
            return path
        kept = None if before is None else base64.b64encode(before).decode("ascii")
        self._folders(path.parent)
        self._note({"op": "write", "path": self._name(path), "before": kept, "after": hashlib.sha256(data).hexdigest()})
        with replace_file(path) as temporary:
            temporary.write_bytes(data)
        return path

    def move(self, source: Path, target: Path) -> Path:
        """A file or folder of the project gets another name in it; never that of another."""
        for path in (source, target):
            if not _inside(path, self._root):
                raise UserError("it is outside the project", where=path, remedy="Choose a place in the project")
        if os.path.lexists(target):
            raise UserError("there is a file of that name", where=target, remedy="Choose another name")
        self._folders(target.parent)
        self._note({"op": "move", "path": self._name(source), "to": self._name(target)})
        _rename(source, target)
        return target

    def _reachable(self, path: Path) -> None:
        """Raise UserError where undoing would refuse to go."""
        if not _inside(path, self._root) and not _beside_a_picture(path):
            raise UserError("it is outside the project", where=path, remedy="Choose a place in the project")

    def _folders(self, folder: Path) -> None:
        """Make `folder`, and note which ones were not there."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            self._note({"op": "folder", "path": self._name(path)})
            try:
                path.mkdir(exist_ok=True)
            except OSError as error:
                remedy = "Check the folder's permissions"
                raise UserError(f"the folder can't be made ({error.strerror})", where=path, remedy=remedy) from error

    def _name(self, path: Path) -> str:
        path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would lose the names of links
        return path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else str(path)

    def _note(self, step: dict[str, Any]) -> None:
        _append(self._handle, step)
        self.steps += step["op"] != "folder"


class Journal:
    """The changes of one project."""

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100
        self._folder = self._root / ".studio" / "journal"

    @contextmanager
    def change(self, title: str) -> Iterator[Change]:
        """Everything done through the Change inside is undone together; so is what was done when it fails."""
        number, handle = self._begin()
        change = Change(self._root, handle, number)
        _being_made.add(self._path(number))
        try:
            with handle:
                _append(handle, {"title": title, "time": time.time()})
                yield change
                if change.steps:
                    _append(handle, {"end": True})
        finally:
            _being_made.discard(self._path(number))
            if not change.steps:
                self._path(number).unlink(missing_ok=True)

    @contextmanager
    def whole_change(self, title: str) -> Iterator[Change]:
        """As `change`, but what was done is taken back when it fails, and the error says what could not be."""
        change: Change | None = None
        try:
            with self.change(title) as change:
                yield change
        except BaseException as error:
            if change is None or not change.steps:
                raise
            try:
                undone = self.undo(change.number)
            except (UserError, OSError) as why:
                raise _half_done(title, str(why), error) from error
            if undone.changed:
                raise _half_done(title, listed([shown(path.name) for path in undone.changed], 5), error) from error
            raise

    def entries(self) -> list[Entry]:
        """All changes, the latest first."""
        numbers = sorted((int(p.stem) for p in self._folder.glob("*.jsonl") if p.stem.isdecimal()), reverse=True)
        found = []
        for number in numbers:
            with suppress(FileNotFoundError):  # a change that came to nothing meanwhile
                found.append(self._entry(number))
        return found

    def _entry(self, number: int) -> Entry:
        path = self._path(number)
        status = path.stat()
        state = status.st_ino, status.st_size, status.st_mtime_ns
        known = _known.get(path)
        if known is None or known[0] != state:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            known = _known[path] = state, _entry(number, self._lines(number))
        return known[1]

    def places(self, number: int) -> list[Path]:
        """What a change wrote or moved, as undoing it would again."""
        if not self._path(number).is_file():
            return []
        return [self._root / name for name in _touched(self._lines(number))]

    def undo(self, number: int | None = None) -> Undone:
        """Take back a change, the latest one that isn't undone when no number is given. What was edited since stays.

        Raises UserError where there is none, where it is still being made, or where a later change touched the same
        files.
        """
        open_entries = [entry for entry in self.entries() if not entry.undone]
        entry = next((e for e in open_entries if number in (None, e.id)), None)
        if entry is None:
            raise UserError("there is nothing to undo", where="journal", remedy="Look at the list of changes")
        if self._path(entry.id) in _being_made:
            raise UserError("it is still under way", where=entry.title, remedy="Wait until it ends, or stop it first")
        steps = [line for line in self._lines(entry.id) if "op" in line]
        own = _touched(steps)
        for later in open_entries[: open_entries.index(entry)]:
            if _meet(own, _touched(self._lines(later.id))):
                what = f'a later change, "{later.title}", touched the same files'
                raise UserError(what, where=entry.title, remedy="Undo that one first")
        restored: list[Path] = []
        changed: list[Path] = []
        for step in reversed(steps):
            self._take_back(step, restored, changed)
        with open(self._path(entry.id), "a", encoding="utf-8", newline="\n") as handle:
            handle.write("\n" if not self._path(entry.id).read_bytes().endswith(b"\n") else "")
            _append(handle, {"undone": time.time()})
        return Undone(entry, tuple(restored), tuple(changed))

    def _take_back(self, step: dict[str, Any], restored: list[Path], changed: list[Path]) -> None:
        path = self._place(step["path"], step["op"] == "write")
        if step["op"] == "folder":
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()
        elif step["op"] == "move":
            target = self._place(step["to"], False)
            if os.path.lexists(path):
                changed += [path] if os.path.lexists(target) else []
            elif os.path.lexists(target):
                path.parent.mkdir(parents=True, exist_ok=True)
                _rename(target, path)
                restored.append(path)
        elif step["op"] == "write":
            before = None if step["before"] is None else base64.b64decode(step["before"])
            now = _digest_of(path) if path.is_file() else None
            if now == (None if before is None else hashlib.sha256(before).hexdigest()):
                return
            if now != step["after"]:
                changed.append(path)
                return
            _put_back(path, before)
            restored.append(path)

    def _place(self, name: str, caption: bool) -> Path:
        """Where a noted path is. Outside the project, where pictures may lie, only captions are written."""
        path = Path(os.path.normpath(self._root / name))
        if not _inside(path, self._root) and not (caption and _beside_a_picture(path)):
            raise UserError("the journal names a place outside the project", where=name, remedy="Remove that journal")
        return path

    def _begin(self) -> tuple[int, Any]:
        number = max((int(p.stem) for p in self._folder.glob("*.jsonl") if p.stem.isdecimal()), default=0)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while True:
                number += 1
                try:
                    return number, open(self._path(number), "x", encoding="utf-8", newline="\n")
                except FileExistsError:
                    continue  # another process took it
        except OSError as error:
            remedy = "Check the folder's permissions"
            raise UserError(
                f"the journal can't be written ({error.strerror})", where=self._folder, remedy=remedy
            ) from error

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.jsonl"

    def _lines(self, number: int) -> list[dict[str, Any]]:
        """A line that a kill cut off is passed over: its step wasn't done either."""
        found = []
        cut = 0
        for place, line in enumerate(self._path(number).read_text(encoding="utf-8").splitlines(), 1):
            try:
                found.append(json.loads(line))
            except ValueError:
                cut = place
            if cut and cut < place and "op" in found[-1]:
                what = f"line {cut} can't be understood"
                raise UserError(what, where=self._path(number), remedy="Mend or remove the file")
        return found


def _half_done(title: str, why: str, error: BaseException) -> UserError:
    what = f"{error}; what was done of it could not be taken back ({why})"
    return UserError(what, where=title, remedy="Undo it in the list of changes")


def _beside_a_picture(path: Path) -> bool:
    """Whether a file is called as a picture in its folder is, and is none itself: a caption."""
    suffix = path.suffix.lower()
    endings = (*SUFFIXES, *(one.upper() for one in SUFFIXES))
    return suffix not in SUFFIXES and any(path.with_suffix(one).is_file() for one in endings)


def _entry(number: int, lines: list[dict[str, Any]]) -> Entry:
    head: dict[str, Any] = lines[0] if lines and "title" in lines[0] else {"title": "?", "time": 0.0}
    steps = sum(line.get("op") in ("write", "move") for line in lines)
    undone, whole = (any(name in line for line in lines) for name in ("undone", "end"))
    return Entry(number, head["title"], head["time"], steps, undone, whole)


def _touched(lines: list[dict[str, Any]]) -> set[str]:
    named = (line for line in lines if line.get("op") in ("write", "move"))
    return {line[key] for line in named for key in ("path", "to") if key in line}


def _meet(some: set[str], others: set[str]) -> bool:
    """Whether a place of one is a place of the other, or lies in a folder that is one."""
    return any(not two.isdisjoint(_around(path)) for one, two in ((some, others), (others, some)) for path in one)


def _around(path: str) -> list[str]:
    """A place and the folders that it is in."""
    return [path, *map(str, PurePosixPath(path).parents)]


def _append(handle: Any, line: dict[str, Any]) -> None:
    try:
        handle.write(json.dumps(line, ensure_ascii=True) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    except OSError as error:
        remedy = "Free some space or check the folder's permissions"
        raise UserError(f"the journal can't be written ({error.strerror})", where=handle.name, remedy=remedy) from error


def _put_back(path: Path, before: bytes | None) -> None:
    if before is not None:
        with replace_file(path) as temporary:
            temporary.write_bytes(before)
        return
    try:
        path.unlink()
    except OSError as error:
        remedy = "Check the folder's permissions"
        raise UserError(f"the file can't be removed ({error.strerror})", where=path, remedy=remedy) from error


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        raise UserError(
            f"it can't be renamed ({error.strerror})", where=source, remedy="Check its permissions"
        ) from error


def _copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as old, target.open("wb") as new:
            while chunk := old.read(_CHUNK):
                new.write(chunk)
    except OSError as error:
        remedy = "Free some space, and check that it can be read"
        raise UserError(f"it can't be copied ({error.strerror})", where=shown(str(source)), remedy=remedy) from error


def _digest_of(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _inside(path: Path, root: Path) -> bool:
    return Path(os.path.normpath(path.absolute())).is_relative_to(root)
