"""Measuring on fixed pictures with fixed noise, so that one epoch's number can be compared with another's.

A step's own loss says little: it hangs on the timestep drawn (1 near t = 0, 0.002 near t = 999) and on the noise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..dataset.pictures import Concept, Dataset, Picture
from ..dataset.source import open_dataset
from ..errors import UserError
from ..settings import TrainSettings
from . import noise
from .batch import Batch
from .noise import Draws

STRATA = 4
"""Parts of [min_timestep, max_timestep); a measurement is one forward pass for each picture and part."""

RISE = 0.02
"""Share by which the held-out loss may rise above its minimum in a candidate epoch."""

_REACH = 3
_FIRST_DRAW = 1 << 40  # counts on from far beyond the last step, so that no measured noise was trained on

Losses = Callable[[Batch, Draws], Tensor]


# Which pictures


def split(dataset: Dataset, settings: TrainSettings) -> tuple[Dataset, Dataset | None]:
    """The pictures to train on, and those held out: a share of each concept, or those of validation_data_dir.

    A picture held out is in no training batch; regularisation pictures are never held out. The choice depends on
    validation_seed (or seed) and the paths alone. Raises UserError where nothing would be left to train on.
    """
    if settings.validation_data_dir:
        return _by_folder(dataset, settings)
    if settings.validation_split:
        return _by_share(dataset, settings)
    return dataset, None


def fixed(dataset: Dataset, settings: TrainSettings) -> Dataset:
    """What is measured of a set: up to max_validation_steps pictures, from all concepts in turn, each once.

    Captions are plain (nothing shuffled or dropped), pictures neither mirrored nor cut at random.
    """
    pools = [_shuffled(concept, settings) for concept in dataset.concepts if not concept.is_reg]
    chosen: dict[Path, Picture] = {}
    for place in range(max(map(len, pools), default=0)):
        for pool in pools:
            if place < len(pool) and len(chosen) < settings.max_validation_steps:
                chosen.setdefault(_identity(pool[place]), pool[place])
    return _only(dataset, set(chosen))


def _by_folder(dataset: Dataset, settings: TrainSettings) -> tuple[Dataset, Dataset]:
    alone = replace(settings, train_data_dir=settings.validation_data_dir, reg_data_dir="", dataset_config="")
    held_out = open_dataset(alone)
    names = {_identity(picture) for concept in held_out.concepts for picture in concept.pictures}
    train = _without(dataset, names)
    if not any(not concept.is_reg for concept in train.concepts):
        raise UserError(
            "it holds every training picture, so none is left to train on",
            where="validation_data_dir",
            remedy="Put pictures there that aren't in the training folder",
        )
    return train, _only(held_out, names)


def _by_share(dataset: Dataset, settings: TrainSettings) -> tuple[Dataset, Dataset]:
    """At least one picture; from each concept its share, by largest remainders, but never a concept's last picture."""
    pools, seen = [], set()
    for concept in dataset.concepts:
        if concept.is_reg:
            continue
        pool = [picture for picture in _shuffled(concept, settings) if _identity(picture) not in seen]
        seen |= {_identity(picture) for picture in pool}
        pools.append(pool)
    total = sum(map(len, pools))
    quotas = [settings.validation_split * len(pool) for pool in pools]
    counts = [min(math.floor(quota), max(0, len(pool) - 1)) for quota, pool in zip(quotas, pools, strict=True)]
    wanted = max(1, round(settings.validation_split * total))
    for index in sorted(range(len(pools)), key=lambda i: (counts[i] - quotas[i], -len(pools[i]))):
        if sum(counts) < wanted and counts[index] < len(pools[index]) - 1:
            counts[index] += 1
    if not sum(counts):
        raise UserError(
            "no folder has two pictures, so none can be held out",
            where="validation_split",
            remedy="Set it to 0, or give pictures to measure with in validation_data_dir",
        )
    names = {_identity(picture) for pool, count in zip(pools, counts, strict=True) for picture in pool[:count]}
    return _without(dataset, names), _only(dataset, names)


def _identity(picture: Picture) -> Path:
    """The file itself, so that one picture under two names or in two concepts is one."""
    return picture.path.resolve()


def _shuffled(concept: Concept, settings: TrainSettings) -> list[Picture]:
    """The concept's pictures in an order that hangs on the seed and the files' names, not on where they lie."""
    seed = settings.seed if settings.validation_seed is None else settings.validation_seed
    pictures = sorted(concept.pictures, key=lambda picture: picture.path.name)
    random.Random(f"{seed} held out {concept.folder.name}").shuffle(pictures)
    return pictures


def _without(dataset: Dataset, names: set[Path]) -> Dataset:
    concepts = (
        concept
        if concept.is_reg
        else replace(concept, pictures=tuple(p for p in concept.pictures if _identity(p) not in names))
        for concept in dataset.concepts
    )
    return replace(dataset, concepts=tuple(concept for concept in concepts if concept.pictures))


def _only(dataset: Dataset, names: set[Path]) -> Dataset:
    """These pictures, each once and plain, in the concepts they came from."""
    concepts, left = [], set(names)
    for concept in dataset.concepts:
        if concept.is_reg:
            continue
        kept = tuple(picture for picture in concept.pictures if _identity(picture) in left)
        left -= {_identity(picture) for picture in kept}
        if kept:
            concepts.append(_plain(replace(concept, pictures=kept, repeats=1)))
    return replace(dataset, concepts=tuple(concepts), warnings=())


def _plain(concept: Concept) -> Concept:
    captions = replace(
        concept.captions,
        shuffle=False,
        dropout_rate=0.0,
        dropout_every_n_epochs=0,
        tag_dropout_rate=0.0,
        token_warmup_step=0,
    )
    return replace(concept, captions=captions, flip=False, random_crop=False)


# Measuring


def neutral(settings: TrainSettings) -> TrainSettings:
    """The settings by which `losses` must work: plain noise and the plain mean square error of each picture.

    Runs with different noise and loss options can be compared then. What the model is (v-prediction, terminal SNR) and
    what is learned of a picture (masks) stays.
    """
    return replace(
        settings,
        noise_offset=0.0,
        noise_offset_random_strength=False,
        adaptive_noise_scale=None,
        multires_noise_iterations=0,
        ip_noise_gamma=None,
        min_snr_gamma=None,
        debiased_estimation_loss=False,
        scale_v_pred_loss_like_noise_pred=False,
        v_pred_like_loss=None,
        loss_type="l2",
    )


class Validation:
    """Measures the training and the held-out pictures, always with the same noise at the same timesteps.

    losses(batch, draws) -> [B] loss of each picture, for `neutral(settings)` and without dropout, which the caller
    switches off. No more batches are used than give max_validation_steps pictures of each set.
    """

    def __init__(
        self, losses: Losses, train: Sequence[Batch], held_out: Sequence[Batch], settings: TrainSettings
    ) -> None:
        self._losses, self._settings = losses, neutral(settings)
        self._seed = settings.seed if settings.validation_seed is None else settings.validation_seed
        self._train = _first(train, settings.max_validation_steps)
        self._held_out = _first(held_out, settings.max_validation_steps)

    @torch.no_grad()
    def measure(self) -> dict[str, float | None]:
        """{"train": mean loss, "held_out": mean loss or None where no pictures are held out}.

        Means over each stratum of timesteps first, then over the strata. No random state is changed.
        """
        with unchanged_randomness():
            train = self._mean(self._train, 0)
            return {"train": train, "held_out": self._mean(self._held_out, 1) if self._held_out else None}

    def _mean(self, batches: Sequence[Batch], which: int) -> float:
        pictures = sum(len(batch.captions) for batch in batches)
        strata: list[list[Tensor]] = [[] for _ in range(STRATA)]
        place = 0
        for batch in batches:
            for stratum, losses in enumerate(strata):
                draws = self._draws(batch, which, place, stratum, pictures)
                weights = torch.ones(len(batch.captions), device=batch.weights.device)
                losses.append(self._losses(replace(batch, weights=weights), draws).float())
            place += len(batch.captions)
        return float(torch.stack([torch.cat(losses).mean() for losses in strata]).mean()) if pictures else math.nan

    def _draws(self, batch: Batch, which: int, place: int, stratum: int, pictures: int) -> Draws:
        index = _FIRST_DRAW + (2 * place + which) * STRATA + stratum
        draws = noise.draw(batch.latents.shape, self._seed, index, self._settings)
        rows = range(place, place + len(batch.captions))
        times = [timestep(row, stratum, pictures, self._settings) for row in rows]
        return replace(draws, timesteps=torch.tensor(times, dtype=torch.int64))


def timestep(picture: int, stratum: int, pictures: int, settings: TrainSettings) -> int:
    """A Latin arrangement: every picture meets every stratum, and all of them together cover each stratum evenly."""
    low, high = settings.min_timestep, settings.max_timestep
    place = (picture + stratum * pictures // STRATA) % pictures
    part = (stratum + (place + 0.5) / pictures) / STRATA
    return min(high - 1, low + math.floor(part * (high - low)))


def _first(batches: Sequence[Batch], pictures: int) -> list[Batch]:
    chosen: list[Batch] = []
    for batch in batches:
        if sum(len(one.captions) for one in chosen) >= pictures:
            break
        chosen.append(batch)
    return chosen


@contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Whatever is drawn inside, Python's, numpy's and torch's states (CUDA's too) are afterwards as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


# Judging


@dataclass(frozen=True)
class Band:
    """Candidate epochs, from 1: the first, the last, and the one of the lowest held-out loss. An estimate."""

    first: int
    last: int
    lowest: int


def candidate_band(held_out: Sequence[float], every: int = 1) -> Band | None:
    """The epochs worth trying, from the held-out losses after epochs every, 2·every, …; None with fewer than three.

    From the minimum to where the loss has risen by more than 2 % of the minimum, at most to three times its epoch: the
    range in which spacepxl found usable files. Always a range: at a curve's end the epoch before belongs to it.
    """
    values = [value if math.isfinite(value) else math.inf for value in held_out]
    if len(values) < 3 or min(values) == math.inf:
        return None
    lowest = values.index(min(values))
    last = lowest
    while last + 1 < min(len(values), _REACH * (lowest + 1)) and values[last + 1] <= values[lowest] * (1 + RISE):
        last += 1
    first = lowest
    if first == last:
        first, last = (first, last + 1) if last + 1 < len(values) else (first - 1, last)
    return Band((first + 1) * every, (last + 1) * every, (lowest + 1) * every)


def has_stalled(held_out: Sequence[float], epochs: int, every: int = 1) -> bool:
    """Whether the held-out loss, measured every `every` epochs, has not been lower for `epochs` epochs."""
    if not held_out:
        return False
    values = [value if math.isfinite(value) else math.inf for value in held_out]
    return (len(values) - 1 - values.index(min(values))) * every >= epochs
