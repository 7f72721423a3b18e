"""The order of a run: which pictures and captions make the batches of each epoch."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import torch
from torch import Tensor

from ..dataset import captions
from ..dataset.folders import Dataset
from ..settings import TrainSettings
from .step import Batch


class TrainingData:
    """Batches of cached latents. Every epoch has its own order, which depends on the seed and the epoch alone."""

    def __init__(self, dataset: Dataset, latents: dict[str, Tensor], settings: TrainSettings) -> None:
        self.samples = dataset.samples()
        self.latents, self.settings = latents, settings

    @property
    def steps_per_epoch(self) -> int:
        """The last batch of an epoch may be short, and counts."""
        return math.ceil(len(self.samples) / self.settings.train_batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number` (from 1)."""
        order = random.Random(f"{self.settings.seed} {number}")
        samples = list(self.samples)
        order.shuffle(samples)
        size = self.settings.train_batch_size
        for start in range(0, len(samples), size):
            pictures = samples[start : start + size]
            texts = [
                captions.process(p.caption, order, self.settings.shuffle_caption, self.settings.keep_tokens)
                for p in pictures
            ]
            yield Batch(torch.stack([self.latents[str(p.path)] for p in pictures]), texts, torch.ones(len(pictures)))


def length(settings: TrainSettings, steps_per_epoch: int) -> tuple[int, int]:
    """(optimizer steps, epochs) of a run."""
    if settings.max_train_epochs:
        return settings.max_train_epochs * steps_per_epoch, settings.max_train_epochs
    return settings.max_train_steps, math.ceil(settings.max_train_steps / steps_per_epoch)
