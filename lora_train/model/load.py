"""A checkpoint of any width as diffusers and transformers modules, without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn
from transformers import CLIPTokenizer

from ..errors import UserError
from . import encoders
from .checkpoint import OPEN_CLIP, SDXL_CLIP, SDXL_OPEN_CLIP, TEXT, UNET, VAE, Family, read_tensors, read_vae, recognise
from .tokenizer import load_tokenizer

State = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)
SIZE_EMBEDDING = 256
"""SDXL embeds each of six numbers (sizes and crop of a picture) in as many values."""


@dataclass
class StableDiffusion:
    """The frozen modules of one checkpoint. Latents are the VAE's samples times `scale_factor`.

    text_encoders: "te", or "te1" (CLIP) and "te2" (OpenCLIP) for SDXL: kohya's prefixes of LoRA keys without "lora_".
    """

    path: Path
    family: Family
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoders: dict[str, Any]
    tokenizer: CLIPTokenizer
    scale_factor: float

    @property
    def text_encoder(self) -> Any:
        """The first text encoder, SD's only one."""
        return next(iter(self.text_encoders.values()))

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device


def load_model(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    vae: str | Path | None = None,
    vae_dtype: torch.dtype | None = None,
) -> StableDiffusion:
    """Read a checkpoint, and a VAE of another file if given; every module frozen, in eval mode. Raises UserError.

    vae_dtype: where the VAE has another precision than the rest. One part is read after the other, straight to `device`
    and `dtype`.
    """
    path = Path(path)
    family = recognise(path)

    def part(build: Callable[[State], Module], *prefixes: str) -> Module:
        return _frozen(build, lambda: read_tensors(path, prefixes, dtype, device), family, path).to(device)

    text_encoders: dict[str, nn.Module]
    if family is Family.SDXL:
        text_encoders = {
            "te1": part(lambda state: encoders.clip(state, SDXL_CLIP), SDXL_CLIP),
            "te2": part(lambda state: encoders.open_clip(state, SDXL_OPEN_CLIP, projected=True), SDXL_OPEN_CLIP),
        }
    elif family is Family.SD2:
        text_encoders = {"te": part(lambda state: encoders.open_clip(state, OPEN_CLIP, projected=False), OPEN_CLIP)}
    else:
        text_encoders = {"te": part(lambda state: encoders.clip(state, f"{TEXT}transformer."), TEXT)}
    return StableDiffusion(
        path,
        family,
        part(_unet, UNET),
        _frozen(_vae, lambda: read_vae(vae or path, vae_dtype or dtype, device), family, Path(vae or path)),
        text_encoders,
        load_tokenizer(),
        0.13025 if family is Family.SDXL else 0.18215,
    )


def _frozen(build: Callable[[State], Module], read: Callable[[], State], family: Family, path: Path) -> Module:
    """A part of the model, whose tensors live nowhere else. Raises UserError where they don't fit."""
    try:
        return build(read()).requires_grad_(False).eval()
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        message = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        what = f"the tensors are not those of {family.value} ({message})"
        raise UserError(what, where=path, remedy="Choose another file") from error


def _unet(state: State) -> UNet2DConditionModel:
    """LDM UNet of two blocks a level; widths, context, places and depths of attention are read from the shapes."""

    def shape(name: str) -> torch.Size:
        return state[UNET + name].shape

    levels = range(len({name.split(".")[3] for name in state if name.startswith(f"{UNET}input_blocks.")}) // 3)
    widths = tuple(shape(f"input_blocks.{1 + 3 * level}.0.in_layers.2.weight")[0] for level in levels)
    blocks = [f"{UNET}input_blocks.{1 + 3 * level}.1." for level in levels]
    depths = [
        len({name[len(block) :].split(".")[1] for name in state if name.startswith(f"{block}transformer_blocks.")})
        for block in blocks
    ]
    middle = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    flat = len(shape("middle_block.1.proj_in.weight")) == 2
    config: dict[str, Any] = {
        "block_out_channels": widths,
        "cross_attention_dim": shape(middle)[1],
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)),
        # diffusers' name for the number of heads, which no shape shows: 8 in SD1.5, 64 values each in SD2 and SDXL
        "attention_head_dim": [max(1, width // 64) for width in widths] if flat else 8,
        "use_linear_projection": flat,
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
    }
    if f"{UNET}label_emb.0.0.weight" in state:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_EMBEDDING,
            "projection_class_embeddings_input_dim": shape("label_emb.0.0.weight")[1],
        }
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    unet.load_state_dict(convert_ldm_unet_checkpoint(state, dict(unet.config)), strict=True, assign=True)
    return unet


def _vae(state: State) -> AutoencoderKL:
    """LDM autoencoder with four levels, two blocks each, 4 latent channels."""
    widths = tuple(state[f"{VAE}encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(4))
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            layers_per_block=2,
        )
    vae.load_state_dict(convert_ldm_vae_checkpoint(state, dict(vae.config)), strict=True, assign=True)
    return vae
