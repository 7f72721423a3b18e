"""Looking at every picture of a folder: what is there, what is wrong with it, and which pictures are alike."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import astuple, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from threading import Event, Lock, local
from typing import Any

import numpy as np
from PIL import Image

from ..dataset import images
from ..dataset.folders import UNREAD_SUFFIXES, shown
from ..errors import UserError
from ..files import write_text
from ..paths import ROOT
from . import likeness, look

SMALL = 512
"""Pixels of the shorter side below which a picture is enlarged for training."""

TINY = 256
HUGE = 4096
"""Pixels of the longer side above which a picture wants to be split or cut."""

BLURRED = 25.0
"""Variance of the Laplacian, of a picture shrunk to 256 pixels, below which it may be out of focus."""

JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini", ".DS_Store")

_LOOK = 256
_MOST_BYTES = 512 << 20
_LARGE = 16_000_000  # pixels; of pictures that have to be decoded whole, one such at a time
_GREY_SPREAD, _GREY_SHARE = 20, 0.01  # between channels, in levels of 255; of the pixels
_BATCH = 32
_MANY = 600  # pictures for which starting processes pays
_KEEP_MEMORY = {  # glibc's: else each picture's memory goes back to the system, and its pages are zeroed anew
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}
_START = "import sys; sys.path.insert(0, sys.argv[1]); from lora_train.studio.scan import serve; serve()"
_JPEG = b"\xff\xd8\xff"
_DEPTH = 8
_VERSION = 1

_alone = Lock()


@dataclass(frozen=True)
class Seen:
    """One picture. name: its path below the folder, with /; width and height upright; problem: "" for a usable one.

    sharpness: see BLURRED; alike: its perceptual hash; orientation: EXIF's, 1 to 8; note: of an animation.
    """

    name: str
    bytes: int
    changed: int
    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    orientation: int = 1
    transparent: bool = False
    grey: bool = False
    sharpness: float = 0.0
    content: str = ""
    alike: int | None = None
    note: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """What was found. Groups hold names; every list is sorted by name.

    junk: files that systems leave behind; unread: pictures of formats that aren't read; irregular: named like pictures
    but no regular files; reused: pictures that had not changed since the last scan.
    """

    root: Path
    pictures: tuple[Seen, ...]
    junk: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    irregular: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    duplicates: tuple[tuple[str, ...], ...] = ()
    similar: tuple[tuple[str, ...], ...] = ()
    captions: int = 0
    reused: int = 0
    stopped: bool = False
    usable: tuple[Seen, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "usable", tuple(p for p in self.pictures if not p.problem))

    def broken(self) -> list[Seen]:
        """Pictures that can't be used; each one's problem says why."""
        return [p for p in self.pictures if p.problem]

    def small(self) -> list[Seen]:
        """Shorter than SMALL."""
        return [p for p in self.usable if min(p.width, p.height) < SMALL]

    def tiny(self) -> list[Seen]:
        """Shorter than TINY."""
        return [p for p in self.usable if min(p.width, p.height) < TINY]

    def huge(self) -> list[Seen]:
        """Longer than HUGE."""
        return [p for p in self.usable if max(p.width, p.height) > HUGE]

    def blurred(self) -> list[Seen]:
        """Perhaps out of focus, the worst first."""
        return sorted((p for p in self.usable if p.sharpness < BLURRED), key=lambda p: p.sharpness)

    def grey(self) -> list[Seen]:
        """Without colour."""
        return [p for p in self.usable if p.grey]

    @cached_property
    def findings(self) -> dict[str, tuple[str, ...]]:
        """Which of FINDINGS hold for each picture, by name; those without any are missing."""
        found: dict[str, list[str]] = {}
        tiny = {p.name for p in self.tiny()}
        named = {
            **{name: [p.name for p in getattr(self, name)()] for name in ("broken", "huge", "blurred", "grey", "tiny")},
            "small": [p.name for p in self.small() if p.name not in tiny],
            "twice": [name for group in self.duplicates for name in group],
            "alike": [name for group in self.similar for name in group],
            "transparent": [p.name for p in self.usable if p.transparent],
            "turned": [p.name for p in self.usable if p.orientation != 1],
            "animated": [p.name for p in self.usable if p.note],
        }
        for finding in FINDINGS:
            for name in named[finding]:
                found.setdefault(name, []).append(finding)
        return {name: tuple(given) for name, given in found.items()}

    @cached_property
    def by_name(self) -> dict[str, Seen]:
        """The pictures by their names."""
        return {p.name: p for p in self.pictures}

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """(group, place in it) of the pictures that are there twice or alike, so that a list keeps them together."""
        groups = (*self.duplicates, *self.similar)
        return {name: (n, place) for n, group in reversed([*enumerate(groups)]) for place, name in enumerate(group)}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": str(self.root),
            **self.summary(),
            "pictures": [
                {f.name: getattr(p, f.name) for f in fields(Seen)}
                | {"alike": _hex(p), "id": look.picture_id(self.root / p.name)}
                for p in self.pictures
            ],
            **{name: [p.name for p in getattr(self, name)()] for name in _LISTS},
            **{name: [list(group) for group in getattr(self, name)] for name in ("duplicates", "similar")},
        }

    def summary(self) -> dict[str, Any]:
        """For JSON: the report without its pictures."""
        return {
            "counts": self.counts(),
            **{name: dict(self._tally(name)) for name in ("format", "mode", "aspect", "size", "folder_of")},
            **{name: list(getattr(self, name)) for name in ("junk", "unread", "irregular", "unreadable")},
            "warnings": self.warnings(),
            "reused": self.reused,
            "stopped": self.stopped,
        }

    def counts(self) -> dict[str, int]:
        """Numbers of the report's parts."""
        lists = {name: len(getattr(self, name)()) for name in _LISTS}
        tuples = {name: len(getattr(self, name)) for name in ("junk", "unread", "irregular", "unreadable")}
        spare = sum(len(group) - 1 for group in self.duplicates)
        return {
            "pictures": len(self.pictures),
            "usable": len(self.usable),
            "captions": self.captions,
            "colour": len(self.usable) - lists["grey"],
            **lists,
            "turned": sum(p.orientation != 1 for p in self.usable),
            "transparent": sum(p.transparent for p in self.usable),
            "duplicates": spare,
            "similar_groups": len(self.similar),
            **tuples,
        }

    def warnings(self) -> list[str]:
        """What the user should look at, in sentences."""
        n = self.counts()
        said = [
            (n["broken"], f"{_some(n['broken'])} can't be used"),
            (n["duplicates"], f"{_some(n['duplicates'])} too many: the same as another one, byte for byte"),
            (n["similar_groups"], f"{_some(n['similar_groups'], 'group')} of pictures that look alike"),
            (n["tiny"], f"{_some(n['tiny'])} shorter than {TINY} pixels"),
            (
                n["small"] - n["tiny"],
                f"{_some(n['small'] - n['tiny'])} shorter than {SMALL} pixels: enlarged in training",
            ),
            (n["huge"], f"{_some(n['huge'])} longer than {HUGE} pixels: split them, or cut out what matters"),
            (n["blurred"], f"{_some(n['blurred'])} may be blurred"),
            (n["unread"], f"{_some(n['unread'], 'file')} of a format that isn't read: save as PNG"),
            (n["unreadable"], f"{_some(n['unreadable'], 'folder')} can't be read"),
            (n["junk"], f"{_some(n['junk'], 'file')} left behind by systems or archives, not used"),
            (
                n["grey"] > n["colour"],
                f"{_some(n['grey'])} black and white and only {n['colour']:,} in colour: for coloured results, "
                "black-and-white pictures must not outnumber the others",
            ),
        ]
        return [text for trouble, text in said if trouble]

    def lines(self) -> list[str]:
        """A report for people."""
        n = self.counts()
        found = [f"{n['pictures']:,} pictures, {n['usable']:,} usable, {n['captions']:,} text files"]
        for title, name in (("folders", "folder_of"), ("formats", "format"), ("colours", "mode"), ("shapes", "aspect")):
            if tally := self._tally(name).most_common(8):
                found.append(f"{title}: " + ", ".join(f"{shown(key)} {count:,}" for key, count in tally))
        found += [f"{n['colour']:,} in colour, {n['grey']:,} black and white", ""]
        found += [f"warning: {text}" for text in self.warnings()]
        for title, seen in (("can't be used", self.broken()), ("blurred?", self.blurred()), ("tiny", self.tiny())):
            found += [f"  {title}: {shown(p.name)}{_why(title, p)}" for p in seen[:20]]
            found += [f"  … and {len(seen) - 20} more"] if len(seen) > 20 else []
        for title, groups in (("the same", self.duplicates), ("alike", self.similar)):
            found += [f"  {title}: {', '.join(shown(name) for name in group[:6])}" for group in groups[:20]]
            found += [f"  … and {len(groups) - 20} more groups"] if len(groups) > 20 else []
        return found

    def _tally(self, name: str) -> Counter[str]:
        if name == "folder_of":
            return Counter(p.name.rpartition("/")[0] or "." for p in self.pictures)
        if name == "aspect":
            return Counter(shape(p.width, p.height) for p in self.usable)
        if name == "size":
            return Counter(f"{p.width}x{p.height}" for p in self.usable)
        return Counter(getattr(p, name) for p in self.usable)


_LISTS = ("broken", "small", "tiny", "huge", "blurred", "grey")

FINDINGS = (
    *("broken", "twice", "alike", "tiny", "small", "huge", "blurred", "grey", "transparent", "turned", "animated"),
)
"""What a scan can find of a picture, the worst first. "small" leaves out those that are tiny."""

SHAPES = {
    "1:1": 1.0,
    "4:3": 4 / 3,
    "3:4": 3 / 4,
    "3:2": 1.5,
    "2:3": 2 / 3,
    "16:9": 16 / 9,
    "9:16": 9 / 16,
    "2:1": 2.0,
    "1:2": 0.5,
}
"""Aspect ratios by name, width to height."""


def shape(width: int, height: int) -> str:
    """The nearest of SHAPES, or "wide" and "tall" beyond them."""
    ratio = width / height
    name = min(SHAPES, key=lambda key: abs(np.log(ratio / SHAPES[key])))
    return name if abs(np.log(ratio / SHAPES[name])) < 0.15 else "wide" if ratio > 1 else "tall"


def scan(
    folder: Path,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
    near: int = likeness.NEAR,
    parts: Sequence[Path] | None = None,
    left_out: Iterable[Path] = (),
) -> Report:
    """Look at all pictures in `folder` and the folders in it; `progress(done, total)` counts them.

    parts: folders that are looked into in its place (`project.Project.parts`); pictures outside `folder` are named by
    their whole path. left_out: folders whose pictures are compared with none, such as those that a plan has copied.
    cache: a file that remembers what was seen, by name, size and time of change. When `stop` is set, what has been seen
    by then is reported and remembered. Raises UserError where the folder can't be read.
    """
    found = walk(folder, parts)
    known = _remembered(cache)
    seen: list[Seen] = []
    todo: list[tuple[Path, str, os.stat_result]] = []
    for name in found.pictures:
        path = folder / name
        try:
            state = path.stat()
        except OSError as error:
            seen.append(Seen(name, 0, 0, problem=f"it can't be opened ({error.strerror})"))
            continue
        old = known.get(name)
        if old is not None and (old.bytes, old.changed) == (state.st_size, state.st_mtime_ns):
            seen.append(old)
        else:
            todo.append((path, name, state))
    reused = len(seen)
    total = len(found.pictures)
    if progress and reused:
        progress(reused, total)
    for part in _looked_at(todo, stop):
        seen += part
        if progress:
            progress(len(seen), total)
    pictures = tuple(sorted(seen, key=lambda p: p.name))
    if cache is not None and len(seen) > reused:
        _remember(cache, pictures)
    apart = {_prefix(one, folder).rstrip("/") for one in left_out}
    compared = [one for one in pictures if one.name.rpartition("/")[0] not in apart] if apart else pictures
    duplicates = _duplicates(compared)
    return Report(
        folder, pictures, found.junk, found.unread, found.irregular, found.unreadable, duplicates,
        _similar(compared, duplicates, near), found.captions, reused, len(seen) < total,
    )  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Names below a folder, with /, sorted; see Report."""

    pictures: tuple[str, ...]
    junk: tuple[str, ...]
    unread: tuple[str, ...]
    irregular: tuple[str, ...]
    unreadable: tuple[str, ...]
    captions: int


def walk(folder: Path, parts: Sequence[Path] | None = None) -> Found:
    """Every file that a scan would look at. Links to folders aren't followed. Raises UserError for what is named."""
    kinds: dict[str, list[str]] = {kind: [] for kind in ("pictures", "junk", "unread", "irregular", "unreadable")}
    captions = 0
    places = [(folder, "")] if parts is None else [(part, _prefix(part, folder)) for part in parts]
    for prefix, entry in (entry for place in places for entry in _entries(*place, kinds["unreadable"], _DEPTH)):
        name = prefix + entry.name
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - one of 10,000s
        if entry.name in JUNK or entry.name.startswith("._"):
            kinds["junk"].append(name)
        elif entry.name.startswith("."):
            continue
        elif suffix in images.SUFFIXES:
            kinds["pictures" if _is_file(entry) else "irregular"].append(name)
        elif suffix in UNREAD_SUFFIXES:
            kinds["unread"].append(name)
        elif suffix in (".txt", ".caption"):
            captions += 1
    return Found(captions=captions, **{kind: tuple(sorted(names)) for kind, names in kinds.items()})


def _prefix(part: Path, folder: Path) -> str:
    return (part.relative_to(folder) if part.is_relative_to(folder) else part).as_posix() + "/"


def _entries(folder: Path, prefix: str, unreadable: list[str], depth: int) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(prefix of its name, entry) of all that isn't a folder to look into; hidden ones are passed over."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        if depth < _DEPTH:
            unreadable.append(prefix.rstrip("/"))
            return
        what, remedy = f"the folder can't be read ({error.strerror})", "Check the path and its permissions"
        raise UserError(what, where=shown(str(folder)), remedy=remedy) from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and entry.name not in JUNK:
            if not entry.name.startswith(".") and depth:
                yield from _entries(folder / entry.name, f"{prefix}{entry.name}/", unreadable, depth - 1)
        else:
            yield prefix, entry


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a loop of links
        return False


# One picture

_Todo = tuple[Path, str, os.stat_result]


def _looked_at(todo: Sequence[_Todo], stop: Event | None) -> Iterator[list[Seen]]:
    """Batches, as they are done; few are under way at a time.

    Decoders leave Python's lock, so threads help; for many pictures each thread has a process that does its work, as
    the rest of what is done for a small picture keeps that lock.
    """
    batches = iter([todo[start : start + _BATCH] for start in range(0, len(todo), _BATCH)])
    helpers = _Helpers(len(todo) >= _MANY)
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "scan")
    running: set[Future[list[Seen]]] = set()
    try:
        while not (stop and stop.is_set()):
            while len(running) < 8 and (batch := next(batches, None)):
                running.add(pool.submit(_batch, batch, stop, helpers))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
        for future in running:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        helpers.end()


def _batch(batch: Sequence[_Todo], stop: Event | None, helpers: _Helpers) -> list[Seen]:
    if stop and stop.is_set():
        return []
    answers = helpers.seen(batch)
    return [
        found or _seen(*item)
        for item, found in zip(batch, answers, strict=True)
        if not (stop and stop.is_set()) or found
    ]


class _Helpers:
    """A process for each thread that asks. Where one can't be started or dies, the thread does the work itself."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._own = local()
        self._all: list[subprocess.Popen[bytes]] = []

    def seen(self, batch: Sequence[_Todo]) -> Sequence[Seen | None]:
        """What was found of each; None for what the thread itself has to look at."""
        nothing = [None] * len(batch)
        if not self._wanted:
            return nothing
        try:
            process = self._process()
            assert process.stdin and process.stdout
            asked = [[str(path), name, state.st_size, state.st_mtime_ns] for path, name, state in batch]
            process.stdin.write(json.dumps(asked).encode("ascii") + b"\n")
            process.stdin.flush()
            answers = json.loads(process.stdout.readline())
            found = [Seen(*answer) if answer else None for answer in answers]
            return found if len(found) == len(batch) else nothing
        except (OSError, ValueError, TypeError):
            self._wanted = False
            return nothing

    def _process(self) -> subprocess.Popen[bytes]:
        if not hasattr(self._own, "process"):
            self._own.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(ROOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_KEEP_MEMORY},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows
            )
            self._all.append(self._own.process)
        process: subprocess.Popen[bytes] = self._own.process
        return process

    def end(self) -> None:
        for process in self._all:
            with suppress(OSError):
                process.communicate(timeout=10)
            process.kill()


def serve() -> None:
    """The other process: batches on stdin, one a line, what was found of them on stdout; until stdin closes."""
    for line in sys.stdin.buffer:
        answers = []
        for path, name, size, changed in json.loads(line):
            try:
                answers.append(astuple(_seen(Path(path), name, _State(size, changed), alone=False)))
            except _Large:
                answers.append(())
        sys.stdout.buffer.write(json.dumps(answers).encode("ascii") + b"\n")
        sys.stdout.buffer.flush()


class _Large(Exception):
    """A picture that wants much memory: only one such at a time, so the process that knows of all does it."""


@dataclass(frozen=True)
class _State:
    """Of os.stat_result, what is used of it."""

    st_size: int
    st_mtime_ns: int


def _seen(path: Path, name: str, state: os.stat_result | _State, alone: bool = True) -> Seen:
    """alone: large pictures wait for each other; else they raise _Large."""
    try:
        return _described(path, name, state, alone)
    except UserError as error:
        return Seen(name, state.st_size, state.st_mtime_ns, problem=error.what)
    except OSError as error:
        problem = f"it can't be opened ({error.strerror})"
        return Seen(name, state.st_size, state.st_mtime_ns, problem=problem)


def _described(path: Path, name: str, state: os.stat_result | _State, alone: bool) -> Seen:
    if state.st_size > _MOST_BYTES:
        raise UserError(f"the file is larger than {_MOST_BYTES >> 20} MiB", where=path, remedy="Save it smaller")
    data = path.read_bytes()
    width, height, note = images.inspect(path, data)
    large = width * height > _LARGE and data[:3] != _JPEG
    if large and not alone:
        raise _Large
    with _alone if large else nullcontext():
        found = look.opened(io.BytesIO(data), path, _LOOK)
    clear, picture = look.transparent(found.picture), images.flat(found.picture)
    grey = look.shrunk(picture.convert("L"), _LOOK)
    return Seen(
        name, state.st_size, state.st_mtime_ns, width, height, found.format, found.mode, found.orientation,
        clear, is_grey(picture), sharpness(grey),
        hashlib.blake2b(data, digest_size=16).hexdigest(), likeness.phash(grey), note,
    )  # fmt: skip


def is_grey(picture: Image.Image) -> bool:
    """Whether next to no pixel of an RGB picture has a colour; traces of JPEG's colour noise don't count."""
    small = picture.reduce(max(1, min(picture.size) // 32))
    red, green, blue = np.asarray(small).transpose(2, 0, 1)
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return bool(np.count_nonzero(most - least > _GREY_SPREAD) < _GREY_SHARE * most.size)


def sharpness(grey: Image.Image) -> float:
    """Variance of the Laplacian of a picture of mode L: Pech-Pacheco's measure of focus (ICPR 2000)."""
    p = np.asarray(grey).astype(np.int16)
    if min(p.shape) < 3:
        return 0.0
    inner = p[:-2, 1:-1] + p[2:, 1:-1]
    inner += p[1:-1, :-2]
    inner += p[1:-1, 2:]
    inner -= 4 * p[1:-1, 1:-1]
    values = inner.ravel().astype(np.float32)
    mean = float(values.mean())
    return round(float(values @ values) / values.size - mean * mean, 2)


# Which are the same, which alike


def _duplicates(pictures: Sequence[Seen]) -> tuple[tuple[str, ...], ...]:
    by_content: dict[str, list[str]] = {}
    for picture in pictures:
        if picture.content:
            by_content.setdefault(picture.content, []).append(picture.name)
    return tuple(tuple(names) for names in by_content.values() if len(names) > 1)


def _similar(
    pictures: Sequence[Seen], duplicates: tuple[tuple[str, ...], ...], near: int
) -> tuple[tuple[str, ...], ...]:
    """Groups of pictures that look alike; of those that are the same byte for byte, the first stands for all."""
    copies = {name for group in duplicates for name in group[1:]}
    single = [p for p in pictures if not p.problem and p.name not in copies]
    return tuple(tuple(single[i].name for i in group) for group in likeness.groups([p.alike for p in single], near))


# What was seen before


def _remembered(cache: Path | None) -> dict[str, Seen]:
    """By name; nothing where there is no cache, or one that another version wrote or that is damaged."""
    if cache is None:
        return {}
    try:
        held = json.loads(cache.read_text(encoding="utf-8"))
        if held["version"] != _VERSION or held["fields"] != [f.name for f in fields(Seen)]:
            return {}
        return {row[0]: Seen(*row) for row in held["pictures"]}
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return {}


def seen_before(folder: Path, cache: Path, paths: Iterable[Path]) -> dict[Path, Seen]:
    """What earlier scans of `folder` saw of these pictures, as far as they are as they were then."""
    known, found = _remembered(cache), dict[Path, Seen]()
    for path in paths:
        old = known.get(str(path).removeprefix(f"{folder}{os.sep}").replace(os.sep, "/"))
        try:
            state = os.stat(path) if old else None  # noqa: PTH116 - faster, and there may be 10,000
        except OSError:
            continue
        if old and state and (old.bytes, old.changed) == (state.st_size, state.st_mtime_ns):
            found[path] = old
    return found


def _remember(cache: Path, pictures: Sequence[Seen]) -> None:
    held = {"version": _VERSION, "fields": [f.name for f in fields(Seen)], "pictures": [astuple(p) for p in pictures]}
    write_text(cache, json.dumps(held, separators=(",", ":")))


def _some(number: int, thing: str = "picture") -> str:
    words = {
        "picture": (f"{number} picture", f"{number:,} pictures"),
        "group": (f"{number} group", f"{number:,} groups"),
        "file": (f"{number} file", f"{number:,} files"),
        "folder": (f"{number} folder", f"{number:,} folders"),
    }
    return words[thing][number != 1]


def _hex(picture: Seen) -> str | None:
    return None if picture.alike is None else f"{picture.alike:016x}"


def _why(title: str, picture: Seen) -> str:
    if picture.problem:
        return f" ({picture.problem})"
    return f" ({picture.sharpness:g})" if title == "blurred?" else f" ({picture.width} x {picture.height})"
