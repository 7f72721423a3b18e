"""Convolutions as one matrix product against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_train.model import convolution
from lora_train.model.convolution import quicken


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(4, 6), (5, 3), (1, 1)])
def test_values_and_gradient(monkeypatch: pytest.MonkeyPatch, batch: int, stride: int, sides: tuple[int, int]) -> None:
    monkeypatch.setattr(convolution, "_SHARE", 0)  # always the product
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, 3, stride, 1).requires_grad_(False)
    x = torch.randn(batch, 8, *sides, requires_grad=True)
    y = layer(x)
    dy = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, dy)
    quicken(layer)
    again = layer(x)
    assert "_Product" in type(again.grad_fn).__name__
    torch.testing.assert_close(again, y)
    torch.testing.assert_close(torch.autograd.grad(again, x, dy)[0], expected)


def test_chosen_by_size() -> None:
    layer = nn.Conv2d(128, 128, 3, padding=1).requires_grad_(False)
    quicken(layer)

    def way(*shape: int) -> str:
        return type(layer(torch.randn(shape, requires_grad=True)).grad_fn).__name__

    assert "_Product" in way(1, 128, 2, 2)
    assert "_Product" not in way(2, 128, 2, 2)
    assert "_Product" not in way(1, 128, 3, 2)


def test_layers_that_stay_as_they_are() -> None:
    learning, pointwise = nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 128, 1)
    model = nn.Sequential(learning, pointwise)
    quicken(model)
    assert type(pointwise) is nn.Conv2d
    x = torch.randn(1, 128, 1, 1)
    learning(x).sum().backward()
    assert learning.weight.grad is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert learning.requires_grad_(False)(x).dtype is torch.bfloat16


def test_not_for_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_SHARE", 0)
    layer = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    quicken(layer)
    assert "_Product" in type(layer(torch.randn(2, 4, 8, 8, requires_grad=True)).grad_fn).__name__
    assert "_Product" not in type(layer(torch.randn(2, 4, 8, 9, requires_grad=True)).grad_fn).__name__
