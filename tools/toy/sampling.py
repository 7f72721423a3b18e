"""Pictures from prompts: DDIM with classifier-free guidance, many at a time."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel

from tools.toy import models, tokens

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def initial_noise(seeds: list[int]) -> Tensor:
    return torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample_latents(
    unet: UNet2DConditionModel, states: Tensor, empty: Tensor, noise: Tensor, steps: int = 20, cfg: float = 5.0
) -> Tensor:
    scheduler = DDIMScheduler(**SCHEDULE)
    scheduler.set_timesteps(steps)
    context = torch.cat([empty.expand_as(states), states])
    latents = noise
    for timestep in scheduler.timesteps:
        free, named = unet(latents.repeat(2, 1, 1, 1), timestep, context).sample.chunk(2)
        latents = scheduler.step(free + cfg * (named - free), timestep, latents).prev_sample
    return latents


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> list[Image.Image]:
    pixels = torch.cat([vae.decode(part / models.LATENT_SCALE).sample for part in latents.split(32)])
    array = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in array]


@torch.no_grad()
def sample(
    vae: AutoencoderKL, encoder: CLIPTextModel, unet: UNet2DConditionModel, prompts: list[str], first_seed: int = 0
) -> list[Image.Image]:
    """One picture per prompt, with seeds counted up from the first."""
    states = encoder(tokens.encode([*prompts, ""])).last_hidden_state
    noise = initial_noise(list(range(first_seed, first_seed + len(prompts))))
    return decode(vae, sample_latents(unet, states[:-1], states[-1:], noise))


def contact_sheet(pictures: list[Image.Image], columns: int = 10, scale: int = 2) -> Image.Image:
    side = pictures[0].width
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * side, index // columns * side))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
