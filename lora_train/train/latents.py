"""Pictures to latents, once for the whole run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..dataset import images
from ..dataset.folders import Picture
from ..model.load import StableDiffusion
from .noise import generator


def cache_latents(
    model: StableDiffusion, pictures: list[Picture], resolution: int, seed: int, on_picture: Callable[[int], None]
) -> dict[str, Tensor]:
    """One sample of the VAE's posterior for each picture: {path: [4, r/8, r/8]}, float32 on the CPU, not yet scaled.

    As in sd-scripts a sample is drawn once and kept for the run; it is drawn from the seed and the picture's place.
    """
    latents = {}
    for index, picture in enumerate(pictures):
        pixels = to_tensor(images.cover_crop(images.read(picture.path), resolution, resolution))
        with torch.no_grad():
            posterior = model.vae.encode(pixels[None].to(model.device, model.vae.dtype)).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator(seed, index))
        latents[str(picture.path)] = (posterior.mean.float().cpu() + posterior.std.float().cpu() * noise)[0]
        on_picture(index + 1)
    return latents


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] as float32 [3, H, W] in [-1, 1]."""
    return torch.tensor(pixels).permute(2, 0, 1).float() / 127.5 - 1.0
