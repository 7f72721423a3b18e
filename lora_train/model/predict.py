"""One call of the UNet, with what each family adds to it."""

from __future__ import annotations

import torch
from torch import Tensor

from .checkpoint import Family
from .load import StableDiffusion
from .text import TextStates

LATENT_PIXELS = 8


def predict(
    model: StableDiffusion, x_t: Tensor, timesteps: Tensor, text: TextStates, sizes: Tensor | None = None
) -> Tensor:
    """The UNet's output [B, 4, h, w] for noisy latents x_t; timesteps [B].

    sizes [B, 6], of SDXL alone, in pixels: original height and width, the crop's top and left, target height and
    width; None is a picture of the latents' size that was not cropped.
    """
    added = None
    if model.family is Family.SDXL:
        added = {"text_embeds": text.pooled, "time_ids": whole(x_t) if sizes is None else sizes.to(x_t.device)}
    return model.unet(x_t, timesteps, encoder_hidden_states=text.states, added_cond_kwargs=added).sample


def whole(x_t: Tensor) -> Tensor:
    """`sizes` of pictures that are used as they are."""
    height, width = (LATENT_PIXELS * side for side in x_t.shape[-2:])
    return torch.tensor([[height, width, 0, 0, height, width]], device=x_t.device).repeat(len(x_t), 1)
