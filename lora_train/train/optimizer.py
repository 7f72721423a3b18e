"""Optimizer and learning rate schedule, from their libraries."""

from __future__ import annotations

import ast
from typing import Any

from diffusers.optimization import get_scheduler
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import UserError
from ..network.lora import LoraNetwork
from ..settings import TrainSettings


def parse_arguments(pairs: list[str]) -> dict[str, Any]:
    """kohya's optimizer_args, 'weight_decay=0.1' or 'betas=0.9,0.999', as keyword arguments."""
    arguments = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        try:
            if not sign:
                raise ValueError
            arguments[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            raise UserError(
                f"{pair!r} is not name=value", where="optimizer_args", remedy="Write for example weight_decay=0.01"
            ) from None
    return arguments


def make_optimizer(network: LoraNetwork, settings: TrainSettings) -> Optimizer:
    """AdamW over two groups, text encoder first; a part whose rate is 0 is left out."""
    rates = {"te": settings.text_encoder_rate, "unet": settings.unet_rate}
    groups = [{"params": network.parameters_of(part), "lr": rate} for part, rate in rates.items() if rate]
    try:
        return AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            **parse_arguments(settings.optimizer_args),
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            f"AdamW doesn't take these arguments ({error})", where="optimizer_args", remedy="Mend or remove them"
        ) from None


def make_schedule(optimizer: Optimizer, settings: TrainSettings, total_steps: int) -> LRScheduler:
    """The factor on every group's rate, per optimizer step."""
    return get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.warmup_steps(total_steps),
        num_training_steps=total_steps,
        num_cycles=settings.lr_scheduler_num_cycles,
    )
