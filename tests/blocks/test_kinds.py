"""Every kind of adapter becomes low rank or a matrix exactly: against dense formulas written out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from lora_train.blocks.bake import bake
from lora_train.blocks.kinds import read
from lora_train.blocks.layout import index_of
from lora_train.errors import UserError
from lora_train.network.kohya import open_lora

from . import loras

ATTENTION = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_mid_block_resnets_0_conv1"
NORM = "lora_unet_mid_block_resnets_0_norm1"
few = settings(max_examples=20, deadline=None)
sizes, ranks, seeds = st.integers(1, 6), st.integers(1, 3), st.integers(0, 1000)
alphas = st.none() | st.floats(0.5, 4)

State = dict[str, Tensor]


def random(seed: int) -> Callable[..., Tensor]:
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=g)


def with_alpha(name: str, parts: State, alpha: float | None) -> State:
    state = {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return state if alpha is None else {**state, f"{name}.alpha": torch.tensor(alpha)}


def folder_of(tmp: pytest.TempPathFactory, **files: State) -> Path:
    folder = tmp.mktemp("kinds")
    for name, state in files.items():
        loras.write(folder / f"{name}.safetensors", state)
    return folder


def baked(folder: Path, recipe: str, **options: object) -> State:
    report = bake(recipe, folder, {}, folder / "out" / "b.safetensors", precision="float", **options)  # type: ignore
    return load_file(report.out)


def same(found: Tensor, wanted: Tensor) -> None:
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-5 * scale)


@few
@given(sizes, sizes, ranks, alphas, seeds)
def test_loha_is_exact(
    tmp_path_factory: pytest.TempPathFactory, m: int, n: int, r: int, alpha: float | None, seed: int
) -> None:
    rand = random(seed)
    parts = {"hada_w1_a": rand(m, r), "hada_w1_b": rand(r, n), "hada_w2_a": rand(m, r), "hada_w2_b": rand(r, n)}
    wanted = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    state = baked(folder_of(tmp_path_factory, a=with_alpha(ATTENTION, parts, alpha)), "a:-0.7")
    same(loras.dense(state, ATTENTION), -0.7 * (1 if alpha is None else alpha / r) * wanted)
    assert state[f"{ATTENTION}.lora_down.weight"].shape[0] <= min(m, n, r * r) or r * r <= min(m, n)


@few
@given(sizes, sizes, ranks, ranks, seeds)
def test_tucker_loha_of_a_convolution(
    tmp_path_factory: pytest.TempPathFactory, m: int, c: int, r: int, q: int, seed: int
) -> None:
    rand = random(seed)
    parts = {f"hada_w{n}_{side}": rand(r, m if side == "a" else c) for n in "12" for side in "ab"}
    parts |= {f"hada_t{n}": rand(r, r, 3, 3) for n in "12"}
    one, two = (
        torch.einsum("ijkl,ip,jr->prkl", parts[f"hada_t{n}"], parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"])
        for n in "12"
    )
    state = baked(folder_of(tmp_path_factory, a=with_alpha(CONV, parts, 2.0)), "a:1")
    same(loras.dense(state, CONV).reshape(m, c, 3, 3), one * two * 2 / r)


@few
@given(ranks, ranks, ranks, ranks, ranks, st.booleans(), st.booleans(), alphas, seeds)
def test_lokr_is_exact(
    tmp_path_factory: pytest.TempPathFactory,
    a: int,
    b: int,
    c: int,
    d: int,
    r: int,
    split1: bool,
    split2: bool,
    alpha: float | None,
    seed: int,
) -> None:
    rand = random(seed)
    parts = {"lokr_w1_a": rand(a, r), "lokr_w1_b": rand(r, b)} if split1 else {"lokr_w1": rand(a, b)}
    parts |= {"lokr_w2_a": rand(c, r), "lokr_w2_b": rand(r, d)} if split2 else {"lokr_w2": rand(c, d)}
    one = parts["lokr_w1_a"] @ parts["lokr_w1_b"] if split1 else parts["lokr_w1"]
    two = parts["lokr_w2_a"] @ parts["lokr_w2_b"] if split2 else parts["lokr_w2"]
    scale = alpha / r if alpha is not None and (split1 or split2) else 1.0
    state = baked(folder_of(tmp_path_factory, a=with_alpha(ATTENTION, parts, alpha)), "a:2")
    same(loras.dense(state, ATTENTION), 2 * scale * torch.kron(one, two))


@pytest.mark.parametrize("form", ["whole", "flat", "tucker"])
def test_lokr_of_a_convolution(tmp_path_factory: pytest.TempPathFactory, form: str) -> None:
    rand = random(1)
    w1, a, b, t = rand(2, 3), rand(4, 2), rand(2, 5 * 9), rand(2, 2, 3, 3)
    if form == "tucker":
        a, b = rand(2, 4), rand(2, 5)
        parts, w2 = {"lokr_w2_a": a, "lokr_w2_b": b, "lokr_t2": t}, torch.einsum("ijkl,jr,ip->prkl", t, b, a)
    elif form == "flat":
        parts, w2 = {"lokr_w2_a": a, "lokr_w2_b": b}, (a @ b).reshape(4, 5, 3, 3)
    else:
        w2 = rand(4, 5, 3, 3)
        parts = {"lokr_w2": w2}
    state = baked(folder_of(tmp_path_factory, a=with_alpha(CONV, {"lokr_w1": w1, **parts}, None)), "a:1")
    assert state[f"{CONV}.lora_down.weight"].shape[1:] == (15, 3, 3)
    wanted = torch.einsum("ab,cdhw->acbdhw", w1, w2).reshape(8, 15, 3, 3)
    same(loras.dense(state, CONV).reshape(8, 15, 3, 3), wanted)


def test_kinds_add_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    """LoRA + LoHa + LoKr stays low rank; with a whole difference the sum is one."""
    rand = random(2)
    lora = loras.state({ATTENTION: (6, 6)}, 2, 1.0, 3)
    hada = {"hada_w1_a": rand(6, 2), "hada_w1_b": rand(2, 6), "hada_w2_a": rand(6, 2), "hada_w2_b": rand(2, 6)}
    kron = {"lokr_w1": rand(2, 2), "lokr_w2": rand(3, 3)}
    diff, bias = rand(6, 6), rand(6)
    folder = folder_of(
        tmp_path_factory,
        lora=lora,
        hada=with_alpha(ATTENTION, hada, None),
        kron=with_alpha(ATTENTION, kron, None),
        diff=with_alpha(ATTENTION, {"diff": diff, "diff_b": bias}, None),
    )
    low = (
        0.5 * loras.dense(lora, ATTENTION)
        - (hada["hada_w1_a"] @ hada["hada_w1_b"]) * (hada["hada_w2_a"] @ hada["hada_w2_b"])
        + 2 * torch.kron(kron["lokr_w1"], kron["lokr_w2"])
    )
    state = baked(folder, "lora:0.5,hada:-1,kron:2")
    same(loras.dense(state, ATTENTION), low)
    assert state[f"{ATTENTION}.lora_down.weight"].shape[0] == 6
    state = baked(folder, "lora:0.5,hada:-1,kron:2,diff:-0.25")
    assert state.keys() == {f"{ATTENTION}.diff", f"{ATTENTION}.diff_b"}
    same(state[f"{ATTENTION}.diff"], low - 0.25 * diff)
    same(state[f"{ATTENTION}.diff_b"], -0.25 * bias)
    state = baked(folder, "lora:0.5,hada:-1,kron:2,diff:-0.25", rank=6)
    same(loras.dense(state, ATTENTION), low - 0.25 * diff)


def test_norms_are_linear_and_stay(tmp_path_factory: pytest.TempPathFactory) -> None:
    one, two = ({f"{NORM}.w_norm": random(n)(4), f"{NORM}.b_norm": random(n + 9)(4)} for n in (1, 2))
    state = baked(folder_of(tmp_path_factory, a=one, b=two), "a:1,b:-0.5")
    for key in one:
        same(state[key], one[key] - 0.5 * two[key])
    with pytest.raises(UserError, match="nothing is left"):
        baked(folder_of(tmp_path_factory, a=one), "a:1,a:-1")


def test_a_scale_goes_before_alpha_and_a_difference_has_no_rank(tmp_path_factory: pytest.TempPathFactory) -> None:
    diff = random(1)(4, 4)
    a = {f"{ATTENTION}.diff": diff, f"{ATTENTION}.alpha": torch.tensor(3.0)}
    folder = folder_of(tmp_path_factory, a=a, b={**a, f"{ATTENTION}.scale": torch.tensor(0.5)})
    same(baked(folder, "a:1")[f"{ATTENTION}.diff"], diff)
    same(baked(folder, "b:1")[f"{ATTENTION}.diff"], 0.5 * diff)


def delta(folder: Path, name: str, weight: Tensor) -> Tensor:
    with open_lora(folder / f"{name}.safetensors") as file:
        module = index_of(file.shapes, file.path).modules[ATTENTION]
        return read(file, module, lambda _: weight.double()).dense()


@pytest.mark.parametrize("by_output", [True, False])
def test_dora_is_the_change_of_the_weight(tmp_path_factory: pytest.TempPathFactory, by_output: bool) -> None:
    weight, m = random(1)(4, 6), random(2)(4, 1) if by_output else random(2)(1, 6)
    lora = loras.state({ATTENTION: (4, 6)}, 2, 1.0)
    folder = folder_of(tmp_path_factory, a={**lora, f"{ATTENTION}.dora_scale": m})
    moved = weight + loras.dense(lora, ATTENTION)
    same(delta(folder, "a", weight), moved * m / moved.norm(dim=1 if by_output else 0, keepdim=True) - weight)


@pytest.mark.parametrize("on_input", [True, False])
def test_ia3(tmp_path_factory: pytest.TempPathFactory, on_input: bool) -> None:
    weight, gain = random(1)(4, 6), random(2)(6 if on_input else 4)
    state = {f"{ATTENTION}.weight": gain, f"{ATTENTION}.on_input": torch.tensor(on_input)}
    same(
        delta(folder_of(tmp_path_factory, a=state), "a", weight),
        weight * (gain[None] if on_input else gain[:, None]),
    )


def test_glora(tmp_path_factory: pytest.TempPathFactory) -> None:
    weight, rand = random(1)(4, 6), random(2)
    parts = {"a1.weight": rand(2, 6), "a2.weight": rand(6, 2), "b1.weight": rand(2, 6), "b2.weight": rand(4, 2)}
    state = with_alpha(ATTENTION, parts, 1.0)
    wanted = parts["b2.weight"] @ parts["b1.weight"] + weight @ parts["a2.weight"] @ parts["a1.weight"]
    same(delta(folder_of(tmp_path_factory, a=state), "a", weight), wanted / 2)


def test_tensors_that_do_not_fit_are_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    parts = {"hada_w1_a": (4, 2), "hada_w1_b": (2, 4), "hada_w2_a": (5, 2), "hada_w2_b": (2, 4)}
    state = {f"{ATTENTION}.{part}": torch.ones(shape) for part, shape in parts.items()}
    with pytest.raises(UserError, match=r"a\.safetensors: the tensors of .*to_q don't fit: .*w2_a \[5, 2\]"):
        baked(folder_of(tmp_path_factory, a=state), "a:1")


def test_embeddings_come_along_from_what_is_added(tmp_path_factory: pytest.TempPathFactory) -> None:
    lora, key = loras.state({ATTENTION: (4, 4)}, 2), "bundle_emb.cat.string_to_param.*"
    one, two = torch.ones(1, 4), torch.zeros(1, 4)
    folder = folder_of(tmp_path_factory, a={**lora, key: one}, b={**lora, key: two})
    assert torch.equal(baked(folder, "a:1,b:-0.5")[key], one)
    with pytest.raises(UserError, match=r"b\.safetensors: another LoRA of the recipe brings an embedding 'cat' too"):
        baked(folder, "a:1,b:0.5")
