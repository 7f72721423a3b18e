"""A training that blows up is stopped at once; a healthy one, however its loss jumps with the timestep, never."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from PIL import Image

from lora_train.settings import TrainSettings
from lora_train.train.watch import BlowUp, Watch, looks_black

HEALTHY = TrainSettings(network_dim=32, network_alpha=16)


def by_timestep(rng: random.Random) -> float:
    """A diffusion loss: from about 0.4 at t = 0 to 0.004 at t = 999, times what the noise does."""
    return (0.004 + 0.4 * math.exp(-rng.uniform(0, 1000) / 150)) * rng.lognormvariate(0, 0.3)


def steps_until_it_fires(watch: Watch, losses: Iterator[float], limit: int) -> int:
    for step in range(1, limit + 1):
        try:
            watch.check(next(losses), 0.1)
        except BlowUp:
            return step
    raise AssertionError(f"silent for {limit} steps")


@pytest.mark.parametrize("sigma", [0.1, 0.6, 1.5])
def test_log_normal_losses_over_20000_steps_raise_no_alarm(sigma: float) -> None:
    rng, watch = random.Random(7), Watch(HEALTHY)
    for step in range(20_000):
        level = 0.05 + 0.1 * math.exp(-step / 3000)
        watch.check(level * rng.lognormvariate(0, sigma), rng.lognormvariate(-2, 1) * (1 + step / 2000))


def test_losses_by_timestep_over_20000_steps_raise_no_alarm() -> None:
    rng, watch = random.Random(3), Watch(HEALTHY)
    for step in range(20_000):
        watch.check(by_timestep(rng), 0.02 * rng.lognormvariate(0, 1) * (1 + 9 * min(1, step / 500)))


@given(st.integers(0, 10**9), st.floats(0, 1.2), st.floats(0.01, 1.3))
@effort(max_examples=8, deadline=None)
def test_any_level_and_scatter_is_healthy_while_it_lasts(seed: int, sigma: float, level: float) -> None:
    rng, watch = random.Random(seed), Watch(HEALTHY)
    for _ in range(1000):
        watch.check(level * rng.lognormvariate(0, sigma), rng.lognormvariate(0, 1.2))


@pytest.mark.parametrize("after", [150, 3000])
@pytest.mark.parametrize("growth", [1.0, 1.05, 1.2])
def test_a_loss_that_grows_is_seen_within_50_steps(after: int, growth: float) -> None:
    """From about 0.1 to over 1.5, at once or within some steps."""
    rng, watch = random.Random(1), Watch(HEALTHY)
    for _ in range(after):
        watch.check(by_timestep(rng), 0.1)

    def diverging() -> Iterator[float]:
        level = 1.5 if growth == 1.0 else 0.1
        while True:
            level = min(3.0, level * growth)
            yield max(by_timestep(rng), level * rng.lognormvariate(0, 0.3))

    over = 0 if growth == 1.0 else math.ceil(math.log(15) / math.log(growth))
    assert steps_until_it_fires(watch, diverging(), over + 50) <= over + 50


def test_a_run_that_diverges_slowly_or_from_its_start_is_seen() -> None:
    rng, watch = random.Random(5), Watch(HEALTHY)
    slowly = (by_timestep(rng) * 1.004**step for step in range(10_000))
    assert steps_until_it_fires(watch, slowly, 2000) > 100
    huge = (rng.lognormvariate(math.log(50), 1) for _ in range(1000))
    assert steps_until_it_fires(Watch(HEALTHY), huge, 20) == 16


def test_one_high_loss_is_not_a_blow_up_and_a_gradient_that_explodes_is() -> None:
    watch = Watch(HEALTHY)
    for step in range(600):
        watch.check(5.0 if step % 50 == 49 else 0.1, 0.05)
    with pytest.raises(BlowUp, match="gradient's norm"):
        for _ in range(50):
            watch.check(0.1, 40.0)


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [
        (math.nan, 1.0, "the loss became nan"),
        (math.inf, 1.0, "the loss became inf"),
        (0.1, math.nan, "the gradient became nan"),
    ],
)
def test_what_is_no_number_stops_at_once_and_says_where(loss: float, norm: float, said: str) -> None:
    watch = Watch(HEALTHY, steps=40)
    watch.check(0.1, 1.0)
    with pytest.raises(BlowUp, match=said) as caught:
        watch.check(loss, norm)
    assert caught.value.where == "step 42"
    assert "files saved before are intact" in str(caught.value) and "lower the learning rate" in caught.value.remedy


def test_the_loss_scale_may_settle_and_skip_now_and_then() -> None:
    watch = Watch(TrainSettings(mixed_precision="fp16"))
    for _ in range(20):
        watch.check(0.1, math.inf, skipped=True)
    for step in range(5000):
        watch.check(0.1, math.inf if step % 500 > 497 else 1.0, skipped=step % 500 > 497)


def test_skips_in_a_row_after_that_are_a_blow_up() -> None:
    watch = Watch(TrainSettings(mixed_precision="fp16"))
    for _ in range(20):
        watch.check(0.1, math.nan, skipped=True)
    watch.check(0.1, 1.0)
    with pytest.raises(BlowUp, match="too large for fp16 in 8 steps in a row") as caught:
        for _ in range(8):
            watch.check(0.1, 0.0, skipped=True)
    assert "bf16 instead of fp16" in caught.value.remedy and "no_half_vae" in caught.value.remedy


def test_the_remedy_is_made_of_the_settings() -> None:
    def remedy(**changes: object) -> str:
        with pytest.raises(BlowUp) as caught:
            Watch(TrainSettings(**changes)).check(math.nan, 1.0)  # type: ignore[arg-type]
        return caught.value.remedy

    plain = remedy(learning_rate=3e-4)
    assert "from 0.0003 to 0.0001" in plain and "fp16" not in plain and "alpha" not in plain
    assert "lower network_alpha from 32 to half of network_dim, 16" in remedy(network_dim=32, network_alpha=32.0)
    assert "max_grad_norm 1" in remedy(max_grad_norm=0.0)
    assert "no_half_vae" not in remedy(mixed_precision="fp16", no_half_vae=True)
    assert "instead of Prodigy" in remedy(optimizer_type="Prodigy", learning_rate=1.0)


def test_switched_off_it_warns_once_instead() -> None:
    watch = Watch(TrainSettings(stop_on_blow_up=False))
    watch.check(math.nan, 1.0)
    assert "blew up" in watch.warnings.pop()
    for _ in range(5):
        watch.check(math.nan, 1.0)
    assert watch.warnings == []


def picture(*colours: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (8, 8))
    image.putdata([colours[i % len(colours)] for i in range(64)])
    return image


def test_black_and_plain_pictures_are_told_from_drawn_ones() -> None:
    assert looks_black(picture((0, 0, 0))) and looks_black(picture((3, 0, 0), (0, 5, 8)))
    assert looks_black(picture((127, 127, 127))) and looks_black(Image.new("L", (4, 4), 255))
    assert not looks_black(picture((0, 0, 0), (30, 0, 0))) and not looks_black(picture((100, 90, 80), (110, 95, 85)))


def test_black_previews_stop_the_run_at_the_next_step() -> None:
    watch, black, drawn = Watch(HEALTHY), picture((0, 0, 0)), picture((0, 0, 0), (200, 10, 10))
    watch.previews([], 5)
    watch.previews([black, drawn], 5)  # one alone may be of a dark prompt
    watch.check(0.1, 1.0)
    watch.previews([black, black], 10)
    with pytest.raises(BlowUp, match="previews became black"):
        watch.check(0.1, 1.0)
    assert watch.warnings == []


def test_previews_that_were_black_from_the_first_are_a_warning_as_the_vae_may_draw_them() -> None:
    watch, black = Watch(TrainSettings(mixed_precision="fp16")), picture((0, 0, 0))
    watch.previews([black], 5)
    watch.previews([black], 10)
    watch.check(0.1, 1.0)
    (warning,) = watch.warnings
    assert "after step 5, are black" in warning and "switch no_half_vae on" in warning
