"""The loss of Ho et al. (2020) and its weights."""

from __future__ import annotations

import torch
from torch import Tensor


def signal_to_noise(alphas_cumprod: Tensor) -> Tensor:
    """SNR(t) = abar_t / (1 - abar_t) for every t."""
    return (alphas_cumprod.sqrt() / (1.0 - alphas_cumprod).sqrt()) ** 2


def min_snr_weight(snr: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) / SNR, for a model that predicts the noise (Hang et al. 2023, arXiv:2303.09556)."""
    return torch.clamp(snr, max=gamma) / snr


def weighted_mse(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean over a batch of weights [B] times each picture's mean squared error, in float32."""
    squared = torch.nn.functional.mse_loss(prediction.float(), target.float(), reduction="none")
    return (squared.mean(dim=(1, 2, 3)) * weights).mean()
