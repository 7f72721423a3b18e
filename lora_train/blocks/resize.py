"""One LoRA of any kind at another rank: the nearest plain LoRA, with its metadata kept."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..header import read_header
from .bake import Progress, bake_sources, limit_of, no_progress
from .families import flat_weights
from .layout import family_of_file
from .recipe import Item, Source
from .report import Report

_PRECISIONS = {"F16": "fp16", "BF16": "bf16", "F32": "float"}


def resize(
    lora: str | Path,
    out: str | Path,
    rank: int | None = None,
    target_error: float | None = None,
    precision: str | None = None,
    against: str | Path | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Write `lora` with at most `rank` per module, or with the least ranks that err by no more than `target_error`.

    LoHa, LoKr and whole differences become plain LoRA; norms and biases stay. precision: None keeps the file's.
    against: the checkpoint that DoRA, IA3 and GLoRA were made for; progress: as in bake_sources.
    Raises UserError: neither or both of rank and target error, or what stands in the way of bake.
    """
    lora = Path(lora)
    if rank is None and target_error is None:
        raise UserError("give a rank or a target error", where="rank", remedy="For example --rank 32")
    precision = precision or _stored_precision(lora)
    limit = limit_of(rank, target_error, precision)
    family = family_of_file(lora)
    source = Source(Item(lora.stem, 1.0), lora, None, flat_weights(family), family)
    return bake_sources([source], out, limit, precision, against=against, keep_metadata=True, progress=progress)


def _stored_precision(path: Path) -> str:
    """That of most of the file's values."""
    sizes: dict[str, int] = {}
    for entry in read_header(path, "LoRA").entries.values():
        begin, end = entry["data_offsets"]
        sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - begin
    return _PRECISIONS.get(max(sizes, key=lambda dtype: sizes[dtype], default=""), "fp16")
