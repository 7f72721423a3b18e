"""Turning a block beside the layers is the same as changing the weights, for every kind, and it has a gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_train.blocks.bake import bake
from lora_train.blocks.families import BLOCKS_17, blocks_of, flat_weights
from lora_train.blocks.kinds import read
from lora_train.blocks.layout import index_of
from lora_train.errors import UserError
from lora_train.measure.dials import Dials, Mixed
from lora_train.model.load import StableDiffusion
from lora_train.model.predict import predict
from lora_train.model.text import encode_prompts
from lora_train.network.kohya import open_lora, read_lora
from lora_train.network.lora import LoraNetwork
from lora_train.network.names import roots

NUMBERS = tuple((n % 5) / 2 - 0.5 for n in range(17))


def prediction(model: StableDiffusion) -> Tensor:
    x = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    return predict(model, x, torch.tensor([700, 200]), encode_prompts(model, ["a red cat", "two dogs"]))


def weights(numbers: tuple[float, ...] = NUMBERS) -> dict[str, float]:
    return dict(zip(BLOCKS_17, numbers, strict=True))


@torch.no_grad()
def test_a_mix_predicts_what_its_baked_file_predicts(model, lora_dir: Path, tmp_path: Path) -> None:
    bare = prediction(model)
    dials = Dials(
        model, [Mixed(lora_dir / "Test0.safetensors", 0.8, 0.8), Mixed(lora_dir / "BASE.safetensors", -1, -1)]
    )
    assert dials.present[0] == {"BASE": 72, **dict.fromkeys(BLOCKS_17[1:], 12)}
    assert "BASE" not in dials.present[1]
    dials.turn([weights(), weights(NUMBERS[::-1])])
    turned = prediction(model)
    dials.turn([{}, {}])
    torch.testing.assert_close(prediction(model), bare, rtol=0, atol=0)
    dials.remove()
    lists = [",".join(map(str, numbers)) for numbers in (NUMBERS, NUMBERS[::-1])]
    recipe = f"Test0:0.8:{lists[0]},BASE:-1:{lists[1]}"
    path = bake(recipe, lora_dir, {}, tmp_path / "baked.safetensors", precision="float").out
    network = LoraNetwork.from_state(model, read_lora(path)[0])
    baked = prediction(model)
    network.remove()
    torch.testing.assert_close(turned, baked, rtol=1e-4, atol=1e-4 * float(baked.abs().max()))
    assert float((turned - bare).norm()) > 0.1 * float(bare.norm())
    torch.testing.assert_close(prediction(model), bare, rtol=0, atol=0)


def test_a_vector_of_weights_has_the_gradient_of_the_prediction(model, lora_dir: Path) -> None:
    dials = Dials(model, [Mixed(lora_dir / "Test0.safetensors", 0.5, 1.0)])
    blocks = blocks_of(dials.family)
    vector = torch.tensor([[flat_weights()[block] for block in blocks]], requires_grad=True)
    dials.vector(vector)
    (gradient,) = torch.autograd.grad(prediction(model).square().mean(), vector)
    h = 1e-2
    with torch.no_grad():
        for block in ("BASE", "IN04", "OUT08"):
            sides = []
            for change in (h, -h):
                dials.turn([{**flat_weights(), block: 1 + change}])
                sides.append(float(prediction(model).double().square().mean()))
            assert float(gradient[0, blocks.index(block)]) == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=0.05)
    dials.remove()
    assert float(gradient[0, blocks.index("IN00")]) == 0


def every_kind(model: StableDiffusion) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)

    def r(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g) * 0.1

    unet = roots(model)["unet"]
    block = "lora_unet_mid_block_"
    c = unet.get_submodule("mid_block.resnets.0.conv1").weight.shape[0]
    query = f"{block}attentions_0_transformer_blocks_0_attn1_to_q"
    return {
        f"{block}resnets_0_conv1.lora_up.weight": r(c, 3, 1, 1),
        f"{block}resnets_0_conv1.lora_down.weight": r(3, c, 3, 3),
        f"{block}resnets_0_conv2.hada_w1_a": r(c, 2),
        f"{block}resnets_0_conv2.hada_w1_b": r(2, 9 * c),
        f"{block}resnets_0_conv2.hada_w2_a": 5 * r(c, 2),
        f"{block}resnets_0_conv2.hada_w2_b": 5 * r(2, 9 * c),
        f"{block}resnets_0_norm1.w_norm": r(c),
        f"{block}resnets_0_norm1.b_norm": r(c),
        f"{block}attentions_0_transformer_blocks_0_norm1.w_norm": r(c),
        f"{block}attentions_0_proj_in.diff": r(c, c, 1, 1),
        f"{block}attentions_0_proj_in.diff_b": r(c),
        f"{block}attentions_0_proj_out.diff_b": r(c),
        f"{query}.lora_up.weight": r(c, 2),
        f"{query}.lora_down.weight": r(2, c),
        f"{query}.dora_scale": 1 + r(1, c),
        "lora_unet_time_embedding_linear_1.lokr_w1": r(2, 2),
        "lora_unet_time_embedding_linear_1.lokr_w2": r(*(n // 2 for n in unet.time_embedding.linear_1.weight.shape)),
    }


@torch.no_grad()
def test_every_kind_is_turned_exactly(model, tmp_path: Path) -> None:
    path = tmp_path / "kinds.safetensors"
    save_file(every_kind(model), path)
    dials = Dials(model, [Mixed(path)])
    assert dials.present == [{"M00": 7, "OTHER": 1}]
    dials.turn([{"M00": 0.7, "OTHER": -0.5}])
    turned = prediction(model)
    dials.remove()
    names = {f"lora_unet_{name.replace('.', '_')}": layer for name, layer in model.unet.named_modules()}
    before = {}
    with open_lora(path) as file:
        for name, module in index_of(file.shapes, path).modules.items():
            layer, factor = names[name], -0.5 if "time_embedding" in name else 0.7
            before[name] = layer.weight.clone(), None if layer.bias is None else layer.bias.clone()
            delta = read(file, module, lambda name: names[name].weight.double())
            if delta.matrix is not None:
                layer.weight += factor * delta.dense().reshape(layer.weight.shape).float()
            if delta.bias is not None:
                layer.bias += factor * delta.bias
    changed = prediction(model)
    for name, (weight, bias) in before.items():
        names[name].weight.copy_(weight)
        if bias is not None:
            names[name].bias.copy_(bias)
    torch.testing.assert_close(turned, changed, rtol=1e-4, atol=1e-4 * float(changed.abs().max()))


def test_a_lora_of_another_model_is_refused(model, tmp_path: Path) -> None:
    wide = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{wide}.lora_up.weight": torch.ones(640, 2), f"{wide}.lora_down.weight": torch.ones(2, 2048)},
        tmp_path / "xl.safetensors",
    )
    with pytest.raises(UserError, match=r"xl\.safetensors: this LoRA is for SDXL, and the checkpoint is SD1\.5"):
        Dials(model, [Mixed(tmp_path / "xl.safetensors")])
    query = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file(
        {f"{query}.lora_up.weight": torch.ones(8, 2), f"{query}.lora_down.weight": torch.ones(2, 8)},
        tmp_path / "narrow.safetensors",
    )
    with pytest.raises(UserError, match=r"made for a weight of the shape \[8, 8"):
        Dials(model, [Mixed(tmp_path / "narrow.safetensors")])
