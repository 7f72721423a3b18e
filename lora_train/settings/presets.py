"""Named recipes that fill settings: those of four tutorials, value by value, under kohya's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class Preset:
    """A recipe. values: setting -> value; note: what the recipe leaves to people, and where it gave a range."""

    name: str
    title_en: str
    title_zh: str
    note: str
    values: Mapping[str, Any]


_PERSON = {
    "network_dim": 128,
    "network_alpha": 64.0,
    "train_batch_size": 1,
    "max_train_epochs": 10,
    "save_every_n_epochs": 1,
    "caption_extension": ".txt",
    "mixed_precision": "fp16",
    "resolution": (768, 768),
    "enable_bucket": False,
    "cache_latents": True,
    "xformers": True,
}
_PERSON_NOTE = (
    "Heads cropped to one square size: 768, or 512 where they are smaller. Choose repeats (10 to 30) so that there are "
    "3000 to 5000 steps: 4800 / pictures / 10. Epochs 5 to 10: 10 is used. For drawn characters dim 64 is enough."
)
_RATE_OF_1 = {"learning_rate": 1.0, "unet_lr": 1.0, "text_encoder_lr": 1.0}
_REGULARISED = {
    "network_dim": 128,
    "network_alpha": 128.0,
    "train_batch_size": 1,
    "max_train_epochs": 10,
    "mixed_precision": "bf16",
    "optimizer_type": "AdamW8bit",
    "learning_rate": 5e-5,
    "unet_lr": 1e-4,
    "text_encoder_lr": 5e-5,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0.0,
    "resolution": (768, 768),
    "enable_bucket": True,
    "min_bucket_reso": 320,
    "max_bucket_reso": 768,
    "bucket_no_upscale": True,
    "flip_aug": True,
    "clip_skip": 2,
    "max_token_length": 150,
    "caption_extension": ".txt",
    "cache_latents": True,
    "xformers": True,
    "save_every_n_epochs": 1,
    "save_state": True,
}

PRESETS = (
    Preset(
        "person",
        "Person, AdamW8bit",
        "真人 · AdamW8bit（静态学习率）",
        _PERSON_NOTE + " Rates are kohya's usual ones. Cycles 3 to 5: 3 is used.",
        {
            **_PERSON,
            "optimizer_type": "AdamW8bit",
            "learning_rate": 1e-4,
            "unet_lr": 1e-4,
            "text_encoder_lr": 5e-5,
            "lr_scheduler": "cosine_with_restarts",
            "lr_scheduler_num_cycles": 3,
        },
    ),
    Preset(
        "person-adaptive",
        "Person, DAdaptAdam",
        "真人 · DAdaptAdam（动态学习率）",
        _PERSON_NOTE + " DAdaptAdam finds its own rate, so every rate is 1; it needs 6 GB of GPU memory.",
        {
            **_PERSON,
            **_RATE_OF_1,
            "optimizer_type": "DAdaptAdam",
            "optimizer_args": ["decouple=True", "weight_decay=0.01", "betas=0.9,0.999"],
            "lr_scheduler": "constant",
        },
    ),
    Preset(
        "person-adafactor",
        "Person, Adafactor",
        "真人 · Adafactor（动态学习率，省显存）",
        _PERSON_NOTE + " Adafactor finds its own rate, so every rate is 1; for GPUs with less than 6 GB.",
        {
            **_PERSON,
            **_RATE_OF_1,
            "optimizer_type": "AdaFactor",
            "optimizer_args": ["relative_step=True", "scale_parameter=True", "warmup_init=True"],
            "lr_scheduler": "adafactor",
        },
    ),
    Preset(
        "person-regularised",
        "Person with regularisation pictures",
        "真人 · 正则化图片",
        "Faces without background at 768, and whole figures of the same person as regularisation pictures "
        "(reg_data_dir), which need no captions. Of ten epochs the 5th to 7th were the best, so compare all of them. "
        "Alpha may be 64.",
        _REGULARISED,
    ),
    Preset(
        "person-high-resolution",
        "Person, high resolution, several concepts",
        "真人 · 高分辨率、多概念",
        "Pictures of 512 to 1024 pixels: faces at 1024 (100 repeats), figures (20 repeats), clothes and shoes apart, "
        "with regularisation folders of the same names (5 repeats). The resolution is that of the largest pictures.",
        {
            **_REGULARISED,
            "max_train_epochs": 8,
            "resolution": (1024, 1024),
            "min_bucket_reso": 512,
            "max_bucket_reso": 1024,
        },
    ),
    Preset(
        "general",
        "General",
        "通用",
        "dim 32 or 64 for a character or few details, 128 for large scenes with many: 64 is used, with half of it as "
        "alpha. Epochs 10 to 20: 10 is used. Batch 1 to 4: 1 is used. The text encoder's rate is half of the UNet's, "
        "down to a tenth is common; find the UNet's with the learning rate finder. About 30 repeats; the larger the "
        "resolution, the better. Previews need sample_prompts, the curves in TensorBoard logging_dir.",
        {
            "network_dim": 64,
            "network_alpha": 32.0,
            "train_batch_size": 1,
            "max_train_epochs": 10,
            "optimizer_type": "AdamW8bit",
            "unet_lr": 1e-4,
            "text_encoder_lr": 5e-5,
            "lr_scheduler": "constant",
            "sample_every_n_epochs": 1,
            "log_with": "tensorboard",
        },
    ),
    Preset(
        "style",
        "Style",
        "画风",
        "Epochs 8 or more, up to 128: 8 is used. Choose repeats by class of picture: pictures x repeats x 2 from 1000 "
        "to 2000 with mirrored copies. keep_tokens counts only with shuffle_caption, which that recipe's trainer "
        "always has on. Compare the one to four epochs of the lowest loss.",
        {
            "max_train_epochs": 8,
            "save_every_n_epochs": 1,
            "noise_offset": 0.1,
            "keep_tokens": 3,
            "shuffle_caption": True,
            "learning_rate": 1e-4,
            "unet_lr": 1e-4,
            "text_encoder_lr": 1e-4,
            "optimizer_type": "AdamW8bit",
        },
    ),
)

# A value of a preset is left out where the user gave one of these, which it would overrule.
_OVERRULES = {
    "max_train_epochs": "max_train_steps",
    "unet_lr": "learning_rate",
    "text_encoder_lr": "learning_rate",
}
_OF_AN_ADAPTIVE_OPTIMIZER = ("optimizer_args", "learning_rate", "unet_lr", "text_encoder_lr", "lr_scheduler")


def preset(name: str) -> Preset:
    """The preset of that name. Raises UserError naming all of them."""
    for one in PRESETS:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in PRESETS)
    raise UserError(f"there is no preset {name!r}", where="preset", remedy=f"Choose from {names}")


def apply(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's values with `values`, which the user gave and which win. Raises UserError."""
    filled = dict(preset(name).values)
    for mine, theirs in _OVERRULES.items():
        if theirs in values:
            filled.pop(mine, None)
    optimizer = str(values.get("optimizer_type", filled["optimizer_type"]))
    if "optimizer_args" in filled and optimizer.lower() != filled["optimizer_type"].lower():
        for mine in _OF_AN_ADAPTIVE_OPTIMIZER:  # a rate of 1 is for no other
            filled.pop(mine, None)
    return {**filled, **values}
