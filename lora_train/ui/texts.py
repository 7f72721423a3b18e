"""Small pieces of HTML: everything in them that isn't ours is escaped."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from .. import settings as settings_module
from ..dataset.pictures import Dataset
from ..dataset.source import open_dataset
from ..errors import UserError, UserErrors
from ..plan.steps import Plan, plan
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


SUM = (
    *("train_data_dir", "reg_data_dir", "dataset_config", "caption_extension", "max_train_epochs", "max_train_steps"),
    *("train_batch_size", "gradient_accumulation_steps", "resolution", "enable_bucket", "min_bucket_reso"),
    *("max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"),
)
"""Settings that decide how many steps a run has."""


def arithmetic(values: dict[str, Any]) -> str:
    """What will be trained on, and how many steps that makes. values: the settings of SUM as the fields hold them."""
    values = {name: value for name, value in values.items() if value not in ("", None)}
    folders = [str(values.get(name, "")).strip() for name in ("train_data_dir", "reg_data_dir", "dataset_config")]
    if not (folders[0] or folders[2]):
        return _sum("Give a folder of pictures to see how many steps the training has.")
    try:
        with _IN_TURN:
            dataset = _opened(tuple(sorted(values.items())), tuple(map(_stamp, folders)))
            planned = plan(settings_module.from_dict(values)[0], dataset)
    except UserError as error:
        single = error.errors if isinstance(error, UserErrors) else [error]
        return _box("warning", "No sum yet", "".join(_error(e) for e in single))
    return _sum(f"{_steps(planned, values)}<small>{_pictures(planned)}</small>") + _warnings(dataset)


def _steps(planned: Plan, values: dict[str, Any]) -> str:
    """The sum in numbers: exact where all pictures share batches, else with what the buckets' short batches add."""
    trained = [folder for folder in planned.folders if not folder.is_reg]
    terms = [f"{folder.pictures:,} × {folder.repeats:,}" for folder in trained]
    regular = sum(folder.images for folder in planned.folders if folder.is_reg)
    terms += [f"{regular:,} regularisation"] if regular else []
    images = " + ".join(terms)
    batch = int(values.get("train_batch_size", 1)) * int(values.get("gradient_accumulation_steps", 1))
    each = f"{planned.steps_per_epoch:,} steps an epoch"
    if planned.extra_batches:
        each += f" ({planned.extra_batches:,} more batches than with one shape)"
    if "max_train_epochs" not in values:
        return f"{images} ÷ {batch:,} = {each}; <b>{planned.steps:,} steps</b> in all"
    images = f"({images})" if len(terms) > 1 else images
    more = f" · {each}" if planned.extra_batches else ""
    return f"{images} × {planned.epochs:,} epochs ÷ {batch:,} = <b>{planned.steps:,} steps</b>{more}"


def _pictures(planned: Plan) -> str:
    trained = sum(not folder.is_reg for folder in planned.folders)
    parts = ["1 picture" if planned.pictures == 1 else f"{planned.pictures:,} pictures"]
    parts[0] += "" if trained == 1 else f" in {trained} folders"
    if len(planned.buckets) > 1:
        shapes = ", ".join(f"{b.width}×{b.height}: {b.images:,}" for b in planned.buckets[:_MOST_WARNINGS])
        more = len(planned.buckets) - _MOST_WARNINGS
        parts.append(f"{len(planned.buckets)} buckets ({shapes}{f' and {more} more' if more > 0 else ''})")
    if planned.enlarged:
        parts.append(f"{planned.enlarged:,} smaller than the resolution")
    return " · ".join(["pictures × repeats × epochs ÷ batch size", *parts])


def _sum(text: str) -> str:
    return f'<div class="train-lora-sum">{text}</div>'


def _warnings(dataset: Dataset) -> str:
    if not dataset.warnings:
        return ""
    shown = [_sentence(text) for text in dataset.warnings[:_MOST_WARNINGS]]
    more = len(dataset.warnings) - len(shown)
    return note("warning", "About these pictures", [*shown, *([f"… and {more} more"] if more else [])])


def _stamp(folder: str) -> tuple[float, ...]:
    """Changes when files come or go in the folder or in those directly inside it."""
    try:
        path = Path(folder).expanduser()
        inside = [entry for entry in path.iterdir() if entry.is_dir()][:200] if path.is_dir() else []
        return tuple(place.stat().st_mtime for place in [path, *inside]) if folder else ()
    except (OSError, ValueError):
        return ()


@lru_cache(maxsize=8)
def _opened(values: tuple[tuple[str, Any], ...], _seen: tuple[tuple[float, ...], ...]) -> Dataset:
    return open_dataset(settings_module.from_dict(dict(values))[0])
