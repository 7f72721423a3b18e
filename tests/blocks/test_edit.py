from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.blocks import edit
from lora_train.blocks.edit import FREE, SLIDER
from lora_train.blocks.families import BLOCKS_17, FAMILIES, blocks_of, topology, weights_by_block
from lora_train.blocks.presets import BUILTIN
from lora_train.errors import UserError

GP1, GP2 = weights_by_block(BUILTIN["GP1"]), weights_by_block(BUILTIN["GP2"])
values = st.floats(-5, 5).map(lambda value: round(value, 6))
weights = st.tuples(*[values] * 27).map(lambda numbers: dict(zip(blocks_of(), numbers, strict=True)))
some_blocks = st.sets(st.sampled_from(blocks_of()))


@given(values)
def test_sliders_keep_to_range_and_step(value: float) -> None:
    snapped = SLIDER.snap(value)
    assert -1 <= snapped <= 2
    assert math.isclose(snapped * 20, round(snapped * 20), abs_tol=1e-9)
    assert SLIDER.snap(snapped) == snapped
    assert abs(snapped - SLIDER.clamp(value)) <= 0.025 + 1e-9
    assert FREE.snap(value) == value


def test_steps() -> None:
    assert [SLIDER.snap(x) for x in (0.3, 0.1 + 0.2, 1.12, 9, -9, -0.01)] == [0.3, 0.3, 1.1, 2, -1, 0]
    assert str(SLIDER.snap(-0.01)) == "0.0"
    assert SLIDER.nudge(0.6, 1) == 0.65
    assert SLIDER.nudge(3.0, -1) == 2
    with pytest.raises(UserError, match="nan is not a number that a weight can have"):
        SLIDER.snap(math.nan)


def test_groups_by_name() -> None:
    assert edit.blocks_of_group("8", present=BLOCKS_17) == ("M00",)
    assert edit.blocks_of_group("64", present=BLOCKS_17) == ("IN01", "IN02", "OUT09", "OUT10", "OUT11")
    assert edit.blocks_of_group("OUT03") == ("OUT03",)
    assert edit.blocks_of_group("ALL", "SDXL") == topology("SDXL").blocks
    with pytest.raises(UserError, match="'OUT11' is no block or group of SDXL"):
        edit.blocks_of_group("OUT11", "SDXL")


@given(weights, some_blocks, some_blocks, st.floats(-2, 2), st.floats(-3, 3))
def test_locked_blocks_and_those_not_chosen_stay(
    before: dict[str, float], chosen: set[str], locked: set[str], by: float, factor: float
) -> None:
    for after in (
        edit.shift(before, chosen, by, locked=locked),
        edit.scale(before, chosen, factor, locked=locked),
        edit.invert(before, chosen, locked=locked),
        edit.put(before, dict.fromkeys(chosen, 0.5), locked=locked),
    ):
        assert list(after) == list(before)
        assert all(after[block] == before[block] for block in before if block in locked or block not in chosen)
    assert all(edit.mirror(before, locked=locked)[block] == before[block] for block in locked)
    assert all(edit.blend(before, GP1, 0.5, locked)[block] == before[block] for block in locked)


@given(weights, some_blocks)
def test_what_undoes_itself(before: dict[str, float], chosen: set[str]) -> None:
    assert edit.mirror(edit.mirror(before)) == before
    assert edit.invert(edit.invert(before, chosen), chosen) == pytest.approx(before)
    assert edit.scale(edit.scale(before, chosen, 2, about=1), chosen, 0.5, about=1) == pytest.approx(before)
    assert edit.blend(before, GP1, 0) == pytest.approx(before)
    assert edit.blend(before, GP1, 1) == GP1


@given(weights, weights)
def test_a_difference_leads_from_one_to_the_other(first: dict[str, float], second: dict[str, float]) -> None:
    apart = edit.difference(second, first)
    assert {block: edit.tidy(value + apart.get(block, 0)) for block, value in first.items()} == pytest.approx(second)
    assert edit.difference(first, first) == {}


def test_a_shift_beyond_the_range() -> None:
    """A typed 2.5 isn't pulled back by a slider's move up, and comes back into the range by one down."""
    beyond = {**GP1, "IN01": 2.5}
    assert edit.shift(beyond, ["IN01", "OUT11"], 0.1)["IN01"] == 2.5
    assert edit.shift(beyond, ["IN01"], -0.1)["IN01"] == 2
    assert edit.shift(GP1, ["OUT11"], 0.1)["OUT11"] == 1.2
    assert edit.shift(GP1, ["OUT11"], 5)["OUT11"] == 2
    assert edit.shift(GP1, ["nothing"], 5) == GP1


@pytest.mark.parametrize("family", FAMILIES)
def test_mirror_exchanges_the_ends_of_skip_connections(family: str) -> None:
    the = topology(family)
    numbers = {block: float(n) for n, block in enumerate(blocks_of(family))}
    mirrored = edit.mirror(numbers, family)
    assert mirrored[the.inputs[1]] == numbers[the.outputs[-2]]
    assert [mirrored[block] for block in ("BASE", "M00", "OTHER")] == [numbers[b] for b in ("BASE", "M00", "OTHER")]
    shown = edit.mirror(numbers, family, present=the.attention)
    moved = {block for block in shown if shown[block] != numbers[block]}
    assert moved == {block for block in the.attention if the.partners.get(block) in the.attention}


points = st.lists(st.tuples(st.floats(0, 16), st.floats(-1, 2)), min_size=1, max_size=8)


@given(points, st.booleans())
def test_a_curve_stays_between_its_points(drawn: list[tuple[float, float]], smooth: bool) -> None:
    numbers = edit.through(drawn, 17, smooth)
    heights = [y for _, y in drawn]
    assert len(numbers) == 17
    assert all(min(heights) - 1e-9 <= number <= max(heights) + 1e-9 for number in numbers)


@given(st.dictionaries(st.integers(0, 16), st.floats(-1, 2).map(lambda y: round(y, 6)), min_size=1), st.booleans())
def test_a_curve_goes_through_its_points(drawn: dict[int, float], smooth: bool) -> None:
    numbers = edit.through([(float(place), y) for place, y in drawn.items()], 17, smooth)
    assert all(math.isclose(numbers[place], y, abs_tol=1e-9) for place, y in drawn.items())


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_a_rising_curve_rises(steps: list[float]) -> None:
    heights = [sum(steps[: n + 1]) for n in range(4)]
    numbers = edit.through(list(zip((0.0, 5.0, 9.0, 16.0), heights, strict=True)), 17)
    assert all(a <= b + 1e-9 for a, b in pairwise(numbers))


def test_curves() -> None:
    assert edit.through([(0, 1), (4, 0)], 5, smooth=False) == (1, 0.75, 0.5, 0.25, 0)
    assert edit.through([(2, 0.5)], 4) == (0.5,) * 4
    smooth = edit.through([(0, 1), (4, 0)], 5)
    assert smooth[2] == 0.5
    assert smooth[1] > 0.75
    with pytest.raises(UserError, match="at least one point"):
        edit.through([], 17)


def test_numbers_that_are_none() -> None:
    with pytest.raises(UserError, match="inf is not a number"):
        edit.put(GP1, {"IN01": math.inf})
    with pytest.raises(UserError, match="nan is not a number"):
        edit.blend(GP1, GP2, math.nan)
