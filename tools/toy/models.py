"""The networks of the miniature, as diffusers and transformers modules: SD1.5's blocks at a fraction of the width."""

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

LATENT_SCALE = 0.18215

CLIP: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128, 128, 128),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": CLIP["hidden_size"],
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
VAE = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (64, 64, 64, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": LATENT_SCALE,
}


def make_text_encoder() -> CLIPTextModel:
    """Untrained; the embeddings are large, so that words never seen in training stay distinct from one another."""
    model = CLIPTextModel(CLIPTextConfig(**CLIP))
    embeddings = model.get_input_embeddings()
    embeddings.weight.data.normal_(std=0.2)
    return model


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(**UNET)


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(**VAE)
