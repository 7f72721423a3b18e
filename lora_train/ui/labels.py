"""How settings are called in the tab, in which group they stand, and what the tab fills in at first."""

from __future__ import annotations

from typing import Any

from ..settings import schema

PREFIX = "train_lora_"
"""Begins every element id of ours."""

LABELS = {
    "pretrained_model_name_or_path": "Checkpoint file",
    "train_data_dir": "Folder of pictures",
    "output_dir": "Folder for the LoRA files",
    "output_name": "Name of the LoRA",
    "network_module": "Kind of network",
    "network_dim": "Network dim",
    "network_alpha": "Network alpha",
    "conv_dim": "Convolution dim",
    "conv_alpha": "Convolution alpha",
    "network_train_unet_only": "UNet only",
    "network_train_text_encoder_only": "Text encoder only",
    "learning_rate": "Learning rate",
    "unet_lr": "Learning rate, UNet",
    "text_encoder_lr": "Learning rate, text encoder",
    "optimizer_type": "Optimizer",
    "optimizer_args": "Optimizer arguments",
    "lr_scheduler": "Scheduler",
    "lr_warmup_steps": "Warm-up steps",
    "lr_scheduler_num_cycles": "Scheduler cycles",
    "max_grad_norm": "Gradient norm limit",
    "max_train_epochs": "Epochs",
    "max_train_steps": "Steps",
    "train_batch_size": "Batch size",
    "save_every_n_epochs": "Save every n epochs",
    "caption_extension": "Caption ending",
    "shuffle_caption": "Shuffle captions",
    "keep_tokens": "Keep tokens",
    "clip_skip": "CLIP skip",
    "max_token_length": "Caption length",
    "min_snr_gamma": "Min SNR gamma",
    "save_precision": "Saved precision",
    "training_comment": "Comment",
    "grid.weights": "Grid weights",
    "grid.prompt": "Grid prompt",
    "grid.negative_prompt": "Grid negative prompt",
    "grid.seed": "Grid seed",
    "grid.steps": "Grid steps",
    "grid.cfg_scale": "Grid CFG scale",
    "grid.sampler": "Grid sampler",
    "grid.width": "Grid width",
    "grid.height": "Grid height",
}

PICTURES = ("train_data_dir",)
TRAINING = (
    ("output_name", "max_train_epochs", "train_batch_size"),
    ("network_dim", "network_alpha", "resolution"),
    ("unet_lr", "text_encoder_lr"),
)
FIRST: dict[str, Any] = {
    "output_name": "my-lora",
    "max_train_epochs": 10,
    "unet_lr": "1e-4",
    "text_encoder_lr": "5e-5",
}
"""Where the tab begins with something else than the setting's default."""

HINTS = {
    "pretrained_model_name_or_path": "Empty: the one that is named at the top",
    "output_dir": "Empty: a folder of the LoRA's name among the LoRAs",
    "network_module": "As sd-scripts calls it",
    "optimizer_type": "What turns gradients into steps",
    "train_data_dir": "It holds folders named <repeats>_<name>, such as 10_mira; a single one of them will do too",
    "output_name": "Without an ending",
    "max_train_epochs": "Empty: by steps",
    "train_batch_size": "Pictures a step",
    "network_dim": "More: finer, larger",
    "network_alpha": "Half of dim is common",
    "resolution": "Pixels: 512, or 512,768 for width and height",
    "unet_lr": "Empty: the general learning rate",
    "text_encoder_lr": "Empty: the general learning rate",
    "max_train_steps": "Used only where Epochs is empty",
    "learning_rate": "Used where the UNet or the text encoder has none of its own",
    "clip_skip": "Use the text encoder's n-th layer from the end; empty: the last one",
    "min_snr_gamma": "Weighs the loss by min(SNR, gamma) / SNR; 5 is common; empty: no weighing",
}
"""Said instead of the setting's own help where its neighbours in the tab or a narrow field ask for it."""

PLACEHOLDERS = {
    "train_data_dir": "/path/to/image",
    "optimizer_args": "weight_decay=0.01 betas=0.9,0.99",
}


def label(name: str) -> str:
    """A setting's name for people."""
    return LABELS.get(name) or name.replace("_", " ").capitalize()


def element(name: str) -> str:
    """The element id of a setting's field."""
    return PREFIX + name.replace(".", "_")


def groups(names: list[str]) -> dict[str, list[str]]:
    """Which of `names` stand in which folded group: the sections of their declaration."""
    grouped: dict[str, list[str]] = {}
    for row in schema():
        if row["name"] in names:
            grouped.setdefault(row["section"], []).append(row["name"])
    return grouped
