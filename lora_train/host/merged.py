"""LoRAs added to the weights of a loaded model, layer by layer, and taken off again to the bit.

Only the layers whose factors moved are touched: each gets its own weight back and the sum anew, so nothing drifts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ..blocks.algebra import LowRank
from ..blocks.families import SD15
from ..blocks.kinds import Delta, read
from ..blocks.layout import Index, block_of, canonical_module, index_of
from ..errors import UserError
from ..grid.plan import Grid
from ..grid.run import pictures
from ..model.checkpoint import Family
from ..model.load import StableDiffusion
from ..network.kohya import LoraFile, open_lora
from ..network.names import roots
from .shot import Applied, Cancelled

_FAMILIES = {Family.SD15: SD15, Family.SD2: "SD2", Family.SDXL: "SDXL"}


@dataclass(frozen=True)
class _File:
    """A LoRA as it lay on the disk: another one under its name is another."""

    path: Path
    changed: int
    size: int


_Share = tuple[_File, float]
"""A file, and what its change of a layer is multiplied by."""


class Merged:
    """The LoRAs that are on a model now; at first none."""

    def __init__(self, model: StableDiffusion) -> None:
        self._family = _FAMILIES[model.family]
        self._layers = _layers(model, self._family)
        self._own: dict[str, tuple[Tensor, Tensor | None]] = {}  # weight and bias of the layers that were changed
        self._now: dict[str, tuple[_Share, ...]] = {}
        self._indices: dict[_File, Index] = {}

    @torch.no_grad()
    def apply(self, loras: Sequence[Applied]) -> list[str]:
        """Have these LoRAs on the model and no others. Returns the names of the layers that had to be changed for it.

        Raises UserError: a file that is none, not for this model, or of a kind that can't be added; the model is then
        bare.
        """
        try:
            wanted = self._wanted(loras)
            moved = [name for name in {**self._now, **wanted} if self._now.get(name) != wanted.get(name)]
            with ExitStack() as stack:
                files = {file for name in moved for file, _ in wanted.get(name, ())}
                opened = {file: stack.enter_context(open_lora(file.path)) for file in sorted(files, key=str)}
                for name in moved:
                    self._restore(name)
                    if name in wanted:
                        self._add(name, wanted[name], opened)
        except BaseException:
            self.remove()
            raise
        return moved

    @torch.no_grad()
    def remove(self) -> None:
        """Give the model its own weights back."""
        for name in list(self._own):
            self._restore(name)
        self._own.clear()

    def _wanted(self, loras: Sequence[Applied]) -> dict[str, tuple[_Share, ...]]:
        shares: dict[str, tuple[_Share, ...]] = defaultdict(tuple)
        indices = {}
        for lora in loras:
            file, factors = _file(lora.path), lora.factors(self._family)
            indices[file] = index = self._indices.get(file) or self._index(file)
            for name in index.modules:
                factor = factors[block_of(name, self._family)]
                if factor:
                    shares[name] += ((file, factor),)
        self._indices = indices
        return dict(shares)

    def _index(self, file: _File) -> Index:
        with open_lora(file.path) as opened:
            index = index_of(opened.shapes, file.path, self._family)
        missing = sorted(index.modules.keys() - self._layers.keys())
        if missing:
            what = f"{len(missing)} of {len(index.modules)} modules are not in this checkpoint, {missing[0]} for one"
            raise UserError(what, where=file.path, remedy=f"Use a LoRA that was trained for {self._family}")
        return index

    def _restore(self, name: str) -> None:
        if name not in self._own:
            return
        layer, (weight, bias) = self._layers[name], self._own[name]
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
        self._now.pop(name, None)

    def _add(self, name: str, shares: Sequence[_Share], opened: dict[_File, LoraFile]) -> None:
        layer = self._layers[name]
        own = self._own.setdefault(name, _copies(layer))
        self._now[name] = tuple(shares)
        weight, bias = layer.weight.float(), None if own[1] is None else layer.bias.float()
        for file, factor in shares:
            module = self._indices[file].modules[name]
            delta = read(opened[file], module, lambda _: own[0].double())
            try:
                if delta.matrix is not None:
                    weight = weight + factor * _change(delta, layer.weight)
                if delta.bias is not None:
                    bias = factor * delta.bias.to(weight) + (0 if bias is None else bias)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError:
                what = f"{name} has the shape {list(delta.shape)} where {list(layer.weight.shape)} is needed"
                remedy = f"Use a LoRA that was trained for {self._family}"
                raise UserError(what, where=file.path, remedy=remedy) from None
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is None:
            raise UserError(f"{name} has no bias to change", where=shares[0][0].path, remedy="Use it in the prompt")
        if bias is not None:
            layer.bias.copy_(bias)


def _layers(model: StableDiffusion, family: str) -> dict[str, nn.Module]:
    """Every layer with a weight, by kohya's name for it."""
    found = {}
    for part, root in roots(model).items():
        for name, layer in root.named_modules():
            if isinstance(getattr(layer, "weight", None), Tensor):
                path = name if part == "unet" or name.startswith("text_model.") else f"text_model.{name}"
                found[canonical_module(f"lora_{part}_{path.replace('.', '_')}", family)] = layer
    return found


def _file(path: Path) -> _File:
    try:
        found = path.stat()
    except OSError:
        return _File(path, 0, 0)  # to read it will say why
    return _File(path, found.st_mtime_ns, found.st_size)


def _copies(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    bias = getattr(layer, "bias", None)
    return layer.weight.detach().to("cpu", copy=True), None if bias is None else bias.detach().to("cpu", copy=True)


def _change(delta: Delta, weight: Tensor) -> Tensor:
    """What a LoRA adds at strength 1, float32, in the weight's shape and place."""
    matrix = delta.matrix
    if isinstance(matrix, LowRank):
        up, down = (factor.to(weight.device, torch.float32) for factor in (matrix.B, matrix.A))
        return ((up * delta.scale) @ down).view(weight.shape)
    assert matrix is not None
    return matrix.to(weight.device, torch.float32).view(weight.shape) * delta.scale


class _CalledOff(Exception):
    """Out of the middle of a picture."""


def picture(model: StableDiffusion, cell: Grid, cancelled: Cancelled) -> Image.Image | None:
    """What the model as it stands draws for a grid of one prompt; None when it was called off. Raises UserError."""

    def ask(*_: object) -> None:
        if cancelled():
            raise _CalledOff

    hook = model.unet.register_forward_pre_hook(ask)
    try:
        return pictures(model, cell)[0]
    except _CalledOff:
        return None
    finally:
        hook.remove()
