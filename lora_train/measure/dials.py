"""A mix of LoRAs on a loaded model, with a weight a block that can be turned, and that has a gradient.

Every layer keeps its own weights; what the LoRAs add to its output is calculated beside it (forward hooks). So any
kind that blocks.kinds reads can be turned, and the model is bare again after `remove`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks.algebra import LowRank
from ..blocks.families import BASE, SD15, blocks_of, flat_weights
from ..blocks.kinds import Delta, read
from ..blocks.layout import block_of, canonical_module, detect_family, index_of
from ..errors import UserError
from ..model.checkpoint import Family
from ..model.load import StableDiffusion
from ..network.kohya import LoraFile, open_lora
from ..network.names import roots

FAMILY_NAMES = {Family.SD15: SD15, Family.SD2: "SD2", Family.SDXL: "SDXL"}
"""What blocks.families calls a checkpoint's family."""

Weights = Mapping[str, float]
Share = Callable[[Tensor, Any], Tensor]
"""(input of a layer, weight of its block) -> what a LoRA adds to the output."""


@dataclass(frozen=True)
class Mixed:
    """One LoRA of a mix: its file and its strengths on the text encoders and on the UNet."""

    path: Path
    te: float = 1.0
    unet: float = 1.0


class Dials:
    """The LoRAs of a mix on a model. They begin with every block at 1; `turn` and `vector` change that.

    blocks: every block of the family, OTHER last; present: for each LoRA, how many modules it has in each block.
    """

    def __init__(self, model: StableDiffusion, mix: Sequence[Mixed]) -> None:
        """Raises UserError, naming the file, for a LoRA that the model lacks layers for or that can't be read."""
        self.family = FAMILY_NAMES[model.family]
        self.blocks = blocks_of(self.family)
        self.present: list[dict[str, int]] = []
        self.device = model.device
        self._hooks: list[Any] = []
        self._vector: Tensor | None = None
        self.turn([flat_weights(self.family)] * len(mix))
        shares: dict[str, list[tuple[int, int, float, Share]]] = {}
        layers = dict(_layers(model, self.family))
        for number, one in enumerate(mix):
            counts: dict[str, int] = {}
            for name, share in _shares(one.path, layers, self.family):
                block = block_of(name, self.family)
                counts[block] = counts.get(block, 0) + 1
                strength = one.te if block == BASE else one.unet
                shares.setdefault(name, []).append((number, self.blocks.index(block), strength, share))
            self.present.append({block: counts[block] for block in self.blocks if block in counts})
        for name, those in shares.items():
            self._hooks.append(layers[name].register_forward_hook(self._hook(those)))

    def turn(self, weights: Sequence[Weights]) -> None:
        """Set each LoRA's block weights; a block that is not named gets 0. A weight of 0 costs nothing."""
        self._numbers = [[float(its.get(block, 0.0)) for block in self.blocks] for its in weights]
        self._vector = None

    def vector(self, weights: Tensor) -> None:
        """Set the block weights to a tensor [LoRAs, blocks], through which gradients flow."""
        self._vector = weights

    def remove(self) -> None:
        """Take the LoRAs off; the model is as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _hook(self, shares: Sequence[tuple[int, int, float, Share]]) -> Callable[..., Tensor]:
        def add(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for number, block, strength, share in shares:
                if self._vector is not None:
                    output = output + share(args[0], self._vector[number, block] * strength)
                elif weight := self._numbers[number][block] * strength:
                    output = output + share(args[0], weight)
            return output

        return add


def _layers(model: StableDiffusion, family: str) -> Iterator[tuple[str, nn.Module]]:
    """Every layer that has weights, by the name that LoRA files give it."""
    for part, root in roots(model).items():
        for name, layer in root.named_modules():
            if getattr(layer, "weight", None) is not None:
                path = name if part == "unet" or name.startswith("text_model.") else f"text_model.{name}"
                yield canonical_module(f"lora_{part}_{path.replace('.', '_')}", family), layer


def _shares(path: Path, layers: Mapping[str, nn.Module], family: str) -> Iterator[tuple[str, Share]]:
    with open_lora(path) as file:
        index = index_of(file.shapes, path, family)
        missing = sorted(index.modules.keys() - layers.keys())
        if missing:
            some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            raise _misfit(
                file, family, f"the checkpoint lacks {len(missing)} of its {len(index.modules)} layers: {some}"
            )
        for name, module in index.modules.items():
            delta = read(file, module, lambda name: layers[name].weight.detach().cpu().double())
            try:
                share = _share(layers[name], delta)
            except RuntimeError:
                raise _misfit(file, family, f"{name} is made for a weight of the shape {list(delta.shape)}") from None
            yield name, share


def _misfit(file: LoraFile, family: str, what: str) -> UserError:
    its = detect_family(file.shapes)
    if its != family:
        what = f"this LoRA is for {its}, and the checkpoint is {family}"
    return UserError(what, where=file.path, remedy="Choose a checkpoint that the LoRA was trained for")


def _share(layer: Any, delta: Delta) -> Share:
    """In the layer's own number type and on its device. Raises RuntimeError where the shapes don't fit."""
    like: dict[str, Any] = {"dtype": layer.weight.dtype, "device": layer.weight.device}
    bias = None if delta.bias is None else delta.bias.to(**like)
    if delta.matrix is None:
        shape = (-1, 1, 1) if isinstance(layer, (nn.Conv2d, nn.GroupNorm)) else (-1,)
        assert bias is not None
        offset = bias.view(shape)
        return lambda x, w: w * offset
    if isinstance(delta.matrix, LowRank) and isinstance(layer, (nn.Linear, nn.Conv2d)):
        return _low_rank(layer, delta, bias, like)
    whole = delta.dense().reshape(layer.weight.shape).to(**like)
    if isinstance(layer, nn.Linear):
        return lambda x, w: w * F.linear(x, whole, bias)
    if isinstance(layer, nn.Conv2d):
        return lambda x, w: w * F.conv2d(x, whole, bias, layer.stride, layer.padding)
    if isinstance(layer, nn.LayerNorm):
        return lambda x, w: w * F.layer_norm(x, layer.normalized_shape, whole, bias, layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return lambda x, w: w * F.group_norm(x, layer.num_groups, whole, bias, layer.eps)
    raise RuntimeError(type(layer).__name__)


def _low_rank(layer: nn.Linear | nn.Conv2d, delta: Delta, bias: Tensor | None, like: Mapping[str, Any]) -> Share:
    """The weight is applied between the two factors, where the activation is smallest."""
    low = delta.matrix
    assert isinstance(low, LowRank)
    up, down = (low.B.double() * delta.scale).to(**like), low.A.to(**like)
    if up.shape[0] != layer.weight.shape[0] or down.shape[1] != layer.weight[0].numel():
        raise RuntimeError("shapes")

    def plus(y: Tensor, w: Any, shape: tuple[int, ...]) -> Tensor:
        return y if bias is None else y + w * bias.view(shape)

    if isinstance(layer, nn.Linear):
        return lambda x, w: plus(F.linear(F.linear(x, down) * w, up), w, (-1,))
    kernel, up = down.reshape(-1, *layer.weight.shape[1:]), up[..., None, None]
    stride, padding = layer.stride, layer.padding
    return lambda x, w: plus(F.conv2d(F.conv2d(x, kernel, None, stride, padding) * w, up), w, (-1, 1, 1))
