"""A stop by signal: the first one lets a run save what is needed to go on."""

import json
import os
import signal
import subprocess
import sys

import pytest

from lora_train import events
from lora_train.paths import ROOT
from tests import support


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_after_the_step_and_leaves_a_state(number, tmp_path):
    support.pictures(tmp_path / "set" / "1_thing")
    values = {
        "pretrained_model_name_or_path": str(support.checkpoint(tmp_path / "narrow.safetensors")),
        "train_data_dir": str(tmp_path / "set"),
        "output_dir": str(tmp_path / "out"),
        "output_name": "run",
        "network_dim": 2,
        "max_train_steps": 100_000,
        "resolution": 64,
    }
    (tmp_path / "c.json").write_text(json.dumps(values), encoding="utf-8")
    command = [sys.executable, "-m", "lora_train", "train", str(tmp_path / "c.json"), "--events"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        heard = []
        for line in process.stdout:
            heard.append(events.parse(line) or {"event": ""})
            if heard[-1]["event"] == "progress" and heard[-1]["step"] == 2:
                process.send_signal(number)
        assert process.wait(60) == 3
    state = next(e["path"] for e in heard if e["event"] == "state")
    assert (tmp_path / "out" / state / "manifest.json").is_file()
    assert heard[-1]["event"] == "stopped"
