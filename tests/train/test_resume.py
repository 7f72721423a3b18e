"""A run that was interrupted and resumed is, bit for bit, the run that never stopped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lora_train import events
from lora_train.errors import UserError
from lora_train.model.checkpoint import Family
from lora_train.paths import ROOT
from tests.train import runs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures: three of three shapes, two to regularise with."""
    folder = tmp_path_factory.mktemp("resume")
    runs.drawn(folder / "set" / "3_thing")
    runs.drawn(folder / "reg" / "1_any", sizes=((64, 64), (64, 128)), shift=50)
    return folder


@pytest.fixture
def config(place, checkpoints):
    def made(output, **changes):
        given = {"save_every_n_epochs": None, "max_train_epochs": 2, "train_batch_size": 2, **changes}
        return runs.settings_for(place, checkpoints[Family.SD15], output_dir=str(output), output_name="run", **given)

    return made


EVERYTHING = {
    "reg_data_dir": "reg",
    "resolution": (128, 128),
    "enable_bucket": True,
    "min_bucket_reso": 64,
    "flip_aug": True,
    "shuffle_caption": True,
    "caption_dropout_rate": 0.2,
    "caption_tag_dropout_rate": 0.2,
    "token_warmup_step": 6,
    "gradient_accumulation_steps": 2,
    "network_dropout": 0.2,
    "rank_dropout": 0.2,
    "module_dropout": 0.2,
    "noise_offset": 0.05,
    "multires_noise_iterations": 3,
    "ip_noise_gamma": 0.1,
    "ema_decay": 0.9,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 3,
    "scale_weight_norms": 0.1,
}
TEXT = {"network_train_unet_only": False, "block_dims": ",".join(["0"] * 25), "clip_skip": 2}
ADAPTIVE = {"optimizer_type": "Prodigy", "learning_rate": 1.0, "optimizer_args": ["decouple=True"]}
FREE = {"optimizer_type": "AdamWScheduleFree", "network_dropout": 0.3, "ema_decay": 0.9}
FACTORED = {"optimizer_type": "AdaFactor", "shuffle_caption": True}
FRESH = {"cache_latents": False, "random_crop": True, "flip_aug": True}
HELD_OUT = {"validation_split": 0.34, "validate_every_n_steps": 2, "network_dropout": 0.3}
HALF = {"mixed_precision": "bf16", "full_bf16": True}


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({}, (5,)),  # an epoch has five steps: at its end
        (EVERYTHING, (1, 2)),
        (TEXT, (2,)),
        (ADAPTIVE, (3,)),
        (FREE, (2, 3)),
        (FACTORED, (4,)),
        (FRESH, (3,)),
        (HELD_OUT, (4,)),
        (HALF, (3,)),
    ],
    ids=["plain", "everything", "text", "prodigy", "schedulefree", "adafactor", "fresh", "heldout", "bf16"],
)
def test_interrupted_and_resumed_is_uninterrupted(config, place, tmp_path, changes, stops):
    """stops: steps that each part does before it is told to stop."""
    changes = {**changes, **({"reg_data_dir": str(place / "reg")} if "reg_data_dir" in changes else {})}
    whole = runs.train(config(tmp_path / "whole", save_every_n_epochs=1, **changes))
    losses, resume, done = [], "", 0
    for steps in (*stops, None):
        part = runs.train(config(tmp_path / "parts", save_every_n_epochs=1, resume=resume, **changes), steps)
        assert part.of("start")[0]["done"] == done
        losses += part.losses
        if steps is not None:
            done += steps
            assert part.outcome.stopped and part.outcome.steps == done
            assert [e["step"] for e in part.of("state")] == [done]
            resume = part.of("state")[0]["path"]
            assert Path(resume).name == f"run-step{done:08d}-state"
    assert losses == whole.losses
    measured = [(e["step"], e["train"], e["held_out"]) for e in whole.of("validation")]
    assert [(e["step"], e["train"], e["held_out"]) for e in part.of("validation")] == measured[
        -len(part.of("validation")) :
    ]
    for name in ("run-000001", "run-000002", "run"):
        one, other = (tmp_path / folder / f"{name}.safetensors" for folder in ("whole", "parts"))
        assert runs.same(runs.tensors(one), runs.tensors(other)), name
        assert runs.metadata(one)["ss_steps"] == runs.metadata(other)["ss_steps"]
        assert runs.metadata(one)["ss_epoch"] == runs.metadata(other)["ss_epoch"]


def test_states_of_epochs_and_steps_are_resumed_too(config, tmp_path):
    """At an epoch's end, within one, and at the end for more epochs; saving states changes nothing."""
    given = {"max_train_epochs": 3, "save_every_n_epochs": 1, "save_every_n_steps": 3, "network_dropout": 0.3}
    whole = runs.train(config(tmp_path / "whole", **given))
    saving = runs.train(config(tmp_path / "saving", **{**given, "max_train_epochs": 2}, save_state=True))
    names = [Path(e["path"]).name for e in saving.of("state")]
    steps, epochs = [f"run-step{n:08d}-state" for n in (3, 6, 9)], ["run-000001-state", "run-000002-state"]
    assert names == [steps[0], epochs[0], *steps[1:], epochs[1], "run-state"]
    assert saving.losses == whole.losses[:10]
    last = runs.tensors(tmp_path / "whole" / "run.safetensors")
    for name in ("run-step00000003-state", "run-000001-state", "run-000002-state", "run-state"):
        on = runs.train(config(tmp_path / name, resume=str(tmp_path / "saving" / name), **given))
        done = on.of("start")[0]["done"]
        assert on.losses == whole.losses[done:] and on.of("start")[0]["steps"] == 15
        assert on.names[-4:] == ["run-step00000012.safetensors", *whole.names[-3:]]
        assert runs.same(last, runs.tensors(tmp_path / name / "run.safetensors"))


def test_what_cannot_be_resumed_is_said_and_nothing_is_written(config, tmp_path):
    first = runs.train(config(tmp_path / "first"), 2)
    state = first.of("state")[0]["path"]

    def refused(**changes):
        with pytest.raises(UserError) as error:
            runs.train(config(tmp_path / "second", resume=state, **changes))
        assert not (tmp_path / "second").exists()
        return str(error.value)

    assert "another network" in refused(block_dims=",".join(["0"] * 24 + ["3"]))
    assert "another network" in refused(block_dims=",".join(["0", "2"] + ["0"] * 22 + ["2"]))
    assert "another network" in refused(network_train_unet_only=False)
    assert "optimizer AdamW" in refused(optimizer_type="Lion")
    assert "2 steps" in refused(max_train_epochs=None, max_train_steps=2)
    shutil.rmtree(state)
    assert "no such folder" in refused()


def test_other_settings_are_told_and_the_rate_is_the_states(config, tmp_path):
    first = runs.train(config(tmp_path / "a"), 2)
    state = first.of("state")[0]["path"]
    on = runs.train(config(tmp_path / "b", resume=state, learning_rate=1e-5, noise_offset=0.1), 1)
    told = "\n".join(e["text"] for e in on.of("warning"))
    assert "learning_rate was 0.01" in told and "noise_offset was 0.0" in told
    assert on.of("progress")[0]["lr"] == first.of("progress")[0]["lr"]


def test_a_killed_run_leaves_whole_states(config, tmp_path):
    given = {"max_train_epochs": 2, "network_dropout": 0.3}
    whole = runs.train(config(tmp_path / "whole", **given))
    path = tmp_path / "config.json"
    settings = config(tmp_path / "killed", **given, save_every_n_steps=1, save_state=True)
    path.write_text(settings.to_json(), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "lora_train", "train", str(path), "--events"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as child:
        for line in child.stdout:
            if (e := events.parse(line)) and e["event"] == "progress" and e["step"] == 4:
                break  # it is about to save, or saves
        child.kill()
    newest = max((tmp_path / "killed").glob("*-state/manifest.json")).parent
    on = runs.train(config(tmp_path / "killed", **given, resume=str(newest)))
    assert on.of("start")[0]["done"] in (3, 4, 5)
    assert on.losses == whole.losses[on.of("start")[0]["done"] :]
    last = [runs.tensors(tmp_path / folder / "run.safetensors") for folder in ("whole", "killed")]
    assert runs.same(*last)
