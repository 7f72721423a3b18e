"""The engine's own step against sd-scripts 48d368fa on the same draws (fp32, CPU)."""

import json
import os
from pathlib import Path

import pytest
import torch

from lora_train import settings
from lora_train.train.replay import replay
from tests import parity, support

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return support.checkpoint(tmp_path_factory.mktemp("parity") / "narrow.safetensors", support.PARITY)


@pytest.mark.parametrize("name", parity.names())
def test_replay_agrees_with_sd_scripts(name, checkpoint, tmp_path):
    case = parity.load_case(name, tmp_path / "case")
    options, _ = settings.load(case / "config.toml")
    replay(case, checkpoint, options, tmp_path / "out")
    reference, report = (json.loads((f / "ref.json").read_text("utf-8")) for f in (case, tmp_path / "out"))
    for expected, found in zip(reference["lr"], report["lr"], strict=True):
        assert found == pytest.approx(expected, rel=1e-12)
    differences = parity.compare_sketches(name, case, tmp_path / "out")
    assert max(differences.values()) < TOLERANCE, differences


def test_a_sketch_tells_a_difference_of_one_in_ten_thousand():
    g = torch.Generator().manual_seed(1)
    state = {f"m{n}": torch.randn(64, 16, generator=g) for n in range(100)}
    other = {key: value + 1e-4 * torch.randn(value.shape, generator=g) for key, value in state.items()}
    estimate = parity.sketched_difference(parity.sketch(state), parity.sketch(other))
    true = parity.relative_difference(state, other)
    assert abs(estimate / true - 1) < 0.2


@pytest.mark.skipif(
    "TRAIN_LORA_PARITY" not in os.environ, reason="TRAIN_LORA_PARITY names a folder with full recordings"
)
@pytest.mark.slow
def test_full_recording(checkpoint, tmp_path):
    case = Path(os.environ["TRAIN_LORA_PARITY"]) / "basic"
    replay(case, checkpoint, settings.load(case / "config.toml")[0], tmp_path)
    assert max(parity.compare(case, tmp_path).values()) < TOLERANCE
