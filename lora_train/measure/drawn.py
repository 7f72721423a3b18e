"""The subject in drawn pictures, and who tells whether it is there: the model itself.

A picture is noised and the noise predicted twice, at the prompt that asks for the subject: by the model with the LoRAs,
1 everywhere, and by the checkpoint alone. By how much the LoRAs do it better says whether the picture shows what they
were trained on (a diffusion classifier: Li et al. 2023, arXiv:2303.16203). Held-out errors of single predictions don't
tell that: a subject is there or not, and small errors in the right place decide it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.load import StableDiffusion
from ..settings import TrainSettings
from ..train.noise import Draws, generator
from ..train.objective import Objective
from .cases import Cases, How, plain, run_all
from .dials import Dials
from .effects import Stopped
from .tune import Numbers

_JUDGE = 3  # what draws are for
_TIMES = (400, 500, 600)  # where what is seen is decided; above it is noise, below the same for both
_LEAST = 0.02
_LOWER = 0.25  # this part of the subject's own pictures may be less sure than a picture that counts fully

Watch = Callable[[int, int], None]


@torch.no_grad()
def draw(
    model: StableDiffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    how: How,
    *,
    at_once: int = 8,
    on_run: Watch = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Scaled latents [N, 4, h, w] of one picture a seed, by the model as it stands, as they are before the last step.

    Raises Stopped.
    """
    found = []
    for start in range(0, len(seeds), at_once):
        if stop():
            raise Stopped
        part = prompts[start : start + at_once]
        kept: list[Tensor] = []

        def keep(x_t: Tensor, t: Tensor, kept: list[Tensor] = kept) -> None:
            kept.append(x_t.float().cpu())

        run_all(model, part, seeds[start : start + at_once], how, keep)
        found.append(kept[-1])
        on_run(min(start + at_once, len(seeds)), len(seeds))
    return torch.cat(found)


class Judge:
    """Tells how surely latents show the subject: 0 not at all … 1 as surely as the subject's own pictures."""

    def __init__(
        self,
        model: StableDiffusion,
        dials: Dials,
        how: How,
        prompt: str,
        flat: Numbers,
        *,
        seed: int = 1,
        at_once: int = 8,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._model, self._dials, self._how, self._prompt, self._flat = model, dials, how, prompt, flat
        self._seed, self._at_once, self._stop = seed, at_once, stop
        self._objective = Objective(TrainSettings(v_parameterization=how.v_prediction), torch.device("cpu"))
        self._none, self._full = 0.0, 1.0

    def calibrate(self, own: Sequence[Tensor], others: Tensor) -> None:
        """own: scaled latents of pictures of the subject; others: of the same prompt by the checkpoint alone."""
        sure = torch.cat([self.log_odds(one) for one in own])
        self._none = float(sure.mean() + self.log_odds(others).mean()) / 2
        self._full = max(float(sure.quantile(_LOWER)), self._none + 1e-6)

    def __call__(self, latents: Tensor) -> Tensor:
        """[N], 0 … 1."""
        return ((self.log_odds(latents) - self._none) / (self._full - self._none)).clamp(0, 1)

    @torch.no_grad()
    def log_odds(self, latents: Tensor) -> Tensor:
        """[N]: how much smaller the error is with the LoRAs, relative to the checkpoint's, over some timesteps."""
        total = torch.zeros(len(latents))
        for t in _TIMES:
            without = self._errors(latents, t, [{} for _ in self._flat])
            total += 1 - self._errors(latents, t, self._flat) / without
        return total / len(_TIMES)

    def _errors(self, latents: Tensor, t: int, numbers: Numbers) -> Tensor:
        self._dials.turn(numbers)
        noise = torch.randn(latents.shape, generator=generator(self._seed, _JUDGE, t))
        found = []
        for rows in torch.arange(len(latents)).split(self._at_once):
            if self._stop():
                raise Stopped
            times = torch.full((len(rows),), t)
            draws = Draws(noise[rows], torch.zeros(len(rows), 4, 1, 1), times)
            x_t, target = self._objective.noisy(latents[rows], draws)
            cases = Cases(x_t, times, [self._prompt] * len(rows), target, target)
            found.append((plain(self._model, cases, self._how).cpu() - target).square().mean((1, 2, 3)))
        return torch.cat(found)


@dataclass(frozen=True)
class Try:
    """Numbers, how surely each of some pictures shows the subject [N], and how far neutral predictions move."""

    numbers: Numbers
    shown: Tensor
    drift: float

    @property
    def subject(self) -> float:
        return max(float(self.shown.mean()), _LEAST)


def choose(tries: Sequence[Try], flat: Try, weaker: Try, strength: float, keep: float) -> Try:
    """The one of `tries` that is better than `flat` at both goals by most; else the best compromise.

    Both gains count in the strength of the whole that would change as much, which `weaker`, everything at `strength`
    below 1, tells; keep weighs them (0 the subject alone, 1 the rest alone).
    """
    least, far = 0.05, -math.log(strength)
    steep = max(math.log(flat.subject / weaker.subject) / far, least)
    costs = max(math.log(flat.drift / max(weaker.drift, 1e-12)) / far, least)

    def gains(one: Try) -> tuple[float, float]:
        return math.log(one.subject / flat.subject) / steep, math.log(flat.drift / max(one.drift, 1e-12)) / costs

    def both(one: Try) -> float:
        subject, rest = gains(one)
        return min(subject / max(1 - keep, least), rest / max(keep, least))

    def together(one: Try) -> float:
        subject, rest = gains(one)
        return (1 - keep) * subject + keep * rest

    best = max(tries, key=both)
    return best if both(best) > 0 else max(tries, key=together)
