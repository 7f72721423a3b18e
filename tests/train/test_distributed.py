"""Several processes: real ones, joined by gloo on the CPU, on a narrow checkpoint.

They are forked from a server that has imported the engine, with the variables that torchrun sets; one run is started
by `accelerate launch`.
"""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_train import events
from lora_train.paths import ROOT
from lora_train.train.state import load_state
from tests import support

SERVER = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else None)
SERVER.set_forkserver_preload(["lora_train.train.run", "lora_train.train.cli", "accelerate", "diffusers.schedulers"])
ALONE = {"train_batch_size": 2}
"""What makes one process do what two do: the batch of both."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, and five pictures of two shapes: each shape's last batch of two has one picture."""
    folder = tmp_path_factory.mktemp("distributed")
    support.checkpoint(folder / "narrow.safetensors")
    support.pictures(folder / "set" / "1_a thing", 5)
    for n in (0, 3):
        picture = folder / "set" / "1_a thing" / f"{n:02d}.png"
        Image.open(picture).resize((64, 128)).save(picture)
    return folder


@pytest.fixture(autouse=True)
def _nobody_stays():
    yield
    for process in multiprocessing.active_children():
        process.kill()


class Run:
    """A training with `count` processes."""

    def __init__(self, folder, name, count, **changes):
        self.out, self.count = folder / name, count
        self.config, self.processes = folder / f"{name}.json", []
        self.logs = [folder / f"{name}-{rank}.log" for rank in range(count)]
        values = {
            "pretrained_model_name_or_path": str(folder / "narrow.safetensors"),
            "train_data_dir": str(folder / "set"),
            "output_dir": str(self.out),
            "output_name": "run",
            "save_precision": "float",
            "network_dim": 2,
            "network_alpha": 2,
            "max_train_epochs": 1,
            "train_batch_size": 1,
            "resolution": 64,
            "enable_bucket": True,
            "min_bucket_reso": 64,
            "bucket_no_upscale": True,
            "learning_rate": 1e-3,
            "clip_skip": 2,
        }
        self.config.write_text(json.dumps(values | changes), encoding="utf-8")

    def start(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(self.count):
            config = self.config[rank] if isinstance(self.config, list) else self.config
            arguments = (rank, self.count, port, str(config), str(self.logs[rank]))
            self.processes.append(SERVER.Process(target=_one, args=arguments, daemon=True))
            self.processes[-1].start()
        return self

    def wait(self, seconds=60.0):
        """The exit codes."""
        for process in self.processes:
            process.join(seconds)
        return [process.exitcode for process in self.processes]

    def done(self):
        assert self.start().wait() == [0] * self.count, [log.read_text() for log in self.logs]
        return self

    def heard(self, rank=0):
        return [e for line in self.logs[rank].read_text(encoding="utf-8").splitlines() if (e := events.parse(line))]

    def until(self, name):
        """Wait until the main process has told of something."""
        end = time.monotonic() + 60
        self.logs[0].touch()
        while not any(e["event"] == name for e in self.heard()):
            assert time.monotonic() < end and self.processes[0].is_alive(), self.logs[0].read_text()
            time.sleep(0.05)

    def lora(self, name="run"):
        return load_file(self.out / f"{name}.safetensors")

    def files(self):
        """All that is there, without the times in the previews' names."""
        found = (str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file())
        return sorted(re.sub(r"_\d{14}", "", path) for path in found)


def _one(rank, count, port, config, log):
    """One process of a run, as torchrun would start it."""
    from lora_train import cli

    os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    if count == 1:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.exit(cli.main(["train", config, "--events"]))


def difference(one, other):
    """Norm of the difference of two LoRAs over the norm of one."""
    assert one.keys() == other.keys()
    weights = [key for key in one if not key.endswith(".alpha")]

    def norm(values):
        return torch.cat([value.double().flatten() for value in values]).norm()

    return float(norm(one[key].double() - other[key].double() for key in weights) / norm(one[key] for key in weights))


def first_gradient(state):
    """exp_avg of AdamW after one step, (1 - beta_1) g, by parameter."""
    kept = load_state(state).training["optimizer"]["state"]
    return {str(number): of["exp_avg"] for number, of in kept.items()}


@pytest.fixture(scope="module")
def full(folder):
    """All that a run may do besides training: both shapes, short batches, accumulation, measuring, drawing, states."""
    return {
        "max_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "validation_split": 0.2,
        "sample_prompts": "thing --w 64 --h 64 --s 1",
        "sample_every_n_epochs": 1,
        "save_every_n_steps": 1,
        "save_state": True,
        "ema_decay": 0.9,
    }


@pytest.fixture(scope="module")
def alone(folder, full):
    return Run(folder, "alone", 1, **full, **ALONE).done()


@pytest.fixture(scope="module")
def launched(folder, full):
    """Two processes, started by accelerate with a precision that isn't the settings'."""
    run = Run(folder, "launched", 1, **full, logging_dir=str(folder / "log"), cache_latents_to_disk=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "bf16", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", "-m", "lora_train", "train", str(run.config), "--events"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with run.logs[0].open("wb") as out:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, timeout=200
        )
    assert done.returncode == 0, done.stderr.decode()
    return run


def test_two_processes_train_what_one_trains_and_one_of_them_speaks_and_writes(folder, alone, launched):
    gradients = [first_gradient(run.out / "run-step00000001-state") for run in (alone, launched)]
    assert difference(*gradients) < 3e-6  # float32 sums a batch of two in another order
    assert difference(alone.lora(), launched.lora()) < 1e-5
    names = [e["event"] for e in alone.heard()]
    assert [e["event"] for e in launched.heard()] == names and {"validation", "preview", "state"} <= set(names)
    assert launched.files() == alone.files()
    assert len(list((folder / "log").rglob("events.*"))) == 1
    told = [[e["loss"] for e in run.heard() if e["event"] == "progress"] for run in (alone, launched)]
    assert told[0] == pytest.approx(told[1], rel=1e-5)
    start = next(e for e in launched.heard() if e["event"] == "start")
    assert (start["processes"], start["steps"]) == (2, len(told[0]))


def test_a_state_goes_on_with_more_or_fewer_processes(folder, full, alone, launched):
    plain = full | {"save_state": False, "save_every_n_steps": None, "sample_prompts": ""}
    for name, count, before, changes in (("more", 2, alone, {}), ("fewer", 1, launched, ALONE)):
        state = str(before.out / "run-step00000001-state")
        run = Run(folder, name, count, **plain | {"resume": state} | changes).done()
        assert difference(alone.lora(), run.lora()) < 1e-5


def test_the_end_of_one_process_ends_the_others_with_a_reason(folder):
    run = Run(folder, "killed", 2, max_train_epochs=1000).start()
    run.until("progress")
    run.processes[1].kill()
    began = time.monotonic()
    assert run.wait(30)[0] == 1
    assert time.monotonic() - began < 20
    last = run.heard()[-1]
    assert last["event"] == "error" and "process 0 of 2: another process of this run has ended" in last["text"]


def test_a_signal_to_any_process_stops_all_with_a_state(folder):
    run = Run(folder, "stopped", 2, max_train_epochs=1000).start()
    run.until("progress")
    for _ in range(2):  # a scheduler's, and the launcher's that passes it on
        os.kill(run.processes[1].pid, signal.SIGTERM)
    assert run.wait(30) == [3, 3]
    assert [e["event"] for e in run.heard()][-1] == "stopped"
    state = next(e for e in run.heard() if e["event"] == "state")
    assert (run.out / f"run-step{state['step']:08d}-state" / "manifest.json").is_file()


def test_what_is_wrong_is_told_once_and_ends_all(folder):
    (folder / "other" / "1_a thing").mkdir(parents=True)
    run = Run(folder, "wrong", 2, train_data_dir=str(folder / "other")).start()
    assert run.wait() == [2, 2]
    assert run.heard()[-1]["event"] == "error" and run.heard(1) == []
    assert not run.out.exists()


def test_processes_with_different_pictures_are_refused(folder):
    support.pictures(folder / "fewer set" / "1_a thing", 2)
    run = Run(folder, "differ", 2)
    other = json.loads(run.config.read_text()) | {"train_data_dir": str(folder / "fewer set"), "seed": 5}
    (folder / "differ-other.json").write_text(json.dumps(other))
    run.config = [run.config, folder / "differ-other.json"]
    assert run.start().wait() == [2, 2]
    assert "the same seed, pictures and captions" in run.heard()[-1]["text"]
