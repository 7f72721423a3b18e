"""Jobs with the real engine: killed with its WebUI, gone on with, paused, gone on with; the result is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_train.jobs.child import Engine
from lora_train.jobs.manager import Manager
from tests import support
from tests.train import runs

from .fakes import FakeHost, posix, until

pytest.importorskip("peft")
STEPS = 240


class OnCpu(Engine):
    """The engine itself, on the CPU."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "CUDA_VISIBLE_DEVICES": ""}


def wanted(folder: Path, output_name: str) -> dict:
    return {
        "train_data_dir": str(folder / "set"),
        "output_name": output_name,
        "resolution": "64",
        "network_dim": 2,
        "network_train_unet_only": True,
        "block_dims": runs.LAST_BLOCK,
        "max_train_steps": STEPS,
        "learning_rate": 1e-3,
        "save_precision": "float",
    }


@posix
@pytest.mark.slow
def test_a_job_that_was_killed_and_paused_makes_the_same_lora(tmp_path: Path) -> None:
    support.checkpoint(tmp_path / "model.safetensors")
    host = FakeHost(tmp_path)
    runs.drawn(tmp_path / "set" / "3_thing")
    root = Path(__file__).resolve().parents[2]
    code = (
        f"import sys, time\nfrom pathlib import Path\nsys.path[:0] = [{str(root)!r}]\n"
        "from tests.jobs.test_real_engine import *\n"
        f"host = FakeHost(Path({str(tmp_path)!r}))\n"
        "Manager(host, OnCpu()).start(wanted(host.folder, 'parts'))\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    manager = Manager(host, OnCpu())
    try:
        until(lambda: manager.status()["step"] > 2 or manager.status()["state"] == "failed", 240)
    finally:
        parent.kill()
        parent.wait()
    job = manager.status()["id"]
    until(lambda: manager.status()["resumable"], 60)
    assert manager.status()["state"] == "interrupted"
    manager.resume(job)
    until(lambda: manager.status()["state"] == "training" and manager.status()["step"] > 2, 120)
    killed_at = int(Path(manager.status()["resume"]).name.removesuffix("-state")[-8:])
    until(lambda: manager.status()["step"] > killed_at + 5, 120)
    manager.pause(job)
    assert manager.wait(120)
    paused = manager.status()
    assert paused["state"] == "paused" and killed_at < paused["step"] < STEPS
    manager.start(wanted(tmp_path, "whole"))
    manager.resume(job)
    assert manager.wait(240)
    whole, parts = manager.history()[0], manager.record(job)
    assert parts and (whole["state"], parts["state"]) == ("done", "done"), (whole["error"], parts)
    one, other = (runs.tensors(Path(record["files"][-1])) for record in (whole, parts))
    assert runs.same(one, other)
    steps = [step for step, _ in parts["losses"]]
    assert steps == sorted(set(steps)) and set(range(killed_at + 1, STEPS + 1)) <= set(steps)
    losses, all_losses = dict(map(tuple, parts["losses"])), dict(map(tuple, whole["losses"]))
    assert all(all_losses[step] == loss for step, loss in losses.items())
    assert list(parts["rates"]) == ["unet"] and parts["memory_now"] > 2**20 and parts["seconds_per_step"] > 0
