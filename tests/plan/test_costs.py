"""The guess of memory and time: it must follow the settings, and say where it comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_train.plan import costs, history
from lora_train.plan.costs import estimate
from lora_train.plan.history import Measured
from lora_train.plan.steps import plan
from lora_train.settings import TrainSettings

from ..dataset.pictures import noise, place
from .test_steps import dataset

BASE = TrainSettings(mixed_precision="fp16", max_train_epochs=10)
PICTURES = dataset((10, 10))


def needed(**changes: Any) -> costs.Costs:
    settings = replace(BASE, **changes)
    frame = {"width": settings.resolution[0], "height": settings.resolution[1], "batch_size": settings.train_batch_size}
    return estimate(settings, plan(settings, dataset((10, 10), **frame)), gpu=True)


def test_a_full_size_model_in_half_precision() -> None:
    """sd-scripts needs 5 to 6 GB for SD1.5 at 512 pixels without gradient checkpointing."""
    low, high = needed().memory
    assert 2.5 * 2**30 < low < high < 7 * 2**30
    assert needed().seconds == tuple(pytest.approx(1000 * each, rel=1e-2) for each in needed().seconds_per_step)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_batch_size": 4},
        {"resolution": (768, 768)},
        {"mixed_precision": "no"},
        {"network_dim": 128},
        {"cache_latents": False},
        {"optimizer_type": "Prodigy"},
        {"ema_decay": 0.999},
        {"max_token_length": 225},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_takes_more_memory(changes: dict[str, Any]) -> None:
    assert sum(needed(**changes).parts.values()) > sum(needed().parts.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": True},
        {"fp8_base": True},
        {"optimizer_type": "AdamW8bit"},
        {"network_train_unet_only": True},
        {"full_bf16": True, "mixed_precision": "bf16"},
        {"network_train_text_encoder_only": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_takes_less_memory(changes: dict[str, Any]) -> None:
    assert sum(needed(**changes).parts.values()) < sum(needed().parts.values())


def test_what_takes_more_time() -> None:
    for changes in ({"gradient_checkpointing": True}, {"train_batch_size": 2}, {"resolution": (768, 512)}):
        assert needed(**changes).seconds_per_step[0] > needed().seconds_per_step[0]
    assert needed(network_train_unet_only=True).seconds_per_step[0] < needed().seconds_per_step[0]
    assert estimate(BASE, plan(BASE, PICTURES), gpu=False).seconds[0] > needed().seconds[0]


def test_the_largest_batch_that_there_is_decides() -> None:
    few = estimate(BASE, plan(BASE, dataset((2, 1), batch_size=8)), gpu=True)
    many = estimate(BASE, plan(BASE, dataset((8, 1), batch_size=8)), gpu=True)
    assert few.parts["activations"] * 4 == pytest.approx(many.parts["activations"])


def test_a_former_run_tells_the_speed() -> None:
    planned = plan(BASE, PICTURES)
    former = Measured("before", BASE, planned, 0.5)
    costs = estimate(BASE, planned, [former])
    low, high = costs.seconds_per_step
    assert low < 0.5 < high < 2 * low
    assert "before" in costs.basis[-1]
    double = estimate(BASE, plan(BASE, dataset((10, 10), batch_size=2)), [former])
    assert double.seconds_per_step[0] == pytest.approx(2 * low, rel=0.01)
    other = estimate(replace(BASE, mixed_precision="no"), planned, [former])
    assert other.seconds_per_step[1] > 2 * other.seconds_per_step[0]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("SD15", {}),
        ("SD15", {"network_train_unet_only": True, "conv_dim": 4}),
        ("SD2", {"network_train_text_encoder_only": True}),
        ("SDXL", {"conv_dim": 4}),
    ],
)
def test_a_checkpoints_header_tells_what_a_lora_on_it_has(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    from lora_train.model.checkpoint import Family
    from lora_train.model.load import load_model
    from lora_train.network.lora import LoraNetwork
    from lora_train.network.spec import spec_of

    from .. import support

    path = support.checkpoint(tmp_path / "narrow.safetensors", family=Family[family])
    settings = replace(BASE, pretrained_model_name_or_path=str(path), network_dim=8, **changes)
    sizes, notes = costs._model(settings)
    assert notes == ["model: narrow.safetensors"]
    model = load_model(path)
    assert sizes.sdxl == (family == "SDXL")
    assert sizes.unet == sum(p.numel() for p in model.unet.parameters())
    network = LoraNetwork.create(model, spec_of(settings, model.family), 0)
    assert costs.lora_parameters(settings, sizes) == sum(p.numel() for p in network.parameters())


def test_sizes_of_sdxl() -> None:
    d = 1280
    shapes: dict[str, tuple[int, ...]] = {
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight": (3 * d, d),
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.out_proj.weight": (d, d),
        "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight": (4 * d, d),
        "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_proj.weight": (d, 4 * d),
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 2048),
    }
    model = costs.measure(shapes)
    assert (model.sdxl, model.text_width, model.text_layers) == (True, d, 2)
    assert model.lora_text == 8 * d + 2 * 5 * d
    assert model.lora_unet == 1280 + 2048


def test_records_of_former_jobs_are_read(tmp_path: Path) -> None:
    place(tmp_path / "set" / "2_a" / "x.png", noise(64, 64), "x")
    config = {"train_data_dir": str(tmp_path / "set"), "max_train_epochs": 20, "mixed_precision": "bf16"}
    records = {
        "1": {"name": "old", "step": 40, "seconds": 20.0},
        "2": {"name": "short", "step": 3, "seconds": 20.0},
        "3": {"name": "new", "step": 40, "seconds": 90.0, "seconds_per_step": 2.0},
    }
    for folder, record in records.items():
        (tmp_path / "jobs" / folder).mkdir(parents=True)
        (tmp_path / "jobs" / folder / "record.json").write_text(json.dumps(record))
        (tmp_path / "jobs" / folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "jobs" / "4").mkdir()
    (tmp_path / "jobs" / "4" / "record.json").write_text("no JSON")
    found = history.read(tmp_path / "jobs")
    assert [(run.name, run.seconds_per_step) for run in found] == [("old", 0.5), ("new", 2.0)]
    assert found[0].plan.steps == 40
    assert history.read(tmp_path / "none") == []


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys, lora_train.plan.costs, lora_train.plan.history, lora_train.plan.cli;"
        "sys.exit(bool({'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
