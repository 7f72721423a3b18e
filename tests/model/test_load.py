"""Checkpoints as modules: every tensor where diffusers and transformers put it, in each family."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file

from lora_train.errors import UserError
from lora_train.model import encoders, load
from lora_train.model.checkpoint import OPEN_CLIP, SDXL_CLIP, SDXL_OPEN_CLIP, TEXT, UNET, VAE, Family
from lora_train.model.load import load_model
from lora_train.model.text import encode_prompts
from tests import support
from tests.model.reference import open_clip

CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"
UNETS = {
    Family.SD15: {"cross_attention_dim": 64, "attention_head_dim": 8},
    Family.SD2: {"cross_attention_dim": 64, "attention_head_dim": [1, 1, 2, 2], "use_linear_projection": True},
    Family.SDXL: {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 1, 2],
        "attention_head_dim": [1, 1, 2],
        "cross_attention_dim": 96,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 64 + 6 * 256,
    },
}
"""diffusers' configurations of the three, with narrow widths."""


@pytest.fixture(scope="module")
def states():
    return {family: support.state_dict(family=family) for family in Family}


def equal(ours: torch.nn.Module, expected: torch.nn.Module) -> None:
    mine, theirs = ours.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []


@pytest.mark.parametrize("family", Family)
def test_modules_are_frozen_and_whole(model_of, family):
    model = model_of(family)
    assert model.family is family
    assert model.text_encoder is next(iter(model.text_encoders.values()))
    for module in (model.unet, model.vae, *model.text_encoders.values()):
        assert not any(part.training for part in module.modules())
        assert all(p.dtype is torch.float32 and not p.is_meta and not p.requires_grad for p in module.parameters())
        assert not any(buffer.is_meta for buffer in module.buffers())


@pytest.mark.parametrize("family", Family)
def test_the_unet_is_that_of_diffusers_loader(model_of, states, family, tmp_path):
    narrow = {"block_out_channels": (32, 64, 128, 128)}
    UNet2DConditionModel(**(narrow | UNETS[family])).save_config(tmp_path / "unet")
    expected = UNet2DConditionModel.from_single_file(states[family], config=str(tmp_path), subfolder="unet").eval()
    unet = model_of(family).unet
    equal(unet, expected)
    inputs = {"sample": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([3, 900])}
    inputs["encoder_hidden_states"] = torch.randn(2, 77, UNETS[family]["cross_attention_dim"])
    if family is Family.SDXL:
        inputs["added_cond_kwargs"] = {"text_embeds": torch.randn(2, 64), "time_ids": torch.randint(0, 1024, (2, 6))}
    with torch.no_grad():
        assert torch.allclose(unet(**inputs).sample, expected(**inputs).sample, atol=1e-5)


@pytest.mark.parametrize("family", Family)
def test_the_vae_is_that_of_diffusers_loader(model_of, states, family, tmp_path):
    AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    ).save_config(tmp_path / "vae")
    expected = AutoencoderKL.from_single_file(states[family], config=str(tmp_path), subfolder="vae")
    equal(model_of(family).vae, expected)
    assert model_of(family).scale_factor == (0.13025 if family is Family.SDXL else 0.18215)


@pytest.mark.parametrize(("family", "part"), [(Family.SD15, "te"), (Family.SDXL, "te1")])
def test_clip(model_of, states, family, part):
    encoder, config = model_of(family).text_encoders[part], model_of(family).text_encoders[part].config
    root = f"{TEXT}transformer." if family is Family.SD15 else SDXL_CLIP
    assert (config.num_attention_heads, config.hidden_act) == (8, "quick_gelu")
    state = encoder.state_dict()
    for name, tensor in states[family].items():
        if name.startswith(root):
            key = name.removeprefix(root)
            assert torch.equal(state[key if key in state else key.removeprefix("text_model.")], tensor.float())


@pytest.mark.parametrize(
    ("family", "part", "prefix"), [(Family.SD2, "te", OPEN_CLIP), (Family.SDXL, "te2", SDXL_OPEN_CLIP)]
)
def test_open_clip_computes_as_the_original(model_of, states, family, part, prefix):
    encoder = model_of(family).text_encoders[part]
    ids = torch.randint(1, 49000, (2, 77))
    layers, last, pooled = open_clip(states[family], prefix, ids, end=40)
    with torch.no_grad():
        output = encoder(ids, output_hidden_states=True)
    if family is Family.SD2:  # 3 of 4 layers: the last one here is the last but one of the file
        layers = layers[:-1]
        assert encoder.config.num_hidden_layers == 3
    assert len(output.hidden_states) == len(layers)
    for ours, theirs in zip(output.hidden_states, layers, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    if family is Family.SDXL:
        assert torch.allclose(output.last_hidden_state, last, atol=1e-5)
        assert torch.allclose(encoder.text_projection(output.last_hidden_state[:, 40]), pooled, atol=1e-5)


def test_sd2_without_its_unused_layer_is_the_same():
    names = {name: shape for name, shape, _ in support.open_clip(OPEN_CLIP[:-1], 64, 64, 24)}
    whole = {name: torch.empty(shape, device="meta") for name, shape in names.items()}
    cut = {name: tensor for name, tensor in whole.items() if ".resblocks.23." not in name}
    for state in (whole, cut):
        assert encoders.open_clip(state, OPEN_CLIP, projected=False).config.num_hidden_layers == 23


PARAMETERS = {
    Family.SD15: (859_520_964, 123_060_480),
    Family.SD2: (865_910_724, 340_387_840),
    Family.SDXL: (2_567_463_684, 123_060_480 + 694_659_840),
}
"""Of UNet and text encoders, as published for the real models; their VAE has 83,653,863."""


@pytest.mark.parametrize("family", Family)
def test_full_size(family):
    widths = support.FULL[family]
    state = {name: torch.empty(shape, device="meta") for name, shape, _ in support.entries(widths, family)}

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}

    unet, vae = load._unet(part(UNET)), load._vae(part(VAE))
    if family is Family.SDXL:
        second = encoders.open_clip(part(SDXL_OPEN_CLIP), SDXL_OPEN_CLIP, projected=True)
        texts = [encoders.clip(part(SDXL_CLIP), SDXL_CLIP), second]
    elif family is Family.SD2:
        texts = [encoders.open_clip(part(OPEN_CLIP), OPEN_CLIP, projected=False)]
    else:
        texts = [encoders.clip(part(TEXT), f"{TEXT}transformer.")]

    def count(*modules: torch.nn.Module) -> int:
        return sum(math.prod(p.shape) for module in modules for p in module.parameters())

    assert (count(unet), count(*texts)) == PARAMETERS[family]
    assert count(vae) == 83_653_863
    heads = {Family.SD15: 8, Family.SD2: [5, 10, 20, 20], Family.SDXL: [5, 10, 20]}
    assert unet.config.attention_head_dim == heads[family]
    if family is Family.SDXL:
        assert unet.config.transformer_layers_per_block == [1, 2, 10]
    assert [text.config.num_attention_heads for text in texts] == {
        Family.SD15: [12],
        Family.SD2: [16],
        Family.SDXL: [12, 20],
    }[family]


def test_precision_and_another_vae(files, states, tmp_path):
    state = {name: 2 * tensor for name, tensor in states[Family.SD15].items() if name.startswith(VAE)}
    bare = {name.removeprefix(VAE): tensor for name, tensor in state.items()}
    save_file(bare, tmp_path / "other.safetensors")
    model = load_model(files[Family.SD15], torch.bfloat16, vae=tmp_path / "other.safetensors")
    assert {p.dtype for module in (model.unet, model.vae, model.text_encoder) for p in module.parameters()} == {
        torch.bfloat16
    }
    assert torch.equal(model.vae.encoder.conv_in.weight, state[f"{VAE}encoder.conv_in.weight"].bfloat16())
    save_file({name: bare[name] for name in list(bare)[5:]}, tmp_path / "holed.safetensors")
    with pytest.raises(UserError, match=r"holed\.safetensors"):
        load_model(files[Family.SD15], vae=tmp_path / "holed.safetensors")


def test_a_ckpt_is_the_same_model(model, states, tmp_path):
    torch.save({"state_dict": states[Family.SD15]}, tmp_path / "model.ckpt")
    other = load_model(tmp_path / "model.ckpt")
    for ours, theirs in ((other.unet, model.unet), (other.vae, model.vae), (other.text_encoder, model.text_encoder)):
        equal(ours, theirs)


def test_old_names_of_the_text_encoder(tmp_path, model, states):
    renamed = {
        key.replace("transformer.text_model.", "transformer."): value for key, value in states[Family.SD15].items()
    }
    save_file(renamed, tmp_path / "old.safetensors")
    other = load_model(tmp_path / "old.safetensors")
    assert torch.equal(encode_prompts(model, ["a cat"]).states, encode_prompts(other, ["a cat"]).states)


@pytest.mark.parametrize(
    ("family", "key"),
    [
        (Family.SD15, "model.diffusion_model.middle_block.1.norm.weight"),
        (Family.SD2, "cond_stage_model.model.ln_final.weight"),
        (Family.SDXL, "conditioner.embedders.1.model.text_projection"),
    ],
)
def test_a_missing_tensor_is_said(tmp_path, states, family, key):
    save_file({name: tensor for name, tensor in states[family].items() if name != key}, tmp_path / "holed.safetensors")
    with pytest.raises(UserError, match=rf"holed\.safetensors: the tensors are not those of {family.value}"):
        load_model(tmp_path / "holed.safetensors")
