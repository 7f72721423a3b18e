"""Pictures from a loaded checkpoint: the WebUI's samplers by their names, with diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .load import StableDiffusion
from .text import encode_prompts

_BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
_SCHEDULERS: dict[str, Callable[[], Any]] = {
    "Euler": lambda: EulerDiscreteScheduler(**_BETAS),
    "Euler a": lambda: EulerAncestralDiscreteScheduler(**_BETAS),
    "DDIM": lambda: DDIMScheduler(**_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    "DPM++ 2M": lambda: DPMSolverMultistepScheduler(**_BETAS, use_karras_sigmas=True),  # the WebUI's choice for it too
}
SAMPLERS = tuple(_SCHEDULERS)
_LATENT_PIXELS, _SMALLEST = 8, 64


def check(sampler: str, steps: int, width: int, height: int) -> None:
    """Raise UserError for what can't be drawn."""
    if sampler not in _SCHEDULERS:
        raise UserError(
            f"{sampler!r} is not a sampler here", where="sampler", remedy=f"Choose one of: {', '.join(SAMPLERS)}"
        )
    if not 1 <= steps <= 1000:
        raise UserError(
            f"{steps} is not a number of sampling steps", where="steps", remedy="Use 1 to 1000; 20 is common"
        )
    for name, side in (("width", width), ("height", height)):
        if side < _SMALLEST or side % _LATENT_PIXELS:
            raise UserError(f"{side} is not a multiple of 8, {_SMALLEST} or more", where=name, remedy="512 is common")


@torch.no_grad()
def sample(
    model: StableDiffusion,
    prompt: str,
    negative_prompt: str = "",
    *,
    seed: int = 1,
    steps: int = 20,
    cfg_scale: float = 7.0,
    sampler: str = "Euler",
    width: int = 512,
    height: int = 512,
    clip_skip: int | None = None,
) -> Image.Image:
    """One picture. Sizes in pixels; clip_skip as in training (None or 1: the last layer).

    All noise is drawn on the CPU from the seed alone, so the same seed begins alike on every device.
    """
    check(sampler, steps, width, height)
    schedule = _SCHEDULERS[sampler]()
    schedule.set_timesteps(steps, device=model.device)
    states = encode_prompts(model, [negative_prompt, prompt], clip_skip).to(model.unet.dtype)
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn((1, 4, height // _LATENT_PIXELS, width // _LATENT_PIXELS), generator=generator)
    latents = noise.to(model.device, model.unet.dtype) * schedule.init_noise_sigma
    for t in schedule.timesteps:
        both = schedule.scale_model_input(torch.cat([latents, latents]), t)
        negative, positive = model.unet(both, t, encoder_hidden_states=states).sample.chunk(2)
        guided = negative + cfg_scale * (positive - negative)
        latents = schedule.step(guided, t, latents, generator=generator).prev_sample
    return _picture(model.vae.decode(latents.to(model.vae.dtype) / model.scale_factor).sample[0])


def _picture(pixels: Tensor) -> Image.Image:
    """[3, H, W] in -1..1 to a picture; NaN, a blown-up model's output, is black."""
    scaled = (pixels.float() / 2 + 0.5).nan_to_num(nan=0.0).clamp(0, 1)
    return Image.fromarray((scaled * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
