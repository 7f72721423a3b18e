"""Held-out pictures are never trained on, a measurement repeats to the bit and leaves no trace, the band is a range."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from torch import Tensor

from lora_train.dataset.options import CaptionOptions
from lora_train.dataset.pictures import Concept, Dataset, Picture
from lora_train.dataset.source import open_dataset
from lora_train.errors import UserError
from lora_train.settings import TrainSettings
from lora_train.train.batch import Batch
from lora_train.train.noise import Draws
from lora_train.train.objective import Objective
from lora_train.train.validation import (
    STRATA,
    Band,
    Validation,
    candidate_band,
    fixed,
    has_stalled,
    neutral,
    split,
    timestep,
)
from tests import support

CPU = torch.device("cpu")


def concept(name: str, count: int, **options: object) -> Concept:
    folder = Path("/pictures") / name
    found = tuple(Picture(folder / f"{n:03d}.png", f"{name} {n}", 64, 64) for n in range(count))
    return Concept(folder, name, 3, found, **options)  # type: ignore[arg-type]


def dataset(*concepts: Concept) -> Dataset:
    return Dataset(Path("/pictures"), concepts, ("a warning",))


def paths(one: Dataset) -> set[Path]:
    return {picture.path for c in one.concepts for picture in c.pictures}


# Which pictures


def test_without_a_wish_nothing_is_held_out() -> None:
    whole = dataset(concept("cat", 4))
    assert split(whole, TrainSettings()) == (whole, None)


def test_each_concept_gives_its_share_and_regularisation_none() -> None:
    whole = dataset(concept("cat", 20), concept("dog", 10), concept("animal", 30, is_reg=True))
    train, held_out = split(whole, TrainSettings(validation_split=0.2))
    assert held_out is not None
    assert [(c.name, len(c.pictures), c.repeats) for c in held_out.concepts] == [("cat", 4, 1), ("dog", 2, 1)]
    assert [(c.name, len(c.pictures), c.repeats) for c in train.concepts] == [
        ("cat", 16, 3),
        ("dog", 8, 3),
        ("animal", 30, 3),
    ]
    assert not paths(train) & paths(held_out) and paths(train) | paths(held_out) == paths(whole)


def test_the_choice_hangs_on_the_seed_alone() -> None:
    whole = dataset(concept("cat", 40))

    def chosen(**options: int) -> set[Path]:
        held_out = split(whole, TrainSettings(validation_split=0.1, **options))[1]  # type: ignore[arg-type]
        assert held_out
        return paths(held_out)

    assert chosen() == chosen() == chosen(validation_seed=42) == chosen(seed=7, validation_seed=42)
    assert chosen() != chosen(seed=7)


def test_a_picture_of_two_concepts_is_in_neither_when_held_out() -> None:
    cat = concept("cat", 10)
    train, held_out = split(dataset(cat, replace(cat, name="again", repeats=1)), TrainSettings(validation_split=0.3))
    assert held_out and held_out.picture_count == 3
    assert not paths(train) & paths(held_out)


def test_a_share_that_leaves_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match="no folder has two pictures"):
        split(dataset(concept("cat", 1), concept("dog", 1)), TrainSettings(validation_split=0.5))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.floats(0.01, 0.5), st.integers(0, 99))
@effort(max_examples=60, deadline=None)
def test_a_split_is_a_partition_about_as_large_as_asked(counts: list[int], share: float, seed: int) -> None:
    whole = dataset(*(concept(f"c{n}", count) for n, count in enumerate(counts)))
    settings = TrainSettings(validation_split=share, seed=seed)
    if max(counts) == 1:
        with pytest.raises(UserError):
            split(whole, settings)
        return
    train, held_out = split(whole, settings)
    assert held_out is not None
    assert paths(train) | paths(held_out) == paths(whole) and not paths(train) & paths(held_out)
    assert len(train.concepts) == len(counts)
    wanted, possible = max(1, round(share * sum(counts))), sum(counts) - len(counts)
    assert min(wanted, possible) - len(counts) <= held_out.picture_count <= wanted


def test_a_folder_may_hold_them_and_what_lies_in_both_is_not_trained(tmp_path: Path) -> None:
    folder = support.pictures(tmp_path / "set" / "2_thing", 5)
    support.pictures(tmp_path / "apart", 2)
    try:
        (tmp_path / "apart" / "linked.png").symlink_to(folder / "03.png")
    except OSError:
        pytest.skip("no links here")
    settings = TrainSettings(train_data_dir=str(tmp_path / "set"), validation_data_dir=str(tmp_path / "apart"))
    whole = open_dataset(settings)
    train, held_out = split(whole, settings)
    assert held_out and held_out.picture_count == 3
    assert [p.path.name for p in train.concepts[0].pictures] == ["00.png", "01.png", "02.png", "04.png"]
    with pytest.raises(UserError, match="every training picture"):
        split(whole, replace(settings, validation_data_dir=settings.train_data_dir))


def test_what_is_measured_is_plain_and_from_all_concepts_in_turn() -> None:
    wild = CaptionOptions(prefix="p", shuffle=True, dropout_rate=0.5, tag_dropout_rate=0.1, wildcard=True)
    whole = dataset(
        concept("cat", 30, captions=wild, flip=True, random_crop=True),
        concept("dog", 2),
        concept("animal", 9, is_reg=True),
    )
    chosen = fixed(whole, TrainSettings(max_validation_steps=6))
    assert [(c.name, len(c.pictures), c.repeats) for c in chosen.concepts] == [("cat", 4, 1), ("dog", 2, 1)]
    assert chosen.concepts[0].captions == CaptionOptions(prefix="p", wildcard=True)
    assert not chosen.concepts[0].flip and not chosen.concepts[0].random_crop
    assert chosen == fixed(whole, TrainSettings(max_validation_steps=6))


# Measuring


def batches(count: int, size: int = 2, seed: int = 0) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    return [
        Batch(torch.randn(size, 4, 8, 8, generator=g), [f"{n} {i}" for i in range(size)], torch.full((size,), 0.3))
        for n in range(count)
    ]


def losses_of(settings: TrainSettings, predict: Callable[[Tensor], Tensor]) -> Callable[[Batch, Draws], Tensor]:
    objective = Objective(neutral(settings), CPU)

    def losses(batch: Batch, draws: Draws) -> Tensor:
        x_t, target = objective.noisy(batch.latents, draws)
        return objective.losses(predict(x_t), target, draws.timesteps, batch.weights, batch.masks)

    return losses


def test_a_model_that_knows_nothing_has_a_loss_of_one_whatever_the_options() -> None:
    plain = TrainSettings()
    tuned = TrainSettings(
        noise_offset=0.1, min_snr_gamma=5.0, loss_type="huber", ip_noise_gamma=0.1, debiased_estimation_loss=True
    )
    found = [
        Validation(losses_of(s, torch.zeros_like), batches(4), batches(3, seed=1), s).measure() for s in (plain, tuned)
    ]
    assert found[0] == found[1] and found[0]["train"] == pytest.approx(1.0, abs=0.05)
    assert found[0]["held_out"] is not None and found[0]["held_out"] != found[0]["train"]


def test_a_measurement_repeats_and_leaves_no_trace() -> None:
    weight = torch.nn.Parameter(torch.tensor(0.9))

    def careless(x_t: Tensor) -> Tensor:
        """As if a dropout had been left on."""
        return x_t * weight + 0.01 * torch.randn_like(x_t) * random.random() * np.random.rand()

    validation = Validation(losses_of(TrainSettings(), careless), batches(4), [], TrainSettings())
    random.seed(1), np.random.seed(2), torch.manual_seed(3)  # type: ignore[func-returns-value]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = validation.measure()
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert validation.measure() == first and first["held_out"] is None
    assert weight.grad is None and torch.is_grad_enabled()


def test_noise_and_timesteps_are_fixed_stratified_and_few() -> None:
    seen: list[tuple[str, int, Tensor]] = []

    def losses(batch: Batch, draws: Draws) -> Tensor:
        assert not torch.is_grad_enabled() and batch.weights.tolist() == [1.0, 1.0]
        rows = zip(batch.captions, draws.timesteps.tolist(), draws.noise, strict=True)
        seen.extend((caption, t, noise) for caption, t, noise in rows)
        return draws.timesteps.float()

    settings = TrainSettings(max_validation_steps=8, min_timestep=100, max_timestep=900)
    validation = Validation(losses, batches(9), batches(9, seed=1), settings)
    measured = validation.measure()
    assert len(seen) == 2 * 8 * STRATA and measured["train"] == pytest.approx(499.5, abs=30)
    first, held_out = seen[: 8 * STRATA], seen[8 * STRATA :]
    for caption in {caption for caption, *_ in first}:
        times = sorted(t for c, t, _ in first if c == caption)
        assert [(t - 100) // 200 for t in times] == [0, 1, 2, 3]
    assert sorted((t - 100) // 25 for _, t, _ in first) == list(range(32))
    noises = [noise for *_, noise in first + held_out]
    assert len({round(float(noise.sum()), 4) for noise in noises}) == len(noises)
    seen.clear()
    validation.measure()
    assert all(torch.equal(a, b) for a, (*_, b) in zip(noises, seen, strict=True))


@given(st.integers(1, 64), st.integers(0, 998), st.integers(1, 1000))
def test_timesteps_lie_in_their_range_and_cover_it(pictures: int, low: int, width: int) -> None:
    settings = TrainSettings(min_timestep=low, max_timestep=min(1000, low + width))
    times = [timestep(p, s, pictures, settings) for p in range(pictures) for s in range(STRATA)]
    assert settings.min_timestep <= min(times) <= max(times) < settings.max_timestep
    span = settings.max_timestep - settings.min_timestep
    assert max(times) - min(times) >= span * (1 - 1 / (STRATA * pictures)) - 2


# Judging


@pytest.mark.parametrize(
    ("held_out", "band"),
    [
        ([0.15, 0.14, 0.13, 0.131, 0.132, 0.14, 0.131], Band(3, 5, 3)),  # to where it has risen by 2 %
        ([0.15, 0.13, *[0.1305] * 20], Band(2, 6, 2)),  # to three times the steps of the minimum
        ([0.15, 0.13, 0.2, 0.2], Band(2, 3, 2)),  # never a point
        ([0.15, 0.14, 0.13], Band(2, 3, 3)),
        ([0.15, math.nan, 0.13, 0.13], Band(3, 4, 3)),
        ([0.15, 0.13], None),
        ([math.nan] * 5, None),
        ([], None),
    ],
)
def test_the_band_runs_from_the_minimum_to_where_it_has_risen(held_out: list[float], band: Band | None) -> None:
    assert candidate_band(held_out) == band


@given(st.lists(st.floats(1e-4, 10), min_size=3, max_size=60), st.integers(1, 5))
def test_a_band_is_a_range_of_measured_epochs_around_the_minimum(held_out: list[float], every: int) -> None:
    band = candidate_band(held_out, every)
    assert band is not None
    assert every <= band.first <= band.lowest <= band.last <= len(held_out) * every and band.first < band.last
    assert held_out[band.lowest // every - 1] == min(held_out)


def test_it_has_stalled_when_nothing_was_lower_for_so_many_epochs() -> None:
    curve = [0.15, 0.14, 0.141, 0.142, 0.1401]
    assert has_stalled(curve, 3) and not has_stalled(curve, 4) and not has_stalled([*curve, 0.139], 1)
    assert has_stalled(curve, 6, every=2) and not has_stalled(curve, 7, every=2)
    assert not has_stalled([], 1) and has_stalled([0.1, math.nan, math.nan], 2)
