"""`python -m lora_train train`: a real child process on a narrow checkpoint."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_train import cli, events, settings
from lora_train.errors import UserError
from lora_train.model.checkpoint import Family
from lora_train.network import kohya
from lora_train.paths import ROOT
from lora_train.train import run as run_module
from lora_train.train.state import load_state
from tests import support
from tests.train import runs

PATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def narrow(checkpoints):
    return checkpoints[Family.SD15]


@pytest.fixture
def config(tmp_path, narrow):
    """Writes a configuration over defaults that work: 3 pictures, repeats 2, batch 4."""
    support.pictures(tmp_path / "set" / "2_a thing")

    def write(**changes):
        values = {
            "pretrained_model_name_or_path": str(narrow),
            "train_data_dir": str(tmp_path / "set"),
            "output_dir": str(tmp_path / "out"),
            "output_name": "run",
            "network_dim": 4,
            "network_alpha": 2.0,
            "max_train_epochs": 2,
            "train_batch_size": 4,
            "resolution": 64,
            "learning_rate": 1e-3,
            "shuffle_caption": True,
            "keep_tokens": 1,
            "noise_offset": 0.05,
            "clip_skip": 2,
            **changes,
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return path

    return write


def child(config, *options, **popen):
    command = [sys.executable, "-m", "lora_train", "train", str(config), *options]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", **popen
    )


def told(output):
    return [e for line in output.splitlines() if (e := events.parse(line))]


def test_a_run_from_start_to_last_file(config, tmp_path, narrow):
    process = child(config(), "--events", stdin=subprocess.DEVNULL)
    output, log = process.communicate(timeout=240)
    assert process.returncode == 0, log
    assert "3 pictures, 2 steps an epoch, 2 epochs, 4 steps in all" in log
    assert "epoch 2: 4 of 4, loss " in log and "run-000002.safetensors" in log
    heard = told(output)
    assert [e["event"] for e in heard if e["event"] not in ("stage", "cache")] == [
        *["start", "progress", "progress", "saved", "progress", "progress", "saved", "saved", "measured", "done"]
    ]
    start = next(e for e in heard if e["event"] == "start")
    assert (start["steps"], start["epochs"], start["steps_per_epoch"], start["pictures"]) == (4, 2, 2, 3)

    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["run-000001.safetensors", "run-000002.safetensors", "run.safetensors"]
    first, second, last = (load_file(tmp_path / "out" / name) for name in files)
    assert len(first) == 792 and all(value.dtype is torch.float16 for value in first.values())
    assert any(not torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(second[key], last[key]) for key in second)
    assert first["lora_unet_mid_block_attentions_0_proj_in.alpha"] == 2.0

    with safe_open(tmp_path / "out" / files[0], "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_epoch"] == "1" and metadata["ss_steps"] == "2" and metadata["ss_num_train_images"] == "6"
    assert metadata["ss_sd_model_name"] == narrow.name and metadata["ss_network_module"] == "networks.lora"
    assert json.loads(metadata["ss_tag_frequency"])["2_a thing"]["thing"] == 3
    assert metadata["sshs_model_hash"] == kohya.model_hash(tmp_path / "out" / files[0])
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"


def test_the_same_seed_gives_the_same_file(config, tmp_path):
    for folder in ("a", "b"):
        runs.train(settings_of(config(output_dir=str(tmp_path / folder), max_train_epochs=1)))
    first, second = (load_file(tmp_path / folder / "run.safetensors") for folder in ("a", "b"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_it_ends_when_its_stdin_closes(config, tmp_path):
    process = child(config(max_train_epochs=10_000), "--events", stdin=subprocess.PIPE)
    for line in process.stdout:
        e = events.parse(line)
        if e and e["event"] == "progress":
            break
    process.stdin.close()
    start = time.monotonic()
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 3
    assert time.monotonic() - start < 30
    state, end = (e for e in told(rest) if e["event"] in ("state", "stopped"))
    assert end["event"] == "stopped" and state["step"] == end["steps"] > 0
    assert load_state(state["path"]).position["done"] == end["steps"]
    assert {path.suffix for path in (tmp_path / "out").glob("*") if path.is_file()} <= {".safetensors"}
    process.stdout.close()
    process.stderr.close()


def test_it_stops_before_the_first_step_too(config, tmp_path):
    run = runs.train(settings_of(config()), stop_after=0)
    assert run.outcome.stopped and run.outcome.steps == 0
    assert [e["event"] for e in run.heard if e["event"] != "cache"] == ["stage", "stopped"]
    assert not (tmp_path / "out").exists()


def test_without_events_it_speaks_to_people(config, capfd):
    assert cli.main(["train", str(config(max_train_epochs=1))]) == 0
    output, log = capfd.readouterr()
    assert output == ""
    for part in ("3 pictures, 2 steps an epoch", "epoch 1", "loss", "saved", "done in"):
        assert part in log


def test_options_on_the_command_line_win_and_errors_come_together(config, tmp_path):
    process = child(config(), "--network_dim", "0", "--lr_scheduler", "steep", stdin=subprocess.DEVNULL)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "network_dim: '0' is out of range" in log and "lr_scheduler: 'steep'" in log and "Traceback" not in log
    assert not (tmp_path / "out").exists()


def settings_of(path):
    return settings.load(path)[0]


def checked(config, **changes):
    """The error and the warnings of a run that is stopped before its first step."""
    heard = []
    try:
        run_module.run(settings_of(config(**changes)), heard.append, lambda: any(e["event"] == "start" for e in heard))
    except UserError as error:
        return str(error), heard
    return None, heard


def warnings_of(heard):
    return "\n".join(e["text"] for e in heard if e["event"] == "warning")


def test_bad_checkpoints_and_folders_are_said_and_nothing_is_created(config, tmp_path, narrow):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts" / "1_x").mkdir(parents=True)
    (tmp_path / "texts" / "1_x" / "a.txt").write_text("a")
    (tmp_path / "cut.safetensors").write_bytes(narrow.read_bytes()[:-1])
    (tmp_path / "page.safetensors").write_text("<html>")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    save_file({"conditioner.embedders.0.x": torch.zeros(1)}, tmp_path / "xl.safetensors")
    files = ("cut", "page", "lora", "xl")
    cases = [
        ({"train_data_dir": str(tmp_path / "empty")}, "empty"),
        ({"train_data_dir": str(tmp_path / "texts")}, "picture"),
        ({"train_data_dir": str(tmp_path / "none")}, "none"),
        ({"output_name": "../x"}, "output_name"),
        *(({"pretrained_model_name_or_path": str(tmp_path / f"{name}.safetensors")}, name) for name in files),
    ]
    before = sorted(path for path in tmp_path.rglob("*") if path.name != "config.json")
    for changes, named in cases:
        error, heard = checked(config, **changes)
        assert error and named in error, changes
        assert not heard
        assert sorted(path for path in tmp_path.rglob("*") if path.name != "config.json") == before
    both, _ = checked(config, train_data_dir=str(tmp_path / "none"), output_name="a/b")
    assert "output_name" in both and "none" in both


def test_a_leaf_folder_a_broken_picture_and_a_missing_caption_work_with_warnings(config, tmp_path):
    leaf = tmp_path / "set" / "2_a thing"
    (leaf / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a whole picture")
    (leaf / "01.txt").unlink()
    error, heard = checked(config, train_data_dir=str(leaf))
    assert error is None
    assert "broken.jpg" in warnings_of(heard) and "01.png" in warnings_of(heard)
    assert next(e for e in heard if e["event"] == "start")["pictures"] == 3


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(config, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        error, heard = checked(config, output_dir=str(small / "out"))
        assert error and "disk is full" in error and not heard
        assert not list(small.iterdir())
        state = {"lora_unet_x.lora_down.weight": torch.zeros(200_000)}
        with pytest.raises(UserError, match="disk is full"):
            kohya.write_lora(small / "a.safetensors", state, {}, torch.float32)
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_training_that_blows_up_ends_before_it_spoils_anything(config, tmp_path):
    with pytest.raises(UserError, match="blew up"):
        runs.train(settings_of(config(learning_rate=10, max_train_epochs=20, train_batch_size=6)))
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files[0] == "run-000001.safetensors" and "run.safetensors" not in files
    for name in files:
        assert all(value.isfinite().all() for value in load_file(tmp_path / "out" / name).values())
