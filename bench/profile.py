"""Where one step's time goes, and the floor under it: what the frozen UNet alone would need.

The floor is the same UNet without LoRA, forward and backward, its gradient flowing back to the first layer that LoRA
changes and to no weight: what no implementation of LoRA on these modules can go below. It is prepared for training as
ours is; `plain` is the same UNet as diffusers makes it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lora_train.model.load import StableDiffusion, load_model
from lora_train.model.predict import predict
from lora_train.model.text import TextStates
from lora_train.network.lora import LoraNetwork
from lora_train.network.spec import spec_of
from lora_train.settings import TrainSettings
from lora_train.train.batch import Batch
from lora_train.train.prepare import prepare
from lora_train.train.step import Step, compute_dtype

from .inputs import checkpoint

_CAPTION = "thing, " + ", ".join(f"tag {n}" for n in range(20))


def profile(args: argparse.Namespace) -> dict[str, Any]:
    """Measure each part in turns in one process; prints a Markdown table of medians."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if args.gpu else "cpu")
    settings = TrainSettings(
        resolution=(args.resolution, args.resolution),
        network_dim=16,
        network_alpha=8.0,
        network_train_unet_only=not args.both,
        mixed_precision=args.mixed_precision,
    )
    model = load_model(checkpoint(args.checkpoint), compute_dtype(settings, device), device)
    plain = _twin(model)
    prepare(model, settings)
    bare = _twin(model)
    network = LoraNetwork.create(model, spec_of(settings, model.family), 0)
    step = Step(model, network, settings, 1000)
    latents = torch.randn(args.batch, 4, args.resolution // 8, args.resolution // 8, device=device)
    with torch.no_grad():
        text = step.text_states([_CAPTION] * args.batch)
    batch = Batch(latents, [_CAPTION] * args.batch, torch.ones(args.batch), text=None if args.both else text)

    parts: dict[str, Callable[[], object]] = {
        "plain": lambda: _through(plain, latents, text, settings),
        "floor": lambda: _through(bare, latents, text, settings),
        "unet": lambda: _through(model, latents, text, settings),
        "step": lambda: step([batch]),
    }
    if args.both:
        parts["text"] = lambda: _states(step, batch)
    seconds = {name: statistics.median(times) for name, times in _in_turns(parts, args.rounds, device).items()}
    seconds = {"text": 0.0, **seconds}
    _print(seconds)
    if args.operators:
        with torch.profiler.profile() as profiler:
            step([batch])
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))
    return seconds


def _print(seconds: dict[str, float]) -> None:
    whole = seconds["step"]
    rows = {
        "frozen UNet alone, forward and backward (the floor)": seconds["floor"],
        "LoRA in the UNet": seconds["unet"] - seconds["floor"],
        "text encoder, forward and backward": seconds["text"],
        "noise, loss, clipping, optimizer": whole - seconds["unet"] - seconds["text"],
        "whole step": whole,
    }
    print("| | s | share |\n| --- | ---: | ---: |")
    for title, value in rows.items():
        print(f"| {title} | {value:.3f} | {value / whole:.1%} |")
    print(
        f"\nLoRA costs {seconds['unet'] / seconds['floor'] - 1:+.1%} over the frozen UNet alone; "
        f"against one that isn't prepared ({seconds['plain']:.3f} s) {seconds['unet'] / seconds['plain'] - 1:+.1%}"
    )


def _twin(model: StableDiffusion) -> StableDiffusion:
    """The same model with a UNet of its own that shares its weights, and that asks for the floor's gradient."""
    weights = {id(tensor): tensor for tensor in (*model.unet.parameters(), *model.unet.buffers())}
    unet = copy.deepcopy(model.unet, weights)
    first = next(module for name, module in unet.named_modules() if name.endswith("attentions.0.proj_in"))
    first.register_forward_hook(_wanted)
    twin = copy.copy(model)
    twin.unet = unet
    return twin


def _wanted(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.requires_grad_(True)


def _through(model: StableDiffusion, latents: Tensor, text: TextStates, settings: TrainSettings) -> None:
    """UNet forward and backward."""
    dtype = compute_dtype(settings, latents.device)
    times = torch.full((len(latents),), 500, device=latents.device)
    with torch.autocast(latents.device.type, dtype=dtype, enabled=dtype is not torch.float32):
        output = predict(model, latents.to(dtype), times, text)
    output.backward(torch.ones_like(output))


def _states(step: Step, batch: Batch) -> None:
    """Text encoder forward and backward."""
    with step._autocast():
        states = step.text_states(batch.captions).states
    states.backward(torch.ones_like(states))


def _in_turns(parts: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """CPU seconds of each part, on a GPU wall seconds; a first round isn't counted."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    found: dict[str, list[float]] = {name: [] for name in parts}
    for n in range(rounds + 1):
        for name, part in parts.items():
            began = clock()
            part()
            if n:
                found[name].append(clock() - began)
    return found
