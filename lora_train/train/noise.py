"""What chance decides in a training step, and the noise made from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..settings import TrainSettings

TIMESTEPS = 1000

_STRENGTHS, _IP, _PYRAMID = -1, -2, -3


@dataclass
class Draws:
    """What chance decides for one batch.

    noise [B, 4, h, w] and offset [B, 4, 1, 1], normal; timesteps [B] int64; strengths [2] in [0, 1) of the noise offset
    and the input perturbation, for a whole batch; ip [B, 4, h, w], normal; pyramid: normal noise, finest first.
    """

    noise: Tensor
    offset: Tensor
    timesteps: Tensor
    strengths: Tensor = field(default_factory=lambda: torch.ones(2))
    ip: Tensor | None = None
    pyramid: list[Tensor] = field(default_factory=list)

    def to(self, device: torch.device) -> Draws:
        """The same draws on a device; a GPU is not waited for."""
        return Draws(
            noise=_move(self.noise, device),
            offset=_move(self.offset, device),
            timesteps=_move(self.timesteps, device),
            strengths=_move(self.strengths, device),
            ip=None if self.ip is None else _move(self.ip, device),
            pyramid=[_move(level, device) for level in self.pyramid],
        )

    def rows(self, first: int, count: int) -> Draws:
        """The draws for `count` pictures of the batch, from picture `first` on."""
        part = slice(first, first + count)
        return replace(
            self,
            noise=self.noise[part],
            offset=self.offset[part],
            timesteps=self.timesteps[part],
            ip=None if self.ip is None else self.ip[part],
            pyramid=[level[part] for level in self.pyramid],
        )


def generator(seed: int, *counters: int) -> torch.Generator:
    """A generator on the CPU for one event of a run, so that no draw depends on what was drawn before."""
    for counter in counters:
        seed = (seed * 6364136223846793005 + counter * 1442695040888963407 + 1) % 2**63
    return torch.Generator().manual_seed(seed)


def draw(shape: torch.Size, seed: int, index: int, settings: TrainSettings) -> Draws:
    """The draws for batch number `index` with latents of `shape` [B, 4, h, w], on the CPU.

    They are the same on every device and after a resume; options that need more draws leave the other draws alone.
    """
    g = generator(seed, index)
    draws = Draws(
        noise=torch.randn(shape, generator=g),
        offset=torch.randn((*shape[:2], 1, 1), generator=g),
        timesteps=torch.randint(settings.min_timestep, settings.max_timestep, shape[:1], generator=g),
    )
    if settings.noise_offset_random_strength or settings.ip_noise_gamma_random_strength:
        draws.strengths = torch.rand(2, generator=generator(seed, index, _STRENGTHS))
    if settings.ip_noise_gamma:
        draws.ip = torch.randn(shape, generator=generator(seed, index, _IP))
    if settings.multires_noise_iterations:
        draws.pyramid = _pyramid(shape, generator(seed, index, _PYRAMID), settings.multires_noise_iterations)
    return draws


def offset_noise(noise: Tensor, offset: Tensor, strength: float | Tensor) -> Tensor:
    """noise + strength * offset, which shifts a channel as a whole (Guttenberg 2023, "Diffusion with Offset Noise")."""
    return noise + strength * offset


def adaptive_strength(strength: float | Tensor, scale: float, x_0: Tensor) -> Tensor:
    """[B, 4, 1, 1]: strength + scale * |mean of the channel of x_0|, not below 0, as in sd-scripts."""
    return (strength + scale * x_0.mean(dim=(2, 3), keepdim=True).abs()).clamp(min=0.0)


def pyramid_noise(noise: Tensor, levels: list[Tensor], discount: float) -> Tensor:
    """(noise + sum_i discount^i * enlarged level_i) / its standard deviation over the batch (Whitaker 2023,
    "Multi-Resolution Noise for Diffusion Model Training").
    """
    for i, level in enumerate(levels):
        enlarged = torch.nn.functional.interpolate(level, size=noise.shape[2:], mode="bilinear")
        noise = noise + enlarged * discount**i
    return noise / noise.std()


def _pyramid(shape: torch.Size, g: torch.Generator, iterations: int) -> list[Tensor]:
    """Level i is smaller by r^i with a new r in [2, 4) each time; one pixel high or wide is the last."""
    levels = []
    for i in range(iterations):
        r = float(torch.rand((), dtype=torch.float64, generator=g)) * 2 + 2
        height, width = (max(1, int(side / r**i)) for side in shape[2:])
        levels.append(torch.randn((*shape[:2], height, width), generator=g))
        if 1 in (height, width):
            break
    return levels


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """To a GPU through pinned memory, as only that copy is made while the host goes on."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
