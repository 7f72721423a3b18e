"""DoRA, IA3 and GLoRA baked against a named checkpoint, from file to file: what the baked file adds is what the WebUI
would have added live, c · (W′ − W), and without the checkpoint, or for OFT, nothing is baked.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lora_train.blocks import cli
from lora_train.blocks.metadata import open_recipe
from lora_train.errors import UserError
from lora_train.model.checkpoint import Family
from tests import support

from . import loras

ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_up_blocks_1_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
MIDDLE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_v"
PLAIN = "lora_unet_mid_block_attentions_0_proj_in"
PLACES = {
    ATTENTION: "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
    CONV: "model.diffusion_model.output_blocks.3.0.in_layers.2.weight",
    TEXT: "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    MIDDLE: "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_v.weight",
    PLAIN: "model.diffusion_model.middle_block.1.proj_in.weight",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    widths = support.Widths(text_layers=2)
    return support.checkpoint(tmp_path_factory.mktemp("models") / "base.safetensors", widths)


@pytest.fixture(scope="module")
def weights(base: Path) -> dict[str, Tensor]:
    state = load_file(base)
    return {name: state[key].double() for name, key in PLACES.items()}


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 4


def low(name: str, weight: Tensor, seed: int, rank: int = 3) -> dict[str, Tensor]:
    out, *row = weight.shape
    tail = [1] * (len(row) - 1)
    return {
        f"{name}.lora_up.weight": random(seed, out, rank, *tail),
        f"{name}.lora_down.weight": random(seed + 1, rank, *row),
        f"{name}.alpha": torch.tensor(1.5),
    }


def size(w: Tensor, dims: tuple[int, ...]) -> Tensor:
    return w.square().sum(dim=dims, keepdim=True).sqrt()


def adapters(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A file with a module of each kind, and W′ − W of each, written out."""
    state: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    for name in (ATTENTION, CONV):  # DoRA with a norm for each input, and for each output
        w, tensors = weights[name], low(name, weights[name], 10)
        by_output = name == CONV
        dims = tuple(range(1, w.dim())) if by_output else (0, *range(2, w.dim()))
        magnitude = size(w, dims) * (1 + random(12, *size(w, dims).shape))
        state |= {**tensors, f"{name}.dora_scale": magnitude.float()}
        moved = w + loras.dense(tensors, name).reshape(w.shape)
        wanted[name] = moved * magnitude.float().double() / size(moved, dims) - w
    w = weights[TEXT]  # IA3: (w_out ∘ W)
    state |= {f"{TEXT}.weight": random(13, w.shape[0], 1), f"{TEXT}.on_input": torch.tensor(False)}
    wanted[TEXT] = w * state[f"{TEXT}.weight"].double()
    w, rank = weights[MIDDLE], 2  # GLoRA: b2 b1 + W a2 a1
    parts = {"a1": (rank, w.shape[1]), "a2": (w.shape[1], rank), "b1": (rank, w.shape[1]), "b2": (w.shape[0], rank)}
    glora = {part: random(20 + n, *shape) for n, (part, shape) in enumerate(parts.items())}
    state |= {f"{MIDDLE}.{part}.weight": tensor for part, tensor in glora.items()}
    state[f"{MIDDLE}.alpha"] = torch.tensor(float(rank))
    a1, a2, b1, b2 = (tensor.double() for tensor in glora.values())
    wanted[MIDDLE] = b2 @ b1 + w @ a2 @ a1
    state |= low(PLAIN, weights[PLAIN], 30)
    wanted[PLAIN] = loras.dense(state, PLAIN).reshape(weights[PLAIN].shape)
    return state, wanted


def merge(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser.add_subparsers())
    args = parser.parse_args(["merge", *arguments])
    assert args.run(args) == 0


def added(path: Path, name: str) -> Tensor:
    """What a module of the baked file adds, by what the WebUI reads: lora or diff."""
    state = load_file(path)
    return state[f"{name}.diff"].double().flatten(1) if f"{name}.diff" in state else loras.dense(state, name)


def test_every_kind_as_it_would_act_live(tmp_path: Path, base: Path, weights: dict[str, Tensor]) -> None:
    state, wanted = adapters(weights)
    loras.write(tmp_path / "loras" / "mixed.safetensors", state)
    plain, other = low(ATTENTION, weights[ATTENTION], 40), low(PLAIN, weights[PLAIN], 42)
    loras.write(tmp_path / "loras" / "plain.safetensors", plain | other)
    out = tmp_path / "out.safetensors"
    numbers = ",".join(["0.25", *["0.5"] * 16])
    more = ["--lora-dir", str(tmp_path / "loras"), "--against", str(base), "--unlisted", "1", "--precision", "float"]
    merge(f"mixed:0.8:{numbers},plain:-1", *more, "--out", str(out))
    factors = {ATTENTION: 0.4, CONV: 0.4, TEXT: 0.2, MIDDLE: 0.4, PLAIN: 0.4}
    for name, delta in wanted.items():
        total = factors[name] * delta.flatten(1)
        for tensors in (plain, other):
            if f"{name}.lora_up.weight" in tensors:
                total = total - loras.dense(tensors, name)
        torch.testing.assert_close(added(out, name), total, rtol=1e-5, atol=1e-6)
    opened = open_recipe(out)
    assert (opened.against, [source.name for source in opened.sources]) == ("base.safetensors", ["mixed", "plain"])


def test_compressed_with_the_error_that_it_has(
    tmp_path: Path, base: Path, weights: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    state, wanted = adapters(weights)
    loras.write(tmp_path / "mixed.safetensors", state)
    out = tmp_path / "out" / "small.safetensors"
    arguments = ["--lora-dir", str(tmp_path), "--against", str(base), "--rank", "8", "--precision", "float", "--json"]
    merge("mixed:1", *arguments, "--out", str(out))
    report = json.loads(capsys.readouterr().out)
    assert report["whole"] == 0
    errors = {module["name"]: module["error"] for module in report["modules"]}
    for name, delta in wanted.items():
        found = added(out, name) - delta.flatten(1)
        assert errors[name] == pytest.approx(float(found.norm()), rel=1e-3, abs=1e-5), name
    assert max(module["rank"] for module in report["modules"]) == 8


def test_refused_without_the_checkpoint_or_with_another(tmp_path: Path, base: Path, weights: dict[str, Tensor]) -> None:
    state, _ = adapters(weights)
    loras.write(tmp_path / "mixed.safetensors", state)
    arguments = ["mixed:1", "--lora-dir", str(tmp_path), "--out", str(tmp_path / "out" / "x.safetensors")]
    with pytest.raises(UserError, match=r"are DoRA and GLoRA and IA3, which change .* Name the checkpoint"):
        merge(*arguments)
    xl = support.checkpoint(tmp_path / "xl.safetensors", family=Family.SDXL)
    with pytest.raises(UserError, match=r"this LoRA is for SD1\.5, and xl\.safetensors is SDXL"):
        merge(*arguments, "--against", str(xl))
    with pytest.raises(UserError, match="there is no such file"):
        merge(*arguments, "--against", str(tmp_path / "none.safetensors"))
    assert not (tmp_path / "out").exists()


def test_oft_is_refused_with_the_checkpoint_too(tmp_path: Path, base: Path, weights: dict[str, Tensor]) -> None:
    blocks = {f"{ATTENTION}.oft_blocks": random(0, 4, 8, 8), f"{ATTENTION}.alpha": torch.tensor(1.0)}
    loras.write(tmp_path / "oft.safetensors", blocks | low(PLAIN, weights[PLAIN], 1))
    arguments = ["oft:1", "--lora-dir", str(tmp_path), "--out", str(tmp_path / "out" / "x.safetensors")]
    for more in ([], ["--against", str(base)]):
        with pytest.raises(UserError, match="OFT"):
            merge(*arguments, *more)
    assert not (tmp_path / "out").exists()


def test_a_dora_of_another_shape_is_told(tmp_path: Path, base: Path, weights: dict[str, Tensor]) -> None:
    state = low(ATTENTION, weights[ATTENTION][:, :-1], 1)
    state[f"{ATTENTION}.dora_scale"] = torch.ones(1, weights[ATTENTION].shape[1] - 1)
    loras.write(tmp_path / "dora.safetensors", state)
    arguments = ["dora:1", "--lora-dir", str(tmp_path), "--out", str(tmp_path / "x.safetensors")]
    with pytest.raises(UserError, match="made for another checkpoint"):
        merge(*arguments, "--against", str(base))
