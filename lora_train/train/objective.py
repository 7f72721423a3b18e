"""What the model is shown and what it is asked for, in float32 whatever the model's own precision."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ..settings import TrainSettings
from .loss import (
    debiased_weight,
    huber_threshold,
    min_snr_weight,
    noise_like_weight,
    pointwise,
    signal_to_noise,
    v_like_weight,
)
from .noise import TIMESTEPS, Draws, adaptive_strength, offset_noise, pyramid_noise


def alphas_cumprod(zero_terminal_snr: bool = False) -> Tensor:
    """abar_t of Stable Diffusion: sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012) over 1000 steps, float32.

    zero_terminal_snr: moved and stretched so that the last is 0 (Lin et al. 2023, arXiv:2305.08891, algorithm 1).
    """
    return DDPMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=zero_terminal_snr,
    ).alphas_cumprod


class Objective:
    """The forward process q(x_t | x_0), the target and the loss. Nothing here waits for a GPU."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        self.settings = settings
        abar = alphas_cumprod(settings.zero_terminal_snr)
        self.signal, self.sigma = (abar**0.5).to(device), ((1 - abar) ** 0.5).to(device)
        self.weight = _weight(settings).to(device)
        self.delta = None
        if settings.loss_type in ("huber", "smooth_l1"):
            s = settings
            self.delta = huber_threshold(abar, s.huber_schedule, s.huber_c, s.huber_scale).to(device)

    @torch.no_grad()
    def noisy(self, x_0: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """(x_t, target) of scaled latents x_0 [B, 4, h, w].

        x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps; target: eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0.
        """
        s = self.settings
        x_0 = x_0.float()
        eps = self._noise(x_0, draws)
        signal, sigma = (table[draws.timesteps].view(-1, 1, 1, 1) for table in (self.signal, self.sigma))
        shown = eps
        if s.ip_noise_gamma:  # input perturbation (Ning et al. 2023, arXiv:2301.11706): the target stays clean
            assert draws.ip is not None, "drawn for settings without ip_noise_gamma"
            gamma = draws.strengths[1] * s.ip_noise_gamma if s.ip_noise_gamma_random_strength else s.ip_noise_gamma
            shown = eps + gamma * draws.ip
        x_t = signal * x_0 + sigma * shown
        return x_t, signal * eps - sigma * x_0 if s.v_parameterization else eps

    def losses(
        self, prediction: Tensor, target: Tensor, timesteps: Tensor, weights: Tensor, masks: Tensor | None = None
    ) -> Tensor:
        """[B]: each picture's mean error, times its own weight [B] and the timestep's.

        masks [B, 1, h, w] from 0 to 1 lower the error where they are low; their area is not made up for.
        """
        delta = None if self.delta is None else self.delta[timesteps]
        error = pointwise(prediction, target, self.settings.loss_type, delta)
        if masks is not None:
            error = error * masks
        return error.mean(dim=(1, 2, 3)) * weights * self.weight[timesteps]

    def _noise(self, x_0: Tensor, draws: Draws) -> Tensor:
        """eps [B, 4, h, w]."""
        s = self.settings
        eps = draws.noise
        if s.noise_offset:
            strength = draws.strengths[0] * s.noise_offset if s.noise_offset_random_strength else s.noise_offset
            if s.adaptive_noise_scale is not None:
                strength = adaptive_strength(strength, s.adaptive_noise_scale, x_0)
            eps = offset_noise(eps, draws.offset, strength)
        return pyramid_noise(eps, draws.pyramid, s.multires_noise_discount) if draws.pyramid else eps


def _weight(s: TrainSettings) -> Tensor:
    """[1000]: the product of all weights by timestep, float32.

    As in sd-scripts SNR is that of the ordinary schedule, with zero_terminal_snr too: there it would end at 0.
    """
    snr = signal_to_noise(alphas_cumprod())
    weight = torch.ones_like(snr)
    if s.min_snr_gamma:
        weight = weight * min_snr_weight(snr, s.min_snr_gamma, s.v_parameterization)
    if s.scale_v_pred_loss_like_noise_pred:
        weight = weight * noise_like_weight(snr)
    if s.v_pred_like_loss:
        weight = weight * v_like_weight(snr, s.v_pred_like_loss)
    if s.debiased_estimation_loss:
        weight = weight * debiased_weight(snr, s.v_parameterization)
    return weight
