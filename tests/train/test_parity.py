"""The engine's own step against sd-scripts 48d368fa on the same draws (fp32, CPU)."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train import settings
from lora_train.train.replay import replay
from tests import parity, support

CASES = Path(__file__).parent.parent / "data" / "parity"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return support.checkpoint(tmp_path_factory.mktemp("parity") / "narrow.safetensors", support.PARITY)


def whole_case(case: Path, folder: Path) -> Path:
    """The recorded case with its zero tensors put back."""
    folder.mkdir()
    for name in ("config.toml", "inputs.json", "inputs.safetensors", "ref.json"):
        (folder / name).write_bytes((case / name).read_bytes())
    initial = load_file(case / "lora_init.safetensors")
    shapes = json.loads((case / "zeros.json").read_text("utf-8"))
    zeros = {key: torch.zeros(shape) for key, shape in shapes.items()}
    save_file({**zeros, **initial}, folder / "lora_init.safetensors")
    return folder


@pytest.mark.parametrize("name", ["basic"])
def test_replay_agrees_with_sd_scripts(name, checkpoint, tmp_path):
    case = whole_case(CASES / name, tmp_path / "case")
    options, _ = settings.load(case / "config.toml")
    replay(case, checkpoint, options, tmp_path / "out")

    reference, report = (json.loads((f / "ref.json").read_text("utf-8")) for f in (case, tmp_path / "out"))
    assert report["lr"] == reference["lr"]
    assert parity.largest(reference["losses"], report["losses"]) < TOLERANCE
    assert parity.largest(reference["grad_norm"], report["grad_norm"]) < TOLERANCE

    gradients = parity.sketch(parity.weights(load_file(tmp_path / "out" / "grads0.safetensors")))
    assert parity.sketched_difference(load_file(CASES / name / "grads0.sketch.safetensors"), gradients) < TOLERANCE
    initial, final = load_file(case / "lora_init.safetensors"), load_file(tmp_path / "out" / "lora_final.safetensors")
    delta = parity.sketch(parity.difference(final, initial))
    assert parity.sketched_difference(load_file(CASES / name / "delta.sketch.safetensors"), delta) < TOLERANCE


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
