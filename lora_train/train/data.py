"""The order of a run: which pictures and captions make the batches of each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from random import Random

import torch

from ..dataset import buckets, captions
from ..dataset.pictures import Dataset, Use
from ..plan.steps import length
from ..settings import TrainSettings
from .batch import Batch
from .latents import Latents, Shot, view_of
from .text_cache import TextCache


@dataclass(frozen=True)
class _Part:
    """This process's rows of one whole batch, before the latents are fetched."""

    index: int
    first: int
    of: int
    shots: list[Shot]
    captions: list[str]
    weights: list[float]


class TrainingData:
    """Batches of latents. Every epoch has its own order, which depends on the seed and the epoch alone.

    A batch never mixes sizes; over all processes it has batch_size × `processes` pictures, the last of a size maybe
    fewer. `text`, where given, answers with the captions' states.
    """

    def __init__(
        self,
        dataset: Dataset,
        latents: Latents,
        settings: TrainSettings,
        *,
        text: TextCache | None = None,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        self.latents, self.settings, self.text = latents, settings, text
        self.processes, self.rank = processes, rank
        self._buckets = [
            ([use for use in bucket.uses for _ in range(use.repeats)], bucket.batch_size * processes)
            for bucket in buckets.fill(dataset)
        ]
        self._max_steps = length(settings, self.steps_per_epoch)[0]

    @property
    def batches_per_epoch(self) -> int:
        """Micro-batches of one epoch; the last one of each size may be short, and counts."""
        return sum(math.ceil(len(uses) / size) for uses, size in self._buckets)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last one may have fewer micro-batches."""
        return math.ceil(self.batches_per_epoch / self.settings.gradient_accumulation_steps)

    def epoch(self, number: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """The steps of epoch `number` (from 1), each as its micro-batches; those before `first_step` aren't loaded."""
        a_step = self.settings.gradient_accumulation_steps
        window: list[Batch] = []
        for part, following in pairwise(chain(self._parts(number, first_step * a_step), [None])):
            assert part is not None
            window.append(self._batch(part, following.shots if following else ()))
            if len(window) == a_step or following is None:
                yield window
                window = []

    def _parts(self, number: int, skipped: int) -> Iterator[_Part | None]:
        begin = 0
        for n, uses in enumerate(self._order(number)):
            if n >= skipped:
                yield self._part(number, n, begin, uses)
            begin += len(uses)

    def _order(self, number: int) -> list[list[Use]]:
        """The whole batches of an epoch."""
        order = Random(f"{self.settings.seed} {number}")
        batches = []
        for uses, size in self._buckets:
            shuffled = list(uses)
            order.shuffle(shuffled)
            batches += [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
        if len(self._buckets) > 1:
            order.shuffle(batches)
        return batches

    def _part(self, number: int, n: int, begin: int, uses: Sequence[Use]) -> _Part:
        """Batch `n` of an epoch, whose pictures before it are `begin`; a process without a picture repeats one, which
        then weighs nothing."""
        first, last = (len(uses) * rank // self.processes for rank in (self.rank, self.rank + 1))
        step = (number - 1) * self.steps_per_epoch + n // self.settings.gradient_accumulation_steps
        shots, texts, weights = [], [], []
        for row in range(first, max(last, first + 1)):
            concept, picture = uses[row].concept, uses[row].picture
            chance = Random(f"{self.settings.seed} {number} {begin + row}")
            flipped = concept.flip and chance.random() < 0.5
            shots.append(Shot(view_of(concept, picture), flipped, concept.random_crop, (number, begin + row)))
            texts.append(
                captions.process(
                    picture.caption, concept.captions, chance, epoch=number, step=step, max_steps=self._max_steps
                )
            )
            weights.append((self.settings.prior_loss_weight if concept.is_reg else 1.0) if row < last else 0.0)
        index = (number - 1) * self.batches_per_epoch + n
        return _Part(index, first, len(uses), shots, texts, weights)

    def _batch(self, part: _Part, following: Sequence[Shot]) -> Batch:
        rows = self.latents.rows(part.shots, following)
        return Batch(
            latents=rows.latents,
            captions=part.captions,
            weights=torch.tensor(part.weights) * rows.sound,
            masks=rows.masks,
            sizes=rows.sizes,
            text=self.text.rows(part.captions) if self.text else None,
            index=part.index,
            first=part.first,
            of=part.of,
        )
