"""LoRAs merged into a checkpoint: W + Σ c ΔW, tensor by tensor, so that one tensor is in memory at a time.

Everything else of the checkpoint, its order and its kinds of numbers stay as they are.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..files import replace_file, require_space
from ..header import header_bytes, read_header
from ..network.kohya import cast_finite, file_hash
from .bake import Opened, Progress, check_out, no_progress, open_sources, terms_of
from .families import UNLISTED
from .layout import block_of
from .metadata import RECIPE_KEY, Made, recipe_text
from .places import Checkpoint, Place, open_checkpoint
from .recipe import Source, format_recipe, parse_recipe, resolve
from .report import DIFFERENCE, ModuleResult, Report
from .sums import Term

_WIDE = {torch.float32, torch.float64}


@dataclass(frozen=True)
class _Change:
    """A layer that LoRAs change, and where it is."""

    name: str
    block: str
    place: Place


def into_checkpoint(
    recipe: str,
    lora_dir: str | Path,
    presets: Mapping[str, tuple[float, ...]],
    checkpoint: str | Path,
    out: str | Path,
    unlisted: float = UNLISTED,
    other: float = 1.0,
    faults: Mapping[str, UserError] | None = None,
) -> Report:
    """Add the LoRAs of `recipe` to a checkpoint's weights. The options are those of bake."""
    sources = resolve(parse_recipe(recipe), lora_dir, presets, unlisted, None, other, faults)
    return sources_into_checkpoint(sources, checkpoint, out, unlisted)


def sources_into_checkpoint(
    sources: Sequence[Source],
    checkpoint: str | Path,
    out: str | Path,
    unlisted: float = UNLISTED,
    progress: Progress = no_progress,
) -> Report:
    """Add LoRAs to a checkpoint's weights and write it as `out`. Every kind but OFT is exact.

    progress: called with (done, total) tensors; what it raises ends the work.
    The report's norms are of what is added; its errors are the rounding of the changed weights as the file stores them.
    Raises UserError naming the item, file or layer that stands in the way; `out` is then as it was.
    """
    out, checkpoint = Path(out), Path(checkpoint)
    check_out(out, [checkpoint, *(source.path for source in sources)])
    text = format_recipe([source.item for source in sources])
    with ExitStack() as stack:
        hashing = stack.enter_context(ThreadPoolExecutor(1))
        paths = {checkpoint, *(source.path for source in sources)}
        hashes = {path: hashing.submit(file_hash, path) for path in paths}
        base = stack.enter_context(open_checkpoint(checkpoint))
        opened = open_sources(stack, sources, base)
        _refuse_embeddings(opened)
        changes, left_out = _changes(opened, base)
        if not changes:
            raise UserError("nothing is left: every strength or weight is 0", where=text)
        require_space(out.parent, checkpoint.stat().st_size)
        with replace_file(out) as temporary:
            digests = {path: digest.result() for path, digest in hashes.items()}

            def metadata(results: list[ModuleResult]) -> dict[str, str]:
                report = Report(out, text, "as stored", None, results, left_out, family=base.family)
                made = Made(report, list(sources), digests, None, unlisted, checkpoint.name)
                return {**base.header.metadata, **_texts(made, digests[checkpoint])}

            results = _write(temporary, base, opened, changes, metadata([]), progress)
            _verify(temporary, base)
    return Report(out, text, "as stored", None, results, left_out, family=base.family)


def _refuse_embeddings(opened: Sequence[Opened]) -> None:
    for one in opened:
        if one.index.bundled:
            what = f"it brings an embedding {one.index.bundled[0].split('.')[1]!r}, which a checkpoint can't hold"
            raise UserError(what, where=one.source.path, remedy="Merge it into a LoRA instead")


def _changes(opened: Sequence[Opened], base: Checkpoint) -> tuple[dict[str, list[_Change]], list[str]]:
    """Tensor -> the layers in it that change, biases under their own; and the layers whose every weight is 0."""
    changes: dict[str, list[_Change]] = defaultdict(list)
    left_out = []
    for name in sorted(set().union(*(one.index.modules for one in opened))):
        block = block_of(name, base.family)
        if not any(one.source.factor(block) and name in one.index.modules for one in opened):
            left_out.append(name)
            continue
        change = _Change(name, block, base.places[name])
        changes[change.place.key].append(change)
        modules = [one.index.modules[name] for one in opened if name in one.index.modules]
        if any({"diff_b", "b_norm"} & module.parts.keys() for module in modules):
            if change.place.bias not in base.header.entries:
                raise UserError(f"{name} has a bias in the LoRA and none in the checkpoint", where=base.path)
            changes[change.place.bias].append(change)
    return changes, left_out


def _texts(made: Made, base_hash: str) -> dict[str, str]:
    """kohya's and the WebUI's keys say nothing of a merge into a checkpoint; ours names it and all sources."""
    values: dict[str, Any] = json.loads(recipe_text(made))
    values["checkpoint"] = {"file": made.against, "sha256": base_hash}
    return {RECIPE_KEY: json.dumps(values, ensure_ascii=False), "modelspec.title": made.report.out.stem}


def _write(
    path: Path,
    base: Checkpoint,
    opened: Sequence[Opened],
    changes: Mapping[str, list[_Change]],
    metadata: Mapping[str, str],
    progress: Progress,
) -> list[ModuleResult]:
    results: list[ModuleResult] = []
    with path.open("wb") as handle:
        handle.write(header_bytes(base.header.entries, metadata))
        for done, key in enumerate(base.header.entries, start=1):
            progress(done, len(base.header.entries))
            if key not in changes:
                handle.write(base.read(key))
                continue
            tensor, more = _changed(key, base, opened, changes[key])
            results += more
            handle.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return results


def _changed(
    key: str, base: Checkpoint, opened: Sequence[Opened], changes: Sequence[_Change]
) -> tuple[Tensor, list[ModuleResult]]:
    """A tensor with its layers' changes, as the file stores it, and what they are worth."""
    stored = base.tensor(key)
    arithmetic = torch.float64 if stored.dtype in _WIDE else torch.float32
    wanted = stored.to(arithmetic)
    sums = []
    for change in changes:
        terms = terms_of(change.name, change.block, opened, base.weight)
        is_bias = key != change.place.key
        total = _total(terms, is_bias, arithmetic)
        part = change.place.of(wanted)
        if total is None:
            continue
        if total.numel() != part.numel():
            what = f"{change.name} is {list(part.shape)} in {base.path.name}, and the LoRA has {total.numel()} values"
            raise UserError(what, where=terms[0].path, remedy="Choose a checkpoint that the LoRA was trained for")
        part += total.reshape(part.shape)
        sums.append((change, total))
    result = cast_finite(key, wanted, stored.dtype, base.path)
    worth = []
    for change, total in sums:
        error = change.place.of(result).to(arithmetic) - change.place.of(wanted)
        worth.append(
            ModuleResult(change.name, change.block, 0, 0, float(total.norm()), float(error.norm()), DIFFERENCE)
        )
    return result, worth


def _total(terms: Sequence[Term], is_bias: bool, dtype: torch.dtype) -> Tensor | None:
    """Σ c ΔW of a layer, or of its bias; None where there is none."""
    if is_bias:
        parts = [term.factor * term.delta.bias.to(dtype) for term in terms if term.delta.bias is not None]
    else:
        parts = [term.factor * term.delta.dense(dtype).flatten() for term in terms if term.delta.matrix is not None]
    return torch.stack([part.flatten() for part in parts]).sum(0) if parts else None


def _verify(temporary: Path, base: Checkpoint) -> None:
    """What was written is whole and has the same tensors."""
    if read_header(temporary, "checkpoint").entries != base.header.entries:
        raise UserError("what was written can't be read back", where=base.path, remedy="Check the disk")


def relative_change(report: Report) -> float:
    """‖rounding‖ / ‖ΔW‖ of all layers: how much of what was added the file's kind of numbers can't show."""
    return math.hypot(*(m.error for m in report.modules)) / math.hypot(*(m.norm for m in report.modules))
