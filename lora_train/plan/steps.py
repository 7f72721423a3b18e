"""How many steps a run has, and backwards: which repeats or epochs make a wanted number of steps."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..dataset import buckets
from ..dataset.pictures import Dataset
from ..settings import TrainSettings

USUAL_EPOCHS = 10
"""Epochs that repeats are reckoned for where none are given."""


@dataclass(frozen=True)
class Folder:
    """images: of one epoch; for regularisation after it is balanced."""

    name: str
    pictures: int
    repeats: int
    images: int
    is_reg: bool


@dataclass(frozen=True)
class Shape:
    """A bucket. images: of one epoch; empty: places in its last batch that nothing fills."""

    dataset: int
    width: int
    height: int
    images: int
    batch_size: int
    batches: int
    empty: int


@dataclass(frozen=True)
class Aim:
    """Two ways to a wanted number of steps: other repeats of each folder with `epochs_kept`, or other epochs.

    Folders keep their proportion as far as whole numbers allow; regularisation follows by itself.
    """

    wanted: int
    epochs_kept: int
    repeats: tuple[int, ...]
    steps_by_repeats: int
    epochs: int
    steps_by_epochs: int


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a run on one device.

    steps: of the optimizer. extra_batches: how many of an epoch's batches there are only because pictures of different
    shapes can't share one. enlarged: pictures smaller than what they are trained at. mean_ar_error: mean difference of
    width / height between picture and bucket, as kohya reckons it; what it stands for is cut off.
    """

    folders: tuple[Folder, ...]
    buckets: tuple[Shape, ...]
    pictures: int
    reg_pictures: int
    images: int
    batches_per_epoch: int
    extra_batches: int
    steps_per_epoch: int
    epochs: int
    steps: int
    enlarged: int
    mean_ar_error: float
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def plan(settings: TrainSettings, dataset: Dataset) -> Plan:
    """What training `dataset` as it is means: pictures held out are to be taken away before."""
    uses = dataset.uses()
    images: Counter[int] = Counter()
    for use in uses:
        images[id(use.concept)] += use.repeats
    filled = buckets.fill(dataset)
    batches = sum(bucket.batches for bucket in filled)
    steps_per_epoch = math.ceil(batches / settings.gradient_accumulation_steps)
    steps, epochs = length(settings, steps_per_epoch)
    regular = sum(len(concept.pictures) for concept in dataset.concepts if concept.is_reg)
    return Plan(
        folders=tuple(
            Folder(c.folder.name, len(c.pictures), c.repeats, images[id(c)], c.is_reg) for c in dataset.concepts
        ),
        buckets=tuple(
            Shape(b.group, *b.size, b.count, b.batch_size, b.batches, b.batches * b.batch_size - b.count)
            for b in filled
        ),
        pictures=dataset.picture_count,
        reg_pictures=regular,
        images=sum(images.values()),
        batches_per_epoch=batches,
        extra_batches=batches - _batches_of_one_shape(filled),
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        steps=steps,
        enlarged=sum(_is_enlarged(use.picture.width, use.picture.height, use.concept.frame) for use in uses),
        mean_ar_error=buckets.mean_ar_error(dataset),
        warnings=dataset.warnings,
    )


def length(settings: TrainSettings, steps_per_epoch: int) -> tuple[int, int]:
    """(optimizer steps, epochs) of a run; epochs, where given, come before steps, as in kohya."""
    if settings.max_train_epochs:
        return settings.max_train_epochs * steps_per_epoch, settings.max_train_epochs
    return settings.max_train_steps, math.ceil(settings.max_train_steps / steps_per_epoch)


def aim(settings: TrainSettings, dataset: Dataset, wanted: int) -> Aim:
    """Repeats, or else epochs, for about `wanted` steps: repeats = steps × batch ÷ pictures ÷ epochs, and so on."""
    kept = settings.max_train_epochs or USUAL_EPOCHS
    with_epochs = replace(settings, max_train_epochs=kept)
    now = plan(with_epochs, dataset)
    before = [concept.repeats for concept in dataset.concepts]
    best, best_steps, factor = before, now.steps, wanted / now.steps
    for _ in range(4):  # rounding and short batches bend the proportion: correct by what came out
        repeats = [
            old if concept.is_reg else max(1, round(old * factor))
            for old, concept in zip(before, dataset.concepts, strict=True)
        ]
        steps = plan(with_epochs, _repeated(dataset, repeats)).steps
        if abs(steps - wanted) < abs(best_steps - wanted):
            best, best_steps = repeats, steps
        factor *= wanted / steps
    epochs = max(1, round(wanted / now.steps_per_epoch))
    return Aim(wanted, kept, tuple(best), best_steps, epochs, epochs * now.steps_per_epoch)


def _repeated(dataset: Dataset, repeats: list[int]) -> Dataset:
    concepts = (replace(c, repeats=n) for c, n in zip(dataset.concepts, repeats, strict=True))
    return replace(dataset, concepts=tuple(concepts))


def _batches_of_one_shape(filled: list[buckets.Bucket]) -> int:
    """Batches if all pictures of a dataset had one shape."""
    images: Counter[tuple[int, int]] = Counter()
    for bucket in filled:
        images[bucket.group, bucket.batch_size] += bucket.count
    return sum(math.ceil(count / size) for (_, size), count in images.items())


def _is_enlarged(width: int, height: int, frame: buckets.Frame) -> bool:
    resized = buckets.fit((width, height), frame).resized
    return resized[0] > width or resized[1] > height
