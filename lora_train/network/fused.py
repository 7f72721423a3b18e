"""LoRA of one layer as one autograd step: y = W x + b + s B (A x), with s applied to the rank-r activation.

Plain autograd writes three more tensors of the layer's output size forward (B A x, its scaled copy, the sum) and two
of its input size backward. Here the sum is part of the matrix products, and x and A x are all that is kept.
The frozen weight is kept as it is stored: one in 8 bits is widened again in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_EIGHT_BIT = 1


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """x [..., in], weight [out, in] and bias [out] frozen, down [r, in], up [out, r] -> [..., out]."""
    dtype = compute_dtype(x, weight)
    out: Tensor = _Linear.apply(x.to(dtype), weight, bias, down, up, scale)
    return out


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """The same for a 1x1 convolution: x [B, in, h, w], weight [out, in, 1, 1], down [r, in, 1, 1], up [out, r, 1, 1]"""
    dtype = compute_dtype(x, weight)
    out: Tensor = _Pointwise.apply(x.to(dtype), weight, bias, down, up, scale)
    return out


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """What is multiplied in: autocast's type where that is on, else the frozen weight's (8-bit ones: the input's)."""
    dtype = _autocast(x.device.type)
    if dtype is not None:
        return dtype
    return x.dtype if weight.element_size() == _EIGHT_BIT else weight.dtype


def _autocast(device: str) -> torch.dtype | None:
    if hasattr(torch, "get_autocast_dtype"):  # torch >= 2.4
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


class _Linear(torch.autograd.Function):
    """Tensors are taken as rows: x [n, in], h = s A x [n, r], y [n, out]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        down, up = down.to(x.dtype), up.to(x.dtype)
        y = F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        rows = x.reshape(-1, x.shape[-1])
        h = F.linear(rows, down).mul_(scale)
        y.view(-1, y.shape[-1]).addmm_(h, up.t())
        ctx.save_for_backward(rows, h, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, h, weight, down, up = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1])
        needs_x, _, _, needs_down, needs_up, _ = ctx.needs_input_grad
        dx = d_down = d_up = None
        if needs_up:
            d_up = (h.t() @ dy).t()  # faster than dy.t() @ h where r is small
        if needs_x or needs_down:
            dh = (dy @ up).mul_(ctx.scale)
        if needs_down:
            d_down = dh.t() @ x
        if needs_x:
            dx = (dy @ weight.to(dy.dtype)).addmm_(dh, down).view(ctx.shape)
        return dx, None, None, d_down, d_up, None


class _Pointwise(torch.autograd.Function):
    """Tensors are taken as columns: x [B, in, n], h = s A x [B, r, n], y [B, out, n], with n = h w."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        down, up = down.to(x.dtype).flatten(1), up.to(x.dtype).flatten(1)
        y = F.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        columns = x.flatten(2)
        h = _times(down, columns).mul_(scale)
        y.flatten(2).baddbmm_(_batch(up, h), h)
        ctx.save_for_backward(columns, h, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, h, weight, down, up = ctx.saved_tensors
        dy = dy.flatten(2)
        needs_x, _, _, needs_down, needs_up, _ = ctx.needs_input_grad
        dx = d_down = d_up = None
        if needs_up:
            d_up = torch.bmm(dy, h.mT).sum(0)[..., None, None]
        if needs_x or needs_down:
            dh = _times(up.t(), dy).mul_(ctx.scale)
        if needs_down:
            d_down = torch.bmm(dh, x.mT).sum(0)[..., None, None]
        if needs_x:
            dx = _times(weight.to(dy.dtype).flatten(1).t(), dy).baddbmm_(_batch(down.t(), dh), dh).view(ctx.shape)
        return dx, None, None, d_down, d_up, None


def _batch(matrix: Tensor, like: Tensor) -> Tensor:
    return matrix.expand(like.shape[0], -1, -1)


def _times(matrix: Tensor, columns: Tensor) -> Tensor:
    """[m, k] times every [k, n] of [B, k, n]."""
    return torch.bmm(_batch(matrix, columns), columns)
