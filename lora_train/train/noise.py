"""The random part of a training step, and the forward process q(x_t | x_0) of DDPM (Ho et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

TIMESTEPS = 1000


def noise_schedule() -> DDPMScheduler:
    """Stable Diffusion's: sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012) over 1000 steps."""
    return DDPMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
    )


@dataclass
class Draws:
    """What chance decides in one step: noise [B, 4, h, w], offset [B, 4, 1, 1], timesteps [B] int64."""

    noise: Tensor
    offset: Tensor
    timesteps: Tensor

    def to(self, device: torch.device) -> Draws:
        """The same draws on a device."""
        return Draws(self.noise.to(device), self.offset.to(device), self.timesteps.to(device))


def generator(seed: int, *counters: int) -> torch.Generator:
    """A generator on the CPU for one event of a run, so that no draw depends on what was drawn before."""
    for counter in counters:
        seed = (seed * 6364136223846793005 + counter * 1442695040888963407 + 1) % 2**63
    return torch.Generator().manual_seed(seed)


def draw(shape: torch.Size, seed: int, step: int) -> Draws:
    """The draws of step `step` for latents of `shape` [B, 4, h, w]; the same on every device and after a resume."""
    g = generator(seed, step)
    batch, channels = shape[:2]
    return Draws(
        noise=torch.randn(shape, generator=g),
        offset=torch.randn((batch, channels, 1, 1), generator=g),
        timesteps=torch.randint(0, TIMESTEPS, (batch,), generator=g),
    )
