"""LoRA layers: dropouts, DoRA, norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_train.network.layers import Adapter, inject
from lora_train.network.spec import Drops, Size

SIZE = Size(4, 2.0)


def layer(kind: str = "linear", size: Size = SIZE, dtype: torch.dtype = torch.float32) -> Adapter:
    """An adapter with random weights on a frozen layer of 6 inputs and 8 outputs."""
    torch.manual_seed(0)
    base = {"linear": nn.Linear(6, 8), "1x1": nn.Conv2d(6, 8, 1), "3x3": nn.Conv2d(6, 8, 3, stride=2, padding=1)}[kind]
    root = nn.ModuleDict({"x": base.to(dtype).requires_grad_(False)})
    made = inject(root, {"x": size}, torch.Generator().manual_seed(0))["x"]
    assert root["x"] is made
    nn.init.normal_(made.pair[1])
    return made


def inputs(kind: str = "linear", batch: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(batch, *((5, 6) if kind == "linear" else (6, 7, 7)), generator=g)


def apply(made: Adapter, x: Tensor, weight: Tensor) -> Tensor:
    """The frozen layer with other weights."""
    base = made.get_base_layer()
    if isinstance(base, nn.Linear):
        return F.linear(x, weight, base.bias)
    return F.conv2d(x, weight, base.bias, base.stride, base.padding)


KINDS = ["linear", "1x1", "3x3"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multiplier", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("dora", [False, True])
def test_a_layer_does_what_its_change_of_the_weights_does(kind: str, multiplier: float, dora: bool) -> None:
    made, x = layer(kind), inputs(kind)
    if dora:
        made.decompose()
        made.dora_scale.data *= 1.3
    made.multiplier = multiplier
    torch.testing.assert_close(made(x), apply(made, x, made.get_base_layer().weight + made.change()))
    assert bool(made.change().any()) == bool(multiplier)


@pytest.mark.parametrize("kind", KINDS)
def test_the_norm_is_that_of_the_change(kind: str) -> None:
    made = layer(kind)
    torch.testing.assert_close(made.norm(), made.delta().norm())
    up, down = made.tensors()["lora_up.weight"], made.tensors()["lora_down.weight"]
    assert (up.shape[1], down.shape[0]) == (4, 4)
    assert len(made.factors()) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_weights_start_as_those_of_kohya_in_fp32(kind: str) -> None:
    """A uniform in +-1/sqrt(fan in), whatever the frozen layer's type."""
    made = layer(kind, Size(64, 64), dtype=torch.bfloat16)
    down, up = made.pair
    bound = (9 if kind == "3x3" else 1) ** -0.5 * 6**-0.5
    assert down.dtype == up.dtype == torch.float32
    assert 0.9 * bound < down.abs().max() <= bound
    assert not torch.equal(down, down.bfloat16().float())


def test_inner_dropout_leaves_out_values_of_the_activation() -> None:
    made, x = layer(size=Size(400, 400.0)), inputs()
    expected = made(x)
    made.drops = Drops(inner=0.5)
    torch.manual_seed(1)
    mean = torch.stack([made(x) for _ in range(200)]).mean(0)
    assert not torch.allclose(made(x), expected)
    assert (mean - expected).norm() < 0.15 * (expected - made.get_base_layer()(x)).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_rank_dropout_leaves_out_ranks_of_a_picture(kind: str) -> None:
    """The rest is stronger by 1 / (1 - p); a rank is out in the whole picture, as in sd-scripts."""
    made, x = layer(kind), inputs(kind)
    base = made.get_base_layer()
    made.drops = Drops(rank=0.5)
    torch.manual_seed(3)
    found = made(x)
    torch.manual_seed(3)
    mask = (torch.rand(3, 4) > 0.5).float()
    assert 0 < mask.sum() < 12
    down, up = made.pair
    for n in range(3):
        kept = up * mask[n].view(1, -1, *[1] * (up.dim() - 2))
        delta = (kept.flatten(1) @ down.flatten(1)).view(base.weight.shape) * SIZE.scale / 0.5
        torch.testing.assert_close(found[n : n + 1], apply(made, x[n : n + 1], base.weight + delta))


def test_rank_dropout_of_vectors_without_tokens() -> None:
    made = layer()
    made.drops = Drops(rank=0.5)
    assert made(inputs()[:, 0]).shape == (3, 8)


def test_module_dropout_leaves_out_the_module() -> None:
    made, x = layer(), inputs()
    made.drops = Drops(module=0.5)
    torch.manual_seed(0)
    expected = made.get_base_layer()(x)
    bare = [torch.equal(made(x), expected) for _ in range(100)]
    assert 30 < sum(bare) < 70


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_dora_changes_nothing_and_learns_its_magnitude(kind: str) -> None:
    made, x = layer(kind), inputs(kind)
    nn.init.zeros_(made.pair[1])
    made.decompose()
    torch.testing.assert_close(made(x), made.get_base_layer()(x))
    assert made.dora_scale.shape == ((1, 6) if kind == "linear" else (1, 6, 1, 1))
    made(x).square().sum().backward()
    assert made.dora_scale.grad.abs().min() > 0
    assert made.pair[1].grad.abs().max() > 0


def test_doras_norm_is_constant_in_the_gradient() -> None:
    """Liu et al. 2024, section 4.3."""
    made, x = layer(), inputs()
    made.decompose()
    made(x).square().sum().backward()
    down, up = (p.detach().clone().requires_grad_() for p in made.pair)
    weight = made.get_base_layer().weight
    merged = weight + SIZE.scale * up @ down
    scaled = merged * (made.dora_scale / merged.detach().norm(dim=0, keepdim=True)).detach()
    apply(made, x, scaled).square().sum().backward()
    torch.testing.assert_close(made.pair[0].grad, down.grad)
    torch.testing.assert_close(made.pair[1].grad, up.grad)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drops", [None, Drops(rank=0.25)])
def test_half_precision(kind: str, drops: Drops | None) -> None:
    """A frozen layer in bf16, with autocast and without, is near the same in fp32."""
    wide, made, x = layer(kind), layer(kind, dtype=torch.bfloat16), inputs(kind)
    wide.drops = made.drops = drops
    torch.manual_seed(0)
    expected = wide(x)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = made(x)
    torch.manual_seed(0)
    for other in (found, made(x.bfloat16())):
        assert other.dtype == torch.bfloat16
        assert (other - expected).norm() < 0.02 * expected.norm()
