"""LoRA on one layer, through peft, and its DoRA variant.

LoRA (Hu et al. 2021): y = W x + b + s B A x with s = alpha / r. kohya's lora_down is A, lora_up is B.

DoRA (Liu et al. 2024) in LyCORIS' convention, which is the WebUI's: W' = m (W + s B A) / |W + s B A| with the norm
over each input channel; the file calls m dora_scale. That is the LoRA applied to x m / |W + s B A|. As in the paper,
the norm counts as a constant in the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional as F

from ..lean import without
from . import fused
from .spec import Drops, Size

_ADAPTER = "default"


class Adapter(nn.Module):
    """What both kinds of layer share, mixed into peft's own."""

    size: Size
    multiplier = 1.0
    drops: Drops | None = None  # while training
    dora_scale: nn.Parameter | None  # [1, in, …]
    lora_A: nn.ModuleDict
    lora_B: nn.ModuleDict
    get_base_layer: Callable[[], Any]

    def tensors(self) -> dict[str, nn.Parameter]:
        """The trainable weights under the names that a file gives them."""
        pair = {"lora_down.weight": self.pair[0], "lora_up.weight": self.pair[1]}
        return pair if self.dora_scale is None else {**pair, "dora_scale": self.dora_scale}

    @property
    def pair(self) -> tuple[nn.Parameter, nn.Parameter]:
        """(A, B): [r, in, …], [out, r, …]."""
        return self.lora_A[_ADAPTER].weight, self.lora_B[_ADAPTER].weight

    def factors(self) -> tuple[nn.Parameter, ...]:
        """What is multiplied to make the change of the weights."""
        return self.pair

    def norm(self) -> Tensor:
        """Frobenius norm of s B A, from r x r matrices: |B A|² = sum of (BᵀB) * (A Aᵀ)."""
        down, up = (weight.detach().float().flatten(1) for weight in self.pair)
        return self.size.scale * ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt()

    def delta(self) -> Tensor:
        """s B A in the shape of W, fp32."""
        down, up = (weight.detach().float().flatten(1) for weight in self.pair)
        return (self.size.scale * (up @ down)).view(self.get_base_layer().weight.shape)

    def change(self) -> Tensor:
        """What the adapter adds to W in all, fp32."""
        if self.dora_scale is None:
            return self.multiplier * self.delta()
        weight = self.get_base_layer().weight.detach().float()
        gain = self._gain().view(1, -1, *[1] * (weight.dim() - 2))
        return self.multiplier * ((weight + self.delta()) * gain.detach() - weight)

    def decompose(self) -> None:
        """Begin as DoRA: the magnitude is the norm that the frozen weights have."""
        norm = _channel_norm(self.get_base_layer().weight.detach().float())
        shape = (1, -1, *[1] * (self.get_base_layer().weight.dim() - 2))
        self.dora_scale = nn.Parameter(norm.view(shape))

    def _gain(self) -> Tensor:
        """m / |W + s B A|, [in]."""
        assert self.dora_scale is not None
        weight = self.get_base_layer().weight.detach().float() + self.delta()
        return self.dora_scale.flatten() / _channel_norm(weight)

    def _is_dropped(self) -> bool:
        """module_dropout: whether this step does without this module."""
        return self.drops is not None and self.drops.module > 0 and bool(torch.rand(1) < self.drops.module)

    def _inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the frozen layer and the LoRA see. They differ in a DoRA that is not at full strength."""
        if self.dora_scale is None:
            return x, x
        gain = self._gain()
        if x.dim() == 4:
            gain = gain[:, None, None]
        scaled = x * gain.to(x.dtype)
        return (scaled if self.multiplier == 1 else x + self.multiplier * (scaled - x)), scaled

    def _drop(self, h: Tensor) -> Tensor:
        """Dropout on the rank-r activation, and on whole ranks of a picture, which strengthens the others."""
        drops = self.drops or Drops()
        if drops.inner:
            h = F.dropout(h, drops.inner)
        if drops.rank:
            mask = torch.rand(h.shape[0], self.size.rank, device=h.device) > drops.rank
            if h.dim() == 3:
                mask = mask[:, None]
            if h.dim() == 4:
                mask = mask[..., None, None]
            h = h * mask / (1 - drops.rank)
        return h


class LoraLinear(Adapter, lora.Linear):
    """LoRA on a fully connected layer."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, (down, up) = self.get_base_layer(), self.pair
        if self._is_dropped():
            return base(x)
        plain, x = self._inputs(x)
        scale = self.size.scale * self.multiplier
        if plain is x and not self.drops:
            return fused.linear(x, base.weight, base.bias, down, up, scale)
        y, dtype = base(plain), fused.compute_dtype(x, base.weight)
        h = self._drop(F.linear(x.to(dtype), down.to(dtype)))
        return y + F.linear(h * scale, up.to(dtype))


class LoraConv2d(Adapter, lora.Conv2d):
    """LoRA on a convolution: A has the kernel of the layer, B is 1x1."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, (down, up) = self.get_base_layer(), self.pair
        if self._is_dropped():
            return base(x)
        plain, x = self._inputs(x)
        scale = self.size.scale * self.multiplier
        if plain is x and not self.drops and _is_pointwise(base):
            return fused.pointwise(x, base.weight, base.bias, down, up, scale)
        y, dtype = base(plain), fused.compute_dtype(x, base.weight)
        h = self._drop(F.conv2d(x.to(dtype), down.to(dtype), None, base.stride, base.padding))
        return y + F.conv2d(h * scale, up.to(dtype))


def inject(root: nn.Module, sizes: Mapping[str, Size], generator: torch.Generator) -> dict[str, Adapter]:
    """Let peft wrap the named layers of `root`; returns the new ones by name. A is Kaiming-uniform, B is zero, fp32."""
    by_layer = {root.get_submodule(name): size for name, size in sizes.items()}

    def wrap(layer: nn.Module, *args: Any, **kwargs: Any) -> Adapter:
        size = by_layer[layer]
        kind = LoraLinear if isinstance(layer, nn.Linear) else LoraConv2d
        made = kind(layer, *args, **{**kwargs, "r": size.rank, "lora_alpha": size.alpha})
        made.size = size
        made.register_parameter("dora_scale", None)
        return made

    config = LoraConfig(target_modules=list(sizes), lora_dropout=0.0, bias="none", init_lora_weights=False)
    config._register_custom_module({nn.Linear: wrap, nn.Conv2d: wrap})
    # nn.Linear draws values that are replaced here; peft would load bitsandbytes to ask whether layers are its own
    with torch.random.fork_rng(devices=[]), without("bitsandbytes"):
        inject_adapter_in_model(config, root, adapter_name=_ADAPTER)
    layers = {name: root.get_submodule(name) for name in sizes}
    for layer in layers.values():
        down, up = layer.pair
        down.data = uniform(down.shape, generator).to(down.device)
        up.data = torch.zeros(up.shape, device=up.device)
    return layers


def uniform(shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Kaiming-uniform with a = sqrt 5, which is +-1 / sqrt(fan in)."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _channel_norm(weight: Tensor) -> Tensor:
    """Norm of the weights of each input channel: [out, in, …] -> [in]."""
    return weight.transpose(0, 1).flatten(1).norm(dim=1)


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
