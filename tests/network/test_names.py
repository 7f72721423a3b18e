"""Kohya's names of modules, against lists from sd-scripts on models of full size."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from hashlib import sha256
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_train.model.checkpoint import Family
from lora_train.network.names import Target, targets, xl_key
from tests.network.conftest import TABLES, table

XL_UNET = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def text_encoder(width: int, layers: int, kind: type = CLIPTextModel) -> torch.nn.Module:
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64
    )
    return kind(config)


@pytest.fixture(scope="module")
def full() -> dict[str, SimpleNamespace]:
    """Models of full size without memory. SD2's last text layer is never used and not loaded."""
    with torch.device("meta"):
        return {
            "sd15": SimpleNamespace(
                text_encoders={"te": text_encoder(768, 12)},
                unet=UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8),
            ),
            "sd2": SimpleNamespace(
                text_encoders={"te": text_encoder(1024, 23)},
                unet=UNet2DConditionModel(
                    cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
                ),
            ),
            "sdxl": SimpleNamespace(
                text_encoders={
                    "te1": text_encoder(768, 12),
                    "te2": text_encoder(1280, 32, CLIPTextModelWithProjection),
                },
                unet=UNet2DConditionModel(cross_attention_dim=2048, use_linear_projection=True, **XL_UNET),
            ),
        }


@pytest.mark.parametrize("name", ["sd15", "sd2", "sdxl"])
def test_modules_and_shapes_are_kohyas(full: dict, name: str) -> None:
    lines = gzip.decompress((TABLES / "modules.tsv.gz").read_bytes()).decode().splitlines()
    rows = [line.split("\t") for line in lines]
    expected = {module: shape for network, module, shape in rows if network == f"{name} conv"}
    assert {t.key: " ".join(map(str, t.layer.weight.shape)) for t in targets(full[name], conv=True)} == expected


@pytest.mark.parametrize("name", ["sd15", "sd15 conv", "sd2", "sd2 conv", "sdxl", "sdxl conv"])
def test_keys_of_the_files_are_kohyas(full: dict, name: str) -> None:
    modules = [t.key for t in targets(full[name.split()[0]], conv=name.endswith("conv"))]
    tensors = ("alpha", "lora_down.weight", "lora_up.weight")
    keys = "\n".join(sorted(f"{module}.{tensor}" for module in modules for tensor in tensors))
    known = table("networks.json")["networks"][name]
    assert (len(modules), sha256(keys.encode()).hexdigest()) == (known["modules"], known["sha256"])


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_blocks_are_kohyas(full: dict, name: str) -> None:
    for block, stems in table("blocks.json")["index"][f"{name} conv"].items():
        stems = tuple(f"lora_unet_{stem}_" for stem in stems)
        found = {t.block for t in targets(full[name], conv=True) if t.key.startswith(stems)}
        assert found == {int(block)}


def test_diffusers_names_of_an_sdxl_file_are_known_too(full: dict) -> None:
    unet = [t for t in targets(full["sdxl"], conv=True) if t.part == "unet"]
    assert len(unet) == 788
    assert all(xl_key("lora_unet_" + t.name.replace(".", "_")) == t.key for t in unet)


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_input_blocks_4_1_proj_in",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_unet_down_blocks_0_resnets_0_nothing",
        "lora_unet_mid_block_downsamplers_0_conv",
        "lora_unet_conv_in",
        "",
    ],
)
def test_other_names_stay(key: str) -> None:
    assert xl_key(key) == key


@pytest.mark.parametrize("family", list(Family))
def test_narrow_models_have_the_parts_of_their_family(bare: Callable, family: Family) -> None:
    found: list[Target] = list(targets(bare(family), conv=True))
    expected = ["te1", "te2", "unet"] if family is Family.SDXL else ["te", "unet"]
    assert list(dict.fromkeys(t.part for t in found)) == expected
    assert {t.block for t in found if t.part != "unet"} == {None}
    assert len({t.key for t in found}) == len(found)
