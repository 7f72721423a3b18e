"""Frozen 3x3 convolutions of few pixels on the CPU, as one matrix product: y = W im2col(x) + b.

torch's own bring the weights into another order at every call, forward and backward, which takes longer than the
arithmetic where pixels are few and channels many, as in a UNet's inner levels. Here they are read as they lie.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_PIXELS, _SHARE = 128, 4096
"""Most pixels, of all pictures together, and fewest weights of a tap (in x out) for each, where it pays; see
docs/bench.md.
"""


def quicken(root: nn.Module) -> None:
    """Have the frozen convolutions inside `root` choose the faster way at each call; values differ by rounding."""
    for module in root.modules():
        if type(module) is nn.Conv2d and module.kernel_size == (3, 3) and module.groups == 1:
            module.__class__ = _FrozenConv2d


class _FrozenConv2d(nn.Conv2d):
    """Weight and bias get no gradients."""

    def forward(self, x: Tensor) -> Tensor:
        if not self._pays(x):
            return super().forward(x)
        y: Tensor = _Product.apply(x, self.weight, self.bias, self.stride[0], self.padding[0])
        return y

    def _pays(self, x: Tensor) -> bool:
        pixels = x.shape[0] * x.shape[2] * x.shape[3] // self.stride[0] ** 2
        is_small = pixels <= _PIXELS and pixels * _SHARE <= self.in_channels * self.out_channels
        is_plain = x.device.type == "cpu" and x.dtype is self.weight.dtype is torch.float32
        return is_small and is_plain and not self.weight.requires_grad


class _Product(torch.autograd.Function):
    """x [B, in, h, w], weight [out, in, 3, 3] -> [B, out, H, W]; the weight is all that is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
        height, width = ((side + 2 * padding - 3) // stride + 1 for side in x.shape[2:])
        columns = F.unfold(x, 3, padding=padding, stride=stride).transpose(0, 1).flatten(1)  # [in 9, B H W]
        y = torch.addmm(bias[:, None], weight.flatten(1), columns)
        ctx.save_for_backward(weight)
        ctx.stride, ctx.padding, ctx.sides = stride, padding, x.shape[2:]
        return y.view(len(y), len(x), height, width).transpose(0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        rows = dy.permute(0, 2, 3, 1).flatten(0, 2)  # [B H W, out]: faster than the product with the weight transposed
        columns = (rows @ weight.flatten(1)).unflatten(0, (len(dy), -1)).transpose(1, 2)  # [B, in 9, H W]
        return F.fold(columns, ctx.sides, 3, padding=ctx.padding, stride=ctx.stride), None, None, None, None
