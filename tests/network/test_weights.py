"""LoHa and LoKr, against the formulas of the WebUI's built-in Lora extension (network_hada.py, network_lokr.py)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lora_train.network.spec import Drops, Size
from lora_train.network.weights import WeightAdapter, is_loha, is_lokr, new_loha, new_lokr, split

BASES = {
    "linear": lambda: nn.Linear(12, 8),
    "1x1": lambda: nn.Conv2d(12, 8, 1),
    "3x3": lambda: nn.Conv2d(12, 8, 3, stride=2, padding=1),
}
FORMS = ["loha", "lokr", "lokr factor", "lokr whole"]
SIZE = Size(3, 1.5)


def layer(kind: str, form: str, dtype: torch.dtype = torch.float32, shake: bool = True) -> WeightAdapter:
    torch.manual_seed(0)
    base, g = BASES[kind]().to(dtype).requires_grad_(False), torch.Generator().manual_seed(0)
    made = {
        "loha": lambda: new_loha(base, SIZE, g),
        "lokr": lambda: new_lokr(base, Size(1, 0.5), g),
        "lokr factor": lambda: new_lokr(base, Size(2, 0.5), g, factor=2),
        "lokr whole": lambda: new_lokr(base, Size(100, 3.0), g),
    }[form]()
    if shake:
        for weight in made.factors():
            weight.data += 0.3 * torch.randn(weight.shape)
    return made


def webui(w: dict[str, Tensor], alpha: float, shape: torch.Size) -> Tensor:
    """calc_updown and finalize_updown for a LoHa and a LoKr, without tucker tensors."""
    dim = None
    if "hada_w1_a" in w:
        dim = w["hada_w1_b"].shape[0]
        updown = (w["hada_w1_a"] @ w["hada_w1_b"]) * (w["hada_w2_a"] @ w["hada_w2_b"])
    else:
        second = w.get("lokr_w2")
        if second is None:
            dim, second = w["lokr_w2_b"].shape[0], w["lokr_w2_a"] @ w["lokr_w2_b"]
        first = w["lokr_w1"]
        updown = torch.kron(first[:, :, None, None] if second.dim() == 4 else first, second.contiguous())
    return updown.reshape(shape) * (alpha / dim if dim else 1.0)


def inputs(kind: str) -> Tensor:
    return torch.randn(2, *((5, 12) if kind == "linear" else (12, 6, 6)), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("form", FORMS)
def test_the_webui_makes_the_same_of_a_file(kind: str, form: str) -> None:
    made, x = layer(kind, form), inputs(kind)
    made.multiplier = 0.6
    base = made.get_base_layer()
    tensors = {name: weight.detach() for name, weight in made.tensors().items()}
    expected = 0.6 * webui(tensors, made.size.alpha, base.weight.shape)
    torch.testing.assert_close(made.change(), expected)
    merged = BASES[kind]()
    merged.load_state_dict({"weight": base.weight + expected, "bias": base.bias})
    torch.testing.assert_close(made(x), merged(x))


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("form", FORMS)
def test_a_fresh_one_changes_nothing_and_learns(kind: str, form: str) -> None:
    made, x = layer(kind, form, shake=False), inputs(kind)
    assert torch.equal(made(x), made.get_base_layer()(x))
    made(x).square().sum().backward()
    grads = [weight.grad for weight in made.factors()]
    assert all(g is not None for g in grads)
    assert sum(bool(g.any()) for g in grads) == 1  # the one that begins at zero
    names = set(made.tensors())
    assert is_loha(names) == (form == "loha")
    assert is_lokr(names) == (form != "loha")


def test_whole_factors_where_the_rank_is_large() -> None:
    assert set(layer("3x3", "lokr whole").tensors()) == {"lokr_w1", "lokr_w2"}
    assert layer("3x3", "lokr whole").tensors()["lokr_w2"].shape == (4, 4, 3, 3)
    assert layer("3x3", "lokr whole").size.scale == 1
    assert layer("3x3", "lokr").tensors()["lokr_w2_b"].shape == (1, 4 * 9)


@pytest.mark.parametrize("form", FORMS)
def test_norm_and_factors(form: str) -> None:
    made = layer("1x1", form)
    before = made.norm()
    for weight in made.factors():
        weight.data *= 0.5 ** (1 / len(made.factors()))
    torch.testing.assert_close(made.norm(), before / 2)


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_keeps_small_changes(form: str) -> None:
    """bf16 has no number between 1 and 1.0078; W + dW would lose a small dW."""
    wide, made, x = layer("linear", form), layer("linear", form, torch.bfloat16), inputs("linear")
    wide.multiplier = made.multiplier = 0.02
    expected = wide(x) - wide.get_base_layer()(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = made(x)
    assert found.dtype == torch.bfloat16
    delta = x @ made.change().T
    assert (delta - expected).norm() < 0.01 * expected.norm()


def test_dropouts() -> None:
    made, x = layer("linear", "loha"), inputs("linear")
    base = made.get_base_layer()(x)
    made.drops = Drops(module=0.5)
    torch.manual_seed(0)
    assert 20 < sum(torch.equal(made(x), base) for _ in range(60)) < 40
    made.drops = Drops(rank=0.5)
    unchanged = torch.isclose(made(x), base).flatten(0, 1).all(0)
    assert 0 < unchanged.sum() < 8


@given(st.integers(1, 5000), st.sampled_from([-1, 1, 2, 3, 4, 7, 8, 16, 100, 1000]))
def test_split(n: int, factor: int) -> None:
    small, large = split(n, factor)
    assert small * large == n
    assert small <= large
    assert factor < 0 or small <= factor


@pytest.mark.parametrize(
    ("n", "factor", "expected"),
    [
        (127, -1, (1, 127)),
        (128, -1, (8, 16)),
        (250, 8, (5, 50)),
        (360, 4, (4, 90)),
        (512, 16, (16, 32)),
        (1024, 16, (16, 64)),
    ],
)
def test_split_is_lycoris(n: int, factor: int, expected: tuple[int, int]) -> None:
    assert split(n, factor) == expected
