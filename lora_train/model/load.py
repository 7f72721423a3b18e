"""A Stable Diffusion 1.5 file of any width as diffusers and transformers modules, without a network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..errors import UserError
from .checkpoint import TEXT, UNET, VAE, read_state_dict, recognise, text_heads
from .tokenizer import load_tokenizer

State = dict[str, Tensor]


@dataclass
class StableDiffusion:
    """The frozen modules of one checkpoint. Latents are the VAE's samples times `scale_factor`."""

    path: Path
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scale_factor: float = 0.18215

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device


def load_model(
    path: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> StableDiffusion:
    """Read a checkpoint; every module frozen, in eval mode, of `dtype` on `device`. Raises UserError."""
    path = Path(path)
    recognise(path)
    state = read_state_dict(path)
    try:
        parts = (
            {name: tensor.to(dtype) for name, tensor in _part(state, prefix).items()} for prefix in (UNET, VAE, TEXT)
        )
        modules = tuple(build(part) for build, part in zip((_unet, _vae, _text_encoder), parts, strict=True))
    except (KeyError, RuntimeError, ValueError) as error:
        message = str(error).splitlines()[0][:300]
        raise UserError(
            f"the tensors are not those of an SD1.5 checkpoint ({message})", where=path, remedy="Choose another"
        ) from error
    for module in modules:
        module.to(device).requires_grad_(False).eval()
    unet, vae, text_encoder = modules
    return StableDiffusion(path, unet, vae, text_encoder, load_tokenizer())


def _part(state: State, prefix: str) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}


def _built(kind: type[nn.Module], config: Any, state: State) -> Any:
    """A module of `kind` that holds exactly the tensors of `state`; no time is lost on random values."""
    with torch.device("meta"):
        module = kind(config) if isinstance(config, CLIPTextConfig) else kind(**config)
    module.load_state_dict(state, strict=True, assign=True)
    return module


def _unet(state: State) -> UNet2DConditionModel:
    """LDM UNet: four levels of two blocks; widths, context size and places of attention are read from the shapes."""

    def shape(name: str) -> torch.Size:
        return state[UNET + name].shape

    levels = range(4)
    attends = [f"{UNET}input_blocks.{1 + 3 * level}.1.norm.weight" in state for level in levels]
    config = {
        "block_out_channels": tuple(shape(f"input_blocks.{1 + 3 * level}.0.in_layers.2.weight")[0] for level in levels),
        "cross_attention_dim": shape("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")[1],
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "attention_head_dim": 8,  # diffusers' name for the number of heads, which no shape shows; SD1.5 has 8
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
    }
    with torch.device("meta"):
        full_config = dict(UNet2DConditionModel(**config).config)
    return _built(UNet2DConditionModel, config, convert_ldm_unet_checkpoint(state, full_config))


def _vae(state: State) -> AutoencoderKL:
    """LDM autoencoder with four levels, two blocks each, 4 latent channels."""
    widths = tuple(state[f"{VAE}encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(4))
    config = {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "layers_per_block": 2,
    }
    with torch.device("meta"):
        full_config = dict(AutoencoderKL(**config).config)
    return _built(AutoencoderKL, config, convert_ldm_vae_checkpoint(state, full_config))


def _text_encoder(state: State) -> CLIPTextModel:
    """CLIP text model. Some old files leave out `text_model.`; newer transformers leave it out in the module."""
    names = {
        re.sub(rf"^{re.escape(TEXT)}transformer\.(text_model\.)?", "", name): tensor for name, tensor in state.items()
    }
    tensors = {
        name: tensor
        for name, tensor in names.items()
        if not name.endswith("position_ids") and "logit_scale" not in name
    }
    width = tensors["final_layer_norm.weight"].shape[0]
    config = CLIPTextConfig(
        vocab_size=tensors["embeddings.token_embedding.weight"].shape[0],
        hidden_size=width,
        intermediate_size=tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len({name.split(".")[2] for name in tensors if name.startswith("encoder.layers.")}),
        num_attention_heads=text_heads(width),
        max_position_embeddings=tensors["embeddings.position_embedding.weight"].shape[0],
        hidden_act="quick_gelu",
        projection_dim=width,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.device("meta"):
        expected = CLIPTextModel(config).state_dict()
    prefix = "text_model." if any(name.startswith("text_model.") for name in expected) else ""
    renamed = {prefix + name: tensor for name, tensor in tensors.items()}
    positions = torch.arange(config.max_position_embeddings)[None]
    if prefix + "embeddings.position_ids" in expected:
        renamed[prefix + "embeddings.position_ids"] = positions
    model = _built(CLIPTextModel, config, renamed)
    getattr(model, "text_model", model).embeddings.position_ids = positions
    return model
