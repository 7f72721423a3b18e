"""The bake: several LoRAs, each with its strength and block weights, become one file with the same effect.

Per module ΔW = Σᵢ cᵢ sᵢ BᵢAᵢ, c = strength × weight of the block, s = alpha / rank. Without rank or target_error the
sum is exact but for the rounding of the file; with them it is the nearest of that rank. Every error reported is that of
the file itself, rounding included (of an exact sum in 16 bits it is estimated: algebra.rounded_sum). One
module is in memory at a time, besides the result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..files import check_output_name
from ..network.kohya import PRECISIONS, LoraFile, file_hash, open_lora, write_lora
from .families import OTHER, UNLISTED, unnamed
from .kinds import Weight, read
from .layout import Index, block_of, index_of, require_plain
from .metadata import Made, baked_metadata
from .places import Checkpoint, open_checkpoint
from .recipe import Source, format_recipe, parse_recipe, resolve
from .report import ModuleResult, Report
from .sums import Baked, Limit, Term, combine

Progress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """For work that nobody watches."""


@dataclass(frozen=True)
class Opened:
    """A source's open file and what is in it."""

    source: Source
    file: LoraFile
    index: Index


def bake(
    recipe: str,
    lora_dir: str | Path,
    presets: Mapping[str, tuple[float, ...]],
    out: str | Path,
    rank: int | None = None,
    target_error: float | None = None,
    precision: str = "fp16",
    unlisted: float = UNLISTED,
    against: str | Path | None = None,
    other: float = 1.0,
    faults: Mapping[str, UserError] | None = None,
) -> Report:
    """Merge the LoRAs of `recipe` into `out`. Grammar: recipe.py; `unlisted`, `other`: families.weights_by_block.

    rank: at most so many per module; target_error: the least rank whose relative error is below it; neither: exact.
    against: the checkpoint whose weights DoRA, IA3 and GLoRA change; without it they are refused.
    faults: see presets.look_up.
    Raises UserError naming the item, file or module that stands in the way; `out` is then as it was.
    """
    limit = limit_of(rank, target_error, precision)
    sources = resolve(parse_recipe(recipe), lora_dir, presets, unlisted, None, other, faults)
    return bake_sources(sources, out, limit, precision, unlisted=unlisted, against=against)


def bake_sources(
    sources: Sequence[Source],
    out: str | Path,
    limit: Limit,
    precision: str,
    *,
    unlisted: float = UNLISTED,
    against: str | Path | None = None,
    keep_metadata: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """The bake of sources that are found already. keep_metadata: the only source's, but for what the bake changes.

    progress: called with (done, total) modules; what it raises ends the bake.
    """
    out = Path(out)
    check_out(out, [source.path for source in sources])
    text = format_recipe([source.item for source in sources])
    with ExitStack() as stack:
        hashing = stack.enter_context(ThreadPoolExecutor(1))
        hashes = {path: hashing.submit(file_hash, path) for path in {source.path for source in sources}}
        base = stack.enter_context(open_checkpoint(against)) if against else None
        opened = open_sources(stack, sources, base)
        names = sorted(set().union(*(one.index.modules for one in opened)))
        state, results = _bake_modules(names, opened, limit, base.weight if base else None, progress)
        bundle = _bundled(opened)
        if not results:
            raise UserError("nothing is left: every strength or weight is 0, or the LoRAs cancel", where=text)
        report = Report(
            out,
            text,
            precision,
            limit.target_error,
            results,
            sorted(set(names) - {result.name for result in results}),
            _unlisted(names, sources),
            sources[0].family,
            sorted({key.split(".")[1] for key in bundle}),
        )
        digests = {path: digest.result() for path, digest in hashes.items()}
        made = Made(report, list(sources), digests, limit.rank, unlisted, base.path.name if base else None)
        metadata = baked_metadata(made, [one.file.metadata for one in opened], keep_metadata)
    write_lora(out, {**state, **bundle}, metadata, limit.dtype)
    return report


def limit_of(rank: int | None, target_error: float | None, precision: str) -> Limit:
    """Check the options of a bake. Raises UserError naming the one that can't be met."""
    if precision not in PRECISIONS:
        raise UserError(f"{precision!r} is not one of {', '.join(PRECISIONS)}", where="precision")
    if rank is not None and target_error is not None:
        raise UserError("give a rank or a target error, not both", where="rank")
    if rank is not None and rank < 1:
        raise UserError(f"{rank} is less than 1", where="rank")
    dtype = PRECISIONS[precision]
    least = torch.finfo(dtype).eps
    if target_error is not None and not least < target_error < 1:
        remedy = "" if target_error >= 1 or precision == "float" else "Save in a finer precision (float), or allow more"
        raise UserError(
            f"{target_error:g} is not between {least:.2g}, {precision}'s own rounding, and 1",
            where="target error",
            remedy=remedy,
        )
    return Limit(rank, target_error, dtype)


def check_out(out: Path, inputs: Sequence[Path]) -> None:
    """Raise UserError where a file can't be written under this name, or would replace one that is read."""
    if out.suffix != ".safetensors":
        raise UserError("the name must end in .safetensors", where=out)
    check_output_name(out.stem)
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            what = f"this would overwrite {path.stem!r}, which is merged"
            raise UserError(what, where=out, remedy="Choose another name")


def open_sources(stack: ExitStack, sources: Sequence[Source], base: Checkpoint | None) -> list[Opened]:
    """Open each file once and group its tensors. base: the checkpoint, where there is one.

    Raises UserError naming the file: another model's, an adapter that needs a checkpoint, layers that it lacks.
    """
    files: dict[Path, tuple[LoraFile, Index]] = {}
    for source in sources:
        if source.path in files:
            continue
        file = stack.enter_context(open_lora(source.path))
        stack.callback(_require_unchanged, source.path, _stamp(source.path))
        index = index_of(file.shapes, source.path, source.family)
        if base is None:
            require_plain(index, source.path)
        else:
            base.require(index, source.path)
        files[source.path] = file, index
    return [Opened(source, *files[source.path]) for source in sources]


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _require_unchanged(path: Path, before: tuple[int, int]) -> None:
    if not path.is_file() or _stamp(path) != before:
        remedy = "Wait until it is written, then try again"
        raise UserError("the file was changed while it was read", where=path, remedy=remedy)


def terms_of(name: str, block: str, opened: Sequence[Opened], weight: Weight | None) -> list[Term]:
    """What each source adds to a module."""
    found = [(one, one.source.factor(block), one.index.modules.get(name)) for one in opened]
    return [Term(c, read(one.file, module, weight), one.source.path) for one, c, module in found if c and module]


def _bake_modules(
    names: Sequence[str], opened: Sequence[Opened], limit: Limit, weight: Weight | None, progress: Progress
) -> tuple[dict[str, Tensor], list[ModuleResult]]:
    def one(name: str) -> Baked | None:
        block = block_of(name, opened[0].index.family)
        terms = terms_of(name, block, opened, weight)
        return combine(name, block, terms, limit) if terms else None

    state: dict[str, Tensor] = {}
    results = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as workers:
        try:
            for done, baked in enumerate(workers.map(one, names), start=1):
                if baked:
                    state.update(baked[0])
                    results.append(baked[1])
                progress(done, len(names))
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    return state, results


def _bundled(opened: Sequence[Opened]) -> dict[str, Tensor]:
    """Embeddings that lie in the LoRAs that are added. Raises UserError where two bring one of the same name."""
    bundle: dict[str, Tensor] = {}
    for one in opened:
        if one.source.item.strength <= 0:
            continue
        for key in one.index.bundled:
            tensor = one.file.tensor(key)
            if key in bundle and not torch.equal(bundle[key], tensor):
                what = f"another LoRA of the recipe brings an embedding {key.split('.')[1]!r} too, a different one"
                raise UserError(what, where=one.source.path, remedy="Take the embedding out of one of the two")
            bundle[key] = tensor.clone()
    return bundle


def _unlisted(names: Sequence[str], sources: Sequence[Source]) -> list[str]:
    """Blocks in these files that a list of numbers, where one is used, says nothing about."""
    family = sources[0].family
    present = {block_of(name, family) for name in names} - {OTHER}
    lists = [source.numbers for source in sources if source.numbers is not None]
    return next((found for numbers in lists if (found := unnamed(numbers, present, family))), [])
