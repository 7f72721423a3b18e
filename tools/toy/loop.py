"""The training loop of all stages: AdamW, a cosine schedule, averaged weights, and a state to resume from.

Under torchrun each process takes its own batches and the gradients are averaged. On a CPU whose cores are shared with
other work two processes of one thread are much quicker than one of two threads, which wait for each other all the time.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WARMUP = 50
SAVE_SECONDS = 120


def learning_rate(step: int, steps: int) -> float:
    """A linear rise over the first steps, then half a cosine down to a fiftieth."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1))
    return min((step + 1) / WARMUP, 1) * (0.02 + 0.98 * cosine)


def save_atomically(state: object, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def join_processes() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return distributed.get_rank(), distributed.get_world_size()


def share(batch: int) -> int:
    """How many of a batch's pictures this process takes."""
    return batch // join_processes()[1]


def average_gradients(module: nn.Module, processes: int) -> None:
    gradients = [parameter.grad for parameter in module.parameters()]
    total = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(total)
    for gradient, part in zip(gradients, total.split([part.numel() for part in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient) / processes)


def fit(
    module: nn.Module, loss_of: Callable[[int], Tensor], steps: int, lr: float, path: Path, decay: float = 0.995
) -> None:
    """Trains `module` in place and leaves the averaged weights in it.

    `loss_of(step)` finds torch seeded for the step and must draw all its chances from there.
    """
    rank, processes = join_processes()
    module.to(DEVICE).train()
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))
    optimizer = torch.optim.AdamW(module.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    parts = {"module": module, "average": average, "optimizer": optimizer, "schedule": schedule}
    start = 0
    if path.exists():
        state = torch.load(path, map_location=DEVICE)
        start = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])

    def save(step: int) -> None:
        save_atomically({name: part.state_dict() for name, part in parts.items()} | {"step": step}, path)

    last_save = time.monotonic()
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=path.stem, mininterval=5, disable=rank > 0)
    for step in bar:
        torch.manual_seed(step * processes + rank)
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        if processes > 1:
            average_gradients(module, processes)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(module)
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        if rank == 0 and time.monotonic() - last_save > SAVE_SECONDS:
            save(step + 1)
            last_save = time.monotonic()
    if rank == 0 and start < steps:
        save(steps)
    module.load_state_dict(average.module.state_dict())
    module.eval().requires_grad_(False)


def load_average(module: nn.Module, path: Path) -> nn.Module:
    """The averaged weights of a finished or running stage."""
    state = torch.load(path, map_location=DEVICE)["average"]
    weights = {key.removeprefix("module."): value for key, value in state.items() if key.startswith("module.")}
    module.load_state_dict(weights)
    return module.to(DEVICE).eval().requires_grad_(False)
