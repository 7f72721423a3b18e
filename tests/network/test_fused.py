"""The fused step against the plain form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lora_train.network import fused

SCALE = 0.37
HALF = [torch.bfloat16, *([torch.float16] if hasattr(torch, "get_autocast_dtype") else [])]
"""What a CPU's autocast knows: torch < 2.4 has no fp16 there."""


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
    multiply = F.linear if weight.dim() == 2 else F.conv2d
    return multiply(x, weight, bias) + multiply(multiply(x, down), up) * 1.0 * SCALE


def quick(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
    return (fused.linear if weight.dim() == 2 else fused.pointwise)(x, weight, bias, down, up, SCALE)


def case(shape: tuple[int, ...], bias: bool = True, out: int = 24, rank: int = 5, dtype: torch.dtype = torch.float32):
    """Inputs as the arguments of `plain`: fully connected for vectors [..., in], 1x1 for pictures [B, in, h, w]."""
    g = torch.Generator().manual_seed(0)
    is_picture = len(shape) == 4
    inner, kernel = (shape[1], (1, 1)) if is_picture else (shape[-1], ())

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    weight = (draw(out, inner, *kernel) / inner**0.5).to(dtype)
    pair = (nn.Parameter(draw(rank, inner, *kernel) / inner**0.5), nn.Parameter(draw(out, rank, *kernel)))
    return draw(*shape).to(dtype), weight, draw(out).to(dtype) if bias else None, *pair


def results(function, arguments: tuple, needs_x: bool = True) -> list[Tensor]:
    """Output and gradients of x, A, B."""
    x, weight, bias, down, up = arguments
    x = x.clone().requires_grad_(needs_x)
    y = function(x, weight, bias, down, up)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    wanted = [x, down, up] if needs_x else [down, up]
    return [y.detach(), *torch.autograd.grad((y * g).sum(), wanted)]


def difference(first: list[Tensor], second: list[Tensor]) -> float:
    return max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(first, second, strict=True))


SHAPES = [(7, 16), (2, 7, 16), (1, 300, 16), (2, 3, 5, 16)[:3], (2, 16, 6, 5), (1, 16, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("needs_x", [True, False])
def test_outputs_and_gradients_are_those_of_the_plain_form(shape: tuple, bias: bool, needs_x: bool) -> None:
    arguments = case(shape, bias)
    found = results(quick, arguments, needs_x)
    assert difference(found, results(plain, arguments, needs_x)) < 1e-6
    assert [t.shape for t in found[-2:]] == [p.shape for p in arguments[3:]]


def test_gradients_by_finite_differences() -> None:
    for shape in ((3, 4), (2, 4, 3, 2)):
        x, weight, bias, down, up = (t.detach().double() for t in case(shape, out=3, rank=2))
        inputs = [t.requires_grad_() for t in (x, down, up)]
        assert torch.autograd.gradcheck(lambda x, a, b: quick(x, weight, bias, a, b), inputs)  # noqa: B023 - at once


@pytest.mark.parametrize("shape", [(2, 7, 16), (2, 16, 6, 5)])
def test_layouts_that_are_not_contiguous(shape: tuple) -> None:
    x, *rest = case(shape)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    if x.dim() == 4:
        turned = x.contiguous(memory_format=torch.channels_last)
    assert not turned.is_contiguous()
    assert difference(results(quick, (turned, *rest)), results(plain, (x, *rest))) < 1e-6


@pytest.mark.parametrize("shape", [(2, 7, 16), (2, 16, 6, 5)])
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_as_autocast_does_it(shape: tuple, dtype: torch.dtype) -> None:
    """Frozen weights in half precision, the LoRA in fp32; autograd brings fp32 gradients."""
    arguments = case(shape, dtype=dtype)
    with torch.autocast("cpu", dtype):
        expected, found = results(plain, arguments), results(quick, arguments)
        wide = results(quick, (arguments[0].float(), *arguments[1:]))
    alone = results(quick, arguments)
    for outcome in (found, wide, alone):
        assert outcome[0].dtype == dtype
        assert outcome[2].dtype == outcome[3].dtype == torch.float32
        assert difference(outcome, expected) < 0.02


def test_an_8_bit_weight_is_widened_to_the_inputs_type() -> None:
    x, weight, bias, down, up = case((2, 7, 16), dtype=torch.bfloat16)
    small = weight.to(torch.float8_e4m3fn)
    expected = results(quick, (x, small.to(torch.bfloat16), bias, down, up))
    assert difference(results(quick, (x, small, bias, down, up)), expected) == 0


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("shape", [(2, 7, 16), (2, 16, 6, 5)])
def test_gradient_checkpointing(shape: tuple, reentrant: bool) -> None:
    arguments = case(shape)

    def again(*given):
        return checkpoint(quick, *given, use_reentrant=reentrant)

    x, weight, bias, down, up = arguments
    for function in (quick, again):
        for p in (down, up):
            p.grad = None
        leaf = x.clone().requires_grad_()
        function(leaf, weight, bias, down, up).square().sum().backward()
        grads = [leaf.grad, down.grad.clone(), up.grad.clone()]
        if function is quick:
            expected = grads
    assert difference(grads, expected) == 0


def test_only_the_input_and_the_rank_r_activation_are_kept() -> None:
    """Not the output, and the weights as they are."""
    x, weight, bias, down, up = case((1, 64, 16))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        quick(x.requires_grad_(), weight, bias, down, up)
    fresh = [t for t in kept if t.data_ptr() not in {p.data_ptr() for p in (x, weight, down, up)}]
    assert [tuple(t.shape) for t in fresh] == [(64, 5)]
