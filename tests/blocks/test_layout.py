from __future__ import annotations

from pathlib import Path

import pytest

from lora_train.blocks import layout
from lora_train.errors import UserError

from . import loras


def test_seventeen_names_in_order() -> None:
    assert " ".join(layout.BLOCKS_17) == (
        "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11"
    )
    assert len(layout.BLOCKS_26) == 26


def test_every_module_of_kohya_has_its_block() -> None:
    blocks = [layout.block_of(name) for name in loras.modules()]
    assert len(blocks) == 264
    assert all(layout.block_of(name) == layout.BLOCKS_17[loras.place(name)] for name in loras.modules())
    assert {block: blocks.count(block) for block in layout.BLOCKS_17} == {
        b: 72 if b == "BASE" else 12 for b in layout.BLOCKS_17
    }


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("lora_unet_conv_in", "IN00"),
        ("lora_unet_down_blocks_0_resnets_1_conv1", "IN02"),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", "IN03"),
        ("lora_unet_down_blocks_2_downsamplers_0_conv", "IN09"),
        ("lora_unet_down_blocks_3_resnets_1_conv2", "IN11"),
        ("lora_unet_mid_block_resnets_1_conv1", "M00"),
        ("lora_unet_up_blocks_0_resnets_2_conv_shortcut", "OUT02"),
        ("lora_unet_up_blocks_0_upsamplers_0_conv", "OUT02"),
        ("lora_unet_up_blocks_2_upsamplers_0_conv", "OUT08"),
        ("lora_unet_up_blocks_3_resnets_2_conv2", "OUT11"),
        ("lora_unet_conv_out", "OTHER"),
        ("lora_unet_time_embedding_linear_1", "OTHER"),
        ("lora_unet_down_blocks_9_attentions_0_proj_in", "OTHER"),
        ("lora_unet_down_blocks_0_downsamplers_0", "OTHER"),
        ("lora_unet_input_blocks_4_1_proj_in", "IN04"),
    ],
)
def test_block_of(module: str, block: str) -> None:
    assert layout.block_of(module) == block


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("lora_unet_input_blocks_0_0", "lora_unet_conv_in"),
        ("lora_unet_input_blocks_1_1_proj_in", "lora_unet_down_blocks_0_attentions_0_proj_in"),
        ("lora_unet_input_blocks_5_0_in_layers_2", "lora_unet_down_blocks_1_resnets_1_conv1"),
        ("lora_unet_input_blocks_6_0_op", "lora_unet_down_blocks_1_downsamplers_0_conv"),
        ("lora_unet_middle_block_1_proj_out", "lora_unet_mid_block_attentions_0_proj_out"),
        ("lora_unet_middle_block_2_out_layers_3", "lora_unet_mid_block_resnets_1_conv2"),
        ("lora_unet_output_blocks_2_1_conv", "lora_unet_up_blocks_0_upsamplers_0_conv"),
        ("lora_unet_output_blocks_8_2_conv", "lora_unet_up_blocks_2_upsamplers_0_conv"),
        ("lora_unet_output_blocks_11_0_skip_connection", "lora_unet_up_blocks_3_resnets_2_conv_shortcut"),
        ("unet.mid_block.attentions.0.proj_in", "lora_unet_mid_block_attentions_0_proj_in"),
        ("base_model.model.up_blocks.1.attentions.2.proj_in", "lora_unet_up_blocks_1_attentions_2_proj_in"),
        ("text_encoder.text_model.encoder.layers.3.mlp.fc1", "lora_te_text_model_encoder_layers_3_mlp_fc1"),
        ("base_model.model.text_model.encoder.layers.3.mlp.fc1", "lora_te_text_model_encoder_layers_3_mlp_fc1"),
    ],
)
def test_one_name_for_one_layer(name: str, module: str) -> None:
    assert layout.canonical_module(name) == module


def test_split_key_knows_kohya_and_peft() -> None:
    assert layout.split_key("lora_te_x.lora_up.weight") == ("lora_te_x", "up")
    assert layout.split_key("lora_te_x.alpha") == ("lora_te_x", "alpha")
    assert layout.split_key("unet.mid_block.attentions.0.proj_in.lora_A.weight") == (
        "lora_unet_mid_block_attentions_0_proj_in",
        "down",
    )


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("dora_scale", "DoRA"),
        ("on_input", "IA3"),
        ("a1.weight", "GLoRA"),
        ("oft_blocks", "OFT"),
        ("diff", "full difference"),
        ("diff_b", "full difference"),
        ("w_norm", "norm"),
    ],
)
def test_other_kinds_are_named(suffix: str, kind: str) -> None:
    with pytest.raises(UserError, match=rf"{suffix} is of the {kind} kind; only plain LoRA and LoCon"):
        layout.split_key(f"lora_unet_conv_in.{suffix}")


def test_unknown_keys_are_named() -> None:
    with pytest.raises(UserError, match=r"lora_te_x\.lora_side\.weight is no tensor of a LoRA"):
        layout.split_key("lora_te_x.lora_side.weight")
    with pytest.raises(UserError, match="bundled embedding"):
        layout.split_key("bundle_emb.word.string_to_param.*")


@pytest.mark.parametrize(
    ("key", "shape", "family"),
    [
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", (4, 768), "SDXL"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_down.weight", (4, 640), "SDXL"),
        ("lora_unet_down_blocks_2_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (4, 2048), "SDXL"),
        ("lora_unet_down_blocks_2_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (4, 1024), "SD2"),
        ("lora_te_text_model_encoder_layers_22_mlp_fc1.lora_down.weight", (4, 1024), "SD2"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", (4, 3072), "FLUX"),
        ("transformer.single_transformer_blocks.1.attn.to_q.lora_A.weight", (4, 3072), "FLUX"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", (4, 1536), "SD3"),
        ("lora_unet_down_blocks_2_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (4, 768), "SD1.5"),
        ("lora_te_text_model_encoder_layers_11_mlp_fc1.lora_down.weight", (4, 768), "SD1.5"),
    ],
)
def test_family(key: str, shape: tuple[int, ...], family: str) -> None:
    assert layout.detect_family({key: shape}) == family
    if family != "SD1.5":
        with pytest.raises(UserError, match=rf"x\.safetensors: this LoRA is for {family}"):
            layout.require_sd15({key: shape}, Path("x.safetensors"))


def test_weights_by_block_are_by_name() -> None:
    weights = layout.weights_by_block([n / 10 for n in range(17)])
    assert weights["IN04"] == 0.3
    assert weights["OUT11"] == 1.6
    assert weights["IN03"] == 0
    assert weights["OTHER"] == 1
    assert layout.weights_by_block([0.5] * 17, unlisted=1)["IN03"] == 1
    assert layout.weights_by_block([float(n) for n in range(26)])["M00"] == 13
