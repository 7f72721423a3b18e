"""The screening design and the curve through what it shows; the choice among what was drawn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_train.measure.drawn import Try, choose
from lora_train.measure.screen import CENTRE, MOVE, design, fit


@given(st.integers(1, 83))
def test_every_number_is_up_in_half_of_the_runs_and_apart_from_the_others(count: int) -> None:
    moves = design(count)
    runs = len(moves)
    assert count < runs <= max(4, count + 13) and set(moves.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(moves.T @ moves, runs * torch.eye(count))
    assert moves.sum(0).abs().max() == 0


def test_the_numbers_that_matter_are_found_in_few_pictures() -> None:
    """17 numbers of which 3 matter, 24 pictures a run that are there or not."""
    true = torch.zeros(17)
    true[[2, 8, 12]] = torch.tensor([4.0, 6.0, -3.0])
    centre = torch.full((17,), CENTRE)
    numbers = centre + MOVE * design(17)
    generator = torch.Generator().manual_seed(1)
    hard = torch.randn(24, generator=generator)
    chance = torch.sigmoid(0.5 + hard + ((numbers - centre) @ true)[:, None])
    shown = (torch.rand(chance.shape, generator=generator) < chance).float()
    curve = fit(centre, numbers, shown, torch.ones(17))
    assert set(curve.slopes.abs().topk(3).indices.tolist()) == {2, 8, 12}
    assert curve.slopes[8] > curve.slopes[2] > 0 > curve.slopes[12]
    better = centre + 0.3 * true.sign()
    assert float(curve(better)) > float(curve(centre)) > float(curve(centre - 0.3 * true.sign()))


def _try(name: float, shown: float, drift: float) -> Try:
    return Try([{"IN01": name}], torch.full((10,), shown), drift)


@pytest.mark.parametrize(
    ("keep", "best"),
    [(0.5, 2.0), (0.1, 1.0), (0.9, 3.0)],
)
def test_better_at_both_goes_before_a_compromise(keep: float, best: float) -> None:
    flat, weaker = _try(0, 0.8, 1.0), _try(0, 0.6, 0.6)
    found = [_try(1, 0.95, 0.97), _try(2, 0.88, 0.85), _try(3, 0.81, 0.6), _try(4, 0.7, 0.2), _try(5, 1.0, 1.5)]
    assert choose(found, flat, weaker, 0.8, keep).numbers == [{"IN01": best}]


def test_a_compromise_is_chosen_where_nothing_is_better_at_both() -> None:
    flat, weaker = _try(0, 0.8, 1.0), _try(0, 0.6, 0.6)
    found = [_try(1, 0.79, 0.4), _try(2, 0.5, 0.3), _try(3, 0.9, 3.0)]
    assert choose(found, flat, weaker, 0.8, 0.5).numbers == [{"IN01": 1}]
