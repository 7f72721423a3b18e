"""A merge into a checkpoint against the same LoRA applied live, and what else of the file must stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_train.blocks.into_checkpoint import into_checkpoint
from lora_train.blocks.metadata import open_recipe
from lora_train.blocks.places import open_checkpoint
from lora_train.blocks.presets import BUILTIN
from lora_train.errors import UserError
from lora_train.header import read_header
from lora_train.model.checkpoint import Family
from lora_train.model.load import StableDiffusion, load_model
from lora_train.network.lora import merge_into
from lora_train.network.names import roots, targets
from tests import support

from . import loras

FAMILIES = {Family.SD15: "SD1.5", Family.SD2: "SD2", Family.SDXL: "SDXL"}


@pytest.fixture(
    scope="module",
    params=[Family.SD15, pytest.param(Family.SD2, marks=pytest.mark.slow), Family.SDXL],
    ids=lambda family: FAMILIES[family],
)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, Path]:
    path = tmp_path_factory.mktemp("checkpoint") / "base.safetensors"
    widths = {**support.NARROW, Family.SD2: support.Widths(text=1024, text_inner=64, text_layers=2)}  # 1024 tells SD2
    support.checkpoint(path, widths[request.param], family=request.param)
    return request.param, path


def test_as_applied_live(checkpoint: tuple[Family, Path], tmp_path: Path) -> None:
    family, path = checkpoint
    live = load_model(path, dtype=torch.float32)
    shapes = {target.key: tuple(target.layer.weight.shape) for target in targets(live, conv=True)}
    state = loras.state(shapes, rank=2, alpha=1, seed=3)
    loras.write(tmp_path / "a.safetensors", state)
    out = tmp_path / "out" / "merged.safetensors"
    report = into_checkpoint("a:-0.7", tmp_path, BUILTIN, path, out)
    assert report.family == FAMILIES[family]
    merged = load_model(out, dtype=torch.float32)
    merge_into(live, state, -0.7)
    for one, other in zip(parts(live), parts(merged), strict=True):
        found = other.state_dict()
        for name, wanted in one.state_dict().items():
            half = load_dtype(path) == torch.float16
            torch.testing.assert_close(found[name], wanted, rtol=1e-3 if half else 1e-5, atol=2e-4 if half else 1e-6)


def parts(model: StableDiffusion) -> list[torch.nn.Module]:
    return list(roots(model).values())


def load_dtype(path: Path) -> torch.dtype:
    return next(iter(load_file(path).values())).dtype


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp16, with a tensor in float and one of integers, and metadata."""
    path = tmp_path_factory.mktemp("sd15") / "base.safetensors"
    support.checkpoint(path, support.NARROW[Family.SD15], family=Family.SD15)
    state = {key: value.half() for key, value in load_file(path).items()}
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["model.diffusion_model.time_embed.0.weight"] = state["model.diffusion_model.time_embed.0.weight"].float()
    save_file(state, path, {"modelspec.title": "base", "note": "mine"})
    return path


def one_layer(base: Path) -> tuple[str, str, Tensor]:
    """(module, key, weight) of a layer in M00."""
    with open_checkpoint(base) as opened:
        name = next(name for name in opened.places if name.endswith("mid_block_attentions_0_proj_in"))
        key = opened.places[name].key
        return name, key, opened.tensor(key)


def test_only_what_changes_changes(base: Path, tmp_path: Path) -> None:
    name, key, weight = one_layer(base)
    state = loras.state({name: tuple(weight.shape), "lora_unet_time_embedding_linear_1": (128, 32)}, 2, 2.0)
    state = {k: v for k, v in state.items() if name in k}
    loras.write(tmp_path / "a.safetensors", state)
    out = tmp_path / "merged.safetensors"
    report = into_checkpoint("a:0.5:ALL", tmp_path, BUILTIN, base, out)
    before, after = load_file(base), load_file(out)
    assert read_header(out, "checkpoint").entries == read_header(base, "checkpoint").entries
    assert [k for k in before if not torch.equal(before[k], after[k])] == [key]
    wanted = weight.double() + 0.5 * loras.dense(state, name).reshape(weight.shape)
    torch.testing.assert_close(after[key], wanted.half(), rtol=1e-3, atol=1e-6)
    assert [block.block for block in report.blocks()] == ["M00"]
    error = float((after[key].double() - wanted).norm())
    assert report.modules[0].error == pytest.approx(error, rel=1e-3)
    metadata = read_header(out, "checkpoint").metadata
    assert (metadata["note"], metadata["modelspec.title"]) == ("mine", "merged")
    recipe = open_recipe(out)
    assert (recipe.text, recipe.against) == ("a:0.5:ALL", "base.safetensors")


def test_whole_differences_biases_and_dora(base: Path, tmp_path: Path) -> None:
    name, key, weight = one_layer(base)
    plain = loras.state({name: tuple(weight.shape)}, 2, 2.0)
    magnitude = torch.full((1, weight.shape[1], *[1] * (weight.dim() - 2)), 2.0)
    loras.write(tmp_path / "dora.safetensors", {**plain, f"{name}.dora_scale": magnitude})
    diff, bias = torch.full(weight.shape, 0.125), torch.full(weight.shape[:1], 0.25)
    loras.write(tmp_path / "diff.safetensors", {f"{name}.diff": diff, f"{name}.diff_b": bias})
    out = tmp_path / "m.safetensors"
    into_checkpoint("diff:2", tmp_path, BUILTIN, base, out)
    before, after = load_file(base), load_file(out)
    torch.testing.assert_close(after[key], before[key] + 0.25, rtol=1e-3, atol=1e-3)
    place = key.removesuffix("weight") + "bias"
    torch.testing.assert_close(after[place], before[place] + 0.5, rtol=1e-3, atol=1e-3)
    into_checkpoint("dora:1", tmp_path, BUILTIN, base, out)
    columns = load_file(out)[key].double().transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(columns, torch.full_like(columns, 2.0), rtol=2e-3, atol=0)


def test_what_is_refused(base: Path, tmp_path: Path) -> None:
    name, _, weight = one_layer(base)
    shape = tuple(weight.shape)
    state = loras.state({name: shape}, 2)
    loras.write(tmp_path / "a.safetensors", state)
    loras.write(tmp_path / "wide.safetensors", loras.state({name: (shape[0] * 2, *shape[1:])}, 2))
    loras.write(tmp_path / "more.safetensors", loras.state({"lora_unet_mid_block_attentions_7_proj_in": shape}, 2))
    loras.write(tmp_path / "xl.safetensors", loras.state({"lora_te2_text_model_encoder_layers_0_mlp_fc1": (4, 4)}, 2))
    loras.write(tmp_path / "cat.safetensors", {**state, "bundle_emb.cat.string_to_param.*": torch.ones(1, 4)})
    for recipe, message in {
        "wide:1": rf"wide\.safetensors: {name} is .* in base\.safetensors, and the LoRA has",
        "more:1": r"more\.safetensors: base\.safetensors lacks 1 of its 1 layers: lora_unet_mid_block_attentions_7",
        "xl:1": r"xl\.safetensors: this LoRA is for SDXL, and base\.safetensors is SD1\.5",
        "cat:1": r"cat\.safetensors: it brings an embedding 'cat'",
        "a:0": "nothing is left",
        "none:1": "there is no LoRA 'none'",
    }.items():
        with pytest.raises(UserError, match=message):
            into_checkpoint(recipe, tmp_path, BUILTIN, base, tmp_path / "out.safetensors")
    with pytest.raises(UserError, match="this would overwrite 'base'"):
        into_checkpoint("a:1", tmp_path, BUILTIN, base, base)
    with pytest.raises(UserError, match="this is a LoRA, not a checkpoint"):
        into_checkpoint("a:1", tmp_path, BUILTIN, tmp_path / "wide.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
