from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lora_train.blocks.metadata import open_recipe
from lora_train.blocks.resize import resize
from lora_train.errors import UserError
from lora_train.network.kohya import read_lora

from . import loras

ONE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_mid_block_resnets_0_conv1"
SHAPES = {ONE: (12, 10), CONV: (6, 5, 3, 3)}


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 10), st.integers(1, 8), st.integers(0, 100))
def test_the_nearest_of_its_rank(tmp_path_factory: pytest.TempPathFactory, rank: int, smaller: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("resize")
    state = loras.state(SHAPES, rank, 3.0, seed)
    lora = loras.write(folder / "a.safetensors", state)
    report = resize(lora, folder / "b.safetensors", rank=smaller)
    found = load_file(report.out)
    for module in report.modules:
        wanted = loras.dense(state, module.name)
        sigma = torch.linalg.svdvals(wanted)
        best = float(sigma[smaller:].norm())
        error = float((loras.dense(found, module.name) - wanted).norm())
        assert error == pytest.approx(best, rel=1e-3, abs=1e-5 * float(wanted.norm()))
        assert module.error == pytest.approx(error, rel=1e-3, abs=1e-9)
        assert module.rank <= min(rank, smaller)
        down = found[f"{module.name}.lora_down.weight"].double().flatten(1)
        norms = down.norm(dim=1)
        assert bool((norms.diff() <= 1e-6).all())  # strongest first


def test_metadata_and_precision_stay(tmp_path: Path) -> None:
    state = {key: value.bfloat16() for key, value in loras.state(SHAPES, 8, 8.0).items()}
    texts = {"ss_steps": "100", "ss_tag_frequency": '{"10_x": {"cat": 3}}', "note": "mine", "sshs_model_hash": "old"}
    lora = loras.write(tmp_path / "a.safetensors", state, texts)
    report = resize(lora, tmp_path / "b.safetensors", target_error=0.3)
    found, metadata = read_lora(report.out)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert [metadata[key] for key in ("ss_steps", "ss_tag_frequency", "note")] == [
        "100",
        '{"10_x": {"cat": 3}}',
        "mine",
    ]
    assert metadata["sshs_model_hash"] != "old"
    ranks = {module.rank for module in report.modules}
    assert metadata["ss_network_dim"] == ("Dynamic" if len(ranks) > 1 else str(*ranks))
    recipe = open_recipe(report.out)
    assert (recipe.text, recipe.target_error, recipe.precision) == ("a:1", 0.3, "bf16")
    assert all(module.error <= 0.3 * module.norm for module in report.modules)


def test_a_loha_becomes_a_lora(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    parts = {"hada_w1_a": (12, 3), "hada_w1_b": (3, 10), "hada_w2_a": (12, 3), "hada_w2_b": (3, 10)}
    state = {f"{ONE}.{part}": torch.randn(shape, generator=g) for part, shape in parts.items()}
    report = resize(loras.write(tmp_path / "a.safetensors", state), tmp_path / "b.safetensors", rank=9)
    found = load_file(report.out)
    wanted = (state[f"{ONE}.hada_w1_a"] @ state[f"{ONE}.hada_w1_b"]) * (
        state[f"{ONE}.hada_w2_a"] @ state[f"{ONE}.hada_w2_b"]
    )
    torch.testing.assert_close(loras.dense(found, ONE), wanted.double(), rtol=1e-4, atol=1e-4)
    assert report.relative_error < 1e-6


def test_what_is_refused(tmp_path: Path) -> None:
    lora = loras.write(tmp_path / "a.safetensors", loras.state(SHAPES, 4))
    with pytest.raises(UserError, match="give a rank or a target error"):
        resize(lora, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="this would overwrite 'a'"):
        resize(lora, lora, rank=2)
    with pytest.raises(UserError, match=r"none\.safetensors: there is no such file"):
        resize(tmp_path / "none.safetensors", tmp_path / "b.safetensors", rank=2)
    with pytest.raises(UserError, match="there is no recipe in this file"):
        open_recipe(lora)
