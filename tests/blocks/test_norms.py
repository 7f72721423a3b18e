"""Norms and angles of blocks from the factors, against the same numbers from whole matrices."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora_train.blocks.families import BLOCKS_17
from lora_train.blocks.kinds import read
from lora_train.blocks.layout import index_of
from lora_train.blocks.norms import (
    BESIDE,
    CANCELS,
    LITTLE,
    NOISE,
    NOTHING,
    STRENGTHENS,
    cosine,
    inner,
    norms,
    subtraction,
)
from lora_train.errors import UserError
from lora_train.network.kohya import open_lora

from . import loras

CONV = "lora_unet_mid_block_resnets_0_conv1"
QUERY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
NORM = "lora_unet_mid_block_resnets_0_norm1"


def vectors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of each block everything that is added, as one vector."""
    parts: dict[str, list[Tensor]] = {block: [] for block in BLOCKS_17}
    for name in loras.modules():
        parts[BLOCKS_17[loras.place(name)]].append(loras.dense(state, name).flatten())
    return {block: torch.cat(those) for block, those in parts.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Tensor], dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("norms")
    a = loras.state(loras.modules(), rank=4, alpha=2, seed=1)
    b = loras.state(loras.modules(), rank=6, alpha=None, seed=2)
    for key, tensor in b.items():  # the text encoder is nearly a's own, the middle block its opposite
        if key.startswith("lora_te_"):
            b[key] = torch.cat([a[key], tensor[:, 4:] / 50], 1) if "up" in key else torch.cat([a[key], tensor[4:]])
        elif key.startswith("lora_unet_mid_block_"):
            b[key] = torch.cat([-a[key], 0 * tensor[:, 4:]], 1) if "up" in key else torch.cat([a[key], tensor[4:]])
    return loras.write(folder / "a.safetensors", a), loras.write(folder / "b.safetensors", b), a, b


def test_norms_and_cosines_are_those_of_the_matrices(two) -> None:
    a, b, state_a, state_b = two
    x, y = vectors(state_a), vectors(state_b)
    assert norms(a) == pytest.approx({block: float(v.norm()) for block, v in x.items()}, rel=1e-6)
    wanted = {block: float(x[block] @ y[block] / (x[block].norm() * y[block].norm())) for block in x}
    assert cosine(a, b) == pytest.approx(wanted, abs=1e-6)
    assert list(cosine(a, b)) == list(BLOCKS_17)
    assert cosine(a, a) == pytest.approx(dict.fromkeys(BLOCKS_17, 1.0))


def test_subtraction_says_where_it_cancels(two) -> None:
    a, b, state_a, state_b = two
    x, y = vectors(state_a), vectors(state_b)
    found = {one.block: one for one in subtraction(norms(a), norms(b), cosine(a, b), None, dict.fromkeys(x, -0.5))}
    verdicts = {block: one.verdict for block, one in found.items()}
    rest = dict.fromkeys(BLOCKS_17, NOISE) | {"BASE": CANCELS, "M00": STRENGTHENS}
    assert verdicts == rest
    for block, one in found.items():
        assert one.left == pytest.approx(float((x[block] - 0.5 * y[block]).norm() / x[block].norm()), rel=1e-5)
        assert float((x[block] + one.best_weight * y[block]).norm() / x[block].norm()) == pytest.approx(
            one.best, rel=1e-4
        )
    assert "only adds noise" in found["OUT05"].text and "cancels" in found["BASE"].text
    off = subtraction(norms(a), norms(b), cosine(a, b), None, {"BASE": 0.0})
    assert {one.verdict for one in off} == {NOTHING}


@pytest.mark.parametrize(
    ("angle", "weight", "verdict"),
    [
        (0.6, -0.1, LITTLE),
        (0.6, -0.3, CANCELS),
        (0.6, -1.3, NOISE),  # beyond what cancels best
        (0.6, 0.1, STRENGTHENS),
        (-0.6, 0.1, LITTLE),
        (-0.6, -0.1, STRENGTHENS),
        (0.3, -0.1, NOISE),  # no weight leaves less than 95 %
        (0.05, -0.1, NOISE),
        (0.05, 0.1, BESIDE),  # both are added: a style is no noise
        (-0.05, 0.1, BESIDE),
    ],
)
def test_a_small_weight_takes_a_little_away(angle: float, weight: float, verdict: str) -> None:
    (one,) = subtraction({"M00": 2.0}, {"M00": 2.0}, {"M00": angle}, None, {"M00": weight})
    assert one.verdict == verdict
    assert one.left == pytest.approx(math.hypot(1 + weight * angle, weight * math.sqrt(1 - angle**2)))


def random(seed: int):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=g)


def kinds(r) -> dict[str, dict[str, Tensor]]:
    """The same convolution's change in several kinds: [6, 4, 3, 3]."""
    return {
        "locon": {"lora_up.weight": r(6, 2, 1, 1), "lora_down.weight": r(2, 4, 3, 3), "alpha": torch.tensor(1.0)},
        "cp": {"lora_up.weight": r(6, 2, 1, 1), "lora_down.weight": r(2, 4, 1, 1), "lora_mid.weight": r(2, 2, 3, 3)},
        "loha": {"hada_w1_a": r(6, 2), "hada_w1_b": r(2, 36), "hada_w2_a": r(6, 2), "hada_w2_b": r(2, 36)},
        "lokr": {"lokr_w1": r(2, 2), "lokr_w2": r(3, 2, 3, 3)},
        "diff": {"diff": r(6, 4, 3, 3), "diff_b": r(6)},
    }


def test_every_kind_meets_every_other(tmp_path: Path) -> None:
    deltas = []
    for name, parts in kinds(random(3)).items():
        path = loras.write(tmp_path / f"{name}.safetensors", {f"{CONV}.{part}": t for part, t in parts.items()})
        with open_lora(path) as file:
            deltas.append((path, read(file, index_of(file.shapes, path).modules[CONV])))
    for path, x in deltas:
        bias = 0.0 if x.bias is None else float(x.bias.double().square().sum())
        assert norms(path)["M00"] == pytest.approx(math.sqrt(float(x.dense().square().sum()) + bias))
        for other, y in deltas:
            if path != other:
                wanted = float((x.dense().flatten() * y.dense().flatten()).sum())
                assert inner(x, y) == pytest.approx(wanted)
                assert cosine(path, other)["M00"] == pytest.approx(wanted / (norms(path)["M00"] * norms(other)["M00"]))


def test_what_only_one_has_counts_in_its_norm(tmp_path: Path) -> None:
    r = random(4)
    pair = {f"{QUERY}.lora_up.weight": r(6, 2), f"{QUERY}.lora_down.weight": r(2, 6)}
    a = loras.write(tmp_path / "a.safetensors", pair)
    b = loras.write(tmp_path / "b.safetensors", {**pair, f"{NORM}.w_norm": r(6), f"{NORM}.b_norm": r(6)})
    assert cosine(a, b)["M00"] == pytest.approx(norms(a)["M00"] / norms(b)["M00"])
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    c = loras.write(tmp_path / "c.safetensors", {f"{text}.{part}": t for part, t in kinds(r)["loha"].items()})
    assert cosine(a, c) == {}


def test_bad_input_names_the_file(tmp_path: Path) -> None:
    r = random(5)

    def query(n: int) -> dict[str, Tensor]:
        return {f"{QUERY}.lora_up.weight": r(n, 2), f"{QUERY}.lora_down.weight": r(2, n)}

    a, b = (loras.write(tmp_path / f"{name}.safetensors", query(n)) for name, n in (("a", 6), ("b", 8)))
    with pytest.raises(UserError, match=r"b\.safetensors.*shape \[8, 8, 1, 1\] here and \[6, 6, 1, 1\]"):
        cosine(a, b)
    dora = {**query(6), f"{QUERY}.dora_scale": r(1, 6)}
    with pytest.raises(UserError, match="Name the checkpoint"):
        norms(loras.write(tmp_path / "d.safetensors", dora))
    wide = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    xl = {f"{wide}.lora_up.weight": r(640, 2), f"{wide}.lora_down.weight": r(2, 2048)}
    with pytest.raises(UserError, match="for SDXL"):
        cosine(a, loras.write(tmp_path / "x.safetensors", xl))
