"""The WebUI's upscalers, to an exact size."""

from __future__ import annotations

import math
from typing import Any

from PIL import Image

from ...errors import UserError
from .inside import job, on_main_thread, optional, queue, shared
from .memory import refuse_while_lent

LANCZOS = "Lanczos"
_STEP = 8
"""The WebUI rounds an upscaler's result down to multiples of this."""


def upscalers() -> list[str]:
    """The names in the WebUI's list, without its "None"; Lanczos first."""
    names = [entry.name for entry in shared().sd_upscalers if entry.name != "None"]
    return [LANCZOS, *(name for name in names if name != LANCZOS)]


def upscale(picture: Image.Image, name: str, width: int, height: int) -> Image.Image:
    """The picture as RGB of exactly width x height pixels. Raises UserError."""
    if name not in upscalers():
        remedy = f"Choose from {', '.join(upscalers())}"
        raise UserError(f"the WebUI has no upscaler {name!r}", where="upscaler", remedy=remedy)
    picture = picture.convert("RGB")
    if name != LANCZOS and (width > picture.width or height > picture.height):
        refuse_while_lent()
        with queue(), job(f"Train LoRA: {name}") as state:
            picture = on_main_thread(lambda: _enlarged(picture, name, width, height))
            if state.interrupted:
                raise UserError("it was interrupted in the WebUI", where=name, remedy="Start it again")
    return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.LANCZOS)


def _enlarged(picture: Image.Image, name: str, width: int, height: int) -> Image.Image:
    """At least width x height. The list is made anew when the WebUI reloads its UI, hence looked up each time."""
    entry = next(entry for entry in shared().sd_upscalers if entry.name == name)
    before = _last_error()
    try:
        result = entry.scaler.upscale(picture, _factor(picture, width, height), entry.data_path)
    except Exception as error:  # a model may fail in any way
        raise _failed(entry, str(error) or type(error).__name__) from error
    # An upscaler whose model can't be loaded reports that, and returns the picture as it was.
    if (reported := _last_error()) is not before:
        raise _failed(entry, str(reported.get("exception", "") or "see the WebUI's console"))
    return result.convert("RGB")


def _factor(picture: Image.Image, width: int, height: int) -> float:
    """One that covers the size after rounding down."""
    wide, high = (math.ceil(side / _STEP) * _STEP for side in (width, height))
    return max(wide / picture.width, high / picture.height) * (1 + 1e-9)


def _last_error() -> Any:
    records = getattr(optional("modules.errors"), "exception_records", None)
    return records[-1] if records else None


def _failed(entry: Any, reason: str) -> UserError:
    place, remedy = str(entry.data_path or ""), "Choose another"
    folder = getattr(entry.scaler, "model_download_path", None) or getattr(entry.scaler, "model_path", None)
    if place.startswith(("http://", "https://")) and folder:  # what its first use downloads
        remedy = f"Choose another, or put its model into {folder}: {place}"
    elif place:
        remedy = f"Choose another, or look at its model file: {place}"
    return UserError(f"the upscaler failed: {reason}", where=entry.name, remedy=remedy)
