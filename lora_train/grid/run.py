"""Draw a grid's cells on a loaded checkpoint: LoRA by LoRA, each at every weight, the prompts together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from PIL import Image

from ..errors import UserError
from ..model.load import StableDiffusion
from ..model.sample import check, sample_many
from ..network.kohya import open_lora, read_lora
from ..network.lora import LoraNetwork
from .plan import Grid
from .sheet import Cell, OnCell, Sheet, page

Switch = Callable[[str], LoraNetwork]

_PIXELS_AT_ONCE = 4 * 512 * 512
_TOKEN_LENGTHS = (None, 150, 225)


def make(model: StableDiffusion, grid: Grid, on_cell: OnCell = lambda done, total, cell: None) -> Sheet:
    """The labelled sheets and their cells; calls on_cell(done, total, cell) after each. The model is left as it was.

    A weight of 0 is the checkpoint's own picture, drawn without any adapter. Raises UserError naming the file at fault,
    before the first cell is drawn; a file that fails later leaves its row empty and is told in the sheet's errors.
    """
    kinds = _check(grid)
    base = pictures(model, grid) if 0 in grid.weights else []
    rows: list[list[list[Image.Image | None]]] = []  # LoRA, weight, prompt
    errors: list[str] = []
    done = 0
    with attaching(model) as attach:
        for lora in reversed(kinds):  # the first one stays: to put layers on a model takes as long as a small picture
            attach(lora)
        for row, lora in enumerate(grid.loras):
            rows.append([])
            try:
                network = attach(lora)
            except UserError as error:
                errors.append(str(error))
                network = None
            for column, weight in enumerate(grid.weights):
                rows[-1].append(_cells(model, grid, network, weight, base))
                for number, picture in enumerate(rows[-1][-1]):
                    done += 1
                    on_cell(done, grid.count, Cell(number, row, column, picture) if picture else None)
    if len(errors) == len(grid.loras):
        raise UserError(errors[0])
    pages = [[[cells[number] for cells in row] for row in rows] for number in range(len(grid.prompts))]
    return Sheet(tuple(page(grid, n, cells, model.path.stem) for n, cells in enumerate(pages)), tuple(errors))


def placement() -> tuple[torch.dtype, str]:
    """Number type and device for drawing: float16 on a GPU, float32 on a CPU."""
    return (torch.float16, "cuda") if torch.cuda.is_available() else (torch.float32, "cpu")


def pictures(model: StableDiffusion, grid: Grid) -> list[Image.Image]:
    """What the model as it stands draws for each of a grid's prompts, several at a time where they are small.

    In company a picture may differ by a level of 255 here and there from the same one drawn alone.
    """
    at_once = max(1, _PIXELS_AT_ONCE // (grid.width * grid.height))
    lengths = [token_length(model, prompt, grid.negative_prompt) for prompt in grid.prompts]
    drawn: dict[int, Image.Image] = {}
    for length in dict.fromkeys(lengths):
        alike = [number for number, its in enumerate(lengths) if its == length]
        for start in range(0, len(alike), at_once):
            part = alike[start : start + at_once]
            made = sample_many(
                model,
                [grid.prompts[number] for number in part],
                [grid.seed] * len(part),
                grid.negative_prompt,
                steps=grid.steps,
                cfg_scale=grid.cfg_scale,
                sampler=grid.sampler,
                width=grid.width,
                height=grid.height,
                clip_skip=grid.clip_skip,
                max_token_length=length,
            )
            drawn |= dict(zip(part, made, strict=True))
    return [drawn[number] for number in range(len(grid.prompts))]


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


def _cells(
    model: StableDiffusion, grid: Grid, network: LoraNetwork | None, weight: float, base: list[Image.Image]
) -> list[Image.Image | None]:
    """A cell for each page; `base` are those without a LoRA."""
    if weight == 0:
        return [picture.copy() for picture in base]
    if network is None:
        return [None] * len(grid.prompts)
    network.set_weight(weight, weight)
    return list(pictures(model, grid))


def token_length(model: StableDiffusion, prompt: str, negative_prompt: str) -> int | None:
    """How many tokens must be read so that no word is lost, as sample_many takes it; 225 at most."""
    count = max(len(model.tokenizer(text).input_ids) for text in (prompt, negative_prompt)) - 2
    return next((length for length in _TOKEN_LENGTHS if count <= (length or 75)), _TOKEN_LENGTHS[-1])


def _check(grid: Grid) -> list[str]:
    """Everything that can be known wrong without the model. Returns one file of each kind: those of equal tensors."""
    for name, remedy in (("loras", ""), ("weights", "Give numbers such as 0.5,0.8,1"), ("prompts", "Give one")):
        if not getattr(grid, name):
            raise UserError(f"a grid needs at least one of its {name}", where=name, remedy=remedy)
    check(grid.sampler, grid.steps, grid.width, grid.height)
    kinds: dict[frozenset[tuple[str, tuple[int, ...]]], str] = {}
    for lora in grid.loras:
        with open_lora(lora) as file:
            kinds.setdefault(frozenset(file.shapes.items()), lora)
    return list(kinds.values())
