"""One optimizer step. The training loop and `replay` both run this code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..model.load import StableDiffusion
from ..model.predict import predict
from ..model.text import TextStates, encode_prompts
from ..network.lora import LoraNetwork
from ..settings import TrainSettings
from . import noise
from .batch import Batch
from .ema import Ema
from .noise import Draws
from .objective import Objective
from .optimizer import effective_rates, make_optimizer, make_schedule, set_mode
from .watch import Watch

if TYPE_CHECKING:
    from accelerate import Accelerator

_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def compute_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype:
    """Precision of the frozen model; fp16 needs a GPU."""
    if settings.mixed_precision == "fp16" and device.type == "cpu":
        raise UserError("fp16 needs a GPU", where="mixed_precision", remedy="Choose no or bf16")
    return _DTYPES[settings.mixed_precision]


@dataclass
class StepResult:
    """loss before the update and norm of the gradient before clipping, 0-d tensors on the device (reading one waits
    for the device); learning rates used, a group each; whether the update was left out.
    """

    loss: Tensor
    rates: list[float]
    grad_norm: Tensor
    skipped: bool = False


class Step:
    """Everything that one step needs and changes: model, adapters, optimizer, schedule."""

    def __init__(
        self,
        model: StableDiffusion,
        network: LoraNetwork,
        settings: TrainSettings,
        total_steps: int,
        accelerator: Accelerator | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.model, self.network, self.settings = model, network, settings
        self.dtype = compute_dtype(settings, model.device)
        if settings.full_fp16 or settings.full_bf16:
            network.to(self.dtype)
        self.optimizer = make_optimizer(network.param_groups(settings), settings, warn)
        self.schedule = make_schedule(self.optimizer, settings, total_steps)
        self.objective = Objective(settings, model.device)
        self.scaler = _scaler(self.dtype, model.device)
        self.watch = Watch(settings)
        self.processes = accelerator.num_processes if accelerator else 1
        self.accelerator = accelerator
        self.forward: Any = accelerator.prepare(_Forward(self)) if accelerator else self.losses
        self.ema = Ema(network.parameters(), settings.ema_decay) if settings.ema_decay else None
        network.train(True)
        set_mode(self.optimizer, training=True)
        self._drops_out = bool(settings.network_dropout or settings.rank_dropout or settings.module_dropout)
        self._trains_text = settings.trains_text_encoder
        self.waits = model.device.type == "cpu" or self.scaler.is_enabled() or not _updates_on_device(self.optimizer)

    def __call__(
        self,
        window: Sequence[Batch],
        draws: Sequence[Draws] | None = None,
        on_gradients: Callable[[], None] = lambda: None,
    ) -> StepResult:
        """Loss and gradient of all batches of the window, clip, update.

        The loss is the mean over the window of each batch's mean over the pictures of all processes, so that a short
        window at an epoch's end counts in full. Raises BlowUp before the update where loss or gradient left all bounds.
        """
        rates = effective_rates(self.optimizer)
        total = torch.zeros((), device=self.model.device)
        for i, batch in enumerate(window):
            batch = batch.to(self.model.device)
            with self._apart(last=i == len(window) - 1):
                losses = self.forward(batch, draws[i] if draws else self.draw(batch))
                loss = losses.sum() * (self.processes / ((batch.of or len(losses)) * len(window)))
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if self.accelerator:
            total = self.accelerator.reduce(total, "mean")
        on_gradients()
        self.scaler.unscale_(self.optimizer)
        grad_norm = self._clip()
        skipped = self._update(total, grad_norm)
        return StepResult(total, rates, grad_norm, skipped)

    def draw(self, batch: Batch) -> Draws:
        """What chance decides for a batch: for the whole one, then this process's rows of it."""
        shape = torch.Size((batch.of or len(batch.latents), *batch.latents.shape[1:]))
        draws = noise.draw(shape, self.settings.seed, batch.index, self.settings)
        if self._drops_out:
            torch.manual_seed(noise.generator(self.settings.seed, batch.index, 1 + batch.first).initial_seed())
        return draws.rows(batch.first, len(batch.latents)).to(self.model.device)

    def losses(self, batch: Batch, draws: Draws, objective: Objective | None = None) -> Tensor:
        """[B]: each picture's weighted loss, E || eps - eps_theta(x_t, t, c) ||^2 for the plain settings."""
        objective = objective or self.objective
        x_0 = batch.latents.float() * self.model.scale_factor
        x_t, target = objective.noisy(x_0, draws)
        with self._autocast():
            text = batch.text or self.text_states(batch.captions)
            prediction = predict(self.model, x_t.to(self.dtype), draws.timesteps, text, batch.sizes)
        return objective.losses(prediction, target, draws.timesteps, batch.weights, batch.masks)

    def measured(self, settings: TrainSettings) -> Callable[[Batch, Draws], Tensor]:
        """`losses` as `settings` weigh them, without gradients."""
        objective, device = Objective(settings, self.model.device), self.model.device

        @torch.no_grad()
        def losses(batch: Batch, draws: Draws) -> Tensor:
            return self.losses(batch.to(device), draws.to(device), objective)

        return losses

    def text_states(self, captions: Sequence[str]) -> TextStates:
        """States of the captions, with gradients only where a text encoder is trained."""
        s = self.settings
        with torch.set_grad_enabled(self._trains_text and torch.is_grad_enabled()):
            return encode_prompts(self.model, list(captions), s.clip_skip, s.max_token_length, s.weighted_captions)

    def _clip(self) -> Tensor:
        """Norm of all gradients together, and their clipping to max_grad_norm."""
        limit = self.settings.max_grad_norm or float("inf")
        return torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)

    def _update(self, loss: Tensor, grad_norm: Tensor) -> bool:
        """Check, then change the weights; returns whether the change was left out: no number that is one, or fp16's
        scale was too large.

        Where the optimizer can leave out an update on the device, nothing waits for the device here and `watch` hears
        of the loss from the loop; otherwise it is asked before the update.
        """
        before = self.scaler.get_scale() if self.scaler.is_enabled() else 1.0
        if self.waits:
            broken = not bool(torch.isfinite(loss + grad_norm))
            overflow = broken and self.scaler.is_enabled()
            self.watch.check(float(loss), 0.0 if overflow else float(grad_norm), skipped=overflow)
            if broken and not overflow:  # and stop_on_blow_up is off
                self.optimizer.zero_grad(set_to_none=True)
                return True
        else:
            self.optimizer.found_inf = (~torch.isfinite(loss + grad_norm)).float()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        skipped = self.scaler.is_enabled() and self.scaler.get_scale() < before
        if not skipped:
            self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.settings.scale_weight_norms:
            self.network.limit_norms(self.settings.scale_weight_norms)
        if self.ema:
            self.ema.update()
        return skipped

    @contextmanager
    def resting(self) -> Iterator[None]:
        """The weights as they are saved and shown: averaged where wanted, without dropout."""
        own = [p.detach().clone() for p in self.network.parameters()] if hasattr(self.optimizer, "eval") else []
        self.network.train(False)
        set_mode(self.optimizer, training=False)
        with self.ema.applied() if self.ema else nullcontext():
            yield
        set_mode(self.optimizer, training=True)
        with torch.no_grad():  # schedule-free weights go there and back with a rounding
            for parameter, value in zip(self.network.parameters(), own, strict=False):
                parameter.copy_(value)
        self.network.train(True)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=self.dtype)

    def _apart(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients of all processes are added up at a window's last batch only."""
        return nullcontext() if last or self.processes == 1 else self.forward.no_sync()


class _Forward(nn.Module):
    """The part of a step that runs in every process: what accelerate wraps to add up the gradients.

    It holds what is trained alone: all that it holds is sent to the other processes at the start.
    """

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.trained = nn.ParameterList(step.network.parameters())
        self._losses = step.losses

    def forward(self, batch: Batch, draws: Draws) -> Tensor:
        return self._losses(batch, draws)


def _updates_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer knows found_inf: torch's fused ones, which leave an update out without asking the host."""
    return all(group.get("fused") for group in optimizer.param_groups)


_GradScaler: Any = getattr(torch.amp, "GradScaler", None) or torch.cuda.amp.GradScaler
"""For any device from torch 2.3 on; before that, for CUDA."""


class _Scaler(_GradScaler):
    """Unscales fp16 gradients too, which torch refuses: they are those of full_fp16, as in sd-scripts."""

    def _unscale_grads_(self, optimizer: Any, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool) -> Any:
        return super()._unscale_grads_(optimizer, inv_scale, found_inf, True)


def _scaler(dtype: torch.dtype, device: torch.device) -> Any:
    """Loss scaling for fp16; does nothing otherwise."""
    device_first = () if _GradScaler is torch.cuda.amp.GradScaler else (device.type,)
    return _Scaler(*device_first, enabled=dtype is torch.float16)
