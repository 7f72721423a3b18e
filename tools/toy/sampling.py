"""Pictures from prompts: DDIM with classifier-free guidance, many at a time."""

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from lora_train.model.load import StableDiffusion
from lora_train.model.text import encode_prompts
from tools.toy.models import LATENT_SCALE

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
def sample(
    model: StableDiffusion, prompts: list[str], first_seed: int = 0, steps: int = 20, cfg: float = 5.0
) -> list[Image.Image]:
    """One 64x64 picture per prompt, with seeds counted up from the first."""
    scheduler = DDIMScheduler(**SCHEDULE)
    scheduler.set_timesteps(steps)
    states = encode_prompts(model, ["", *prompts]).states
    context = torch.cat([states[:1].expand_as(states[1:]), states[1:]])
    latents = initial_noise(list(range(first_seed, first_seed + len(prompts))))
    for timestep in scheduler.timesteps:
        free, named = model.unet(latents.repeat(2, 1, 1, 1), timestep, context).sample.chunk(2)
        latents = scheduler.step(free + cfg * (named - free), timestep, latents).prev_sample
    return [to_picture(model.vae.decode(part[None] / LATENT_SCALE).sample[0]) for part in latents]


def to_picture(pixels: Tensor) -> Image.Image:
    """-1..1 to a picture."""
    return Image.fromarray(((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def contact_sheet(pictures: list[Image.Image], columns: int = 10, scale: int = 2) -> Image.Image:
    side = pictures[0].width
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * side, index // columns * side))
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
