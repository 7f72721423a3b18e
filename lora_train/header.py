"""The header of a safetensors file: https://github.com/huggingface/safetensors#format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError

AGAIN = "Download or copy it again"
UNFINISHED = "Wait while it is still being written; else download or copy it again"
_MAX_HEADER = 100 << 20
_FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"


@dataclass(frozen=True)
class Header:
    """What stands before the tensors. entries: name -> dtype, shape, data_offsets, in the order of the data."""

    entries: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    start: int  # of the tensors, in bytes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(entry["shape"]) for name, entry in self.entries.items()}


def read_header(path: Path, what: str) -> Header:
    """Header of a .safetensors file that is whole. what: what it should be, for people: "LoRA", "checkpoint".

    Raises UserError saying what it is instead: missing, empty, cut off, an HTML page, a pickle…
    """
    if not path.is_file():
        raise UserError("there is no such file", where=path, remedy="Check the name and the folder")
    size = path.stat().st_size
    with Path(path).open("rb") as handle:
        head = handle.read(8)
        length = int.from_bytes(head, "little")
        text = handle.read(length) if 2 <= length <= _MAX_HEADER else b""
    if not text or len(text) < length:
        raise UserError(_foreign(head, length, what), where=path, remedy=AGAIN)
    header = _parse_header(text, path)
    end = header.start + max((entry["data_offsets"][1] for entry in header.entries.values()), default=0)
    if size < end:
        raise UserError(f"the file is cut off: {end - size:,} bytes are missing", where=path, remedy=UNFINISHED)
    return header


def usual_side(checkpoint: Path) -> int:
    """Pixels that a checkpoint's pictures usually have: 1024 for SDXL, 64 for the miniature, else 512."""
    try:
        entries = read_header(checkpoint, "checkpoint").entries
    except (UserError, OSError):
        return 512
    if any(name.startswith("conditioner.embedders.") for name in entries):
        return 1024
    width = next(iter(entries.get(_FIRST_LAYER, {}).get("shape", [320])))
    return 512 if width >= 320 else 64


def _foreign(head: bytes, length: int, what: str) -> str:
    """What a file is that begins with these 8 bytes and is too short for a header of that length.

    Only for such files: a sound header's length may well begin with the bytes of `<` or of a pickle.
    """
    if not head:
        return "the file is empty"
    if head.lstrip()[:1] == b"<":
        return f"this is an HTML page, not a {what}: the download went wrong"
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return "this is a pickled file (.pt, .ckpt), not safetensors; it is not opened for safety"
    if 2 <= length <= _MAX_HEADER and len(head) == 8:
        return "the file is cut off in its header, or not a safetensors file"
    return "this is not a safetensors file"


def _parse_header(text: bytes, path: Path) -> Header:
    try:
        raw = json.loads(text)
        metadata = {str(k): str(v) for k, v in raw.pop("__metadata__", {}).items()}
        entries = dict(sorted(raw.items(), key=lambda item: int(item[1]["data_offsets"][0])))
        for entry in entries.values():
            if not all(isinstance(n, int) and n >= 0 for n in (*entry["shape"], *entry["data_offsets"])):
                raise ValueError("shape")
            entry["dtype"], entry["data_offsets"][1]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise UserError("its header is damaged, or this is not a safetensors file", where=path, remedy=AGAIN) from None
    return Header(entries, metadata, 8 + len(text))


def header_bytes(entries: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    """Length (8 bytes, little-endian) and JSON, filled with spaces to a multiple of 8."""
    everything = {"__metadata__": dict(sorted(metadata.items())), **entries}
    text = json.dumps(everything, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
