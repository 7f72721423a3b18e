"""What each block of a mix does to the noise prediction in one real run: a number, and where in the picture.

The run's own noisy latents at a few timesteps are kept; there the prediction is made once with the mix as it is and
once for every block without it. 17 blocks at 3 timesteps are 51 calls of the UNet, where a picture for each block
would take 17 × steps × 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..blocks.families import BASE
from ..blocks.mix import Scene
from ..grid.run import token_length
from ..model.load import StableDiffusion
from ..model.predict import predict
from ..model.sample import check, sample_many
from ..model.text import TextStates, encode_prompts
from ..train.latents import Stopped
from .dials import Dials, Mixed, Weights

__all__ = ["Effect", "Effects", "Run", "Stopped", "measure"]

TIMESTEPS = (800, 500, 200)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Run(Scene):
    """The picture whose prediction is looked at: of the first prompt, drawn once for each seed."""

    prediction_type: str = "epsilon"


@dataclass(frozen=True)
class Effect:
    """One block of the mix (or of its LoRA number `lora`).

    effect: ‖ε − ε without it‖ / ‖ε‖ over all timesteps and seeds; by_timestep: the same at each; was_off: the block is
    at 0 in the mix, and was measured by turning it to 1; field [h, w]: |Δε| by place in the first seed's picture, in
    the latents' size.
    """

    block: str
    effect: float
    by_timestep: tuple[float, ...]
    modules: int
    field: NDArray[np.float32]
    lora: int | None = None
    was_off: bool = False


@dataclass(frozen=True)
class Effects:
    """effects: of the blocks, in their order; whole: the same number for the whole mix against the checkpoint alone.

    timesteps: those of the run that were nearest to what was asked for; pictures: one a seed, with the mix; calls: of
    the UNet, besides drawing these pictures.
    """

    effects: list[Effect]
    whole: float
    timesteps: tuple[float, ...]
    pictures: list[Image.Image] = field(repr=False)
    calls: int = 0

    def values(self) -> dict[str, Any]:
        """For JSON; without the maps. share: of the sum of the squares of all blocks."""
        total = sum(one.effect**2 for one in self.effects if one.lora is None) or 1.0
        return {
            "whole": self.whole,
            "timesteps": list(self.timesteps),
            "calls": self.calls,
            "blocks": [_values(one, total) for one in self.effects if one.lora is None],
            "by_lora": [_values(one, total) for one in self.effects if one.lora is not None],
        }


def measure(
    model: StableDiffusion,
    mix: Sequence[Mixed],
    weights: Sequence[Weights],
    run: Run,
    *,
    timesteps: Sequence[int] = TIMESTEPS,
    each: bool = False,
    progress: Progress = lambda done, total, what: None,
    stop: Callable[[], bool] = lambda: False,
) -> Effects:
    """weights: block weights of each LoRA; each: the blocks of each LoRA of several on their own, too.

    progress(done, total, what). Raises Stopped, and UserError for what can't be drawn or loaded.
    """
    check(run.sampler, run.steps, run.width, run.height)
    dials = Dials(model, mix)
    try:
        dials.turn(weights)
        return _Measuring(model, dials, weights, run, timesteps, progress, stop).effects(each and len(mix) > 1)
    finally:
        dials.remove()


class _Measuring:
    def __init__(
        self,
        model: StableDiffusion,
        dials: Dials,
        weights: Sequence[Weights],
        run: Run,
        timesteps: Sequence[int],
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self.model, self.dials, self.weights, self.run = model, dials, weights, run
        self.wanted, self.progress, self.stop = timesteps, progress, stop
        self.calls = 0

    @torch.no_grad()
    def effects(self, each: bool) -> Effects:
        wanted: list[tuple[str, int | None]] = [(block, None) for block in self._present()]
        if each:
            wanted += [(block, n) for n, present in enumerate(self.dials.present) for block in present]
        total = self.run.steps + len(wanted) + 2
        self.progress(0, total, "drawing the picture")
        pictures, kept = self._draw(total)
        at = tuple(float(t) for t, _ in kept)
        text = self._text()
        base = self._predict(kept, text)
        size = [float(one.norm()) for one in base]
        found = []
        for n, (block, lora) in enumerate(wanted):
            self._say(self.run.steps + 1 + n, total, f"block {block}")
            found.append(self._one(block, lora, kept, text, base, size))
        self._say(total - 1, total, "the whole mix")
        self.dials.turn([{}] * len(self.weights))
        whole = _relative([one - bare for one, bare in zip(base, self._predict(kept, self._text()), strict=True)], size)
        self.progress(total, total, "done")
        return Effects(found, whole, at, pictures, self.calls)

    def _present(self) -> list[str]:
        return [block for block in self.dials.blocks if any(block in one for one in self.dials.present)]

    def _one(
        self,
        block: str,
        lora: int | None,
        kept: list[tuple[Tensor, Tensor]],
        text: TextStates,
        base: list[Tensor],
        size: list[float],
    ) -> Effect:
        chosen = range(len(self.weights)) if lora is None else (lora,)
        was_off = not any(self.weights[n].get(block, 0.0) for n in chosen)
        turned = [{**its, block: 1.0 if was_off else 0.0} if n in chosen else its for n, its in enumerate(self.weights)]
        self.dials.turn(turned)
        changed = self._predict(kept, self._text() if block == BASE else text)
        moved = [one - other for one, other in zip(base, changed, strict=True)]
        self.dials.turn(self.weights)
        modules = sum(self.dials.present[n].get(block, 0) for n in chosen)
        by_timestep = tuple(_relative([d], [s]) for d, s in zip(moved, size, strict=True))
        return Effect(block, _relative(moved, size), by_timestep, modules, _field(moved, base), lora, was_off)

    def _draw(self, total: int) -> tuple[list[Image.Image], list[tuple[Tensor, Tensor]]]:
        """The pictures, and (t, x_t [seeds, 4, h, w]) nearest to each timestep that is wanted."""
        run, nearest = self.run, dict[int, tuple[Tensor, Tensor]]()
        step = 0

        def keep(x_t: Tensor, t: Tensor) -> None:
            nonlocal step
            for wanted in self.wanted:
                if wanted not in nearest or abs(float(t) - wanted) < abs(float(nearest[wanted][0]) - wanted):
                    nearest[wanted] = t, x_t.clone()
            self._say(step, total, "drawing the picture")
            step += 1

        pictures = sample_many(
            self.model,
            [run.prompt] * len(run.seeds),
            list(run.seeds),
            run.negative_prompt,
            steps=run.steps,
            cfg_scale=run.cfg_scale,
            sampler=run.sampler,
            width=run.width,
            height=run.height,
            clip_skip=self._clip_skip,
            max_token_length=token_length(self.model, run.prompt, run.negative_prompt),
            prediction_type=run.prediction_type,
            on_step=keep,
        )
        return pictures, [nearest[wanted] for wanted in self.wanted]

    @property
    def _clip_skip(self) -> int | None:
        return self.run.clip_skip if self.run.clip_skip > 1 else None

    def _text(self) -> TextStates:
        """Of the prompt, with the text encoders as they stand; once for each seed."""
        length = token_length(self.model, self.run.prompt, self.run.negative_prompt)
        states = encode_prompts(self.model, [self.run.prompt], self._clip_skip, length, weighted=True, keep_mean=True)
        return states.to(self.model.device, self.model.unet.dtype).select([0] * len(self.run.seeds))

    def _predict(self, kept: list[tuple[Tensor, Tensor]], text: TextStates) -> list[Tensor]:
        """ε at each kept timestep, [seeds, 4, h, w], float32."""
        predictions = []
        for t, x_t in kept:
            if self.stop():
                raise Stopped
            predictions.append(predict(self.model, x_t, t.to(x_t.device).expand(len(x_t)), text).float())
            self.calls += 1
        return predictions

    def _say(self, done: int, total: int, what: str) -> None:
        if self.stop():
            raise Stopped
        self.progress(done, total, what)


def _relative(moved: Sequence[Tensor], size: Sequence[float]) -> float:
    """Root mean square over the timesteps of ‖Δε‖ / ‖ε‖."""
    return math.sqrt(sum((float(d.norm()) / s) ** 2 for d, s in zip(moved, size, strict=True)) / len(size))


def _field(moved: Sequence[Tensor], base: Sequence[Tensor]) -> NDArray[np.float32]:
    """Of the first seed, root mean square over channels and timesteps, relative to the prediction's own size."""
    parts = [(d[0].square().mean(0) / e[0].square().mean()) for d, e in zip(moved, base, strict=True)]
    return torch.stack(parts).mean(0).sqrt().cpu().numpy()


def _values(one: Effect, total: float) -> dict[str, Any]:
    told = {name: getattr(one, name) for name in ("block", "effect", "modules", "was_off")}
    more = {} if one.lora is None else {"lora": one.lora}
    return {**told, **more, "share": one.effect**2 / total, "by_timestep": list(one.by_timestep)}
