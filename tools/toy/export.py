"""The trained networks as one fp16 file with the key names of Stable Diffusion 1.5's original checkpoint."""

import math
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel

from tools.toy import models

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer.text_model."

RESNET = {
    r"\bnorm1\.": "in_layers.0.",
    r"\bconv1\.": "in_layers.2.",
    r"\btime_emb_proj\.": "emb_layers.1.",
    r"\bnorm2\.": "out_layers.0.",
    r"\bconv2\.": "out_layers.3.",
    r"\bconv_shortcut\.": "skip_connection.",
}
UNET_PLACES = {
    r"^time_embedding\.linear_1": "time_embed.0",
    r"^time_embedding\.linear_2": "time_embed.2",
    r"^conv_in": "input_blocks.0.0",
    r"^conv_norm_out": "out.0",
    r"^conv_out": "out.2",
    r"^mid_block\.resnets\.(\d)": lambda m: f"middle_block.{2 * int(m[1])}",
    r"^mid_block\.attentions\.0": "middle_block.1",
    r"^down_blocks\.(\d)\.resnets\.(\d)": lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.0",
    r"^down_blocks\.(\d)\.attentions\.(\d)": lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.1",
    r"^down_blocks\.(\d)\.downsamplers\.0\.conv": lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op",
    r"^up_blocks\.(\d)\.resnets\.(\d)": lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0",
    r"^up_blocks\.(\d)\.attentions\.(\d)": lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1",
    r"^up_blocks\.0\.upsamplers\.0": "output_blocks.2.1",
    r"^up_blocks\.(\d)\.upsamplers\.0": lambda m: f"output_blocks.{3 * int(m[1]) + 2}.2",
}
VAE_PLACES = {
    r"\bdown_blocks\.(\d)\.resnets": r"down.\1.block",
    r"\bdown_blocks\.(\d)\.downsamplers\.0": r"down.\1.downsample",
    r"\bup_blocks\.(\d)\.resnets": lambda m: f"up.{3 - int(m[1])}.block",
    r"\bup_blocks\.(\d)\.upsamplers\.0": lambda m: f"up.{3 - int(m[1])}.upsample",
    r"\bmid_block\.resnets\.(\d)": lambda m: f"mid.block_{int(m[1]) + 1}",
    r"\bmid_block\.attentions\.0": "mid.attn_1",
    r"\bgroup_norm\.": "norm.",
    r"\bto_([qkv])\.": r"\1.",
    r"\bto_out\.0\.": "proj_out.",
    r"\bconv_norm_out\.": "norm_out.",
    r"\bconv_shortcut\.": "nin_shortcut.",
}


def rename(key: str, rules: dict) -> str:
    for pattern, replacement in rules.items():
        key = re.sub(pattern, replacement, key)
    return key


def unet_key(key: str) -> str:
    """Only the residual blocks' inner names change; those of the attention blocks are the same on both sides."""
    return UNET_PREFIX + rename(rename(key, RESNET) if "resnets" in key else key, UNET_PLACES)


def unet_state(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    return {unet_key(key): value for key, value in unet.state_dict().items()}


def vae_state(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The attention's linear layers become 1x1 convolutions."""
    state = {VAE_PREFIX + rename(key, VAE_PLACES): value for key, value in vae.state_dict().items()}
    return {
        key: value[..., None, None] if "attn_1" in key and value.ndim == 2 else value for key, value in state.items()
    }


def text_state(encoder: CLIPTextModel) -> dict[str, Tensor]:
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    state["embeddings.position_ids"] = torch.arange(77).unsqueeze(0)
    return {TEXT_PREFIX + key: value for key, value in state.items()}


def schedule_state() -> dict[str, Tensor]:
    """The noise schedule's tables, which the original file keeps too."""
    betas = torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    tables = {
        "betas": betas,
        "alphas_cumprod": alphas,
        "alphas_cumprod_prev": torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]]),
        "sqrt_alphas_cumprod": alphas.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alphas).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alphas).log(),
        "sqrt_recip_alphas_cumprod": (1 / alphas).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / alphas - 1).sqrt(),
    }
    return {name: table.float() for name, table in tables.items()}


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the latents' mean to 0 and their deviation to 1/0.18215, in the convolutions beside the bottleneck.

    Returns the mean and the divisor of each channel.
    """
    mean = latents.mean(dim=(0, 2, 3))
    scale = latents.std(dim=(0, 2, 3)) * models.LATENT_SCALE
    inner, outer = vae.quant_conv, vae.post_quant_conv
    inner.weight[:4] /= scale[:, None, None, None]
    inner.bias[:4] = (inner.bias[:4] - mean) / scale
    inner.bias[4:] -= 2 * scale.log()
    outer.bias += outer.weight[:, :, 0, 0] @ mean
    outer.weight *= scale[None, :, None, None]
    return mean, scale


def write_checkpoint(path: Path, vae: AutoencoderKL, encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    state = unet_state(unet) | vae_state(vae) | text_state(encoder)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    temporary = path.with_suffix(".part")
    tensors = {key: value.cpu().contiguous() for key, value in (halves | schedule_state()).items()}
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(path)
