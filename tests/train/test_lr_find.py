"""The learning rate finder: when a curve is at rest, and a whole search on a narrow checkpoint."""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train import settings
from lora_train.errors import UserError
from lora_train.settings import TrainSettings
from lora_train.train import lr_find, lr_find_cli
from lora_train.train.lr_find import Plateau, derived, find, short
from tests import support


def fed(curve, **options):
    """The plateau after the curve's values at steps 1, 2…, or at rest."""
    plateau = Plateau(**options)
    for step, rate in enumerate(curve, 1):
        if plateau.add(step, rate):
            break
    return plateau


def staircase(top, steps, rise, noise, seed):
    """From 1e-6 up to `top` in jumps at most 80 steps apart over `rise` steps, then level."""
    chance = random.Random(seed)
    count = max(3, rise // 40)
    jumps = [rise * (n + chance.random()) / count for n in range(count)]
    for step in range(steps):
        share = sum(step >= jump for jump in jumps) / count
        yield 1e-6 * (top / 1e-6) ** share * (1 + noise * chance.uniform(-1, 1))


@given(st.floats(1e-5, 1e-2), st.integers(20, 400), st.sampled_from([0.0, 0.005, 0.02]), st.integers(0, 99))
def test_a_staircase_is_at_rest_on_its_top(top, rise, noise, seed):
    plateau = fed(staircase(top, 2000, rise, noise, seed))
    assert plateau.found
    assert plateau.value == pytest.approx(top, rel=0.03)
    assert plateau.level_since <= rise + 2
    assert len(plateau.curve) <= max(100, rise) + rise + 4


@given(st.floats(0.1, 3), st.floats(1e-7, 1e-3), st.sampled_from([0.0, 0.005]), st.integers(0, 9))
def test_a_slow_climb_is_never_at_rest(power, scale, noise, seed):
    chance = random.Random(seed)
    plateau = fed(scale * step**power * (1 + noise * chance.uniform(-1, 1)) for step in range(1, 3000))
    assert not plateau.found
    assert len(plateau.curve) == 2999


@pytest.mark.parametrize("growth", [1.0005, 1.002, 1.01])
def test_a_steady_growth_is_never_at_rest(growth):
    assert not fed(1e-6 * growth**step for step in range(5000)).found


@given(st.floats(1e-5, 1e-3), st.integers(5, 300))
def test_an_approach_is_at_rest_near_its_end(top, pace):
    plateau = fed(top * (1 - math.exp(-step / pace)) for step in range(1, 20 * pace + 400))
    assert plateau.found
    assert plateau.value == pytest.approx(top, rel=0.06)


def test_the_start_is_no_plateau():
    plateau = fed([1e-6] * 3000)
    assert not plateau.found and not plateau.risen
    assert fed([1e-6] * 300 + [1e-4] * 400).value == 1e-4


def test_a_later_jump_begins_anew():
    curve = [1e-6, 1e-5, *[5e-5] * 80, *[1e-4] * 500]
    plateau = fed(curve)
    assert (plateau.value, plateau.level_since, len(plateau.curve)) == (1e-4, 83, 183)


def test_what_is_no_rate_is_passed_over():
    plateau = fed([math.nan, 0.0, math.inf, -1.0])
    assert plateau.curve == [] and not plateau.found
    assert fed([1e-6, math.nan, *[1e-4] * 200]).found


def test_options_of_the_plateau():
    curve = [1e-6, *[1e-4, 1.1e-4] * 100]
    assert not fed(curve).found and fed(curve, tolerance=0.2).found
    assert len(fed([1e-6, *[1e-4] * 500], least=20).curve) == 22


@pytest.mark.parametrize(
    ("rate", "text"), [(1.2e-4, "1.2e-4"), (4e-5, "4e-5"), (1.249e-4, "1.2e-4"), (1.0, "1e0"), (0.0099999, "1e-2")]
)
def test_rates_as_people_write_them(rate, text):
    assert short(rate) == text and float(text) == pytest.approx(rate, rel=0.05)


def test_the_users_training_with_another_optimizer():
    own = TrainSettings(
        network_dim=8,
        noise_offset=0.1,
        unet_lr=3e-4,
        text_encoder_lr=0.0,
        output_dir="mine",
        lr_scheduler="cosine",
        lr_warmup_steps=0.1,
        loraplus_lr_ratio=4.0,
        ema_decay=0.9,
        save_every_n_steps=5,
        save_state=True,
        resume="x",
        sample_prompts="a",
        validation_split=0.1,
        early_stop_epochs=2,
    )
    other = derived(own, "elsewhere")
    assert (other.optimizer_type, other.lr_scheduler) == ("DAdaptAdam", "constant")
    assert other.optimizer_args == ["decouple=True", "weight_decay=0.01"]
    assert (other.unet_rate, other.text_encoder_rate, other.text_encoder2_rate) == (1, 0, 0)
    assert (other.network_dim, other.noise_offset, other.seed) == (8, 0.1, own.seed)
    off = ("save_every_n_epochs", "save_every_n_steps", "save_state", "sample_prompts", "validation_split", "resume")
    assert not any(getattr(other, name) for name in (*off, "early_stop_epochs", "loraplus_lr_ratio", "ema_decay"))
    assert other.output_dir == "elsewhere"
    assert settings.from_dict({**asdict(other), "save_every_n_epochs": 1})[0] == replace(other, save_every_n_epochs=1)
    assert derived(TrainSettings(), "x").text_encoder_rate == derived(TrainSettings(), "x").text_encoder2_rate == 1
    with pytest.raises(UserError, match="UNet isn't trained"):
        derived(TrainSettings(network_train_text_encoder_only=True), "x")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A training whose rate comes to rest after a few steps: one picture on a narrow checkpoint."""
    folder = tmp_path_factory.mktemp("lr-find")
    support.pictures(folder / "set" / "60_thing", count=1)
    return {
        "pretrained_model_name_or_path": str(support.checkpoint(folder / "narrow.safetensors")),
        "train_data_dir": str(folder / "set"),
        "output_dir": str(folder / "out"),
        "network_dim": 2,
        "resolution": (64, 64),
        "max_train_epochs": 1,
        "network_train_unet_only": True,
        "save_every_n_epochs": 1,
    }


def test_a_search_stops_at_rest_and_leaves_nothing(config, tmp_path):
    heard = []
    result = find(TrainSettings(**config), heard.append, lambda: False, Plateau(least=8))
    steps = [e["step"] for e in heard if e["event"] == "progress"]
    assert steps == [step for step, _ in result.curve]
    rates = [rate for _, rate in result.curve]
    assert rates == sorted(rates) and rates[-1] >= 3 * rates[0] > 0
    assert result.flat_at is not None and len(rates) < 60
    assert result.unet_lr == pytest.approx(rates[-1], rel=0.05) and result.lion_lr == pytest.approx(result.unet_lr / 3)
    assert not {"saved", "done", "stopped"} & {e["event"] for e in heard}
    assert not Path(config["output_dir"]).exists()


def test_a_search_that_is_stopped_at_once(config):
    with pytest.raises(UserError, match="before the first step"):
        find(TrainSettings(**config), lambda e: None, lambda: True)


def test_the_verb(config, tmp_path, capsys):
    path, chart = tmp_path / "c.json", tmp_path / "rate.svg"
    path.write_text(json.dumps({**config, "max_train_epochs": None}), encoding="utf-8")
    parser = argparse.ArgumentParser()
    lr_find_cli.add_arguments(parser.add_subparsers())
    args = parser.parse_args(["lr-find", str(path), "--json", "--chart", str(chart), "--max_train_steps", "3"])
    assert args.run(args) == 0
    told = json.loads(capsys.readouterr().out)  # nothing else is printed there
    assert [step for step, _ in told["curve"]] == [1, 2, 3]
    assert told["flat_at"] is None and told["note"].startswith(("A guess", "No answer"))
    assert told["lion_lr"] == pytest.approx(told["unet_lr"] / 3)
    assert chart.read_text(encoding="utf-8").startswith("<svg")
    text = lr_find.Result(**told).text()
    assert text.startswith(f"AdamW8bit: unet_lr {short(told['unet_lr'])}; Lion: {short(told['lion_lr'])}\n")


@pytest.mark.parametrize(("after", "too_high"), [(0.2, False), (1.0, True)])
def test_a_rate_at_which_the_loss_rises_is_called_too_high(after, too_high):
    watched = lr_find.Plateau(least=5)
    for step in range(1, 30):
        watched.add(step, 1e-6 if step == 1 else 1e-3)
    result = lr_find._result(watched, [0.2] * 15 + [after] * 14)
    assert ("too high" in result.note) is too_high
    assert ("1e-4" in result.note) is too_high
