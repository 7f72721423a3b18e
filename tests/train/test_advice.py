"""Advice names what to change and the numbers that say so."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.settings import TrainSettings
from lora_train.train.advice import advise

SETTINGS = TrainSettings(network_dim=32, network_alpha=16, train_batch_size=2, learning_rate=1e-4)
FALLING = [0.12 * 0.97**epoch for epoch in range(10)]


def test_overfitting_names_the_candidates_and_what_to_lower() -> None:
    held_out = [0.140, 0.135, 0.131, 0.1305, 0.132, 0.134, 0.136, 0.138, 0.139, 0.140]
    band, advice = advise({"train": FALLING, "held_out": held_out}, SETTINGS, pictures=20, repeats=10)
    assert "epochs 4 to 5" in band and "lowest after epoch 4, 0.1305" in band
    assert advice.startswith("Estimate: overfitting after epoch 5")
    assert "from 0.1305 to 0.1400 (+7.3 %)" in advice and f"from {FALLING[3]:.4f} to {FALLING[-1]:.4f}" in advice
    for part in (
        "fewer epochs (max_train_epochs 5)",
        "fewer repeats (now 10 of each picture)",
        "more pictures that differ (now 20)",
        "network_dim (16 in place of 32)",
        "network_alpha (8 in place of 16)",
        "larger train_batch_size (4 in place of 2)",
    ):
        assert part in advice


def test_underfitting_names_what_to_raise() -> None:
    band, advice = advise({"train": FALLING, "held_out": FALLING}, SETTINGS, pictures=20, repeats=10)
    assert "epochs 9 to 10" in band
    assert advice.startswith("Estimate: underfitting")
    for part in (
        "more epochs (max_train_epochs 15 in place of 10)",
        "more repeats (now 10 of each picture)",
        "network_dim (64 in place of 32)",
        "network_alpha (32 in place of 16)",
        "smaller train_batch_size (1 in place of 2)",
    ):
        assert part in advice


def test_a_rate_that_is_too_low_is_said() -> None:
    flat = [0.1200, 0.1199, 0.1199, 0.1198]
    for curves in ({"train": flat, "held_out": flat}, {"train": flat}):
        advice = advise(curves, SETTINGS)[-1]
        assert "hardly anything was learned" in advice and "0.0003" in advice and "0.5" in advice
    adaptive = TrainSettings(optimizer_type="Prodigy", learning_rate=1.0)
    assert "a higher learning rate" not in advise({"train": flat}, adaptive)[0]


def test_a_run_that_ended_in_time_gets_its_candidates_alone() -> None:
    held_out = [0.140, 0.132, 0.130, 0.1301, 0.1303]
    assert len(advise({"train": FALLING, "held_out": held_out}, SETTINGS)) == 1


def test_without_held_out_pictures_it_says_how_to_know_more() -> None:
    (line,) = advise({"train": FALLING}, SETTINGS, every=2)
    assert "after epoch 20" in line and "validation_split 0.1" in line


def test_epochs_are_those_measured() -> None:
    band = advise({"held_out": [0.15, 0.13, 0.131, 0.14]}, SETTINGS, every=5)[0]
    assert "epochs 10 to 15" in band


@pytest.mark.parametrize("curves", [{}, {"train": [0.1, 0.1]}, {"train": [], "held_out": [0.1]}])
def test_too_little_to_judge_is_no_advice(curves: dict[str, list[float]]) -> None:
    assert advise(curves, SETTINGS) == []


losses = st.lists(st.floats(1e-6, 10) | st.sampled_from([math.nan, math.inf]), max_size=12)


@given(losses, losses)
def test_every_line_of_any_curves_is_an_estimate(train: list[float], held_out: list[float]) -> None:
    assert all(line.startswith("Estimate: ") for line in advise({"train": train, "held_out": held_out}, SETTINGS))
