"""Groups of parameters in sd-scripts' order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lora_train.model.checkpoint import Family
from lora_train.network.lora import LoraNetwork
from lora_train.network.spec import spec_of
from lora_train.settings import TrainSettings


@pytest.fixture
def groups(bare: Callable) -> Callable:
    """(name, rate, number of parameters) of each group."""

    def make(family: Family = Family.SD15, **values: object) -> list[tuple[str, float, int]]:
        settings = TrainSettings(network_dim=1, learning_rate=1e-3, **values)
        network = LoraNetwork.create(bare(family), spec_of(settings, family))
        made = network.param_groups(settings)
        owned = [id(p) for group in made for p in group["params"]]
        assert len(owned) == len(set(owned))
        assert all(p.requires_grad == (id(p) in owned) for p in network.parameters())
        found = [(group["name"], pytest.approx(group["lr"]), len(group["params"])) for group in made]
        network.remove()
        return found

    return make


def test_text_encoder_then_unet(groups: Callable) -> None:
    assert groups(text_encoder_lr=1e-4) == [("textencoder", 1e-4, 144), ("unet", 1e-3, 384)]
    assert groups(network_train_unet_only=True) == [("unet", 1e-3, 384)]
    assert groups(network_train_text_encoder_only=True) == [("textencoder", 1e-3, 144)]
    assert groups(text_encoder_lr=0.0, unet_lr=2.0) == [("unet", 2, 384)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"loraplus_lr_ratio": 16.0},
            [
                ("textencoder", 1e-3, 72),
                ("textencoder plus", 16e-3, 72),
                ("unet", 1e-3, 192),
                ("unet plus", 16e-3, 192),
            ],
        ),
        (
            {"loraplus_unet_lr_ratio": 4.0},
            [("textencoder", 1e-3, 144), ("unet", 1e-3, 192), ("unet plus", 4e-3, 192)],
        ),
        (
            {"loraplus_lr_ratio": 2.0, "loraplus_text_encoder_lr_ratio": 8.0, "unet_lr": 1e-4},
            [("textencoder", 1e-3, 72), ("textencoder plus", 8e-3, 72), ("unet", 1e-4, 192), ("unet plus", 2e-4, 192)],
        ),
    ],
)
def test_loraplus(groups: Callable, values: dict, expected: list) -> None:
    assert groups(**values) == expected


def test_blocks_with_rates_of_their_own(groups: Callable) -> None:
    """In the order of the model's modules, where the middle comes last; blocks at 0 aren't made."""
    found = groups(down_lr_weight="linear", mid_lr_weight="0.5", network_train_unet_only=True)
    order = [1, 2, 4, 5, 7, 8, *range(16, 25), 12]
    assert [name for name, _, _ in found] == [f"unet_block{n}" for n in order]
    rates = {int(name.removeprefix("unet_block")): rate for name, rate, _ in found}
    assert rates[1] == 1e-3 / 11
    assert rates[12] == 0.5e-3
    assert rates[16] == 1e-3
    assert {count for _, _, count in found} == {24}
    found = groups(up_lr_weight="zeros", loraplus_lr_ratio=2.0, network_train_unet_only=True)
    assert [name for name, _, _ in found][:2] == ["unet_block1", "unet_block1 plus"]
    assert len(found) == 14


def test_sdxls_text_encoders_share_a_group_unless_their_rates_differ(groups: Callable) -> None:
    found = groups(Family.SDXL, text_encoder_lr=1e-4)
    assert [name for name, _, _ in found] == ["textencoder", "unet"]
    assert found[0][2] == 2 * (6 * 3 + 6 * 3)
    found = groups(Family.SDXL, text_encoder_lr=1e-4, text_encoder2_lr=2e-4)
    assert [(name, rate) for name, rate, _ in found] == [("textencoder", 1e-4), ("textencoder2", 2e-4), ("unet", 1e-3)]
    found = groups(Family.SDXL, text_encoder_lr=0.0, text_encoder2_lr=2e-4)
    assert [(name, rate, n) for name, rate, n in found] == [("textencoder", 2e-4, 36), ("unet", 1e-3, found[1][2])]


def test_sdxls_blocks_are_in_order(groups: Callable) -> None:
    found = groups(Family.SDXL, conv_dim=1, mid_lr_weight="1,0,1", network_train_unet_only=True)
    assert [name for name, _, _ in found] == [
        f"unet_block{n}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, *range(13, 22))
    ]


def test_what_a_file_has_but_nobody_trains_gets_no_gradient(bare: Callable) -> None:
    model = bare(Family.SD15)
    settings = TrainSettings(network_train_unet_only=True)
    network = LoraNetwork.create(model, spec_of(TrainSettings(network_dim=1), Family.SD15))
    assert [group["name"] for group in network.param_groups(settings)] == ["unet"]
    assert not any(p.requires_grad for p in network.parameters_of("te"))
    assert all(p.requires_grad for p in network.parameters_of("unet"))
