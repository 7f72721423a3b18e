"""What the WebUI shows of a LoRA: the text of its card and its picture, which lie beside the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import replace_file, write_text
from .header import read_header


def write_card(lora: Path, weight: float | None, activation_text: str | None = None) -> Path:
    """Set the preferred weight and the activation text, where given; what else the card holds stays. Its path.

    The text of the WebUI's card: modules/ui_extra_networks_user_metadata.py and the Lora extension's editor.
    Raises UserError where the card that is there is damaged.
    """
    path = lora.with_suffix(".json")
    card: Any = {}
    if path.is_file():
        try:
            card = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            card = None
        if not isinstance(card, dict):
            raise UserError("the card's file is damaged", where=path, remedy="Mend it or take it away")
    if weight is not None:
        card["preferred weight"] = weight
    if activation_text is not None:
        card["activation text"] = activation_text.strip()
    version = _sd_version(lora)
    if version and card.get("sd version", "Unknown") == "Unknown":
        card["sd version"] = version
    write_text(path, json.dumps(card, indent=4, ensure_ascii=False))
    return path


def write_preview(lora: Path, picture: Path, replace: bool = True) -> Path | None:
    """Copy a PNG to where the WebUI looks for the card's picture; its path, None where another stays that was there.

    Raises UserError.
    """
    path = lora.with_suffix(".png")
    if path.exists() and not replace:
        return None
    guarded(partial(copy_file, picture, path), path)
    return path


def copy_file(source: Path, target: Path) -> None:
    """Copy, so that a reader sees the old file or the new one."""
    with replace_file(target) as temporary:
        shutil.copyfile(source, temporary)


def guarded(action: Callable[[], None], where: object) -> None:
    """Run `action`; what the system refuses becomes a UserError about `where`."""
    try:
        action()
    except OSError as error:
        remedy = "Check the permissions, and whether another program holds it"
        raise UserError(
            f"the file can't be moved or written ({error.strerror or error})", where=where, remedy=remedy
        ) from error


def _sd_version(lora: Path) -> str:
    """By the rule of the WebUI's Lora extension, network.py."""
    try:
        metadata = read_header(lora, "LoRA").metadata
    except (UserError, OSError):
        return ""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    return "SD2" if metadata.get("ss_v2") == "True" else "SD1" if metadata else ""
