"""The loss curve is well-formed, small, and shows what it is given."""

from __future__ import annotations

import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_train.chart import (
    HEIGHT,
    VALIDATION_HEIGHT,
    WIDTH,
    loss_chart,
    rate_chart,
    short,
    smoothed,
    thinned,
    ticks,
)

NS = "{http://www.w3.org/2000/svg}"
SERIES = [(step, 0.1 + 0.001 * (step % 7)) for step in range(1, 101)]


def tree(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in tree(svg).iter(f"{NS}text")]


def test_both_lines_the_last_average_and_the_epochs_are_there() -> None:
    svg = loss_chart(SERIES, [25, 50, 75, 100])
    assert len(list(tree(svg).iter(f"{NS}polyline"))) == 2
    assert f"{smoothed(SERIES)[-1][1]:.4f}" in texts(svg)
    assert {"epoch", "1", "2", "3", "4"} <= set(texts(svg))
    titles = [element.text or "" for element in tree(svg).iter(f"{NS}title")]
    assert "epoch 2 ends at step 50" in titles
    assert any(title.startswith("step 100\nloss ") for title in titles)


def test_an_empty_series_says_so() -> None:
    assert texts(loss_chart([])) == ["The loss curve begins with the first step"]
    assert texts(loss_chart([(1, float("nan"))])) == ["Every loss so far is not a number"]


def test_a_loss_that_is_no_number_is_marked() -> None:
    titles = [element.text for element in tree(loss_chart([*SERIES, (101, float("inf"))])).iter(f"{NS}title")]
    assert "step 101: the loss is not a number" in titles


def test_a_long_series_stays_small_and_keeps_its_spikes() -> None:
    long = [(step, 5.0 if step == 54_321 else 0.1) for step in range(100_000)]
    assert (54_321, 5.0) in thinned(long)
    assert len(loss_chart(long, range(0, 100_000, 500))) < 80_000


def test_smoothing_starts_without_bias_and_follows() -> None:
    assert smoothed([(1, 0.5), (2, 0.5)]) == [(1, 0.5), (2, pytest.approx(0.5))]
    falling = [(step, 1.0 if step < 500 else 0.0) for step in range(1000)]
    assert smoothed(falling)[-1][1] < 0.01


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.03, 0.21, 5) == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert ticks(1, 800, 8, smallest=1) == [100 * n for n in range(1, 9)]
    assert ticks(1, 4, 8, smallest=1) == [1, 2, 3, 4]


finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(finite | st.just(float("nan")), max_size=40), st.integers(0, 1000), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_any_series_gives_a_drawing_within_its_frame(losses: list[float], first: int, epochs: int) -> None:
    svg = loss_chart(
        [(first + index, loss) for index, loss in enumerate(losses)], [first + 3 * n + 2 for n in range(epochs)]
    )
    tree(svg)
    assert "nan" not in svg.replace("not a number", "") and "inf" not in svg
    for points in re.findall(r'points="([^"]*)"', svg):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT


def test_it_needs_the_standard_library_alone() -> None:
    code = (
        "import sys; import lora_train.chart; print(sorted({'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


MEASURED = [(step, 0.2 + 0.001 * abs(step - 50)) for step in range(0, 101, 25)]


def test_measured_curves_have_a_plot_and_a_scale_of_their_own() -> None:
    plain = loss_chart(SERIES, [25, 50, 75, 100])
    svg = loss_chart(
        SERIES, [25, 50, 75, 100], train=[(s, loss - 0.05) for s, loss in MEASURED], held_out=MEASURED, band=(2, 3)
    )
    assert f'viewBox="0 0 {WIDTH} {HEIGHT}"' in plain
    assert f'viewBox="0 0 {WIDTH} {HEIGHT + VALIDATION_HEIGHT}"' in svg
    assert len(list(tree(svg).iter(f"{NS}polyline"))) == 4
    assert {"held-out pictures, measured", "training pictures, measured", "0.2500", "0.2000"} <= set(texts(svg))
    assert "candidates: epochs 2–3 (estimate)" in texts(svg)
    shaded = [r for r in tree(svg).iter(f"{NS}rect") if "opacity:.2" in (r.get("style") or "")]
    assert len(shaded) == 2 and len({(r.get("x"), r.get("width")) for r in shaded}) == 1
    titles = [element.text for element in tree(svg).iter(f"{NS}title")]
    assert "step 50: held out 0.2000" in titles and "candidates: epochs 2 to 3" in titles


def test_one_measured_curve_and_a_band_beyond_the_epochs_are_drawn_as_far_as_known() -> None:
    svg = loss_chart(SERIES, [50, 100], train=MEASURED, band=(2, 9))
    assert "training pictures, measured" in texts(svg) and "held-out pictures, measured" not in texts(svg)
    assert "candidates" not in svg
    assert "nan" not in loss_chart(SERIES, [50, 100], held_out=[(50, float("nan")), (100, 0.2)])


def test_the_last_numbers_of_curves_that_end_together_do_not_overlap() -> None:
    svg = loss_chart(SERIES, [], train=[(0, 0.5), (100, 0.2001)], held_out=[(0, 0.5), (100, 0.2)])
    heights = {e.text: float(e.get("y") or 0) for e in tree(svg).iter(f"{NS}text") if e.text in ("0.2000", "0.2001")}
    assert abs(heights["0.2000"] - heights["0.2001"]) >= 12


def test_the_rate_shows_where_it_comes_to_rest() -> None:
    rates = [(step, 1.2e-4 * min(1.0, step / 200)) for step in range(1, 400)]
    assert "plateau 1.2e-4, reached at step 198 (estimate)" in texts(rate_chart(rates, 1.2e-4))
    assert {"1.2e-4", "learning rate in use (d × lr)"} <= set(texts(rate_chart(rates)))
    assert texts(rate_chart([])) == ["The curve of the learning rate begins with the first step"]


@pytest.mark.parametrize(("rate", "text"), [(1.2e-4, "1.2e-4"), (1e-5, "1e-5"), (0.0, "0"), (0.05, "0.05"), (1.0, "1")])
def test_rates_are_written_as_people_write_them(rate: float, text: str) -> None:
    assert short(rate) == text


points = st.lists(st.tuples(st.integers(0, 1000), finite), max_size=20).map(sorted)


@given(points, points, st.tuples(st.integers(0, 9), st.integers(0, 9)), st.floats(0, 1e3) | st.none())
@settings(max_examples=60, deadline=None)
def test_any_measures_give_a_drawing_within_its_frame(
    train: list[tuple[int, float]], held_out: list[tuple[int, float]], band: tuple[int, int], plateau: float | None
) -> None:
    for svg in (
        loss_chart(SERIES, [20, 60, 90], train=train, held_out=held_out, band=band),
        rate_chart(train, plateau),
    ):
        assert "nan" not in svg and "inf" not in svg
        places = [point.split(",") for points in re.findall(r'points="([^"]*)"', svg) for point in points.split()]
        tree(svg)
        assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT + VALIDATION_HEIGHT for x, y in places)
