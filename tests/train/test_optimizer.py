"""Every optimizer by its own library, taken up again from its state, and sd-scripts' rates."""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_train.errors import UserError
from lora_train.settings import OPTIMIZERS, SCHEDULERS, TrainSettings
from lora_train.train.optimizer import (
    check,
    effective_rates,
    make_optimizer,
    make_schedule,
    parse_arguments,
    set_mode,
)

TABLE = json.loads((Path(__file__).parent.parent / "data" / "tables" / "schedules.json").read_text("utf-8"))["cases"]
EIGHT_BIT = ("AdamW8bit", "PagedAdamW8bit", "Lion8bit")
FINDS_ITS_RATE = ("DAdaptAdam", "DAdaptLion", "DAdaptAdaGrad", "DAdaptSGD", "Prodigy")


class Problem:
    """Two groups of weights that an optimizer brings to a goal; one weight never has a gradient."""

    def __init__(self, rates: tuple[float, float] = (1e-2, 1e-2), seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.weights = [torch.nn.Parameter(torch.randn(size, generator=g)) for size in ((16, 1024), (8, 4), (4, 4))]
        self.goals = [torch.randn(w.shape, generator=g) for w in self.weights]
        self.groups = [
            {"params": self.weights[:1], "lr": rates[0], "name": "te"},
            {"params": self.weights[1:], "lr": rates[1], "name": "unet"},
        ]

    def loss(self) -> torch.Tensor:
        pairs = zip(self.weights[:2], self.goals, strict=False)
        return torch.stack([((weight - goal) ** 2).mean() for weight, goal in pairs]).sum()

    def run(self, optimizer: torch.optim.Optimizer, steps: int) -> float:
        for _ in range(steps):
            self.loss().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return self.loss().item()

    def copy(self) -> list[torch.Tensor]:
        return [weight.detach().clone() for weight in self.weights]


def settings_for(name: str, **changes) -> TrainSettings:
    return TrainSettings(**{"optimizer_type": name, "learning_rate": rate_for(name), **changes})


def rate_for(name: str) -> float:
    return 1.0 if name in FINDS_ITS_RATE else 1e-2


def made(name: str, problem: Problem | None = None, **changes) -> tuple[Problem, torch.optim.Optimizer, list[str]]:
    """A problem, its optimizer and the warnings; skips where an 8-bit optimizer doesn't run."""
    problem, warnings = problem or Problem((rate_for(name),) * 2), []
    try:
        return problem, make_optimizer(problem.groups, settings_for(name, **changes), warnings.append), warnings
    except UserError as error:
        if name in EIGHT_BIT and "doesn't run here" in error.what:
            pytest.skip(str(error))
        raise


@pytest.fixture
def without_bitsandbytes(monkeypatch):
    for name in ("bitsandbytes", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(name):
    problem, optimizer, _ = made(name)
    before, untouched = problem.loss().item(), problem.copy()[2]
    after = problem.run(optimizer, 30)
    assert math.isfinite(after) and after < before
    assert torch.equal(problem.weights[2], untouched)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_from_its_state(name):
    problem, optimizer, _ = made(name)
    make_schedule(optimizer, settings_for(name), 10)
    problem.run(optimizer, 4)
    middle, saved = problem.copy(), io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    problem.run(optimizer, 4)

    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    again, other, _ = made(name)
    make_schedule(other, settings_for(name), 10)
    with torch.no_grad():
        for weight, value in zip(again.weights, middle, strict=True):
            weight.copy_(value)
    other.load_state_dict(state)
    again.run(other, 4)
    assert all(torch.equal(a, b) for a, b in zip(problem.weights, again.weights, strict=True))
    assert effective_rates(optimizer) == effective_rates(other)


def test_a_name_is_known_in_any_case():
    assert type(made("adamw")[1]) is torch.optim.AdamW


def test_adamw_is_torchs_with_its_defaults_and_group_rates():
    problem, reference = Problem((1e-2, 5e-3)), Problem((1e-2, 5e-3))
    optimizer = made("AdamW", problem)[1]
    problem.run(optimizer, 5)
    reference.run(torch.optim.AdamW(reference.groups, lr=1.0, foreach=False, fused=False), 5)
    for ours, theirs, start in zip(problem.weights[:2], reference.weights, Problem().weights, strict=False):
        assert ((ours - theirs).norm() / (theirs - start).norm()).item() < 1e-6
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.01]
    assert [g["name"] for g in optimizer.param_groups] == ["te", "unet"]


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("AdamW", "weight_decay=0.3", 0.3),
        ("AdamW", "betas=0.8,0.95", (0.8, 0.95)),
        ("AdamW", "foreach=True", True),
        ("Lion", "weight_decay=0.3", 0.3),
        ("DAdaptAdam", "decouple=True", True),
        ("Prodigy", "d_coef=2.0", 2.0),
        ("AdaFactor", "warmup_init=True", True),
        ("AdamWScheduleFree", "warmup_steps=7", 7),
    ],
)
def test_arguments_arrive(name, argument, value):
    optimizer = made(name, optimizer_args=[argument])[1]
    assert [group[argument.split("=")[0]] for group in optimizer.param_groups] == [value] * 2


@pytest.mark.parametrize("argument", ["speed=1", "name=1", "lr=3"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_arguments_that_do_not_fit(name, argument):
    with pytest.raises(UserError, match="optimizer_args"):
        made(name, optimizer_args=[argument])


def test_arguments_as_kohya_writes_them():
    assert parse_arguments(["decouple=True", "weight_decay=0.01", "betas=0.9,0.999"], "x") == {
        "decouple": True,
        "weight_decay": 0.01,
        "betas": (0.9, 0.999),
    }
    together = "decouple=True weight_decay=0.01 betas=(0.9, 0.999) d0=1e-6 mode='a b'"
    assert parse_arguments([together], "x") == {
        "decouple": True,
        "weight_decay": 0.01,
        "betas": (0.9, 0.999),
        "d0": 1e-6,
        "mode": "a b",
    }
    assert parse_arguments([], "x") == {}


@pytest.mark.parametrize("pair", ["fast", "", "weight_decay=much", "betas=(0.9,", "x=__import__('os')"])
def test_arguments_that_say_nothing(pair):
    with pytest.raises(UserError, match="not name=value"):
        parse_arguments([pair], "optimizer_args")


VALUES = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), VALUES, max_size=4))
def test_arguments_come_back(arguments):
    pairs = [f"{name}={value!r}" for name, value in arguments.items()]
    assert parse_arguments(pairs, "x") == arguments
    assert not pairs or parse_arguments([" ".join(pairs)], "x") == arguments


@pytest.mark.parametrize("name", FINDS_ITS_RATE)
def test_one_rate_for_all_where_the_optimizer_finds_it(name):
    problem, optimizer, warnings = made(name, Problem((1.0, 0.5)))
    assert any("takes one learning rate: 1 is used" in warning for warning in warnings)
    assert problem.groups[1]["lr"] == 0.5  # the caller's own are left alone
    problem.run(optimizer, 3)
    assert any("0.001 is low" in warning for warning in made(name, Problem((1e-3, 1e-3)))[2])
    assert made(name)[2] == []


@pytest.mark.parametrize("name", ["DAdaptAdam", "Prodigy"])
def test_the_found_rate_is_told_and_follows_the_schedule(name):
    problem, optimizer, _ = made(name)
    schedule = make_schedule(optimizer, settings_for(name, lr_scheduler="linear"), 40)
    first = effective_rates(optimizer)
    for _ in range(20):
        problem.run(optimizer, 1)
        schedule.step()
    d = optimizer.param_groups[0]["d"]
    assert effective_rates(optimizer) == pytest.approx([0.5 * d] * 2)
    assert first == pytest.approx([1e-6, 1e-6]) and effective_rates(optimizer)[0] > 2e-6


def test_adafactor_sets_its_own_rate():
    arguments = ["relative_step=True", "scale_parameter=True", "warmup_init=True"]
    problem, optimizer, warnings = made("AdaFactor", optimizer_args=arguments)
    assert any("by itself" in warning for warning in warnings)
    schedule = make_schedule(optimizer, settings_for("AdaFactor", lr_scheduler="cosine", lr_warmup_steps=3), 10)
    assert effective_rates(optimizer) == [1e-2, 1e-2]  # shown until it has chosen one, as in sd-scripts
    for step in range(1, 5):
        problem.loss().backward()
        before = problem.copy()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        rms = [float(weight.double().square().mean().sqrt()) for weight in before[:2]]
        assert effective_rates(optimizer) == pytest.approx([1e-6 * step * value for value in rms], rel=1e-4)
    assert all(type(rate) is float for rate in schedule.get_last_lr())


def test_adafactor_shows_a_rate_where_a_groups_first_weight_has_no_gradient():
    problem = Problem()
    problem.groups[1]["params"].reverse()
    _, optimizer, _ = made("AdaFactor", problem)
    schedule = make_schedule(optimizer, settings_for("AdaFactor"), 10)
    problem.run(optimizer, 1)
    schedule.step()
    rms = [float(weight.double().square().mean().sqrt()) for weight in Problem().copy()[:2]]
    assert effective_rates(optimizer) == pytest.approx([1e-2 * value for value in rms], rel=1e-4)


def test_adafactor_can_take_rates_and_a_schedule():
    options = {"optimizer_args": ["relative_step=False", "scale_parameter=False"], "lr_scheduler": "linear"}
    problem, optimizer, warnings = made("AdaFactor", Problem((1e-2, 2e-2)), **options)
    assert any("max_grad_norm" in warning for warning in warnings)
    assert made("AdaFactor", Problem(), max_grad_norm=0.0, **options)[2] == []
    schedule = make_schedule(optimizer, settings_for("AdaFactor", **options), 10)
    assert problem.run(optimizer, 5) < Problem().loss().item()
    schedule.step()
    assert effective_rates(optimizer) == pytest.approx([0.9e-2, 1.8e-2])
    with pytest.raises(UserError, match="lr_scheduler"):
        make_schedule(optimizer, settings_for("AdaFactor", **{**options, "lr_scheduler": "adafactor"}), 10)


def test_schedule_free_weights_are_others_to_save_than_to_train():
    problem, optimizer, _ = made("AdamWScheduleFree")
    schedule = make_schedule(optimizer, settings_for("AdamWScheduleFree", lr_scheduler="cosine"), 10)
    problem.run(optimizer, 5)
    schedule.step()
    assert effective_rates(optimizer) == [1e-2, 1e-2]
    assert "needs no schedule" in made("AdamWScheduleFree", lr_scheduler="cosine")[2][0]
    assert made("AdamWScheduleFree")[2] == []
    training = problem.copy()
    set_mode(optimizer, training=False)
    assert not torch.equal(problem.weights[0], training[0])
    set_mode(optimizer, training=True)
    assert torch.allclose(problem.weights[0], training[0], atol=1e-6)


def test_modes_mean_nothing_to_others():
    problem, optimizer, _ = made("AdamW")
    problem.run(optimizer, 2)
    before = problem.copy()
    set_mode(optimizer, training=False)
    set_mode(optimizer, training=True)
    assert all(torch.equal(a, b) for a, b in zip(problem.weights, before, strict=True))


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_eight_bits_are_used_for_large_weights(name):
    problem, optimizer, _ = made(name)
    problem.run(optimizer, 1)
    assert optimizer.state[problem.weights[0]]["state1"].dtype is torch.uint8
    assert optimizer.state[problem.weights[1]]["state1"].dtype is torch.float32  # too small to gain anything


@pytest.mark.parametrize(("name", "plain"), zip(EIGHT_BIT, ["AdamW", "AdamW", "Lion"], strict=True))
def test_where_eight_bits_do_not_run(name, plain, without_bitsandbytes):
    groups, warnings = Problem().groups, []
    with pytest.raises(UserError, match=f"bitsandbytes isn't installed.*packages again.*Choose {plain}, or"):
        make_optimizer(groups, settings_for(name))
    options = {"optimizer_fallback": True, "optimizer_args": ["weight_decay=0.3", "min_8bit_size=16"]}
    optimizer = make_optimizer(groups, settings_for(name, **options), warnings.append)
    assert type(optimizer).__name__ == plain and optimizer.param_groups[0]["weight_decay"] == 0.3
    assert len(warnings) == 1 and f"so {plain} is used" in warnings[0]


@pytest.mark.parametrize(("name", "argument"), [("AdamW", "weight_decay=-1"), ("Lion", "betas=2,3")])
def test_values_out_of_range(name, argument):
    with pytest.raises(UserError, match=f"optimizer_args: {name} doesn't take these arguments"):
        made(name, optimizer_args=[argument])


def test_what_a_library_prints_is_no_event(capsys):
    made("DAdaptAdam", optimizer_args=["decouple=True"])
    assert capsys.readouterr().out == ""


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    with pytest.raises(UserError, match=r"lion_pytorch isn't installed. Install the training packages again"):
        made("Lion")
    with pytest.raises(UserError, match=r"no_such_package isn't installed.*pip install --no-deps no-such-package"):
        made("no_such_package.Fast")


def test_a_package_that_cannot_be_loaded(tmp_path, monkeypatch):
    (tmp_path / "broken_optimizers.py").write_text("raise AttributeError('no register_fake')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"broken_optimizers can't be loaded .AttributeError: no register_fake"):
        made("broken_optimizers.Fast")


@pytest.mark.parametrize("path", ["NAdam", "torch.optim.NAdam", "schedulefree.RAdamScheduleFree", "prodigyopt.Prodigy"])
def test_any_optimizer_by_its_path(path):
    problem, optimizer, _ = made(path, Problem((1.0, 1.0)), optimizer_args=["weight_decay=0.2"])
    assert type(optimizer).__name__ == path.rpartition(".")[2]
    assert optimizer.param_groups[1]["weight_decay"] == 0.2
    problem.run(optimizer, 10)
    assert not torch.equal(problem.weights[0], Problem().weights[0])


@pytest.mark.parametrize("path", ["Fast", "torch.optim.Fast", "torch.optim.lr_scheduler", "no_such_package.Fast"])
def test_a_path_that_leads_nowhere(path):
    with pytest.raises(UserError, match="optimizer_type"):
        made(path)


def rates(steps: int, **options) -> list[float]:
    """The rate of each step of a plain run."""
    settings = TrainSettings(**{"learning_rate": 1e-3, **options})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    schedule = make_schedule(optimizer, settings, steps)
    told = []
    for _ in range(steps):
        told += effective_rates(optimizer)
        optimizer.step()
        schedule.step()
    return told


OURS = [c for c in TABLE if c["lr"] and c["options"]["lr_scheduler"] in SCHEDULERS]


@pytest.mark.parametrize("case", OURS, ids=lambda case: "-".join(str(v) for v in case["options"].values()))
def test_the_rates_of_sd_scripts(case):
    options = {key: value for key, value in case["options"].items() if key != "max_train_steps"}
    assert rates(len(case["lr"]), **options) == pytest.approx(case["lr"], rel=1e-12, abs=0)


def test_every_schedule_is_in_the_table():
    assert {case["options"]["lr_scheduler"] for case in OURS} == set(SCHEDULERS) - {"adafactor"}


def test_cosine_with_min_lr_ends_at_0_where_nothing_is_given():
    steps = np.arange(10)
    expected = 1e-3 * 0.5 * (1 + np.cos(np.pi * steps / 10))
    assert rates(10, lr_scheduler="cosine_with_min_lr") == pytest.approx(expected.tolist(), rel=1e-9)


def test_groups_keep_their_own_rates_on_the_schedule():
    problem, optimizer, _ = made("AdamW", Problem((1e-3, 4e-4)))
    schedule = make_schedule(optimizer, settings_for("AdamW", lr_scheduler="linear", lr_warmup_steps=2), 10)
    told = []
    for _ in range(4):
        told.append(effective_rates(optimizer))
        problem.run(optimizer, 1)
        schedule.step()
    expected = [[0, 0], [5e-4, 2e-4], [1e-3, 4e-4], [8.75e-4, 3.5e-4]]
    assert all(a == pytest.approx(b) for a, b in zip(told, expected, strict=True))


def test_a_schedule_goes_on_from_its_state():
    options = {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 2, "lr_warmup_steps": 0.2}
    whole = rates(20, **options)
    settings = TrainSettings(learning_rate=1e-3, **options)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = make_schedule(optimizer, settings, 20)
    for _ in range(7):
        optimizer.step()
        schedule.step()
    again = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    resumed = make_schedule(again, settings, 20)
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    told = []
    for _ in range(7, 20):
        told += effective_rates(again)
        again.step()
        resumed.step()
    assert told == whole[7:]


@pytest.mark.parametrize("path", ["StepLR", "torch.optim.lr_scheduler.StepLR"])
def test_any_schedule_by_its_path(path):
    options = {"lr_scheduler_type": path, "lr_scheduler_args": ["step_size=2", "gamma=0.5"], "lr_scheduler": "cosine"}
    assert rates(6, **options) == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4])


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("lr_scheduler_type", {"lr_scheduler_type": "Steep"}),
        ("lr_scheduler_type", {"lr_scheduler_type": "ReduceLROnPlateau"}),
        ("lr_scheduler_args", {"lr_scheduler_type": "StepLR", "lr_scheduler_args": ["slope=2"]}),
        ("lr_scheduler_args", {"lr_scheduler_type": "StepLR"}),
        ("lr_warmup_steps", {"lr_scheduler_type": "StepLR", "lr_warmup_steps": 3}),
        ("lr_scheduler", {"lr_scheduler": "polynomial", "learning_rate": 1e-8}),
        ("lr_scheduler", {"lr_scheduler": "adafactor"}),
    ],
    ids=str,
)
def test_schedules_that_cannot_be(where, options):
    with pytest.raises(UserError) as error:
        rates(4, **options)
    assert error.value.where == where


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("optimizer_type", {"optimizer_type": "Lion9bit"}),
        ("optimizer_args", {"optimizer_args": ["speed=1"]}),
        ("lr_warmup_steps", {"lr_scheduler_type": "StepLR", "lr_warmup_steps": 0.1}),
        ("lr_scheduler_args", {"lr_scheduler_type": "StepLR", "lr_scheduler_args": ["step_size"]}),
    ],
    ids=str,
)
def test_a_check_before_anything_is_loaded(where, options):
    with pytest.raises(UserError) as error:
        check(TrainSettings(**options), torch.device("cpu"))
    assert error.value.where == where


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in EIGHT_BIT])
def test_a_check_of_what_is_well(name):
    check(settings_for(name, learning_rate=0.0, unet_lr=1.0, text_encoder_lr=0.0), torch.device("cpu"))
