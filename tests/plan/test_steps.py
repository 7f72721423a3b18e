"""The arithmetic of the guides that users follow, and of kohya."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.dataset.options import Frame
from lora_train.dataset.pictures import Concept, Dataset, Picture
from lora_train.plan.steps import aim, length, plan
from lora_train.settings import TrainSettings


def dataset(*folders: tuple[int, int], reg: tuple[tuple[int, int], ...] = (), **frame: Any) -> Dataset:
    """Folders of (pictures, repeats), every picture 512 x 512."""
    concepts = []
    for number, (count, repeats) in enumerate((*folders, *reg)):
        pictures = tuple(Picture(Path(f"{number}/{n}.png"), "", 512, 512) for n in range(count))
        is_reg = number >= len(folders)
        folder = Path(f"{repeats}_{number}")
        concepts.append(Concept(folder, str(number), repeats, pictures, is_reg=is_reg, frame=Frame(**frame)))
    return Dataset(Path(), tuple(concepts), ())


@pytest.mark.parametrize(
    ("folders", "epochs", "steps"),
    [
        ([(98, 100)], 10, 98_000),
        ([(100, 30)], 10, 30_000),
        ([(20, 100), (50, 20)], 8, 24_000),
        ([(32, 15)], 10, 4_800),
    ],
)
def test_steps_are_pictures_times_repeats_times_epochs(folders: list[tuple[int, int]], epochs: int, steps: int) -> None:
    planned = plan(TrainSettings(max_train_epochs=epochs), dataset(*folders))
    assert planned.steps == steps
    assert planned.steps_per_epoch * epochs == steps


def test_repeats_and_epochs_for_a_wanted_number_of_steps() -> None:
    aimed = aim(TrainSettings(max_train_epochs=10), dataset((32, 1)), 4800)
    assert (aimed.repeats, aimed.steps_by_repeats) == ((15,), 4800)
    assert (aimed.epochs, aimed.steps_by_epochs) == (150, 4800)
    assert aim(TrainSettings(), dataset((32, 1)), 4800).repeats == (15,)  # ten epochs where none are given
    assert aim(TrainSettings(max_train_epochs=5), dataset((32, 1)), 4800).repeats == (30,)


def test_several_folders_keep_their_proportion() -> None:
    settings = TrainSettings(max_train_epochs=10)
    aimed = aim(settings, dataset((20, 100), (50, 20)), 3000)
    assert aimed.repeats == (10, 2)
    assert aimed.steps_by_repeats == 3000
    with_reg = aim(settings, dataset((20, 5), reg=((100, 1),)), 4000)
    assert with_reg.repeats == (10, 1)  # as much regularisation again makes the other half
    assert with_reg.steps_by_repeats == 4000


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 20_000),
)
def test_what_is_aimed_at_is_what_a_plan_then_says(
    folders: list[tuple[int, int]], epochs: int, batch: int, accumulated: int, wanted: int
) -> None:
    settings = TrainSettings(max_train_epochs=epochs, gradient_accumulation_steps=accumulated)
    images = sum(count * repeats for count, repeats in folders)
    now = plan(settings, dataset(*folders, batch_size=batch))
    assert now.images == images
    assert now.batches_per_epoch == -(-images // batch)
    assert now.steps_per_epoch == -(-now.batches_per_epoch // accumulated)
    assert sum(shape.empty + shape.images for shape in now.buckets) == now.batches_per_epoch * batch
    aimed = aim(settings, dataset(*folders, batch_size=batch), wanted)
    repeated = [(count, repeats) for (count, _), repeats in zip(folders, aimed.repeats, strict=True)]
    assert plan(settings, dataset(*repeated, batch_size=batch)).steps == aimed.steps_by_repeats
    assert abs(aimed.steps_by_repeats - wanted) <= abs(now.steps - wanted)
    assert aimed.steps_by_epochs == aimed.epochs * now.steps_per_epoch


def test_short_batches_of_buckets_cost_steps() -> None:
    frame = Frame(buckets=True, batch_size=4)
    sizes = [(512, 512)] * 5 + [(512, 768)] * 5 + [(300, 200)] * 2
    pictures = tuple(Picture(Path(f"{n}.png"), "", *size) for n, size in enumerate(sizes))
    planned = plan(TrainSettings(), Dataset(Path(), (Concept(Path("1_a"), "a", 1, pictures, frame=frame),), ()))
    assert [(s.width, s.height, s.images, s.batches, s.empty) for s in planned.buckets] == [
        (384, 640, 5, 2, 3),
        (512, 512, 5, 2, 3),
        (640, 384, 2, 1, 2),
    ]
    assert (planned.batches_per_epoch, planned.extra_batches, planned.enlarged) == (5, 2, 2)
    assert planned.mean_ar_error > 0


def test_regularisation_is_counted_after_balancing() -> None:
    planned = plan(TrainSettings(max_train_epochs=2), dataset((10, 4), reg=((7, 1), (100, 2))))
    assert [(f.images, f.is_reg) for f in planned.folders] == [(40, False), (7, True), (34, True)]
    assert (planned.images, planned.steps, planned.pictures, planned.reg_pictures) == (81, 162, 10, 107)


def test_epochs_come_before_steps() -> None:
    assert length(TrainSettings(max_train_epochs=3, max_train_steps=7), 5) == (15, 3)
    assert length(TrainSettings(max_train_steps=11), 5) == (11, 3)


def test_the_plan_is_what_the_run_reckons() -> None:
    pytest.importorskip("torch")
    from lora_train.train import data

    for settings in (TrainSettings(max_train_epochs=3), TrainSettings(max_train_steps=1234)):
        for steps in (1, 7, 1600):
            assert length(settings, steps) == data.length(settings, steps)
