"""Measures of the error and the weights of the loss by timestep, as formulas.

SNR(t) = abar_t / (1 - abar_t) is the signal-to-noise ratio of x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
(Ho et al. 2020, arXiv:2006.11239).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LARGEST_SNR = 1000.0


def signal_to_noise(alphas_cumprod: Tensor) -> Tensor:
    """SNR(t) for every t."""
    return (alphas_cumprod.sqrt() / (1.0 - alphas_cumprod).sqrt()) ** 2


def min_snr_weight(snr: Tensor, gamma: float, v_prediction: bool = False) -> Tensor:
    """min(SNR, gamma) / SNR, or / (SNR + 1) where the model predicts v (Hang et al. 2023, arXiv:2303.09556)."""
    return snr.clamp(max=gamma) / (snr + 1 if v_prediction else snr)


def noise_like_weight(snr: Tensor) -> Tensor:
    """SNR / (SNR + 1), which turns the loss of a v-prediction into that of the noise, as in sd-scripts.

    With v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022, arXiv:2202.00512) and the exact x_t, an error of
    v is 1 / sqrt(abar) = sqrt((SNR + 1) / SNR) times the error of eps.
    """
    snr = snr.clamp(max=_LARGEST_SNR)
    return snr / (snr + 1)


def v_like_weight(snr: Tensor, strength: float) -> Tensor:
    """1 + strength / noise_like_weight: the noise's loss plus `strength` times the same as a loss of v."""
    return 1 + strength / noise_like_weight(snr)


def debiased_weight(snr: Tensor, v_prediction: bool = False) -> Tensor:
    """1 / sqrt(SNR) (Yu et al. 2023, arXiv:2310.08442), or 1 / (SNR + 1) where the model predicts v."""
    snr = snr.clamp(max=_LARGEST_SNR)
    return 1 / (snr + 1) if v_prediction else 1 / snr.sqrt()


def huber_threshold(alphas_cumprod: Tensor, schedule: str, c: float, scale: float) -> Tensor:
    """delta(t) of the Huber loss for every t (Khrapov et al. 2024, arXiv:2403.16728), as sd-scripts scales it.

    constant: c; exponential: from 1 at t = 0 down to c; snr: (1 - c) / (1 + sigma)^2 + c with sigma = 1 / sqrt(SNR),
    where `scale` has no effect.
    """
    steps = len(alphas_cumprod)
    if schedule == "constant":
        return torch.full((steps,), c * scale)
    if schedule == "exponential":
        return torch.exp(math.log(c) / steps * torch.arange(steps)) * scale
    sigma = ((1.0 - alphas_cumprod) / alphas_cumprod) ** 0.5
    return (1 - c) / (1 + sigma) ** 2 + c


def pointwise(prediction: Tensor, target: Tensor, kind: str, delta: Tensor | None = None) -> Tensor:
    """The error at each value, in their shape, float32.

    l2: d^2; l1: |d|; huber: 2 delta (sqrt(d^2 + delta^2) - delta), smooth_l1: 2 (sqrt(d^2 + delta^2) - delta), with
    d = prediction - target and delta [B].
    """
    prediction, target = prediction.float(), target.float()
    if kind == "l2":
        return torch.nn.functional.mse_loss(prediction, target, reduction="none")
    if kind == "l1":
        return torch.nn.functional.l1_loss(prediction, target, reduction="none")
    assert delta is not None
    delta = delta.view(-1, *[1] * (prediction.ndim - 1))
    error = ((prediction - target) ** 2 + delta**2).sqrt() - delta
    return 2 * delta * error if kind == "huber" else 2 * error
