"""Small pieces of HTML: everything in them that isn't ours is escaped."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from ..dataset.folders import Dataset, scan
from ..errors import UserError, UserErrors
from .labels import LABELS, element, label

_MOST_WARNINGS = 6
_IN_TURN = threading.Lock()  # an answer for older fields must not overtake a newer one's


def errors(error: UserError) -> str:
    """All problems in one block; each names its field, which the page marks too."""
    single = error.errors if isinstance(error, UserErrors) else [error]
    title = "This has to be mended first" if len(single) == 1 else f"{len(single)} things have to be mended first"
    return _box("error", title, "".join(_error(e) for e in single))


def _error(error: UserError) -> str:
    where = error.where or ""
    field = where in LABELS or where.isidentifier()
    place = f"<b>{escape(label(where) if field else where)}</b> " if where else ""
    mark = f' data-field="{escape(element(where))}"' if field else ""
    text = " ".join(f"{part.rstrip('.')}." for part in (_sentence(error.what), error.remedy) if part)
    return f"<li{mark}>{place}{escape(text)}</li>"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def note(kind: str, title: str, lines: Sequence[str] = ()) -> str:
    """A box of kind "ok", "warning" or "error"."""
    return _box(kind, title, "".join(f"<li>{escape(line)}</li>" for line in lines))


def _box(kind: str, title: str, items: str) -> str:
    role = "alert" if kind == "error" else "status"
    listed = f"<ul>{items}</ul>" if items else ""
    return f'<div class="train-lora-box" data-kind="{kind}" role="{role}"><b>{escape(title)}</b>{listed}</div>'


def arithmetic(folder: str, extension: str, epochs: Any, batch: Any, max_steps: Any) -> str:
    """What will be trained on, and how many steps that makes."""
    if not str(folder or "").strip():
        return _sum("Give a folder of pictures to see how many steps the training has.")
    path = Path(folder.strip()).expanduser()
    try:
        with _IN_TURN:
            dataset = _scan(str(path), extension or ".txt", _stamp(path))
    except UserError as error:
        return _box("warning", "No pictures yet", f"<li>{escape(_sentence(error.what))}. {escape(error.remedy)}</li>")
    size, total = _whole(batch) or 1, _whole(epochs)
    each = math.ceil(dataset.images_with_repeats / size)
    concepts = " + ".join(f"{len(concept.pictures):,} × {concept.repeats:,}" for concept in dataset.concepts)
    if len(dataset.concepts) > 1 and total:
        concepts = f"({concepts})"
    if total:
        text = f"{concepts} × {total:,} epochs ÷ {size:,} = <b>{each * total:,} steps</b>"
    else:
        text = f"{concepts} ÷ {size:,} = {each:,} steps an epoch; <b>{_whole(max_steps) or 0:,} steps</b> in all"
    pictures = "1 picture" if dataset.picture_count == 1 else f"{dataset.picture_count:,} pictures"
    folders = "" if len(dataset.concepts) == 1 else f" in {len(dataset.concepts)} folders"
    legend = "pictures × repeats × epochs ÷ batch size" if total else "pictures × repeats ÷ batch size"
    return _sum(f"{text}<small>{legend} · {pictures}{folders}</small>") + _warnings(dataset)


def _sum(text: str) -> str:
    return f'<div class="train-lora-sum">{text}</div>'


def _warnings(dataset: Dataset) -> str:
    if not dataset.warnings:
        return ""
    shown = [_sentence(text) for text in dataset.warnings[:_MOST_WARNINGS]]
    more = len(dataset.warnings) - len(shown)
    return note("warning", "About these pictures", [*shown, *([f"… and {more} more"] if more else [])])


def _whole(value: Any) -> int | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if math.isfinite(number) and number >= 1 else None


def _stamp(path: Path) -> tuple[float, ...]:
    """Changes when files come or go in the folder or in those directly inside it."""
    try:
        inside = [entry for entry in path.iterdir() if entry.is_dir()][:200]
        return tuple(folder.stat().st_mtime for folder in [path, *inside])
    except (OSError, ValueError):
        return ()


@lru_cache(maxsize=8)
def _scan(folder: str, extension: str, _seen: tuple[float, ...]) -> Dataset:
    return scan(folder, extension)
