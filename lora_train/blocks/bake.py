"""The bake: several LoRAs, each with its strength and block weights, become one file with the same effect.

Per module ΔW = Σᵢ cᵢ sᵢ BᵢAᵢ, c = strength × weight of the block, s = alpha / rank. Without rank or target_error the
sum is exact but for the rounding of the file; with them it is the nearest of that rank. Every error reported is that of
the file itself, rounding included. One module is in memory at a time, besides the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..files import check_output_name
from ..network.kohya import PRECISIONS, LoraFile, cast_finite, open_lora, write_lora
from .algebra import LowRank, difference, flatten, norm, numerical_rank, rank_for, spectrum, truncate, weighted_sum
from .layout import ALL_BLOCKS, BLOCKS_17, OTHER, block_of, require_sd15, split_key
from .metadata import baked_metadata
from .recipe import Source, format_recipe, parse_recipe, resolve
from .report import ModuleResult, Report

_NOTHING = 1e-13  # a sum this small against its factors is what float64 leaves of terms that cancel


@dataclass(frozen=True)
class _Limit:
    """How far the rank may be reduced, and the dtype of the file."""

    rank: int | None
    target_error: float | None
    dtype: torch.dtype

    @property
    def tail(self) -> float:
        """What truncation may add: it is orthogonal to rounding, which is at most 2u relative, u = eps / 2."""
        target = self.target_error or 0.0
        return math.sqrt(max(0.0, target**2 - torch.finfo(self.dtype).eps ** 2))


@dataclass(frozen=True)
class _Module:
    """A module's tensors in one file."""

    file: LoraFile
    keys: dict[str, str] = field(default_factory=dict)  # part -> key

    def part(self, part: str) -> Tensor | None:
        return self.file.tensor(self.keys[part]) if part in self.keys else None


@dataclass(frozen=True)
class _Term:
    """One file's share of a module: s BA, and the shape of a row of A: (inputs,) or (inputs, height, width)."""

    matrix: LowRank
    scale: float
    row: tuple[int, ...]


def bake(
    recipe: str,
    lora_dir: str | Path,
    presets: Mapping[str, tuple[float, ...]],
    out: str | Path,
    rank: int | None = None,
    target_error: float | None = None,
    precision: str = "fp16",
    unlisted: float = 0.0,
) -> Report:
    """Merge the LoRAs of `recipe` into `out`. See recipe.py for the grammar and layout.weights_by_block for `unlisted`.

    rank: at most so many per module; target_error: the least rank whose relative error is below it; neither: exact.
    Raises UserError naming the item, file or module that stands in the way; `out` is then as it was.
    """
    out, limit = Path(out), _limit(rank, target_error, precision)
    sources = resolve(parse_recipe(recipe), lora_dir, presets, unlisted)
    _check_out(out, sources)
    with ExitStack() as stack:
        paths = dict.fromkeys(source.path for source in sources)
        files = {path: stack.enter_context(open_lora(path)) for path in paths}
        indices = {path: _index(file) for path, file in files.items()}
        names = sorted(set().union(*indices.values()))
        state, results = _bake_modules(names, sources, indices, limit)
        metadatas = [files[source.path].metadata for source in sources]
    if not results:
        raise UserError("nothing is left: every strength or weight is 0, or the LoRAs cancel", where=recipe)
    text = format_recipe([source.item for source in sources])
    left_out = sorted(set(names) - {result.name for result in results})
    report = Report(out, text, precision, target_error, results, left_out, _unlisted(names, sources))
    write_lora(out, state, baked_metadata(report, sources, metadatas, rank, unlisted), limit.dtype)
    return report


def _limit(rank: int | None, target_error: float | None, precision: str) -> _Limit:
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
    return _Limit(rank, target_error, dtype)


def _check_out(out: Path, sources: list[Source]) -> None:
    if out.suffix != ".safetensors":
        raise UserError("the name must end in .safetensors", where=out)
    check_output_name(out.stem)
    for source in sources:
        if out.exists() and out.samefile(source.path):
            raise UserError(
                f"this would overwrite {source.item.name!r}, which is merged", where=out, remedy="Choose another name"
            )


def _index(file: LoraFile) -> dict[str, _Module]:
    """The modules of a file. Raises UserError, naming the file, for another model's LoRA or another kind of adapter."""
    require_sd15(file.shapes, file.path)
    modules: dict[str, _Module] = {}
    for key in file.shapes:
        try:
            name, part = split_key(key)
        except UserError as error:
            raise UserError(error.what, where=file.path) from None
        keys = modules.setdefault(name, _Module(file)).keys
        if part in keys:
            raise UserError(f"{key} and {keys[part]} are the same part of one module", where=file.path)
        keys[part] = key
    for name, module in modules.items():
        if not {"up", "down"} <= module.keys.keys():
            raise UserError(f"{name} lacks its lora_up or lora_down", where=file.path)
    return modules


def _bake_modules(
    names: list[str], sources: list[Source], indices: Mapping[Path, Mapping[str, _Module]], limit: _Limit
) -> tuple[dict[str, Tensor], list[ModuleResult]]:
    state: dict[str, Tensor] = {}
    results = []
    for name in names:
        block = block_of(name)
        found = [(source.factor(block), indices[source.path].get(name)) for source in sources]
        baked = _bake_module(name, block, [(c, module) for c, module in found if c and module], limit)
        if baked:
            state.update(baked[0])
            results.append(baked[1])
    return state, results


def _bake_module(
    name: str, block: str, parts: list[tuple[float, _Module]], limit: _Limit
) -> tuple[dict[str, Tensor], ModuleResult] | None:
    """Tensors for the file and what they are worth; None where the sum is 0."""
    if not parts:
        return None
    terms = [(c, _read(name, module)) for c, module in parts]
    _require_equal_shapes(name, [(module, term) for (_, module), (_, term) in zip(parts, terms, strict=True)])
    wanted = weighted_sum([(c * term.scale, term.matrix) for c, term in terms])
    size = norm(wanted)
    if size <= _NOTHING * float(wanted.A.norm() * wanted.B.norm()):
        return None
    row = max((term.row for _, term in terms), key=len)
    tensors = _tensors(name, _reduced(wanted, limit), row, limit.dtype)
    stored = _stored_matrix(name, tensors)
    return tensors, ModuleResult(name, block, stored.rank, wanted.rank, size, norm(difference(wanted, stored)))


def _read(name: str, module: _Module) -> _Term:
    """Scale: the `scale` tensor, else alpha / rank, else 1 (a missing alpha equals the rank)."""
    up, down, mid, alpha, scale = map(module.part, ("up", "down", "mid", "alpha", "scale"))
    assert up is not None and down is not None  # _index saw both
    rank = down.shape[0]
    if min(up.dim(), down.dim()) < 2 or up.numel() != up.shape[0] * rank:
        raise UserError(
            f"{name}: lora_up {list(up.shape)} and lora_down {list(down.shape)} don't fit", where=module.file.path
        )
    row = (*down.shape[1:2], *(down if mid is None else mid).shape[2:])
    given = scale if scale is not None else alpha / rank if alpha is not None else None
    return _Term(flatten(up, down, mid), 1.0 if given is None else float(given), tuple(row))


def _require_equal_shapes(name: str, terms: list[tuple[_Module, _Term]]) -> None:
    """A linear layer equals a 1×1 convolution."""
    shapes = [(term.matrix.B.shape[0], *term.row, *((1, 1) if len(term.row) == 1 else ())) for _, term in terms]
    for (module, _), shape in zip(terms, shapes, strict=True):
        if shape != shapes[0]:
            what = f"{name} has the shape {list(shape)} here and {list(shapes[0])} in {terms[0][0].file.path.name}"
            raise UserError(what, where=module.file.path, remedy="These LoRAs are made for different models")


def _reduced(x: LowRank, limit: _Limit) -> LowRank:
    if limit.rank is None and limit.target_error is None:
        return x
    s = spectrum(x)
    most = numerical_rank(s.sigma)
    return truncate(s, min(most, limit.rank if limit.rank is not None else rank_for(s.sigma, limit.tail)))


def _tensors(name: str, x: LowRank, row: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """up, down and alpha = rank for the file. Where `dtype` must round alpha, √(rank / alpha) makes up for it."""
    alpha = torch.tensor(float(x.rank)).to(dtype)
    root = math.sqrt(x.rank / float(alpha))
    up = (root * x.B).reshape(-1, x.rank, *([1] * (len(row) - 1)))
    down = (root * x.A).reshape(x.rank, *row)
    tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": alpha}
    return {key: cast_finite(key, tensor, dtype) for key, tensor in tensors.items()}


def _stored_matrix(name: str, tensors: Mapping[str, Tensor]) -> LowRank:
    """What a reader of the file makes of it: alpha / rank · up @ down."""
    x = flatten(tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"])
    return LowRank(x.B * (float(tensors[f"{name}.alpha"]) / x.rank), x.A)


def _unlisted(names: list[str], sources: list[Source]) -> list[str]:
    """Blocks in these files that a list of 17 numbers, where one is used, says nothing about."""
    if not any(source.numbers is not None and len(source.numbers) == 17 for source in sources):
        return []
    present = {block_of(name) for name in names} - {*BLOCKS_17, OTHER}
    return [block for block in ALL_BLOCKS if block in present]
