"""States on disk: bit for bit the same afterwards, whole or not there, and refused where they don't fit."""

from __future__ import annotations

import importlib
import json
import math
import re
import shutil
import struct
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import lr_scheduler
from transformers.optimization import Adafactor, AdafactorSchedule, get_scheduler

from lora_train.errors import UserError
from lora_train.settings import TrainSettings
from lora_train.train import state as state_module
from lora_train.train.ema import Ema
from lora_train.train.state import load_state, save_state

FILES = ("network.tensors", "training.tensors", "training.json", "settings.json", "train_state.json")


class Network:
    """Two layers that are saved and loaded as the LoRA network is."""

    def __init__(self, rank=2, dtype=torch.float32, seed=0):
        torch.manual_seed(seed)
        self.down, self.up = nn.Linear(5, rank, bias=False, dtype=dtype), nn.Linear(rank, 4, bias=False, dtype=dtype)

    def groups(self):
        return [{"params": [self.down.weight], "lr": 0.01}, {"params": [self.up.weight], "lr": 0.02}]

    def state_dict(self):
        return {name: getattr(self, name).weight.detach().float().clone() for name in ("down", "up")}

    @torch.no_grad()
    def load(self, state):
        for name, value in state.items():
            getattr(self, name).weight.copy_(value)


class Quantised(torch.optim.Optimizer):
    """Momentum in 8 bits with one table for all parameters, as bitsandbytes keeps it, and odd things in the groups."""

    def __init__(self, params):
        table = torch.linspace(-1, 1, 256)
        defaults = {"lr": 0.01, "d": 1e-6, "best": math.inf, "decay": torch.tensor(0.5), "seen": [1, (2, None)]}
        super().__init__(params, {**defaults, "betas": (0.9, 0.999), "name": "gröup", "on": True})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {"state1": torch.zeros_like(p, dtype=torch.uint8), "qmap1": table, "step": 0}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["d"] *= 1.1
            for p in group["params"]:
                state = self.state[p]
                state["step"] += 1
                state["absmax"] = p.grad.abs().max().double()
                state["wave"] = torch.complex(p.grad, -p.grad)
                state["state1"] += (p.grad * 100).to(torch.int32).to(torch.uint8)
                p -= group["lr"] * group["decay"] * (p.grad + state["qmap1"][state["state1"].int()] + group["d"])


def warm(optimizer, steps=10):
    return lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / steps))


def library(module, name, lr=0.01, **options):
    """An optimizer as a maker; its library is imported where it is used."""

    def make(groups):
        optimizer = getattr(importlib.import_module(module), name)([{**g, "lr": lr} for g in groups], **options)
        if hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer

    return make


OPTIMIZERS = {
    "AdamW": torch.optim.AdamW,
    "AdamW amsgrad": lambda g: torch.optim.AdamW(g, amsgrad=True),
    "SGD": lambda g: torch.optim.SGD(g, momentum=0.9, nesterov=True),
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": lambda g: torch.optim.RMSprop(g, centered=True),
    "RAdam": torch.optim.RAdam,
    "Adafactor": lambda g: Adafactor(
        [{"params": x["params"]} for x in g], lr=None, relative_step=True, scale_parameter=True, warmup_init=True
    ),
    "Quantised": Quantised,
    "AdamW8bit": library("bitsandbytes.optim", "AdamW8bit", min_8bit_size=1),
    "DAdaptAdam": library("dadaptation", "DAdaptAdam", lr=1.0, decouple=True),
    "Prodigy": library("prodigyopt", "Prodigy", lr=1.0),
    "AdamWScheduleFree": library("schedulefree", "AdamWScheduleFree"),
}
SCHEDULES = {
    "adafactor": AdafactorSchedule,
    "warm": warm,
    "cosine": lambda o: get_scheduler("cosine", o, num_warmup_steps=2, num_training_steps=10),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[4]
    ),
    "steps": lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 4]),
}


class Run:
    """A training of a few steps that depends on nothing but itself."""

    def __init__(self, optimizer="AdamW", schedule="warm", ema=0.9, scale=True, **network):
        self.network = Network(**network)
        self.optimizer = OPTIMIZERS[optimizer](self.network.groups())
        self.schedule = SCHEDULES[schedule](self.optimizer)
        self.scaler = scaler(scale)
        self.ema = Ema((self.network.down.weight, self.network.up.weight), ema) if ema else None

    def steps(self, first, last):
        for step in range(first, last):
            x = torch.randn(3, 5, generator=torch.Generator().manual_seed(step)).to(self.network.down.weight.dtype)
            self.network.up(self.network.down(x)).float().square().mean().backward()
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            if self.ema:
                self.ema.update()
        return self

    def everything(self):
        parts = [self.network, self.optimizer, self.schedule, *([self.ema] if self.ema else [])]
        return [part.state_dict() for part in parts]

    def save(self, folder, settings=None, **more):
        values = {"position": {"done": 3, "epoch": 2}, "settings": settings or TrainSettings(), **more}
        parts = {"optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler, "ema": self.ema}
        save_state(folder, network_state=self.network.state_dict(), **parts, **values)
        return folder

    def restore(self, state):
        return state.restore(
            network=self.network, optimizer=self.optimizer, schedule=self.schedule, scaler=self.scaler, ema=self.ema
        )


def scaler(enabled):
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cpu", enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)  # torch < 2.3: off where there is no GPU


def same(one, other):
    """Equal in every bit and every type, tables' order aside."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)
    if isinstance(one, float):
        return type(other) is float and struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def bits(tensor):
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run-000002-state"


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        *((name, "adafactor" if name == "Adafactor" else "warm") for name in OPTIMIZERS),
        *(("AdamW", name) for name in SCHEDULES if name not in ("warm", "adafactor")),
    ],
)
def test_a_run_that_was_resumed_is_the_run_that_never_stopped(folder, optimizer, schedule):
    straight = Run(optimizer, schedule).steps(0, 7)
    before = Run(optimizer, schedule).steps(0, 3)
    before.save(folder)
    after = Run(optimizer, schedule, seed=1)
    assert after.restore(load_state(folder)) == []
    assert same(before.everything(), after.everything())
    shutil.rmtree(folder)  # nothing of the run is tied to it any more
    after.steps(3, 7)
    assert same(straight.everything(), after.everything())


@pytest.mark.parametrize(("optimizer", "schedule"), [("AdamW", "warm"), ("Adafactor", "adafactor")])
def test_states_finer_than_their_parameters_stay_so(folder, optimizer, schedule):
    before = Run(optimizer, schedule, dtype=torch.bfloat16).steps(0, 3)
    before.save(folder)
    after = Run(optimizer, schedule, dtype=torch.bfloat16, seed=1)
    after.restore(load_state(folder))
    assert same(before.everything(), after.everything())
    assert same(before.steps(3, 5).everything(), after.steps(3, 5).everything())


def test_the_loss_scale_goes_on(folder):
    before, after = Run(), Run()
    before.scaler.load_state_dict({**before.scaler.state_dict(), "scale": 512.0, "_growth_tracker": 7})
    before.save(folder)
    after.restore(load_state(folder))
    assert after.scaler.state_dict() == before.scaler.state_dict()
    assert after.scaler.get_scale() == 512.0
    other = Run(scale=False)
    other.save(folder)
    assert Run().restore(load_state(folder)) == ["the state has no scale of the loss: it is searched for anew"]
    assert other.restore(load_state(folder)) == []


def test_a_running_average_comes_and_goes_with_a_warning(folder):
    Run(ema=None).steps(0, 3).save(folder)
    run = Run(ema=0.5, seed=1)
    (warning,) = run.restore(load_state(folder))
    assert "begins anew" in warning
    assert same(run.ema.shadow[0], run.network.down.weight.detach())
    run.save(folder)
    (warning,) = Run(ema=None).restore(load_state(folder))
    assert "ema_decay is empty" in warning


def test_the_machine_decides_how_a_step_is_computed(folder):
    before = Run().steps(0, 2)
    before.optimizer.param_groups[0]["foreach"] = True
    before.save(folder)
    after = Run()
    after.optimizer.param_groups[0]["foreach"] = False
    after.restore(load_state(folder))
    assert after.optimizer.param_groups[0]["foreach"] is False


dtypes = st.sampled_from(
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]
)
tensors = st.builds(
    lambda dtype, shape, seed: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    dtypes,
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 9),
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), tensors)
keys = st.one_of(st.integers(), st.text(), st.tuples(st.integers()), st.none())
nested = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(nested)
def test_any_nested_state_survives_json_and_safetensors(value):
    kept = state_module._Tensors()
    text = json.dumps(kept.encode(value), allow_nan=False)
    assert same(state_module._decode(json.loads(text), kept.kept), value)


def test_a_tensor_in_many_places_is_kept_once_and_views_are_apart(folder):
    table = torch.arange(6.0)
    kept = state_module._Tensors()
    state = {"a": table, "b": [table], "row": table[:2], "transposed": table.reshape(2, 3).T, "whole": table.view(2, 3)}
    code = kept.encode(state)
    assert len(kept.kept) == 4
    state_module._write_tensors(folder / "x", kept.kept)
    assert same(state_module._decode(code, state_module._read_tensors(folder / "x")), state)


def test_what_cannot_be_saved_is_said_and_nothing_is_written(tmp_path, folder):
    run = Run()
    run.schedule.state_dict = lambda: {"f": print}
    with pytest.raises(UserError, match="can't be saved as part of a state"):
        run.save(folder)
    assert not list(tmp_path.iterdir())
    counter = state_module._Tensors().encode(Counter({4: 2}))
    assert state_module._decode(counter, {}) == {4: 2}


def test_what_lies_in_the_folder(folder):
    Run().save(folder, position={"done": 7, "epoch": 2, "in_epoch": 1, "curves": {"train": [0.5, math.nan]}})
    assert sorted(path.name for path in folder.iterdir()) == sorted((*FILES, "manifest.json"))
    assert json.loads((folder / "train_state.json").read_text()) == {"current_epoch": 2, "current_step": 7}
    assert load_file(folder / "network.tensors").keys() == {"down", "up"}
    assert not list(folder.parent.rglob("*.safetensors"))  # a WebUI would list them as LoRAs
    position = load_state(folder).position
    assert position["in_epoch"] == 1 and math.isnan(position["curves"]["train"][1])


def test_a_newer_state_takes_the_place_of_the_older(tmp_path, folder):
    Run().save(folder, position={"done": 1})
    Run().save(folder, position={"done": 2})
    assert load_state(folder).position == {"done": 2}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3, 4, 5])
def test_a_save_that_fails_leaves_the_older_state(tmp_path, folder, monkeypatch, fails_at):
    Run().save(folder, position={"done": 1})
    real, left = state_module.replace_file, [fails_at]

    def fail(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(state_module, "replace_file", fail)
    monkeypatch.setattr(state_module, "write_text", lambda path, text: write(fail(path), text))
    with pytest.raises(KeyboardInterrupt):
        Run().save(folder, position={"done": 2})
    assert load_state(folder).position == {"done": 1}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def write(manager, text):
    with manager as temporary:
        temporary.write_text(text, encoding="utf-8")


def test_a_full_disk_is_said_and_the_older_state_stays(tmp_path, folder):
    resource = pytest.importorskip("resource")
    Run().save(folder, position={"done": 1})
    big = Run()
    big.network.state_dict = lambda: {"down": torch.zeros(300_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # Python ignores the signal, so writing fails
    try:
        with pytest.raises(UserError, match=r"state can't be written"):
            big.save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_state(folder).position == {"done": 1}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_an_interrupted_replacement_is_finished(tmp_path, folder):
    Run().save(folder, position={"done": 1})
    aside = tmp_path / f".{folder.name}.old"
    folder.rename(aside)  # killed after the old state moved, before the new one came
    assert load_state(folder).position == {"done": 1}
    shutil.copytree(folder, aside)  # killed after both, before the old one was removed
    (tmp_path / f".{folder.name}.tmp").mkdir()  # killed while writing
    Run().save(folder, position={"done": 2})
    assert load_state(folder).position == {"done": 2}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["flipped", "cut", "missing"])
def test_every_damaged_file_is_named_with_another_state(tmp_path, folder, name, fault):
    Run().save(folder)
    Run().save(tmp_path / "run-000001-state")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    if fault == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content if fault == "flipped" else content[:-1])
    with pytest.raises(UserError, match=f"{name} is (damaged|missing).*run-000001-state"):
        load_state(folder)


def test_what_is_no_state_is_told_apart(tmp_path, folder):
    with pytest.raises(UserError, match="no such folder"):
        load_state(folder)
    folder.mkdir()
    with pytest.raises(UserError, match="never finished"):
        load_state(folder)
    (folder / "optimizer.bin").write_bytes(b"\x80\x02cos\nsystem\n(S'touch pwned'\ntR.")
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"sd-scripts.*model.safetensors as network_weights"):
        load_state(folder)
    with pytest.raises(UserError, match="a state is a folder"):
        load_state(folder / "model.safetensors")
    Run().save(tmp_path / "new-state")
    manifest = json.loads((tmp_path / "new-state" / "manifest.json").read_text())
    (tmp_path / "new-state" / "manifest.json").write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(UserError, match="newer version"):
        load_state(tmp_path / "new-state")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b'{"files": 3, "version": 1}', b'{"a": [1]}'])
@pytest.mark.parametrize("name", ["manifest.json", "training.json", "settings.json", "training.tensors"])
def test_garbled_files_are_user_errors_even_with_a_fitting_manifest(folder, name, content):
    Run().save(folder)
    (folder / name).write_bytes(content)
    if name != "manifest.json":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = {"size": len(content), "sha256": state_module.file_hash(folder / name)}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    if name == "settings.json" and content.startswith(b"{"):
        assert load_state(folder).warnings(TrainSettings()) == []  # a table without any setting that is known
        return
    with pytest.raises(UserError, match=folder.name):
        load_state(folder)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: Run(rank=3), r"another network: down is \[2, 5\] in the state and \[3, 5\] in this run"),
        (lambda: Run("SGD"), "with the optimizer AdamW, this run has SGD"),
        (lambda: Run(schedule="restarts"), "with the schedule LambdaLR, this run has CosineAnnealingWarmRestarts"),
    ],
)
def test_another_run_is_refused_and_untouched(folder, other, said):
    Run().steps(0, 3).save(folder)
    run = other()
    before = [{key: value.clone() for key, value in run.network.state_dict().items()}, run.schedule.last_epoch]
    with pytest.raises(UserError, match=said):
        run.restore(load_state(folder))
    assert same(before, [run.network.state_dict(), run.schedule.last_epoch])


def test_other_groups_are_refused(folder):
    Run().save(folder)
    network = Network()
    pairs = [
        ([{"params": [network.down.weight, network.up.weight]}], "2 groups of parameters, this run has 1"),
        ([{"params": [network.down.weight]}, {"params": [network.up.weight, nn.Parameter(torch.zeros(1))]}], "group 2"),
        ([{"params": [network.up.weight]}, {"params": [network.down.weight]}], r"shape \[2, 5\], in this run \[4, 2\]"),
    ]
    for groups, said in pairs:
        optimizer = torch.optim.AdamW(groups)
        with pytest.raises(UserError, match=said):
            load_state(folder).restore(network=network, optimizer=optimizer, schedule=warm(optimizer))


def test_other_tensors_are_counted_and_one_is_named(folder):
    run = Run()
    full = run.network.state_dict()
    run.network.state_dict = lambda: {**full, "middle": torch.zeros(1)}
    run.save(folder)
    with pytest.raises(UserError, match="1 of its tensors differ, such as middle, which is in the state only"):
        Run().restore(load_state(folder))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output_name": "b", "save_every_n_epochs": 3, "max_train_epochs": 9, "sample_prompts": "a cat"}, None),
        ({"train_data_dir": "D:\\moved\\image", "pretrained_model_name_or_path": "/b/base.safetensors"}, None),
        ({"pretrained_model_name_or_path": "/a/other.safetensors"}, "pretrained_model_name_or_path was '/a/base"),
        ({"unet_lr": 2e-4}, "unet_lr was None .* is 0.0002 now; the state's stays in force"),
        ({"resolution": (768, 768)}, r"resolution was \[512, 512\] .* the new one holds"),
        ({"noise_offset": 0.1}, "noise_offset was 0.0"),
        ({"base_weights": ["/c/x.safetensors"]}, "base_weights"),
    ],
)
def test_settings_that_change_the_training_are_named(folder, changes, said):
    base = {"pretrained_model_name_or_path": "/a/base.safetensors", "train_data_dir": "/a/image"}
    Run().save(folder, TrainSettings(**base))
    told = load_state(folder).warnings(TrainSettings(**{**base, **changes}))
    if said is None:
        assert told == []
    else:
        assert len(told) == 1 and re.search(said, told[0])


def test_another_number_of_pictures_is_said(folder):
    Run().save(folder, pictures=10)
    state = load_state(folder)
    assert state.warnings(TrainSettings(), 10) == state.warnings(TrainSettings()) == []
    assert state.warnings(TrainSettings(), 9) == ["there were 10 pictures when the state was saved and there are 9 now"]


def test_settings_that_came_later_are_not_compared(folder):
    Run().save(folder)
    state = load_state(folder)
    state.settings.pop("noise_offset")
    state.settings["gone"] = 1
    assert state.warnings(TrainSettings(noise_offset=0.5)) == []
