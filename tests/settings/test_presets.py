"""Presets: every one is a valid configuration, says what the recipe says, and gives way to the user."""

from __future__ import annotations

import pytest

from lora_train import settings
from lora_train.errors import UserError
from lora_train.settings.presets import PRESETS, apply, preset

NAMES = [one.name for one in PRESETS]


@pytest.mark.parametrize("one", PRESETS, ids=lambda one: one.name)
def test_every_preset_is_valid_and_takes_effect(one):
    read, warnings = settings.from_dict(dict(one.values))
    assert warnings == []
    assert {name: getattr(read, name) for name in one.values} == dict(one.values)
    assert one.title_en and one.title_zh and one.note.endswith(".")


def test_names_are_one_each():
    assert len(set(NAMES)) == len(NAMES) and len({one.title_en for one in PRESETS}) == len(NAMES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "person",
            {
                "network_dim": 128,
                "network_alpha": 64,
                "optimizer_type": "AdamW8bit",
                "mixed_precision": "fp16",
                "lr_scheduler": "cosine_with_restarts",
                "resolution": (768, 768),
                "enable_bucket": False,
            },
        ),
        (
            "person-adaptive",
            {
                "optimizer_type": "DAdaptAdam",
                "unet_lr": 1,
                "text_encoder_lr": 1,
                "learning_rate": 1,
                "optimizer_args": ["decouple=True", "weight_decay=0.01", "betas=0.9,0.999"],
            },
        ),
        (
            "person-adafactor",
            {
                "optimizer_type": "AdaFactor",
                "unet_lr": 1,
                "optimizer_args": ["relative_step=True", "scale_parameter=True", "warmup_init=True"],
            },
        ),
        (
            "person-regularised",
            {
                "network_dim": 128,
                "network_alpha": 128,
                "learning_rate": 5e-5,
                "unet_lr": 1e-4,
                "text_encoder_lr": 5e-5,
                "min_bucket_reso": 320,
                "max_bucket_reso": 768,
                "flip_aug": True,
                "clip_skip": 2,
                "max_token_length": 150,
                "mixed_precision": "bf16",
                "save_state": True,
                "lr_scheduler": "constant",
                "lr_warmup_steps": 0,
                "max_train_epochs": 10,
            },
        ),
        ("person-high-resolution", {"max_train_epochs": 8, "min_bucket_reso": 512, "max_bucket_reso": 1024}),
        ("general", {"optimizer_type": "AdamW8bit", "lr_scheduler": "constant", "text_encoder_lr": 5e-5}),
        (
            "style",
            {
                "noise_offset": 0.1,
                "keep_tokens": 3,
                "save_every_n_epochs": 1,
                "learning_rate": 1e-4,
                "unet_lr": 1e-4,
                "text_encoder_lr": 1e-4,
                "optimizer_type": "AdamW8bit",
            },
        ),
    ],
)
def test_the_recipes(name, expected):
    read, _ = settings.from_dict(apply(name, {}))
    assert {field: getattr(read, field) for field in expected} == expected


def test_rates_of_one_are_for_adaptive_optimizers_only():
    for one in PRESETS:
        rates = {one.values.get(name) for name in ("learning_rate", "unet_lr", "text_encoder_lr")}
        assert (1.0 in rates) == ("optimizer_args" in one.values)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_gives_wins(name):
    given = {"network_dim": 7, "learning_rate": 3e-4, "max_train_steps": 50, "output_name": "x"}
    read, _ = settings.from_dict(apply(name, given))
    assert (read.network_dim, read.output_name, read.max_train_steps, read.max_train_epochs) == (7, "x", 50, None)
    assert read.unet_rate == read.text_encoder_rate == 3e-4


@pytest.mark.parametrize("name", ["person-adaptive", "person-adafactor"])
def test_another_optimizer_gets_no_rate_of_one(name):
    read, _ = settings.from_dict(apply(name, {"optimizer_type": "AdamW"}))
    assert read.unet_rate < 0.01 and read.optimizer_args == [] and read.lr_scheduler == "constant"
    assert read.network_dim == 128
    same, _ = settings.from_dict(apply(name, {"optimizer_type": preset(name).values["optimizer_type"].lower()}))
    assert same.unet_rate == 1


def test_another_static_optimizer_keeps_the_rates():
    assert apply("person-regularised", {"optimizer_type": "AdamW"})["unet_lr"] == 1e-4


def test_an_unknown_name_is_answered_with_all_names():
    with pytest.raises(UserError, match=r"'persn'.*person.*style"):
        apply("persn", {})
