"""What weights are judged on, the same each time: noisy latents with their texts, fixed noises and timesteps.

Two kinds. Of the subject: pictures with their captions, noise added, where the loss of denoising says how well the
subject is known. Of everything else: steps of real runs of the checkpoint alone at prompts that don't name the subject,
where the guided prediction should stay what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from ..train.latents import cache_latents
from ..train.noise import Draws, generator
from ..train.objective import Objective
from ..train.validation import fixed, neutral

_SUBJECT, _STEPS = 1, 2  # what draws are for


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
    denoising, of everything else what the checkpoint alone predicts (guided); sizes [B, 6] for SDXL; mask [B, 1, h, w].
    """

    x_t: Tensor
    t: Tensor
    texts: Sequence[str]
    wanted: Tensor
    sizes: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x_t)

    def rows(self, chosen: Sequence[int]) -> Cases:
        """Those of these places."""
        index = torch.tensor(list(chosen))
        sizes, mask = (None if one is None else one[index] for one in (self.sizes, self.mask))
        return Cases(self.x_t[index], self.t[index], [self.texts[n] for n in chosen], self.wanted[index], sizes, mask)

    def parts(self, size: int) -> Iterator[Cases]:
        """In pieces of at most `size` rows."""
        for start in range(0, len(self), size):
            yield self.rows(range(start, min(start + size, len(self))))


def text_states(model: StableDiffusion, texts: Sequence[str], how: How) -> TextStates:
    """Of each text, every one encoded once; with gradients where they are on."""
    known = list(dict.fromkeys(texts))
    lengths = [token_length(model, text, how.negative_prompt) for text in known]
    states = encode_prompts(model, known, how.layer, max(lengths, key=lambda n: n or 0))
    return states.to(model.device, model.unet.dtype).select([known.index(text) for text in texts])


def plain(model: StableDiffusion, cases: Cases, how: How) -> Tensor:
    """The prediction, float32."""
    return _ask(model, cases, list(cases.texts), how)


def guided(model: StableDiffusion, cases: Cases, how: How) -> Tensor:
    """ε of the negative prompt + cfg · (ε of the prompt − ε of the negative prompt), float32."""
    if how.cfg_scale == 1:
        return plain(model, cases, how)
    twice = replace(cases, x_t=torch.cat([cases.x_t] * 2), t=torch.cat([cases.t] * 2))
    both = _ask(model, twice, [how.negative_prompt] * len(cases) + list(cases.texts), how)
    negative, positive = both.chunk(2)
    return negative + how.cfg_scale * (positive - negative)


def _ask(model: StableDiffusion, cases: Cases, texts: list[str], how: How) -> Tensor:
    device, dtype = model.device, model.unet.dtype
    sizes = None if cases.sizes is None else cases.sizes.to(device, dtype)
    x_t, t = cases.x_t.to(device, dtype), cases.t.to(device)
    return predict(model, x_t, t, text_states(model, texts, how), sizes).float()


# The subject


def open_pictures(folder: str | Path, side: int, most: int, seed: int, batch: int) -> tuple[Dataset, TrainSettings]:
    """At most `most` pictures of a training folder, plain, and the settings to encode them. Raises UserError."""
    settings = neutral(
        TrainSettings(
            train_data_dir=str(folder),
            resolution=(side, side),
            train_batch_size=batch,
            max_validation_steps=most,
            seed=seed,
            max_train_epochs=1,
        )
    )
    dataset = fixed(open_dataset(settings), settings)
    if not dataset.picture_count:
        raise UserError("there is no picture with a caption", where=folder, remedy="Name the folder you trained on")
    return dataset, settings


def batches(
    model: StableDiffusion, dataset: Dataset, settings: TrainSettings, **options: Callable[..., Any]
) -> list[Batch]:
    """Every picture once, encoded. options: progress, stop and warn, as cache_latents takes them."""
    latents = cache_latents(model, dataset, settings, **options)  # type: ignore[arg-type]
    return [batch for window in TrainingData(latents.dataset, latents, settings).epoch(1) for batch in window]


def noised(
    model: StableDiffusion, pictures: Sequence[Batch], rounds: int, seed: int, *, v_prediction: bool = False
) -> list[Cases]:
    """Each picture `rounds` times with its own noise, at timesteps that cover 0 … 999 evenly."""
    objective = Objective(TrainSettings(v_parameterization=v_prediction), torch.device("cpu"))
    total = rounds * sum(len(batch.captions) for batch in pictures)
    order = torch.randperm(total, generator=generator(seed, _SUBJECT)).tolist()
    found = []
    for turn in range(rounds):
        for number, batch in enumerate(pictures):
            its = [order.pop() for _ in batch.captions]
            times = torch.tensor([int((place + 0.5) * 1000 / total) for place in its])
            noise = torch.randn(batch.latents.shape, generator=generator(seed, _SUBJECT, turn, number))
            draws = Draws(noise, torch.zeros(*noise.shape[:2], 1, 1), times)
            x_t, target = objective.noisy(batch.latents.float() * model.scale_factor, draws)
            found.append(Cases(x_t, times, batch.captions, target, batch.sizes, batch.masks))
    return found


# Everything else


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
) -> list[Cases]:
    """`each` noisy latents of one run a prompt by the model as it stands, which must be the checkpoint alone.

    wanted is what it predicts there. on_run(done, total) counts prompts.
    """
    found: list[Cases] = []
    for start in range(0, len(prompts), at_once):
        part = list(prompts[start : start + at_once])
        seeds = [
            int(torch.randint(1 << 31, (1,), generator=generator(seed, _STEPS, start + n))) for n in range(len(part))
        ]
        kept: list[tuple[Tensor, Tensor]] = []
        sample_many(
            model,
            part,
            seeds,
            how.negative_prompt,
            steps=how.steps,
            cfg_scale=how.cfg_scale,
            sampler="DDIM",
            width=how.size[0],
            height=how.size[1],
            clip_skip=how.layer,
            max_token_length=max((token_length(model, p, how.negative_prompt) for p in part), key=lambda n: n or 0),
            prediction_type="v_prediction" if how.v_prediction else "epsilon",
            on_step=lambda x_t, t, kept=kept: kept.append((x_t.cpu().clone(), t.cpu())),  # type: ignore[misc]
        )
        for turn in range(each):
            chosen = [(turn * len(kept) // each + n) % len(kept) for n in range(len(part))]
            x_t = torch.stack([kept[step][0][n] for n, step in enumerate(chosen)])
            t = torch.stack([kept[step][1] for step in chosen])
            cases = Cases(x_t, t, part, x_t)
            found.append(replace(cases, wanted=guided(model, cases, how).cpu()))
        on_run(min(start + at_once, len(prompts)), len(prompts))
    return found
