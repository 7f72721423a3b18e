"""One optimizer step. The training loop and `replay` both run this code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..model.load import StableDiffusion
from ..model.text import encode_prompts
from ..network.lora import LoraNetwork
from ..settings import TrainSettings
from .loss import min_snr_weight, signal_to_noise, weighted_mse
from .noise import Draws, noise_schedule
from .optimizer import make_optimizer, make_schedule

_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def compute_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype:
    """Precision of the frozen model; fp16 needs a GPU."""
    if settings.mixed_precision == "fp16" and device.type == "cpu":
        raise UserError("fp16 needs a GPU", where="mixed_precision", remedy="Choose no or bf16")
    return _DTYPES[settings.mixed_precision]


@dataclass
class Batch:
    """latents [B, 4, h, w]: samples of the VAE, not yet scaled; captions: B texts; weights [B] of the loss."""

    latents: Tensor
    captions: Sequence[str]
    weights: Tensor


@dataclass
class StepResult:
    """loss before the update, learning rates used (a group each), norm of the gradient before clipping."""

    loss: float
    rates: list[float]
    grad_norm: float


class Step:
    """Everything that one step needs and changes: model, adapters, optimizer, schedule."""

    def __init__(self, model: StableDiffusion, network: LoraNetwork, settings: TrainSettings, total_steps: int) -> None:
        self.model, self.network, self.settings = model, network, settings
        self.optimizer = make_optimizer(network, settings)
        self.schedule = make_schedule(self.optimizer, settings, total_steps)
        self.scheduler = noise_schedule()
        self.snr = signal_to_noise(self.scheduler.alphas_cumprod)
        self.dtype = compute_dtype(settings, model.device)
        self.scaler = _scaler(self.dtype, model.device)

    def __call__(self, batch: Batch, draws: Draws, on_gradients: Callable[[], None] = lambda: None) -> StepResult:
        """Loss, backward, clip, update. Raises UserError before the update if the loss or gradient is not finite."""
        rates = list(self.schedule.get_last_lr())
        loss = self.loss(batch, draws.to(self.model.device))
        value = float(loss.detach())
        if not torch.isfinite(loss):
            raise blown_up("loss", value)
        self.scaler.scale(loss).backward()
        on_gradients()
        self.scaler.unscale_(self.optimizer)
        norm = float(self._clip())
        if not self.scaler.is_enabled() and norm != norm:
            raise blown_up("gradient", norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(value, rates, norm)

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """E || eps - eps_theta(x_t, t, c) ||^2 with x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
        device = self.model.device
        x_0 = batch.latents.to(device, torch.float32) * self.model.scale_factor
        eps = draws.noise + self.settings.noise_offset * draws.offset
        x_t = self.scheduler.add_noise(x_0, eps, draws.timesteps)
        weights = batch.weights.to(device)
        if self.settings.min_snr_gamma:
            weights = weights * min_snr_weight(self.snr.to(device)[draws.timesteps], self.settings.min_snr_gamma)
        with self._autocast():
            states = self.text_states(batch.captions)
            prediction = self.model.unet(x_t.to(self.dtype), draws.timesteps, states).sample
        return weighted_mse(prediction, eps, weights)

    def text_states(self, captions: Sequence[str]) -> Tensor:
        """States of the captions, with gradients only where the text encoder is trained."""
        with torch.set_grad_enabled(bool(self.network.parameters_of("te"))):
            return encode_prompts(self.model, list(captions), self.settings.clip_skip, self.settings.max_token_length)

    def _clip(self) -> Tensor:
        """Norm of all gradients together, and their clipping to max_grad_norm."""
        limit = self.settings.max_grad_norm or float("inf")
        return torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.dtype)


def _scaler(dtype: torch.dtype, device: torch.device) -> Any:
    """Loss scaling for fp16; does nothing otherwise."""
    enabled = dtype is torch.float16
    if hasattr(torch.amp, "GradScaler"):  # torch >= 2.3
        return torch.amp.GradScaler(device.type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)


def blown_up(what: str, value: float) -> UserError:
    """The error for a training that has left finite numbers; the weights are still those of the step before."""
    return UserError(
        f"the training blew up: the {what} became {value}",
        remedy="Lower the learning rate, or choose mixed_precision bf16 or no",
    )
