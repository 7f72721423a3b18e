"""A LoRA file read once from end to end: whether it can be used, what it holds, its hash. Kept until it changes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..header import read_header
from ..network.kohya import file_hash, open_lora
from .layout import Index, index_of
from .metadata import RECIPE_KEY

_KNOWN, _MOST_FAMILIES = 256, 100_000
Stamp = tuple[str, int, int]


@dataclass(frozen=True)
class Held:
    """What a LoRA's header says."""

    index: Index
    metadata: dict[str, str]


@dataclass(frozen=True)
class Seen:
    """What a list of files says of one. family and problem: both None while it wasn't looked at yet; baked: here."""

    family: str | None = None
    problem: str | None = None
    baked: bool = False


_lock = threading.Lock()
_families: OrderedDict[Stamp, Seen] = OrderedDict()
_reading = threading.Semaphore(1)
_held: OrderedDict[Stamp, Held] = OrderedDict()
_hashes: OrderedDict[Stamp, str] = OrderedDict()


def held(path: Path) -> Held:
    """Its modules and metadata, from the header alone. Raises UserError: cut off, as a file that is being written is,
    no LoRA, another model's, unknown or incomplete tensors.
    """
    now = stamp(path)
    with _lock:
        known = _held.get(now)
    if known is None:
        header = read_header(path, "LoRA")
        with open_lora(path):
            known = Held(index_of(header.shapes(), path), header.metadata)
        _keep(_held, now, known)
    return known


def families(paths: Sequence[Path], seconds: float) -> list[Seen]:
    """Of many files, from their headers. Those that aren't known after so many seconds are looked at in a thread, for
    the next time.
    """
    end = time.monotonic() + seconds
    waiting = [path for path in paths if _known_family(path) is None]
    while waiting and time.monotonic() < end:
        _look(waiting.pop(0))
    if waiting and _reading.acquire(blocking=False):
        threading.Thread(target=_look_at_all, args=(waiting,), name="LoRA headers", daemon=True).start()
    return [_known_family(path) or Seen() for path in paths]


def _look_at_all(paths: Sequence[Path]) -> None:
    try:
        for path in paths:
            _look(path)
    finally:
        _reading.release()


def _known_family(path: Path) -> Seen | None:
    try:
        now = stamp(path)
    except UserError as error:
        return Seen(problem=error.what)
    with _lock:
        return _families.get(now)


def _look(path: Path) -> None:
    try:
        now = stamp(path)
    except UserError:
        return  # gone since
    try:
        known = held(path)
        found = Seen(known.index.family, baked=RECIPE_KEY in known.metadata)
    except UserError as error:
        found = Seen(problem=error.what)
    except OSError as error:
        found = Seen(problem=f"the file can't be read ({error.strerror})")
    _keep(_families, now, found, _MOST_FAMILIES)


def digest(path: Path) -> str:
    """sha256 of a file all of whose numbers are finite. Raises UserError as held, and for NaN or infinite values."""
    now = stamp(path)
    with _lock:
        known = _hashes.get(now)
    if known is None:
        held(path)
        with open_lora(path) as file:
            for name in file.shapes:
                file.tensor(name)
        known = file_hash(path)
        if stamp(path) != now:
            remedy = "Wait until it is written, then try again"
            raise UserError("the file was changed while it was read", where=path, remedy=remedy)
        _keep(_hashes, now, known)
    return known


def stamp(path: Path) -> Stamp:
    """(path, size, time of change): what tells a file as it is from one that was written since."""
    try:
        status = path.stat()
    except OSError:
        remedy = "Check the name and the folder"
        raise UserError("there is no such file", where=path, remedy=remedy) from None
    return str(path), status.st_size, status.st_mtime_ns


def _keep(known: OrderedDict[Stamp, Any], of: Stamp, value: Any, most: int = _KNOWN) -> None:
    with _lock:
        known[of] = value
        while len(known) > most:
            known.popitem(last=False)
