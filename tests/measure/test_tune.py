"""Tuning on cases whose optimum is known, and its parts: cases, the balance of both goals, bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lora_train.blocks.families import flat_weights
from lora_train.errors import UserError
from lora_train.measure import cases as case
from lora_train.measure.dials import Dials, Mixed
from lora_train.measure.effects import Stopped
from lora_train.measure.tune import Goals, Options, Score, table, tune
from lora_train.model.load import StableDiffusion
from tests import support

HOW = case.How(cfg_scale=1.0, steps=4, size=(64, 64))
TRUE = {"BASE": 1.0, "IN05": 0.2, "OUT03": 1.6, "OUT11": 0.6}


@pytest.fixture(scope="module")
def neutral(model: StableDiffusion) -> list[case.Cases]:
    return case.steps_of_runs(model, ["a red cat", "two dogs"], HOW, 1, seed=1)


@pytest.fixture(scope="module")
def goals(model: StableDiffusion, neutral: list[case.Cases], lora_dir: Path) -> Goals:
    """The subject is what the LoRA at TRUE predicts."""
    dials = Dials(model, [Mixed(lora_dir / "Few.safetensors")])
    dials.turn([TRUE])
    with torch.no_grad():
        subject = [replace(one, wanted=case.guided(model, one, HOW)) for one in neutral]
    dials.remove()
    return Goals(model, subject, neutral, HOW, emphasis=1.0)


def test_the_subject_alone_finds_its_numbers(model, goals: Goals, lora_dir: Path) -> None:
    dials = Dials(model, [Mixed(lora_dir / "Few.safetensors")])
    told = []
    options = Options(keep=0.0, rounds=2, smooth=0.0, near=0.0, emphasis=1.0)
    found = tune(goals, dials, [flat_weights()], options, progress=lambda done, total, what: told.append((done, total)))
    start, end, best = (goals.score(dials, "", [w]) for w in (flat_weights(), found.weights[0], TRUE))
    dials.remove()
    assert best.won - end.won < 0.3 * (best.won - start.won)
    for block in ("IN05", "OUT03", "OUT11"):
        assert abs(found.weights[0][block] - TRUE[block]) < abs(1 - TRUE[block]), block
    assert found.weights[0]["IN01"] == 1.0  # a block that the LoRA lacks
    assert told[-1] == (20, 20)


def test_the_rest_alone_turns_it_down_within_bounds(model, goals: Goals, lora_dir: Path) -> None:
    mix = [Mixed(lora_dir / "Few.safetensors"), Mixed(lora_dir / "Style.safetensors", -0.5, -0.5)]
    dials = Dials(model, mix)
    options = Options(keep=1.0, low=0.25, tied=True)
    found = tune(goals, dials, [flat_weights()] * 2, options).weights
    assert goals.score(dials, "", found).drift < 0.5 * goals.score(dials, "", [flat_weights()] * 2).drift
    dials.remove()
    assert found[0] == found[1]
    assert all(0.25 <= value <= 2 for value in found[0].values())


def test_it_stops(model, goals: Goals, lora_dir: Path) -> None:
    dials = Dials(model, [Mixed(lora_dir / "Few.safetensors")])
    with pytest.raises(Stopped):
        tune(goals, dials, [flat_weights()], Options(), stop=lambda: True)
    dials.remove()


def test_pictures_become_cases(model, tmp_path: Path) -> None:
    support.pictures(tmp_path / "image" / "2_thing", 6)
    first, apart, settings = case.open_pictures(tmp_path / "image", 64, 10, 1, 4)
    assert apart and (first.picture_count, apart.picture_count) == (4, 2)
    batches = case.batches(model, first, settings)
    how = replace(HOW, cfg_scale=3.0, negative_prompt="blurry")
    found = case.noised(model, batches, how, 2, 1, ["a thing"])
    assert [len(one) for one in found] == [4, 4]
    assert {text for one in found for text in one.texts} == {"a thing"}
    assert case.noised(model, batches, how, 1, 1)[0].texts == batches[0].captions
    times = sorted(int(t) for one in found for t in one.t)
    assert times == [62, 187, 312, 437, 562, 687, 812, 937]
    again = case.noised(model, batches, how, 2, 1, ["a thing"])
    assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(found, again, strict=True))
    one = found[1]
    with torch.no_grad():
        plain, negative = case.plain(model, one, how), case.plain(model, replace(one, texts=["blurry"] * 4), how)
        torch.testing.assert_close(one.alone, negative + 3 * (plain - negative), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError):
        case.open_pictures(tmp_path / "nowhere", 64, 10, 1, 4)
    (tmp_path / "few").mkdir()
    support.pictures(tmp_path / "few" / "1_thing", 2)
    assert case.open_pictures(tmp_path / "few", 64, 10, 1, 4)[1] is None


def test_runs_of_the_checkpoint_are_cases_of_their_own_prompts(model, neutral: list[case.Cases]) -> None:
    assert [list(one.texts) for one in neutral] == [["a red cat", "two dogs"]]
    assert len({float(t) for one in neutral for t in one.t}) == 2
    with torch.no_grad():
        for one in neutral:
            torch.testing.assert_close(case.guided(model, one, HOW), one.wanted, rtol=1e-4, atol=1e-4)


def test_the_table_is_relative_to_1_everywhere() -> None:
    none, flat, half = Score("none", 0.0, 0.0, 1.0), Score("1", 6.0, 4.0, 0.5), Score("half", 3.0, 1.0, 0.7)
    rows = {row["name"]: (row["subject"], row["drift"], row["loss"]) for row in table([none, flat, half], flat)}
    assert rows == {"none": (0.0, 0.0, 1.0), "1": (1.0, 1.0, 0.5), "half": (0.5, 0.25, 0.7)}
