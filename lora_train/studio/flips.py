"""Mirrored copies of pictures, with captions that are true of them: what is left becomes right."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from PIL import Image

from ..dataset import images
from ..dataset.folders import shown
from ..errors import UserError
from .captions import TITLE, Row, Table
from .edits import Swap, key
from .journal import Change

ENDING = "_flipped"
"""What a copy's name ends with."""

_KEPT = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}  # others become PNG
_HOW: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
_WRITING = re.compile(r"(?<!no )\b(?:text|watermark|signature|logo|speech bubble|artist name|copyright name|dated)\b")


@dataclass(frozen=True)
class Copy:
    """A picture, the copy that is going to be made, and its caption; None where the picture has none."""

    row: Row
    target: Path
    caption: str | None


@dataclass(frozen=True)
class Plan:
    """What would be made. skipped: pictures and why; writing: how many were left out as they hold writing."""

    copies: tuple[Copy, ...]
    skipped: tuple[str, ...] = ()
    writing: int = 0


@dataclass(frozen=True)
class Made:
    """Pictures that were made. entry: its id in the journal, None where there are none."""

    pictures: tuple[Path, ...]
    problems: tuple[UserError, ...] = ()
    stopped: bool = False
    entry: int | None = None


def plan(
    table: Table, rows: Iterable[Row] | None = None, protect: Iterable[str] = (), keep_writing: bool = False
) -> Plan:
    """The copies of `rows` (all but those of regularisation), but of those that have one, are one, or lie elsewhere.

    protect: tags that stay as they are, such as a trigger. keep_writing: mirror pictures whose captions speak of text
    in them, too. Writes nothing.
    """
    swap = Swap(tuple(protect))
    stems = {os.path.normcase(row.picture.with_suffix("")) for row in table.rows}
    copies, skipped, writing = [], [], 0
    elsewhere: Counter[Path] = Counter()
    for row in table.own if rows is None else rows:
        picture, name = row.picture, shown(row.picture.name)
        if picture.stem.endswith(ENDING):
            continue
        if not picture.absolute().is_relative_to(table.root):
            elsewhere[picture.parent] += 1
        elif row.problem:
            skipped.append(f"{name}: {row.problem}")
        elif os.path.normcase(picture.with_name(picture.stem + ENDING)) in stems:
            skipped.append(f"{name} has a mirrored copy")
        elif not keep_writing and any(_WRITING.search(key(tag)) for tag in row.tags):
            writing += 1
        else:
            suffix = picture.suffix if picture.suffix.lower() in _KEPT else ".png"
            target = picture.with_name(picture.stem + ENDING + suffix)
            copies.append(Copy(row, target, None if row.missing else swap.text(row.text, table.known)))
    outside = [_outside(shown(folder.name), count) for folder, count in elsewhere.items()]
    return Plan(tuple(copies), (*outside, *skipped), writing)


def _outside(folder: str, count: int) -> str:
    if count == 1:
        return f"{folder}: 1 picture lies outside of the project, and nothing is written there; cut it first"
    return f"{folder}: {count:,} pictures lie outside of the project, and nothing is written there; cut them first"


def make(
    table: Table,
    wanted: Plan,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
) -> Made:
    """Write the copies beside their pictures, with captions and masks, as one change of the journal."""
    made: list[Path] = []
    problems: list[UserError] = []
    if not wanted.copies:
        return Made(())
    count = len(wanted.copies)
    stopped = False
    with table.journal.change(f"{TITLE}{count} mirrored {'copy' if count == 1 else 'copies'}") as change:
        for done, copy in enumerate(wanted.copies, 1):
            if stopped := stop is not None and stop.is_set():
                break
            try:
                _make(table, change, copy)
                made.append(copy.target)
            except UserError as error:
                problems.append(error)
            if progress:
                progress(done, count)
    return Made(tuple(made), tuple(problems), stopped, change.number if change.steps else None)


def _make(table: Table, change: Change, copy: Copy) -> None:
    picture = images.read(copy.row.picture, alpha=True)
    if picture.getchannel("A").getextrema() == (255, 255):
        picture = picture.convert("RGB")
    _create(change, picture, copy.target)
    mask = table.root / "masks" / copy.row.picture.parent.name / f"{copy.row.picture.stem}.png"
    if mask.is_file():
        with Image.open(mask, formats=["PNG"]) as found:
            _create(change, found.copy(), mask.with_name(f"{mask.stem}{ENDING}.png"))
    if copy.caption is not None:
        ending = table.extension
        change.write(copy.target.with_name(copy.target.stem + ending), copy.caption.encode("utf-8"))


def _create(change: Change, picture: Image.Image, target: Path) -> None:
    """The picture mirrored, as a new file."""
    kind = _KEPT[target.suffix.lower()]
    if kind in ("JPEG", "BMP"):
        picture = images.flat(picture)
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    change.create(target, lambda temporary: mirrored.save(temporary, kind, **_HOW.get(kind, {})))
