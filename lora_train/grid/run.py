"""Draw a grid's cells on a loaded checkpoint: one LoRA file after another, every weight of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

from ..errors import UserError
from ..model.load import StableDiffusion
from ..model.sample import check, sample
from ..network.kohya import read_lora
from ..network.lora import LoraNetwork
from .plan import Grid
from .sheet import Sheet, draw, title

OnCell = Callable[[int, int], None]
Switch = Callable[[str], LoraNetwork]


def make(model: StableDiffusion, grid: Grid, on_cell: OnCell = lambda done, total: None) -> Sheet:
    """The labelled sheet and its cells; calls on_cell(done, total) after each cell. The model is left as it was.

    A weight of 0 is the checkpoint's own picture, drawn without any adapter. Raises UserError naming the file at fault,
    before the first cell is drawn.
    """
    _check(grid)
    total = len(grid.loras) * len(grid.weights)
    with attaching(model) as attach:
        for lora in grid.loras:
            attach(lora)
    base = picture(model, grid) if 0 in grid.weights else None
    rows: list[tuple[Image.Image, ...]] = []
    with attaching(model) as attach:
        for lora in grid.loras:
            network, row = attach(lora), []
            for weight in grid.weights:
                row.append(base.copy() if base and weight == 0 else _weighted(model, network, weight, grid))
                on_cell(len(rows) * len(grid.weights) + len(row), total)
            rows.append(tuple(row))
    return Sheet(draw(grid, rows, title(grid, model.path.stem)), tuple(rows))


def placement() -> tuple[torch.dtype, str]:
    """Number type and device for drawing: float16 on a GPU, float32 on a CPU."""
    return (torch.float16, "cuda") if torch.cuda.is_available() else (torch.float32, "cpu")


def picture(model: StableDiffusion, grid: Grid) -> Image.Image:
    """What the model as it stands draws for a grid's prompt and seed."""
    return sample(
        model,
        grid.prompt,
        grid.negative_prompt,
        seed=grid.seed,
        steps=grid.steps,
        cfg_scale=grid.cfg_scale,
        sampler=grid.sampler,
        width=grid.width,
        height=grid.height,
        clip_skip=grid.clip_skip,
    )


@contextmanager
def attaching(model: StableDiffusion) -> Iterator[Switch]:
    """A function that puts one LoRA file on the model in place of the last; at the end the model is bare again.

    Files of the same modules and ranks share their layers; raises UserError naming a file that doesn't fit.
    """
    network: LoraNetwork | None = None

    def attach(lora: str) -> LoraNetwork:
        nonlocal network
        state, _ = read_lora(lora)
        if network and network.fits(state):
            network.load(state)
            return network
        if network:
            network.remove()
            network = None
        try:
            network = LoraNetwork.from_state(model, state)
        except UserError as error:
            raise UserError(error.what, where=error.where or lora, remedy=error.remedy) from error
        return network

    try:
        yield attach
    finally:
        if network:
            network.remove()


def _weighted(model: StableDiffusion, network: LoraNetwork, weight: float, grid: Grid) -> Image.Image:
    network.set_weight(weight, weight)
    return picture(model, grid)


def _check(grid: Grid) -> None:
    """Everything that can be known wrong before a model works on it."""
    if not grid.loras:
        raise UserError("a grid needs at least one LoRA file", where="loras")
    if not grid.weights:
        raise UserError("a grid needs at least one weight", where="weights", remedy="Give numbers such as 0.5,0.8,1")
    check(grid.sampler, grid.steps, grid.width, grid.height)
    missing = next((lora for lora in grid.loras if not Path(lora).is_file()), None)
    if missing:
        raise UserError("there is no such LoRA file", where=missing, remedy="Check the folder and the name")
