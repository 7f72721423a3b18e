"""From settings to the size of each module."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lora_train.errors import UserError
from lora_train.model.checkpoint import Family
from lora_train.network.kohya import write_lora
from lora_train.network.names import Target
from lora_train.network.spec import Drops, LoraSpec, Size, sizes_in, spec_of
from lora_train.settings import TrainSettings
from tests.network.conftest import table


def target(block: int | None = None, kernel: int = 0, part: str = "unet") -> Target:
    layer = torch.nn.Conv2d(4, 4, kernel) if kernel else torch.nn.Linear(4, 4)
    return Target(part, "x", "lora_x", layer, block)


def spec(family: Family = Family.SD15, **values: object) -> LoraSpec:
    return spec_of(TrainSettings(**values), family)


@pytest.mark.parametrize("case", table("blocks.json")["dims"], ids=lambda case: f"{case['sdxl']} {case['args']}")
def test_block_sizes_are_kohyas(case: dict) -> None:
    family = Family.SDXL if case["sdxl"] else Family.SD15
    values = {"network_dim": 4, "network_alpha": 2.0, **case["args"]}
    if case["result"] is None:
        with pytest.raises(UserError, match=r"block_dims: \d+ values are given, 2[35] are needed"):
            spec(family, **values)
        return
    made, expected = spec(family, **values), case["result"]
    for block in range(23 if case["sdxl"] else 25):
        for kernel in (0, 1):
            assert made.size_of(target(block, kernel)) == Size(
                expected["block_dims"][block], expected["block_alphas"][block]
            )
        large = made.size_of(target(block, 3))
        if expected["conv_block_dims"] is None:
            assert large is None
            assert not made.has_conv
        else:
            assert large == Size(expected["conv_block_dims"][block], expected["conv_block_alphas"][block])
    assert made.size_of(target(part="te1")) == Size(4, 2.0)


def test_a_locon_has_its_size_on_large_convolutions_alone() -> None:
    made = spec(network_dim=8, network_alpha=4, conv_dim=2, conv_alpha=1)
    assert [made.size_of(target(3, kernel)) for kernel in (0, 1, 3)] == [Size(8, 4), Size(8, 4), Size(2, 1)]
    assert spec(network_dim=8).size_of(target(3, 3)) is None


def test_blocks_of_rank_0_or_rate_0_are_left_out() -> None:
    dims = ",".join("0" if n == 4 else "8" for n in range(25))
    made = spec(block_dims=dims, down_lr_weight="zeros+0.05", block_lr_zero_threshold=0.1)
    assert made.size_of(target(4)) is None
    assert made.size_of(target(3)) is None
    assert made.size_of(target(12)) == Size(8, 8.0)
    assert spec(block_dims=dims, conv_dim=2, up_lr_weight="zeros").size_of(target(20, 3)) is None
    assert spec(mid_lr_weight="0").size_of(target(12)) is None


def test_block_alphas_of_0_are_the_rank() -> None:
    assert spec(network_dim=6, block_alphas=",".join("0" * 25)).size_of(target(5)) == Size(6, 6.0)
    with pytest.raises(UserError, match="conv_block_alphas: there are no ranks for them"):
        spec(conv_block_alphas=",".join("1" * 25))


@pytest.mark.parametrize(
    ("values", "trained"),
    [
        ({}, {"te1", "te2", "unet"}),
        ({"network_train_unet_only": True}, {"unet"}),
        ({"network_train_text_encoder_only": True}, {"te1", "te2"}),
        ({"unet_lr": 0.0}, {"te1", "te2"}),
        ({"text_encoder_lr": 0.0}, {"unet"}),
        ({"text_encoder_lr": 0.0, "text_encoder2_lr": 1e-5}, {"te2", "unet"}),
        ({"text_encoder2_lr": 0.0}, {"te1", "unet"}),
    ],
)
def test_what_learns_at_a_rate_of_0_has_no_modules(values: dict, trained: set) -> None:
    made = spec(Family.SDXL, **values)
    assert {part for part in ("te1", "te2", "unet") if made.size_of(target(1, part=part))} == trained


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    size = spec(network_dim=64, network_alpha=8, rs_lora=True).size_of(target(3))
    assert size == Size(64, 64.0)
    assert size.scale == 8 / math.sqrt(64)


def test_forms_and_dropouts() -> None:
    made = spec(algo="locon", network_dropout=0.1, rank_dropout=0.2, module_dropout=0.3, dora_wd=True)
    assert (made.form, made.dora, made.drops) == ("lora", True, Drops(0.1, 0.2, 0.3))
    assert (spec(algo="lokr", factor=8).form, spec(algo="lokr", factor=8).factor) == ("lokr", 8)
    assert not spec().drops
    with pytest.raises(UserError, match=r"network_dropout: is for LoRA, not for loha\. Use rank_dropout"):
        spec(algo="loha", network_dropout=0.1)


def test_dims_from_a_file(tmp_path: Path) -> None:
    state = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(3, 4),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.ones(4, 3),
        "lora_unet_mid_block_attentions_0_proj_in.alpha": torch.tensor(1.5),
    }
    path = tmp_path / "x.safetensors"
    write_lora(path, state, {}, torch.float32)
    values = {"network_weights": str(path), "dim_from_weights": True}
    assert spec(**values).modules == {"lora_unet_mid_block_attentions_0_proj_in": Size(3, 1.5)}
    made = spec(Family.SDXL, **values)
    assert made.modules == {"lora_unet_middle_block_1_proj_in": Size(3, 1.5)}
    assert made.size_of(SimpleNamespace(part="unet", key="lora_unet_middle_block_1_proj_in")) == Size(3, 1.5)
    assert made.size_of(target(3)) is None
    with pytest.raises(UserError, match="there is no such file"):
        spec(network_weights="nowhere.safetensors", dim_from_weights=True)


def test_sizes_of_every_form() -> None:
    state = {
        "a.lora_down.weight": torch.ones(3, 4),
        "b.hada_w1_b": torch.ones(5, 4),
        "b.alpha": torch.tensor(2),
        "c.lokr_w1": torch.ones(2, 2),
        "c.lokr_w2_b": torch.ones(6, 4),
        "d.lokr_w1": torch.ones(2, 2),
        "d.lokr_w2": torch.ones(2, 2),
        "d.alpha": torch.tensor(9.0),
        "e.lokr_w1_b": torch.ones(7, 4),
        "e.lokr_w2": torch.ones(2, 2),
    }
    assert sizes_in(state) == {"a": Size(3, 3), "b": Size(5, 2), "c": Size(6, 6), "d": Size(1, 1), "e": Size(7, 7)}
