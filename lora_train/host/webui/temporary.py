"""Block weights where the WebUI can't be given them: baked into a file of a fresh name, for one picture."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...blocks.bake import bake_sources, limit_of
from ...blocks.layout import family_of_file
from ...blocks.recipe import Item, Source
from ...errors import UserError
from ..shot import Applied

_FOLDER = "train-lora-temporary"
_PRECISION = "fp16"


@contextlib.contextmanager
def without_weights(loras: Sequence[Applied]) -> Iterator[list[Applied]]:
    """The same LoRAs with plain strengths: those with weights become one file, which is gone afterwards.

    Raises UserError as blocks.bake.
    """
    clear()
    try:
        yield [*(lora for lora in loras if lora.is_plain), *baked([lora for lora in loras if not lora.is_plain])]
    finally:
        clear()


def baked(loras: Sequence[Applied]) -> list[Applied]:
    """A file that acts as these together, in the WebUI's LoRA folder until `clear`; none where nothing is left of them.

    Raises UserError as blocks.bake.
    """
    sources = [source for source in map(_source, loras) if any(source.weights.values())]
    if not sources:
        return []
    from .host import WebUIHost

    _folder().mkdir(parents=True, exist_ok=True)
    out = _folder() / f"train-lora-{_digest(sources)}.safetensors"
    if out.is_file():
        return [Applied(out)]
    limit = limit_of(None, None, _PRECISION)
    checkpoint = WebUIHost().checkpoint()
    try:
        bake_sources(sources, out, limit, _PRECISION)
    except UserError:
        if checkpoint is None or checkpoint.path.suffix != ".safetensors":
            raise
        bake_sources(sources, out, limit, _PRECISION, against=checkpoint.path)  # DoRA and the like need it
    return [Applied(out)]


def clear() -> None:
    """Take the files away, and those that an earlier process left behind."""
    networks = sys.modules.get("networks")
    for file in _folder().glob("train-lora-*"):
        file.unlink(missing_ok=True)
        for listed in ("available_networks", "available_network_aliases"):
            entries = getattr(networks, listed, None)
            if isinstance(entries, dict):
                entries.pop(file.stem, None)
    with contextlib.suppress(OSError):
        _folder().rmdir()


def _folder() -> Path:
    from .host import WebUIHost

    return WebUIHost().lora_dir() / _FOLDER


def _source(lora: Applied) -> Source:
    family = family_of_file(lora.path)
    return Source(Item(lora.path.stem, 1.0), lora.path, None, lora.factors(family), family)


def _digest(sources: Sequence[Source]) -> str:
    """The same files with the same weights give the same name; others never do."""
    found = hashlib.sha256()
    for source in sources:
        file = source.path.stat()
        found.update(repr((str(source.path), file.st_mtime_ns, file.st_size, sorted(source.weights.items()))).encode())
    return found.hexdigest()[:16]
