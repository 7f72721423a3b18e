from __future__ import annotations

import json
import math
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lora_train.blocks.bake import bake
from lora_train.blocks.metadata import open_recipe
from lora_train.blocks.presets import BUILTIN
from lora_train.errors import UserError
from lora_train.network import kohya
from lora_train.network import kohya as kohya_file

from . import loras

GP1 = (1.0, 0.6, 0.9, 0.9, 0.9, 0.6, 0.5, 0.4, 0.4, 0.6, 0.8, 1.0, 1.1, 1.1, 1.1, 1.1, 1.1)
GP2 = (0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2)
RECIPE = "Test0:1:GP1,BASE:-1:GP2"
ONE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"


@pytest.fixture(scope="module")
def lora_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    loras.write(folder / "Test0.safetensors", loras.state(loras.modules(), rank=16, alpha=8, seed=1))
    loras.write(folder / "BASE.safetensors", loras.state(loras.modules(), rank=16, alpha=16, seed=2))
    return folder


@pytest.fixture(scope="module")
def wanted(lora_dir: Path) -> dict[str, Tensor]:
    test0, base = (load_file(lora_dir / f"{name}.safetensors") for name in ("Test0", "BASE"))
    return {
        name: GP1[loras.place(name)] * loras.dense(test0, name) - GP2[loras.place(name)] * loras.dense(base, name)
        for name in loras.modules()
    }


def make(folder: Path, **files: dict[str, Tensor]) -> Path:
    for name, tensors in files.items():
        loras.write(folder / f"{name}.safetensors", tensors)
    return folder


def run(folder: Path, recipe: str, **options: Any) -> tuple[dict[str, Tensor], Any]:
    options = {"precision": "float", **options}
    report = bake(recipe, folder, BUILTIN, folder / "out" / "baked.safetensors", **options)
    return load_file(report.out), report


@pytest.mark.parametrize(("precision", "limit"), [("float", 1e-6), ("fp16", 5e-4), ("bf16", 4e-3)])
def test_style_less_the_checkpoints_own(
    lora_dir: Path, wanted: dict[str, Tensor], tmp_path: Path, precision: str, limit: float
) -> None:
    out = tmp_path / "baked.safetensors"
    report = bake(RECIPE, lora_dir, BUILTIN, out, precision=precision)
    error = loras.relative_error(out, wanted)
    assert error <= limit
    assert report.relative_error == pytest.approx(error, rel=1e-3)
    assert [block.modules for block in report.blocks()] == [72, *[12] * 16]
    assert report.total().ranks == (32, 32)
    assert not report.left_out
    assert not report.unlisted


@pytest.mark.parametrize("options", [{"rank": 12}, {"target_error": 0.2}, {"rank": 12, "precision": "bf16"}])
def test_reported_error_is_that_of_the_file(
    lora_dir: Path, wanted: dict[str, Tensor], tmp_path: Path, options: dict[str, Any]
) -> None:
    out = tmp_path / "baked.safetensors"
    report = bake(RECIPE, lora_dir, BUILTIN, out, **options)
    assert report.relative_error == pytest.approx(loras.relative_error(out, wanted), rel=1e-6)
    for block, n in zip(report.blocks(), range(17), strict=True):
        part = {name: value for name, value in wanted.items() if loras.place(name) == n}
        assert block.relative_error == pytest.approx(loras.relative_error(out, part), rel=1e-6)


def test_compression_is_the_best_of_its_rank(lora_dir: Path, wanted: dict[str, Tensor], tmp_path: Path) -> None:
    report = bake(RECIPE, lora_dir, BUILTIN, tmp_path / "baked.safetensors", rank=8, precision="float")
    for module in report.modules[::20]:
        sigma = torch.linalg.svdvals(wanted[module.name])
        assert module.rank == 8
        assert module.norm == pytest.approx(float(sigma.norm()))
        assert module.error == pytest.approx(float(sigma[8:].norm()), rel=1e-4)


@pytest.mark.parametrize("precision", ["float", "fp16", "bf16"])
def test_target_error_is_met_by_the_file_with_the_least_rank(
    lora_dir: Path, wanted: dict[str, Tensor], tmp_path: Path, precision: str
) -> None:
    report = bake(RECIPE, lora_dir, BUILTIN, tmp_path / "baked.safetensors", target_error=0.1, precision=precision)
    for module in report.modules:
        assert module.error <= 0.1 * module.norm
    for module in report.modules[::20]:
        sigma = torch.linalg.svdvals(wanted[module.name])
        assert float(sigma[module.rank - 1 :].norm() / sigma.norm()) > 0.0996


def test_rank_beyond_need_is_lossless(tmp_path: Path) -> None:
    folder = make(tmp_path, a=loras.state({ONE: (12, 12)}, rank=3))
    state, report = run(folder, "a:1,a:0.5", rank=64)
    assert report.total().ranks == (3, 3)
    assert report.relative_error < 1e-6
    assert state[f"{ONE}.alpha"] == 3


def test_metadata_tells_how_it_was_made(lora_dir: Path, tmp_path: Path) -> None:
    report = bake(RECIPE + ",Test0:0.5:" + ",".join(["0"] * 17), lora_dir, BUILTIN, tmp_path / "x.safetensors", rank=8)
    with safe_open(report.out, framework="pt") as handle:
        metadata = handle.metadata()
    recipe = json.loads(metadata["lora_train_recipe"])
    assert recipe["recipe"] == report.recipe
    assert [source["strength"] for source in recipe["sources"]] == [1, -1, 0.5]
    assert [source["preset"] for source in recipe["sources"]] == ["GP1", "GP2", None]
    assert tuple(recipe["sources"][0]["numbers"]) == GP1
    assert recipe["sources"][1]["sha256"] == sha256((lora_dir / "BASE.safetensors").read_bytes()).hexdigest()
    assert recipe["rank"] == 8
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "8"
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert metadata["ss_output_name"] == "x"
    assert metadata["sshs_model_hash"] == kohya.model_hash(report.out)


def test_metadata_keeps_what_sources_agree_on(tmp_path: Path) -> None:
    tensors = loras.state({ONE: (4, 4)}, rank=2)
    shared = {"ss_base_model_version": "sd_1.5", "ss_clip_skip": "2", "sshs_model_hash": "old"}
    loras.write(
        tmp_path / "a.safetensors", tensors, {**shared, "ss_steps": "10", "ss_tag_frequency": '{"10_x": {"cat": 3}}'}
    )
    loras.write(
        tmp_path / "b.safetensors", tensors, {**shared, "ss_steps": "20", "ss_tag_frequency": '{"10_x": {"dog": 1}}'}
    )
    loras.write(tmp_path / "c.safetensors", tensors, {"ss_tag_frequency": "broken"})
    loras.write(tmp_path / "d.safetensors", tensors)
    _, report = run(tmp_path, "a:1,b:-0.5,c:1,d:1")
    metadata = kohya.read_lora(report.out)[1]
    assert metadata["ss_base_model_version"] == "sd_1.5"
    assert "ss_steps" not in metadata
    assert json.loads(metadata["ss_tag_frequency"]) == {"a/10_x": {"cat": 3}}
    _, report = run(tmp_path, "a:1,b:-0.5,d:1")
    assert kohya.read_lora(report.out)[1]["ss_clip_skip"] == "2"


def test_bytes_are_the_same_every_time(lora_dir: Path, tmp_path: Path) -> None:
    for name in ("1", "2"):
        bake(RECIPE, lora_dir, BUILTIN, tmp_path / name / "x.safetensors", rank=4)
    assert (tmp_path / "1" / "x.safetensors").read_bytes() == (tmp_path / "2" / "x.safetensors").read_bytes()


def test_blocks_of_weight_zero_are_left_out(lora_dir: Path, tmp_path: Path) -> None:
    report = bake("Test0:1:OUTALL,BASE:0:GP2", lora_dir, BUILTIN, tmp_path / "x.safetensors")
    state = load_file(report.out)
    assert len(state) == 3 * (72 + 9 * 12)
    assert len(report.left_out) == 7 * 12
    assert not any("_down_blocks_" in key or "_mid_block_" in key for key in state)


def test_nothing_left(lora_dir: Path, tmp_path: Path) -> None:
    for recipe in ("Test0:1:NONE", "Test0:0", "Test0:1,Test0:-1", "Test0:0.3:GP1,Test0:-0.3:GP1"):
        with pytest.raises(UserError, match="nothing is left"):
            bake(recipe, lora_dir, BUILTIN, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-2, 2).filter(lambda k: abs(k) > 0.01), st.integers(1, 5), st.none() | st.floats(0.1, 8)),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([(5, 7), (6, 5, 1, 1), (4, 3, 3, 3)]),
    st.integers(0, 1000),
)
def test_ranks_alphas_strengths_and_convolutions(
    tmp_path_factory: pytest.TempPathFactory,
    terms: list[tuple[float, int, float | None]],
    shape: tuple[int, ...],
    seed: int,
) -> None:
    """Any number of LoRAs with ranks and alphas of their own, none where it is missing."""
    folder = tmp_path_factory.mktemp("property")
    states = {f"l{n}": loras.state({CONV: shape}, rank, alpha, seed + n) for n, (_, rank, alpha) in enumerate(terms)}
    make(folder, **states)
    target = sum(k * loras.dense(state, CONV) for (k, _, _), state in zip(terms, states.values(), strict=True))
    state, report = run(folder, ",".join(f"l{n}:{k!r}" for n, (k, _, _) in enumerate(terms)))
    torch.testing.assert_close(loras.dense(state, CONV), target, rtol=1e-5, atol=1e-5)
    assert report.modules[0].full_rank == sum(rank for _, rank, _ in terms)
    assert state[f"{CONV}.lora_down.weight"].shape[1:] == shape[1:]


@settings(max_examples=4, deadline=None)
@given(
    st.lists(st.floats(-2, 2).filter(lambda k: abs(k) > 0.01), min_size=3, max_size=3),
    st.permutations(range(3)),
    st.integers(0, 1000),
)
def test_order_and_nesting_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, factors: list[float], order: list[int], seed: int
) -> None:
    """Files commute; a sum of baked sums is the sum; and twice the strength is twice the file."""
    folder = tmp_path_factory.mktemp("property")
    make(folder, **{f"l{n}": loras.state({CONV: (4, 3, 3, 3), ONE: (5, 4)}, n + 1, 2.0, seed + n) for n in range(3)})
    terms = [f"l{n}:{k!r}" for n, k in enumerate(factors)]
    plain, _ = run(folder, ",".join(terms))
    other, _ = run(folder, ",".join(terms[n] for n in order))
    bake(",".join(terms[:2]), folder, BUILTIN, folder / "two.safetensors", precision="float")
    nested, _ = run(folder, f"two:1,{terms[2]}")
    double, _ = run(folder, ",".join(f"l{n}:{2 * k!r}" for n, k in enumerate(factors)))
    for name in (CONV, ONE):
        for state, factor in ((other, 1), (nested, 1), (double, 0.5)):
            torch.testing.assert_close(
                factor * loras.dense(state, name), loras.dense(plain, name), rtol=1e-5, atol=1e-5
            )


def test_a_lora_and_its_negative_have_opposite_signs(lora_dir: Path, tmp_path: Path) -> None:
    plus = load_file(bake("Test0:0.7:GP1", lora_dir, BUILTIN, tmp_path / "p.safetensors", precision="float").out)
    minus = load_file(bake("Test0:-0.7:GP1", lora_dir, BUILTIN, tmp_path / "m.safetensors", precision="float").out)
    assert torch.equal(loras.dense(plus, ONE), -loras.dense(minus, ONE))


def test_scale_tensor_goes_before_alpha(tmp_path: Path) -> None:
    tensors = loras.state({ONE: (4, 4)}, rank=2, alpha=2)
    folder = make(tmp_path, a={**tensors, f"{ONE}.scale": torch.tensor(0.25)})
    state, _ = run(folder, "a:1")
    torch.testing.assert_close(loras.dense(state, ONE), 0.25 * loras.dense(tensors, ONE))


def test_tucker_convolution(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    up, mid, down = (torch.randn(shape, generator=g) for shape in ((4, 2, 1, 1), (2, 2, 3, 3), (2, 3, 1, 1)))
    keys = {f"{CONV}.lora_up.weight": up, f"{CONV}.lora_mid.weight": mid, f"{CONV}.lora_down.weight": down}
    state, _ = run(make(tmp_path, a={**keys, f"{CONV}.alpha": torch.tensor(1.0)}), "a:1")
    wanted = torch.einsum("mr,rqhw,qc->mchw", up.flatten(1).double(), mid.double(), down.flatten(1).double()) / 2
    torch.testing.assert_close(loras.dense(state, CONV).reshape(4, 3, 3, 3), wanted, rtol=1e-5, atol=1e-6)


def test_names_of_three_trainers_are_one_layer(tmp_path: Path) -> None:
    proj = "lora_unet_down_blocks_0_attentions_0_proj_in"
    linear, conv = (
        loras.state({proj: (5, 6)}, rank=2, alpha=None, seed=1),
        loras.state({proj: (5, 6, 1, 1)}, rank=3, alpha=None, seed=2),
    )
    names = {".lora_up.weight": ".lora_B.weight", ".lora_down.weight": ".lora_A.weight"}
    peft = {
        "unet.down_blocks.0.attentions.0.proj_in" + names[key.removeprefix(proj)]: value
        for key, value in linear.items()
    }
    compvis = {key.replace(proj, "lora_unet_input_blocks_1_1_proj_in"): value for key, value in conv.items()}
    state, _ = run(make(tmp_path, kohya=conv, peft=peft, compvis=compvis), "kohya:1,peft:1,compvis:-0.5")
    assert len(state) == 3
    assert state[f"{proj}.lora_down.weight"].shape == (8, 6, 1, 1)
    wanted = 0.5 * loras.dense(conv, proj) + loras.dense(linear, proj)
    torch.testing.assert_close(loras.dense(state, proj), wanted, rtol=1e-5, atol=1e-6)


def test_a_rank_that_bf16_cannot_hold(tmp_path: Path) -> None:
    """bf16 has 8 bits: 257 becomes 256, and the strength would be 0.4 % off."""
    tensors = loras.state({ONE: (4, 4)}, rank=257, alpha=257)
    state, report = run(make(tmp_path, a=tensors), "a:1", precision="bf16")
    assert state[f"{ONE}.alpha"] == 256
    found, wanted = loras.dense(state, ONE), loras.dense(tensors, ONE)
    assert float((found * wanted).sum() / wanted.square().sum()) == pytest.approx(1, abs=1e-3)
    assert report.relative_error == pytest.approx(float((found - wanted).norm() / wanted.norm()))


def test_blocks_that_17_numbers_do_not_name(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        ONE: (4, 4),
        CONV: (4, 4, 3, 3),
        "lora_unet_down_blocks_0_downsamplers_0_conv": (4, 4, 3, 3),
    }
    folder = make(tmp_path, a=loras.state({**shapes, "lora_unet_time_embedding_linear_1": (4, 4)}, rank=2))
    _, report = run(folder, "a:1:ALL")
    assert report.left_out == ["lora_unet_down_blocks_0_downsamplers_0_conv"]
    assert report.unlisted == ["IN03"]
    assert [block.block for block in report.blocks()] == ["IN01", "M00", "OTHER"]
    _, report = run(folder, "a:1:ALL", unlisted=1)
    assert not report.left_out
    _, report = run(folder, "a:1")
    assert not report.left_out
    assert not report.unlisted


def refused(folder: Path, message: str, recipe: str = "a:1", **options: Any) -> None:
    out = folder / "out" / "baked.safetensors"
    with pytest.raises(UserError, match=message):
        bake(recipe, folder, BUILTIN, options.pop("out", out), **options)
    assert not out.exists()


def test_other_models_and_kinds_are_refused_by_file_name(tmp_path: Path) -> None:
    plain = loras.state({ONE: (4, 4)}, rank=2)
    sdxl = loras.state({"lora_te2_text_model_encoder_layers_0_mlp_fc1": (4, 4)}, rank=2)
    wide = loras.state({"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (4, 1024)}, rank=2)
    flux = loras.state({"lora_unet_double_blocks_0_img_attn_proj": (4, 4)}, rank=2)
    dora = {**plain, f"{ONE}.dora_scale": torch.ones(4)}
    ia3 = {f"{ONE}.weight": torch.ones(4), f"{ONE}.on_input": torch.tensor(False)}
    oft = {f"{ONE}.oft_blocks": torch.ones(1, 2, 2)}
    half = {f"{ONE}.lora_up.weight": torch.ones(4, 2)}
    loha = {f"{ONE}.hada_w1_a": torch.ones(4, 2)}
    folder = make(tmp_path, a=plain, sdxl=sdxl, sd2=wide, flux=flux, dora=dora, ia3=ia3, oft=oft, loha=loha, half=half)
    refused(folder, r"these LoRAs are for different models: 'a' for SD1\.5 and 'sdxl' for SDXL", "a:1,sdxl:1")
    refused(folder, r"these LoRAs are for different models: 'a' for SD1\.5 and 'sd2' for SD2", "sd2:1,a:1")
    refused(folder, r"flux\.safetensors: this LoRA is for FLUX", "flux:1")
    refused(folder, r"dora\.safetensors: 1 of its modules are DoRA, .* Name the checkpoint", "dora:1:GP1")
    refused(folder, r"ia3\.safetensors: 1 of its modules are IA3", "ia3:1")
    refused(folder, r"oft\.safetensors: 1 of its modules are OFT", "oft:1")
    refused(folder, rf"loha\.safetensors: {ONE} lacks its hada_w1_b", "loha:1")
    refused(folder, rf"half\.safetensors: {ONE} lacks its lora_up or lora_down", "half:1")


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    bad = {f"{ONE}.lora_up.weight": torch.ones(4, 3), f"{ONE}.lora_down.weight": torch.ones(2, 4)}
    folder = make(tmp_path, a=loras.state({ONE: (4, 4)}, 2), b=loras.state({ONE: (4, 6)}, 2), c=bad)
    refused(
        folder,
        r"b\.safetensors: .*to_q has the shape \[4, 6, 1, 1\] here and \[4, 4, 1, 1\] in a\.safetensors",
        "a:1,b:1",
    )
    refused(folder, r"c\.safetensors: the tensors of .*to_q don't fit: down \[2, 4\], up \[4, 3\]", "c:1")


def test_one_layer_twice_in_a_file(tmp_path: Path) -> None:
    tensors = loras.state(
        {"lora_unet_middle_block_1_proj_in": (4, 4), "lora_unet_mid_block_attentions_0_proj_in": (4, 4)}, 2
    )
    refused(make(tmp_path, a=tensors), r"a\.safetensors: .* are the same part of one module")


def test_values_that_are_not_finite_or_too_large(tmp_path: Path) -> None:
    plain = loras.state({ONE: (4, 4)}, rank=2)
    folder = make(tmp_path, a={**plain, f"{ONE}.lora_up.weight": torch.full((4, 2), math.nan)})
    refused(folder, rf"a\.safetensors: NaN or infinite values in {ONE}\.lora_up\.weight")
    folder = make(tmp_path, a={**plain, f"{ONE}.lora_up.weight": torch.full((4, 2), 1e9)})
    run(folder, "a:1", precision="fp16")  # the factors are balanced
    (folder / "out" / "baked.safetensors").unlink()
    folder = make(tmp_path, a={key: torch.full_like(value, 1e6) for key, value in plain.items()})
    refused(folder, rf"values too large for torch\.float16 in {ONE}\.lora_up\.weight\. Save as bf16 or float")
    run(folder, "a:1", precision="bf16")


def test_options_that_cannot_be_met(tmp_path: Path) -> None:
    folder = make(tmp_path, a=loras.state({ONE: (4, 4)}, rank=2))
    refused(folder, "rank: 0 is less than 1", rank=0)
    refused(folder, "not both", rank=4, target_error=0.1)
    refused(folder, "precision: 'fp8' is not one of fp16, bf16, float", precision="fp8")
    refused(
        folder, r"target error: 0\.0001 is not between 0\.00098, fp16's own rounding, and 1\. Save", target_error=1e-4
    )
    refused(folder, r"target error: 1\.5 is not between", target_error=1.5)
    refused(folder, r"must end in \.safetensors", out=folder / "x.pt")
    refused(folder, "contains one of", out=folder / "a,b.safetensors")
    refused(folder, r"a\.safetensors: this would overwrite 'a', which is merged", out=folder / "a.safetensors")


def test_a_checkpoint_among_the_loras(tmp_path: Path) -> None:
    folder = make(tmp_path, a={"model.diffusion_model.out.2.weight": torch.ones(2)})
    refused(folder, r"a\.safetensors: this is a checkpoint, not a LoRA")


def test_a_broken_file_leaves_the_old_result(tmp_path: Path) -> None:
    folder = make(tmp_path, a=loras.state({ONE: (4, 4)}, rank=2))
    _, report = run(folder, "a:1")
    before = report.out.read_bytes()
    whole = (folder / "a.safetensors").read_bytes()
    (folder / "a.safetensors").write_bytes(whole[:-9])
    with pytest.raises(UserError, match=re.escape("a.safetensors: the file is cut off: 9 bytes are missing")):
        run(folder, "a:1")
    assert report.out.read_bytes() == before


def test_the_recipe_in_a_file_restores_the_editor(lora_dir: Path, tmp_path: Path) -> None:
    numbers = ",".join(map(str, GP2))
    given = f"Test0:1:GP1,BASE:-1:{numbers},Test0:0.25"
    report = bake(given, lora_dir, BUILTIN, tmp_path / "x.safetensors", target_error=0.2, unlisted=1)
    opened = open_recipe(report.out)
    assert opened.recipe(BUILTIN) == given
    assert (opened.family, opened.unlisted, opened.rank, opened.target_error, opened.precision) == (
        "SD1.5",
        1,
        None,
        0.2,
        "fp16",
    )
    assert opened.sources[1].sha256 == sha256((lora_dir / "BASE.safetensors").read_bytes()).hexdigest()
    moved = {**BUILTIN, "GP1": GP2}
    assert opened.recipe(moved).startswith("Test0:1:1,0.6,0.9")  # the numbers that were baked, not the name's of today
    again = bake(opened.recipe(BUILTIN), lora_dir, BUILTIN, tmp_path / "y.safetensors", target_error=0.2, unlisted=1)
    first, second = (load_file(made.out) for made in (report, again))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    path = loras.write(tmp_path / "a.safetensors", loras.state({ONE: (4, 4)}), {"lora_train_recipe": '{"sources": 3}'})
    with pytest.raises(UserError, match=r"a\.safetensors: the recipe in this file can't be read"):
        open_recipe(path)


def test_sdxl_in_two_wordings(tmp_path: Path) -> None:
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    kohya = loras.state({name: (4, 2048), "lora_te2_text_model_encoder_layers_0_mlp_fc1": (4, 4)}, 2, seed=1)
    diffusers = loras.state({"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (4, 2048)}, 3, seed=2)
    diffusers = {
        key.replace(".lora_up.", ".lora_B.").replace(".lora_down.", ".lora_A."): value
        for key, value in diffusers.items()
    }
    folder = make(tmp_path, a=kohya, b=diffusers)
    twelve = ",".join(["1", "0.5", *["1"] * 10])
    state, report = run(folder, f"a:1:{twelve},b:2:{twelve}")
    assert report.family == "SDXL"
    assert [block.block for block in report.blocks()] == ["BASE", "IN04"]
    plain = {
        key.replace("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", name)
        .replace("lora_A", "lora_down")
        .replace("lora_B", "lora_up"): value
        for key, value in diffusers.items()
    }
    wanted = 0.5 * loras.dense(kohya, name) + loras.dense(plain, name)
    torch.testing.assert_close(loras.dense(state, name), wanted, rtol=1e-5, atol=1e-5)
    metadata = kohya_file.read_lora(report.out)[1]
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


def test_a_file_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path, a=loras.state({ONE: (4, 4)}, rank=2))
    path = folder / "a.safetensors"
    before = kohya_file.LoraFile.tensor

    def tensor(file: kohya_file.LoraFile, name: str) -> Tensor:
        os.utime(path, ns=(1, 1))  # another program writes it
        return before(file, name)

    monkeypatch.setattr(kohya_file.LoraFile, "tensor", tensor)
    refused(folder, r"a\.safetensors: the file was changed while it was read")


def test_terms_that_cancel_keep_their_digits(tmp_path: Path) -> None:
    one = {key: value.half() for key, value in loras.state({ONE: (20, 20)}, rank=2, seed=1).items()}
    folder = make(tmp_path, a=one)
    _, report = run(folder, "a:1,a:-0.999", precision="fp16")
    wanted = 0.001 * float(loras.dense(one, ONE).norm())
    assert report.modules[0].norm == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(UserError, match="nothing is left"):
        run(folder, "a:0.7,a:-0.35,a:-0.35", precision="fp16")
