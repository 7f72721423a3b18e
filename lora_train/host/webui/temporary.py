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
    kept = [lora for lora in loras if lora.is_plain]
    weighted = [lora for lora in loras if not lora.is_plain]
    sources = [source for source in map(_source, weighted) if any(source.weights.values())]
    if not sources:
        yield kept
        return
    from .host import WebUIHost

    host = WebUIHost()
    folder = host.lora_dir() / _FOLDER
    _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"train-lora-{_digest(sources)}.safetensors"
    checkpoint = host.checkpoint()
    try:
        try:
            bake_sources(sources, out, limit_of(None, None, _PRECISION), _PRECISION)
        except UserError:
            if checkpoint is None or checkpoint.path.suffix != ".safetensors":
                raise
            bake_sources(sources, out, limit_of(None, None, _PRECISION), _PRECISION, against=checkpoint.path)
        yield [*kept, Applied(out)]
    finally:
        _clear(folder)
        _unlist(out.stem)


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


def _clear(folder: Path) -> None:
    """What an earlier process left behind goes too."""
    for file in folder.glob("train-lora-*"):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _unlist(name: str) -> None:
    """The WebUI forgets the file."""
    networks = sys.modules.get("networks")
    for listed in ("available_networks", "available_network_aliases"):
        entries = getattr(networks, listed, None)
        if isinstance(entries, dict):
            entries.pop(name, None)
