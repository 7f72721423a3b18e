"""What weights are judged on, the same each time: noisy latents with their texts, fixed noises and timesteps.

Two kinds. Of the subject: pictures of it, noise added, where denoising should lead back to the picture. Of everything
else: steps of real runs of the checkpoint alone at prompts that don't name the subject, where the prediction should
stay what it was. Both ask for the prediction as pictures are drawn, with guidance: a LoRA that moves prompt and
negative prompt alike does something else in a picture than in a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dataset.pictures import Dataset
from ..dataset.source import open_dataset
from ..errors import UserError
from ..grid.run import token_length
from ..model.load import StableDiffusion
from ..model.predict import predict
from ..model.sample import sample_many
from ..model.text import TextStates, encode_prompts
from ..settings import TrainSettings
from ..train.batch import Batch
from ..train.data import TrainingData
from ..train.latents import Stopped, cache_latents
from ..train.noise import Draws, generator
from ..train.objective import Objective, alphas_cumprod
from ..train.validation import fixed, neutral, split

_SUBJECT, _STEPS = 1, 2  # what draws are for
_MOST_WEIGHT = 20.0
_LEAST_APART = 4  # pictures


@dataclass(frozen=True)
class How:
    """How the model is asked, in measuring as in drawing. size: of drawn pictures, width and height in pixels."""

    negative_prompt: str = ""
    cfg_scale: float = 7.0
    clip_skip: int = 1
    steps: int = 12
    size: tuple[int, int] = (512, 512)
    v_prediction: bool = False

    @property
    def layer(self) -> int | None:
        """clip_skip as encode_prompts takes it."""
        return self.clip_skip if self.clip_skip > 1 else None


@dataclass(frozen=True)
class Cases:
    """Rows of one shape. x_t [B, 4, h, w], t [B]; texts: B captions; wanted [B, 4, h, w]: of the subject the target of
    denoising, of everything else what the checkpoint alone predicts; alone [B, 4, h, w]: what it predicts, guided;
    sizes [B, 6] for SDXL; mask [B, 1, h, w].
    """

    x_t: Tensor
    t: Tensor
    texts: Sequence[str]
    wanted: Tensor
    alone: Tensor
    sizes: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x_t)


def text_states(model: StableDiffusion, texts: Sequence[str], how: How) -> TextStates:
    """Of each text, every one encoded once; with gradients where they are on."""
    known = list(dict.fromkeys(texts))
    lengths = [token_length(model, text, how.negative_prompt) for text in known]
    states = encode_prompts(model, known, how.layer, max(lengths, key=lambda n: n or 0))
    return states.to(model.device, model.unet.dtype).select([known.index(text) for text in texts])


def picture_weight(t: Tensor, v_prediction: bool) -> Tensor:
    """[B]: what turns the square error of a prediction at t into that of the picture it means, x̂₀, bounded.

    Errors of ε count little where there is much noise, though it is there that a picture is decided.
    """
    abar = alphas_cumprod()[t.long().clamp(0, 999)]
    weight = (1 - abar) if v_prediction else (1 - abar) / abar
    return weight.clamp(max=_MOST_WEIGHT)


def plain(model: StableDiffusion, cases: Cases, how: How) -> Tensor:
    """The prediction, float32."""
    return _ask(model, cases, list(cases.texts), how)


def guided(model: StableDiffusion, cases: Cases, how: How) -> Tensor:
    """ε of the negative prompt + cfg · (ε of the prompt − ε of the negative prompt), float32."""
    if how.cfg_scale == 1:
        return plain(model, cases, how)
    sizes = None if cases.sizes is None else torch.cat([cases.sizes] * 2)
    twice = replace(cases, x_t=torch.cat([cases.x_t] * 2), t=torch.cat([cases.t] * 2), sizes=sizes)
    both = _ask(model, twice, [how.negative_prompt] * len(cases) + list(cases.texts), how)
    negative, positive = both.chunk(2)
    return negative + how.cfg_scale * (positive - negative)


def _ask(model: StableDiffusion, cases: Cases, texts: list[str], how: How) -> Tensor:
    device, dtype = model.device, model.unet.dtype
    sizes = None if cases.sizes is None else cases.sizes.to(device, dtype)
    x_t, t = cases.x_t.to(device, dtype), cases.t.to(device)
    return predict(model, x_t, t, text_states(model, texts, how), sizes).float()


# The subject


def open_pictures(
    folder: str | Path, side: int, most: int, seed: int, batch: int
) -> tuple[Dataset, Dataset | None, TrainSettings]:
    """At most `most` pictures of a training folder, plain, a third of them apart where there are enough; and the
    settings to encode them. Raises UserError.
    """
    settings = neutral(
        TrainSettings(
            train_data_dir=str(folder),
            resolution=(side, side),
            train_batch_size=batch,
            max_validation_steps=most,
            seed=seed,
            max_train_epochs=1,
            validation_split=1 / 3,
        )
    )
    opened = open_dataset(settings)
    if not opened.picture_count:
        raise UserError("there is no picture with a caption", where=folder, remedy="Name the folder you trained on")
    if opened.picture_count < _LEAST_APART:
        return fixed(opened, settings), None, settings
    first, apart = split(opened, settings)
    return fixed(first, settings), fixed(apart, settings) if apart else None, settings


def batches(
    model: StableDiffusion, dataset: Dataset, settings: TrainSettings, **options: Callable[..., Any]
) -> list[Batch]:
    """Every picture once, encoded. options: progress, stop and warn, as cache_latents takes them."""
    latents = cache_latents(model, dataset, settings, **options)
    return [batch for window in TrainingData(latents.dataset, latents, settings).epoch(1) for batch in window]


@torch.no_grad()
def noised(
    model: StableDiffusion, pictures: Sequence[Batch], how: How, rounds: int, seed: int, prompts: Sequence[str] = ()
) -> list[Cases]:
    """Each picture `rounds` times with its own noise, at timesteps that cover 0 … 999 evenly, by the model as it
    stands, which must be the checkpoint alone. With `prompts` these in turn stand in place of the captions.
    """
    objective = Objective(TrainSettings(v_parameterization=how.v_prediction), torch.device("cpu"))
    total = rounds * sum(len(batch.captions) for batch in pictures)
    order = torch.randperm(total, generator=generator(seed, _SUBJECT)).tolist()
    found = []
    for turn in range(rounds):
        for number, batch in enumerate(pictures):
            times = torch.tensor([int((order.pop() + 0.5) * 1000 / total) for _ in batch.captions])
            noise = torch.randn(batch.latents.shape, generator=generator(seed, _SUBJECT, turn, number))
            draws = Draws(noise, torch.zeros(*noise.shape[:2], 1, 1), times)
            x_t, target = objective.noisy(batch.latents.float() * model.scale_factor, draws)
            texts = batch.captions
            if prompts:
                texts = [prompts[(turn + n) % len(prompts)] for n in range(len(texts))]
            cases = Cases(x_t, times, list(texts), target, target, batch.sizes, batch.masks)
            found.append(replace(cases, alone=guided(model, cases, how).cpu()))
    return found


# Everything else


def run_all(
    model: StableDiffusion,
    prompts: Sequence[str],
    seeds: Sequence[int],
    how: How,
    on_step: Callable[[Tensor, Tensor], None],
) -> None:
    """A run of each prompt with its seed, all at once; on_step as sample_many has it."""
    sample_many(
        model,
        prompts,
        seeds,
        how.negative_prompt,
        steps=how.steps,
        cfg_scale=how.cfg_scale,
        sampler="DDIM",
        width=how.size[0],
        height=how.size[1],
        clip_skip=how.layer,
        max_token_length=max((token_length(model, p, how.negative_prompt) for p in prompts), key=lambda n: n or 0),
        prediction_type="v_prediction" if how.v_prediction else "epsilon",
        on_step=on_step,
    )


@torch.no_grad()
def steps_of_runs(
    model: StableDiffusion,
    prompts: Sequence[str],
    how: How,
    each: int,
    seed: int,
    *,
    at_once: int = 8,
    on_run: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Cases]:
    """`each` noisy latents of one run a prompt by the model as it stands, which must be the checkpoint alone.

    on_run(done, total) counts prompts.
    """
    found: list[Cases] = []
    for start in range(0, len(prompts), at_once):
        part = list(prompts[start : start + at_once])
        seeds = [seed_of(seed, start + n) for n in range(len(part))]
        if stop():
            raise Stopped
        kept: list[tuple[Tensor, Tensor]] = []

        def keep(x_t: Tensor, t: Tensor, kept: list[tuple[Tensor, Tensor]] = kept) -> None:
            kept.append((x_t.cpu().clone(), t.cpu()))

        run_all(model, part, seeds, how, keep)
        for turn in range(each):
            chosen = [(turn * len(kept) // each + n) % len(kept) for n in range(len(part))]
            x_t = torch.stack([kept[step][0][n] for n, step in enumerate(chosen)])
            t = torch.stack([kept[step][1] for step in chosen])
            cases = Cases(x_t, t, part, x_t, x_t)
            alone = guided(model, cases, how).cpu()
            found.append(replace(cases, wanted=alone, alone=alone))
        on_run(min(start + at_once, len(prompts)), len(prompts))
    return found


def seed_of(seed: int, number: int) -> int:
    """Of the picture with this number."""
    return int(torch.randint(1 << 31, (1,), generator=generator(seed, _STEPS, number)))
