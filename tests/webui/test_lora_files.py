"""A real WebUI computes from our files the very change of the weights that was trained."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lora_train.model.checkpoint import Family
from lora_train.model.load import load_model
from lora_train.network.kohya import read_lora
from lora_train.network.lora import LoraNetwork
from lora_train.settings import from_dict
from lora_train.train.run import run
from tests.support import pictures
from tests.webui import lora_deltas, narrow
from tests.webui.server import FLAGS

FOLDER = os.environ.get("TRAIN_LORA_WEBUI", "")
PYTHON = os.environ.get("TRAIN_LORA_WEBUI_PYTHON", "")

pytestmark = [
    pytest.mark.webui,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (FOLDER and PYTHON), reason="TRAIN_LORA_WEBUI and TRAIN_LORA_WEBUI_PYTHON name no WebUI"),
]

RANKS = ",".join(str(block % 5) for block in range(25))
CONV: dict[str, Any] = {"conv_dim": 2, "conv_alpha": 1}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "bf16": {"save_precision": "bf16"},
    "blocks": {**CONV, "block_dims": RANKS, "conv_block_dims": RANKS},
    "locon": CONV,
    "rslora": {**CONV, "rs_lora": True},
    "loha": {**CONV, "algo": "loha"},
    "lokr": {**CONV, "algo": "lokr", "network_dim": 2},
    "lokr-whole": {**CONV, "algo": "lokr", "network_dim": 1000, "conv_dim": 1000},
    "dora": {**CONV, "dora_wd": True},
}
OTHERS = ("locon", "loha", "lokr", "dora")
VERSIONS = {Family.SD15: "SD1", Family.SD2: "SD2", Family.SDXL: "SDXL"}


@pytest.mark.parametrize("family", list(Family))
def test_a_file_does_what_was_trained(family: Family, tmp_path: Path) -> None:
    checkpoint = narrow.install(tmp_path, family)
    kinds = KINDS if family is Family.SD15 else {name: KINDS[name] for name in OTHERS}
    pictures(tmp_path / "data" / "2_thing", 2)
    loras = tmp_path / "loras"
    for name, more in kinds.items():
        train(checkpoint, tmp_path / "data", loras, name, more)

    report = look(tmp_path, checkpoint, loras)

    model = load_model(checkpoint)
    theirs = load_file(tmp_path / "deltas.safetensors")
    for name in kinds:
        assert report[name]["log"] == [], name
        assert report[name]["wrong"] == [], name
        assert report[name]["restored"], name
        assert (report[name]["version"], report[name]["shown"]) == (VERSIONS[family], True)
        assert report[name]["alias"] == report[name]["metadata"]["ss_output_name"] == name
        network = LoraNetwork.from_state(model, read_lora(loras / f"{name}.safetensors")[0])
        keys = {key.partition("/")[2] for key in theirs if key.startswith(f"{name}/")}
        assert keys == network.layers.keys()
        for key, layer in network.layers.items():
            change = layer.change()
            error = (theirs[f"{name}/{key}"].view_as(change) - change).norm()
            # A DoRA's change is a small difference of large weights, whose rounding stays.
            rounding = 1e-6 * layer.get_base_layer().weight.norm() if name == "dora" else 0
            assert error <= 1e-5 * change.norm() + rounding, (name, key)
        network.remove()


def train(checkpoint: Path, data: Path, out: Path, name: str, more: dict[str, Any]) -> None:
    """A few steps that change every module."""
    given = {"pretrained_model_name_or_path": str(checkpoint), "train_data_dir": str(data), "output_dir": str(out)}
    size = {"network_dim": 4, "network_alpha": 2, "resolution": 64, "max_train_steps": 3, "learning_rate": 0.01}
    settings, _ = from_dict({**given, "output_name": name, "save_precision": "float", **size, **more})
    run(settings, lambda event: None, lambda: False)


def look(folder: Path, checkpoint: Path, loras: Path) -> dict[str, Any]:
    """The report of lora_deltas.py on all files in `loras`."""
    flags = [*FLAGS, "--disable-extra-extensions", "--skip-load-model-at-start", "--ckpt", str(checkpoint)]
    folders = ["--ckpt-dir", str(folder), "--lora-dir", str(loras)]
    settings = ["--ui-settings-file", str(folder / "settings.json")]
    done = subprocess.run(
        [PYTHON, lora_deltas.__file__, str(folder), *flags, *folders, *settings],
        cwd=FOLDER,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "OMP_WAIT_POLICY": "PASSIVE"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))
