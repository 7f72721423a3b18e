"""LoHa and LoKr on one layer: W + s dW with dW made of small matrices, as in LyCORIS (Yeh et al. 2023).

LoHa (Hyeon-Woo et al. 2021): dW = (w1_a w1_b) * (w2_a w2_b). LoKr: dW = w1 (x) w2 (Kronecker), w2 = w2_a w2_b or whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import fused
from .layers import uniform
from .spec import Drops, Size

_LOHA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
_LOKR = ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"}), ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"})


class WeightAdapter(nn.Module):
    """Stands in a layer's place and adds to its weights. tensors: the small matrices under their names in a file."""

    def __init__(self, base_layer: nn.Module, tensors: Mapping[str, Tensor], size: Size) -> None:
        super().__init__()
        self.base_layer, self.size = base_layer, size
        self.weights = nn.ParameterDict({name: nn.Parameter(tensor.float()) for name, tensor in tensors.items()})
        self.to(base_layer.weight.device)
        self.multiplier = 1.0
        self.drops: Drops | None = None

    def get_base_layer(self) -> nn.Module:
        """The frozen layer, as peft's layers name it."""
        return self.base_layer

    def tensors(self) -> dict[str, nn.Parameter]:
        """The trainable weights under the names that a file gives them."""
        return dict(self.weights.items())

    def factors(self) -> tuple[nn.Parameter, ...]:
        """What is multiplied to make the change of the weights."""
        return tuple(self.weights.values())

    def delta(self) -> Tensor:
        """s dW in the shape of W."""
        w = self.weights
        product = _hadamard(w) if "hada_w1_a" in w else _kronecker(w)
        return self.size.scale * product.reshape(self.base_layer.weight.shape)

    def norm(self) -> Tensor:
        """Frobenius norm of s dW."""
        return self.delta().detach().norm()

    def change(self) -> Tensor:
        """What the adapter adds to W in all, fp32."""
        return self.multiplier * self.delta().detach()

    def forward(self, x: Tensor) -> Tensor:
        base = self.base_layer
        if self.drops and self.drops.module and torch.rand(1) < self.drops.module:
            return base(x)
        delta = self.delta() * self.multiplier
        if self.drops and self.drops.rank:
            kept = torch.rand(len(delta), device=delta.device) > self.drops.rank
            delta = delta * kept.view(-1, *[1] * (delta.dim() - 1))
        dtype = fused.compute_dtype(x, base.weight)
        if dtype == torch.float32:
            return self._multiply(x, base.weight + delta, base.bias)
        # In half precision a small change would be rounded away in the sum of the weights.
        return base(x) + self._multiply(x.to(dtype), delta.to(dtype), None)

    def _multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        base = self.base_layer
        if isinstance(base, nn.Conv2d):
            return F.conv2d(x, weight, bias, base.stride, base.padding)
        return F.linear(x, weight, bias)


def is_loha(names: set[str]) -> bool:
    """Whether a module's tensors are those of a LoHa."""
    return names == _LOHA


def is_lokr(names: set[str]) -> bool:
    """Whether a module's tensors are those of a LoKr."""
    first, second = _LOKR
    return any(names == a | b for a in first for b in second)


def new_loha(base_layer: nn.Module, size: Size, generator: torch.Generator) -> WeightAdapter:
    """A LoHa that changes nothing yet, with LyCORIS' initial values."""
    out, inner = base_layer.weight.shape[0], base_layer.weight[0].numel()
    tensors = {
        "hada_w1_a": torch.randn(out, size.rank, generator=generator) * 0.1,
        "hada_w1_b": torch.randn(size.rank, inner, generator=generator),
        "hada_w2_a": torch.zeros(out, size.rank),
        "hada_w2_b": torch.randn(size.rank, inner, generator=generator),
    }
    return WeightAdapter(base_layer, tensors, size)


def new_lokr(base_layer: nn.Module, size: Size, generator: torch.Generator, factor: int = -1) -> WeightAdapter:
    """A LoKr that changes nothing yet, with LyCORIS' initial values. Where the rank is at least half of what it could
    be, w2 is whole, and readers take no heed of alpha."""
    out, inner, *kernel = base_layer.weight.shape
    (out_small, out_large), (in_small, in_large) = split(out, factor), split(inner, factor)
    tensors = {"lokr_w1": uniform((out_small, in_small), generator)}
    if size.rank < max(out_large, in_large) / 2:
        tensors["lokr_w2_a"] = uniform((out_large, size.rank), generator)
        tensors["lokr_w2_b"] = torch.zeros(size.rank, in_large * math.prod(kernel))
    else:
        tensors["lokr_w2"] = torch.zeros(out_large, in_large, *kernel)
        size = Size(1, 1.0)
    return WeightAdapter(base_layer, tensors, size)


def split(n: int, factor: int = -1) -> tuple[int, int]:
    """n = small * large with small at most `factor`, as even as that allows; -1: no bound. A factor that divides n is
    taken as it is (LyCORIS' factorization)."""
    if factor > 0 and n % factor == 0:
        return min(factor, n // factor), max(factor, n // factor)
    bound = n if factor < 0 else factor
    small = max(m for m in range(1, math.isqrt(n) + 1) if n % m == 0 and (m <= bound or m == 1))
    return small, n // small


def _hadamard(w: Mapping[str, Tensor]) -> Tensor:
    """[out, in k k]."""
    return (w["hada_w1_a"] @ w["hada_w1_b"].flatten(1)) * (w["hada_w2_a"] @ w["hada_w2_b"].flatten(1))


def _kronecker(w: Mapping[str, Tensor]) -> Tensor:
    """[out, in k k]."""
    first = w["lokr_w1"] if "lokr_w1" in w else w["lokr_w1_a"] @ w["lokr_w1_b"]
    second = w["lokr_w2"] if "lokr_w2" in w else w["lokr_w2_a"] @ w["lokr_w2_b"]
    return torch.kron(first, second.flatten(1))
