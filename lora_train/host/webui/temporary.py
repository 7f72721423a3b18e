"""Block weights where the WebUI can't be given them: baked into a file of a fresh name, for one picture."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...blocks.bake import bake_sources, limit_of
from ...blocks.layout import Index, family_of_file, index_of
from ...blocks.recipe import Item, Source
from ...network.kohya import open_lora
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
    every = [(source, _index(source)) for source in map(_source, loras)]
    acting = [(source, index) for source, index in every if any(source.weights[block] for block in index.blocks())]
    sources = [source for source, _ in acting]
    if not sources:
        return []
    from .host import WebUIHost

    _folder().mkdir(parents=True, exist_ok=True)
    out = _folder() / f"train-lora-{_digest(sources)}.safetensors"
    if out.is_file():
        return [Applied(out)]
    # A DoRA and the like change a checkpoint by its own weights.
    needed = any(module.needs_checkpoint for _, index in acting for module in index.modules.values())
    checkpoint = WebUIHost().checkpoint() if needed else None
    against = checkpoint.path if checkpoint else None
    bake_sources(sources, out, limit_of(None, None, _PRECISION), _PRECISION, against=against)
    return [Applied(out)]


def clear() -> None:
    """Take the files away, and those that an earlier process left behind."""
    networks = sys.modules.get("networks")
    for file in _folder().glob("train-lora-*"):
        with contextlib.suppress(OSError):  # Windows: something still reads it; the next call takes it away
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


def _index(source: Source) -> Index:
    with open_lora(source.path) as file:
        return index_of(file.shapes, source.path, source.family)


def _digest(sources: Sequence[Source]) -> str:
    """The same files with the same weights give the same name; others never do."""
    found = hashlib.sha256()
    for source in sources:
        file = source.path.stat()
        found.update(repr((str(source.path), file.st_mtime_ns, file.st_size, sorted(source.weights.items()))).encode())
    return found.hexdigest()[:16]
