from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lora_train.blocks import layout
from lora_train.blocks.families import BLOCKS_17, topology
from lora_train.errors import UserError

from . import loras

TABLES = Path(__file__).parent.parent / "data" / "tables"


def test_every_module_of_kohya_has_its_block() -> None:
    blocks = [layout.block_of(name) for name in loras.modules()]
    assert len(blocks) == 264
    assert all(layout.block_of(name) == BLOCKS_17[loras.place(name)] for name in loras.modules())
    assert {block: blocks.count(block) for block in BLOCKS_17} == {b: 72 if b == "BASE" else 12 for b in BLOCKS_17}


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
        ("lora_unet_input_blocks_5_0_out_layers_0", "lora_unet_down_blocks_1_resnets_1_norm2"),
        ("lora_unet_time_embed_2", "lora_unet_time_embedding_linear_2"),
        ("lora_unet_out_2", "lora_unet_conv_out"),
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


LAYER = "lora_unet_down_blocks_0_attentions_0_proj_in"
PARTS = {
    "LoRA": ("lora_down.weight", "lora_up.weight", "alpha"),
    "CP LoRA": ("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha"),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "CP LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha"),
    "LoKr": ("lokr_w1", "lokr_w2"),
    "CP LoKr": ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "alpha"),
    "full difference": ("diff", "diff_b"),
    "norm": ("w_norm", "b_norm"),
    "DoRA": ("lora_down.weight", "lora_up.weight", "dora_scale"),
    "DoRA on LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "dora_scale"),
    "IA3": ("weight", "on_input"),
    "GLoRA": ("a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha"),
    "OFT": ("oft_blocks", "alpha"),
}


def shapes_of(*keys: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(keys, (4, 4))


@pytest.mark.parametrize("label", PARTS)
def test_modules_of_every_kind(label: str) -> None:
    index = layout.index_of(shapes_of(*(f"{LAYER}.{suffix}" for suffix in PARTS[label])), "x.safetensors")
    assert index.kinds() == {label: 1}
    assert index.blocks() == {"IN01": [LAYER]}
    assert sorted(index.modules[LAYER].parts.values()) == sorted(f"{LAYER}.{suffix}" for suffix in PARTS[label])
    refused = {"DoRA", "DoRA on LoHa", "IA3", "GLoRA", "OFT"}
    assert index.modules[LAYER].needs_checkpoint == (label in refused)
    if label in refused:
        with pytest.raises(
            UserError, match=rf"x\.safetensors: 1 of its modules are {label}, which change a checkpoint"
        ):
            layout.require_plain(index, "x.safetensors")
    else:
        layout.require_plain(index, "x.safetensors")


def test_parts_by_name() -> None:
    loha = layout.index_of(shapes_of(*(f"{LAYER}.{suffix}" for suffix in PARTS["CP LoHa"])), "x").modules[LAYER]
    assert loha.kind is layout.Kind.LOHA
    assert loha.parts["t1"] == f"{LAYER}.hada_t1"
    assert layout.index_of(shapes_of(f"{LAYER}.diff_b"), "x").modules[LAYER].kind is layout.Kind.DIFFERENCE
    with_bias = layout.index_of(shapes_of(*(f"{LAYER}.{s}" for s in (*PARTS["LoRA"], "diff_b"))), "x").modules[LAYER]
    assert (with_bias.kind, with_bias.parts["diff_b"]) == (layout.Kind.LORA, f"{LAYER}.diff_b")


@pytest.mark.parametrize(
    ("suffixes", "problem"),
    [
        (("lora_up.weight",), "lacks its lora_up or lora_down"),
        (("lora_mid.weight", "lora_up.weight"), "lacks its lora_up or lora_down"),
        (("hada_w1_a", "hada_w1_b", "hada_w2_a"), "lacks its hada_w2_b"),
        (("lokr_w1_a", "lokr_w2"), "lacks a part of its lokr_w1"),
        (("lokr_w1", "lokr_w2_a"), "lacks a part of its lokr_w2"),
        (("lokr_w1", "lokr_t2"), "lacks a part of its lokr_w2"),
        (("alpha",), "has nothing but alpha"),
        (("diff", "lora_up.weight", "lora_down.weight"), "is LoRA and full difference at once"),
    ],
)
def test_modules_that_are_not_whole(suffixes: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        layout.index_of(shapes_of(*(f"{LAYER}.{suffix}" for suffix in suffixes)), "x.safetensors")
    assert str(caught.value) == f"x.safetensors: {LAYER} {problem}"


def test_one_layer_named_twice() -> None:
    keys = [f"{LAYER}.lora_up.weight", f"{LAYER}.lora_down.weight"]
    with pytest.raises(UserError, match=r"lora_unet_down\S+ and lora_unet_input\S+ are the same part of one module"):
        layout.index_of(shapes_of(*keys, "lora_unet_input_blocks_1_1_proj_in.lora_up.weight"), "x")


def test_bundled_embeddings_and_unknown_keys() -> None:
    keys = [f"{LAYER}.lora_up.weight", f"{LAYER}.lora_down.weight", "bundle_emb.word.string_to_param.*"]
    assert layout.index_of(shapes_of(*keys), "x").bundled == ["bundle_emb.word.string_to_param.*"]
    with pytest.raises(UserError) as caught:
        layout.index_of(shapes_of(*keys, "a.b", "lora_te_x.lora_side.weight", "c.weight.x", "unet.d.weight"), "x.st")
    assert "x.st: a.b, c.weight.x, lora_te_x.lora_side.weight and 1 more: no such tensor" in str(caught.value)
    with pytest.raises(UserError, match=r"lora_te_x\.lora_side\.weight: no such tensor"):
        layout.split_key("lora_te_x.lora_side.weight")


def test_sdxl_in_every_style() -> None:
    """One layer of SDXL in kohya's, diffusers', PEFT's and CompVis's dotted wording is one module."""
    kohya = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"
    path = "down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_k"
    peft = "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"
    for name, up in (
        (kohya, "lora_up"),
        ("lora_unet_" + path, "lora_up"),
        ("lycoris_" + path, "lora_up"),
        (peft, "lora_B"),
        ("base_model.model." + peft, "lora_B.default"),
        ("diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k", "lora_B"),
    ):
        down = up.replace("up", "down").replace("B", "A")
        index = layout.index_of(shapes_of(f"{name}.{up}.weight", f"{name}.{down}.weight"), "x")
        assert (index.family, list(index.modules)) == ("SDXL", [kohya]), name
        assert layout.block_of(kohya, "SDXL") == "IN04"


@pytest.mark.parametrize(
    ("name", "module", "block"),
    [
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te1_text_model_encoder_layers_0_mlp_fc1", "BASE"),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1", "lora_te1_text_model_encoder_layers_0_mlp_fc1", "BASE"),
        ("text_encoder_2.encoder.layers.0.mlp.fc1", "lora_te2_text_model_encoder_layers_0_mlp_fc1", "BASE"),
        ("lora_unet_conv_in", "lora_unet_input_blocks_0_0", "IN00"),
        ("lora_unet_input_blocks_0_0", "lora_unet_input_blocks_0_0", "IN00"),
        ("lora_unet_down_blocks_0_resnets_1_norm1", "lora_unet_input_blocks_2_0_in_layers_0", "IN02"),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", "lora_unet_input_blocks_3_0_op", "IN03"),
        ("lora_unet_mid_block_attentions_0_proj_in", "lora_unet_middle_block_1_proj_in", "M00"),
        ("lora_unet_up_blocks_1_upsamplers_0_conv", "lora_unet_output_blocks_5_2_conv", "OUT05"),
        ("lora_unet_up_blocks_2_resnets_2_conv2", "lora_unet_output_blocks_8_0_out_layers_3", "OUT08"),
        ("lora_unet_time_embedding_linear_1", "lora_unet_time_embed_0", "OTHER"),
        ("lora_unet_add_embedding_linear_2", "lora_unet_label_emb_0_2", "OTHER"),
        ("lora_unet_conv_out", "lora_unet_out_2", "OTHER"),
        ("lora_unet_input_blocks_9_0_in_layers_2", "lora_unet_input_blocks_9_0_in_layers_2", "OTHER"),
    ],
)
def test_names_and_blocks_of_sdxl(name: str, module: str, block: str) -> None:
    assert layout.canonical_module(name, "SDXL") == module
    assert layout.block_of(module, "SDXL") == block
    if "." not in name:
        assert layout.block_of(name, "SDXL") == block


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
    if family in ("FLUX", "SD3"):
        with pytest.raises(UserError, match=rf"x\.safetensors: this LoRA is for {family}"):
            layout.require_family({key: shape}, Path("x.safetensors"))
    else:
        assert layout.require_family({key: shape}, Path("x.safetensors")) == family


@pytest.mark.parametrize(
    ("parts", "family"),
    [
        ({"hada_w1_b": (4, 1024)}, "SD2"),
        ({"hada_w1_b": (4, 768)}, "SD1.5"),
        ({"lokr_w1": (8, 8), "lokr_w2": (40, 128)}, "SD2"),
        ({"lokr_w1_b": (4, 8), "lokr_w2_b": (4, 96)}, "SD1.5"),
        ({"diff": (320, 2048)}, "SDXL"),
        ({"alpha": ()}, "SD1.5"),
    ],
)
def test_family_by_the_width_of_cross_attention(parts: dict[str, tuple[int, ...]], family: str) -> None:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    assert layout.detect_family({f"{name}.{part}": shape for part, shape in parts.items()}) == family


@pytest.mark.parametrize("family", ["SD1.5", "SD2", "SDXL"])
def test_every_module_that_sd_scripts_makes(family: str) -> None:
    """Names and shapes recorded from sd-scripts at full size: the family is told, names stay, every block is known."""
    network = {"SD1.5": "sd15 conv", "SD2": "sd2 conv", "SDXL": "sdxl conv"}[family]
    lines = gzip.decompress((TABLES / "modules.tsv.gz").read_bytes()).decode().splitlines()
    rows = [line.split("\t") for line in lines]
    weights = {name: [int(n) for n in shape.split()] for kind, name, shape in rows if kind == network}
    assert len(weights) == {"SD1.5": 350, "SD2": 416, "SDXL": 1052}[family]
    shapes = {}
    for name, (out, *row) in weights.items():
        shapes[f"{name}.lora_down.weight"], shapes[f"{name}.lora_up.weight"] = (4, *row), (out, 4)
    index = layout.index_of(shapes, "x")
    assert index.family == family
    assert index.modules.keys() == weights.keys()
    blocks = set(topology(family).blocks) - {"IN00"}  # sd-scripts leaves out the first convolution
    assert index.blocks().keys() == blocks
    attention = {layout.block_of(name, family) for name in weights if "attn2_to_k" in name} | {"BASE"}
    assert attention == set(topology(family).attention)
