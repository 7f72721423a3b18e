"""Pictures from a loaded checkpoint: the WebUI's samplers by their names, with diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from .checkpoint import Family
from .load import StableDiffusion
from .predict import LATENT_PIXELS, predict
from .text import TextStates, encode_prompts

_BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
_SCHEDULERS: dict[str, Callable[..., Any]] = {
    "Euler": lambda **kind: EulerDiscreteScheduler(**_BETAS, **kind),
    "Euler a": lambda **kind: EulerAncestralDiscreteScheduler(**_BETAS, **kind),
    "DDIM": lambda **kind: DDIMScheduler(**_BETAS, **kind, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    # with the sigmas that the WebUI chooses for it too
    "DPM++ 2M": lambda **kind: DPMSolverMultistepScheduler(**_BETAS, **kind, use_karras_sigmas=True),
}
SAMPLERS = tuple(_SCHEDULERS)
KOHYA_SAMPLERS = {
    "ddim": "DDIM",
    "euler": "Euler",
    "k_euler": "Euler",
    "euler_a": "Euler a",
    "k_euler_a": "Euler a",
    "dpmsolver++": "DPM++ 2M",
}
"""sd-scripts' names of samplers, our names."""

_SMALLEST = 64


def check(sampler: str, steps: int, width: int, height: int) -> None:
    """Raise UserError for what can't be drawn. sampler: one of SAMPLERS or of KOHYA_SAMPLERS."""
    if KOHYA_SAMPLERS.get(sampler, sampler) not in _SCHEDULERS:
        raise UserError(
            f"{sampler!r} is not a sampler here", where="sampler", remedy=f"Choose one of: {', '.join(SAMPLERS)}"
        )
    if not 1 <= steps <= 1000:
        raise UserError(
            f"{steps} is not a number of sampling steps", where="steps", remedy="Use 1 to 1000; 20 is common"
        )
    for name, side in (("width", width), ("height", height)):
        if side < _SMALLEST or side % LATENT_PIXELS:
            raise UserError(f"{side} is not a multiple of 8, {_SMALLEST} or more", where=name, remedy="512 is common")


def sample(
    model: StableDiffusion, prompt: str, negative_prompt: str = "", *, seed: int = 1, **options: Any
) -> Image.Image:
    """One picture; options as in sample_many."""
    return sample_many(model, [prompt], [seed], negative_prompt, **options)[0]


@torch.no_grad()
def sample_many(
    model: StableDiffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    negative_prompt: str = "",
    *,
    steps: int = 20,
    cfg_scale: float = 7.0,
    sampler: str = "Euler",
    width: int = 512,
    height: int = 512,
    clip_skip: int | None = None,
    max_token_length: int | None = None,
    prediction_type: str = "epsilon",
    on_step: Callable[[Tensor, Tensor], None] = lambda x_t, t: None,
) -> list[Image.Image]:
    """A picture for each prompt and its seed, all in one batch. Sizes in pixels; raises UserError (see check).

    Prompts may have weights, "(word:1.3)" and "[word]", as in the WebUI.
    clip_skip and max_token_length as in training (None or 1: the last layer; None: 75 tokens).
    prediction_type: "epsilon", or "v_prediction" for SD2's 768-pixel checkpoints and others.
    on_step(x_t, t) sees what the UNet sees before each step, one row a picture; what it raises ends the drawing.
    All noise is drawn on the CPU from a picture's own seed, so that it begins alike on every device. Drawn in company a
    picture is the same but for rounding (a level of 255 here and there).
    """
    check(sampler, steps, width, height)
    schedule = _SCHEDULERS[KOHYA_SAMPLERS.get(sampler, sampler)](prediction_type=prediction_type)
    schedule.set_timesteps(steps, device=model.device)
    text = _guidance(model, list(prompts), negative_prompt, clip_skip, max_token_length)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    shape = (1, 4, height // LATENT_PIXELS, width // LATENT_PIXELS)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    latents = noise.to(model.device, model.unet.dtype) * schedule.init_noise_sigma
    for t in schedule.timesteps:
        both = schedule.scale_model_input(torch.cat([latents, latents]), t)
        on_step(both[: len(latents)], t)
        negative, positive = predict(model, both, t, text).chunk(2)
        guided = negative + cfg_scale * (positive - negative)
        latents = schedule.step(guided, t, latents, generator=generators).prev_sample
    scaled = latents.to(model.vae.dtype) / model.scale_factor
    return [_picture(model.vae.decode(one[None]).sample[0]) for one in scaled]


def _guidance(
    model: StableDiffusion, prompts: list[str], negative: str, clip_skip: int | None, max_token_length: int | None
) -> TextStates:
    """Text states of the negative prompt for each picture, then of the pictures' prompts.

    SDXL without a negative prompt is guided away from zeros, as in the WebUI and in diffusers.
    """
    distinct = list(dict.fromkeys(prompts))
    states = encode_prompts(model, [negative, *distinct], clip_skip, max_token_length, weighted=True, keep_mean=True)
    text = states.to(model.device, model.unet.dtype)
    if model.family is Family.SDXL and not negative and text.pooled is not None:
        text.states[0], text.pooled[0] = 0, 0
    return text.select([0] * len(prompts) + [1 + distinct.index(prompt) for prompt in prompts])


def _picture(pixels: Tensor) -> Image.Image:
    """[3, H, W] in -1..1 to a picture; NaN, a blown-up model's output, is black."""
    scaled = (pixels.float() / 2 + 0.5).nan_to_num(nan=0.0).clamp(0, 1)
    return Image.fromarray((scaled * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
