"""How settings are called in the tab, where they stand in it, and what the tab fills in at first."""

from __future__ import annotations

from typing import Any

from ..settings import schema

PREFIX = "train_lora_"
"""Begins every element id of ours."""

LABELS = {
    "pretrained_model_name_or_path": "Checkpoint file",
    "vae": "VAE file",
    "train_data_dir": "Folder of pictures",
    "reg_data_dir": "Folder of regularisation pictures",
    "dataset_config": "Dataset file",
    "output_dir": "Folder for the LoRA files",
    "output_name": "Name of the LoRA",
    "network_module": "Kind of network",
    "algo": "Form of the weights",
    "network_dim": "Network dim",
    "network_alpha": "Network alpha",
    "conv_dim": "Convolution dim",
    "conv_alpha": "Convolution alpha",
    "network_dropout": "Dropout",
    "block_dims": "Dims by block",
    "block_alphas": "Alphas by block",
    "conv_block_dims": "Convolution dims by block",
    "conv_block_alphas": "Convolution alphas by block",
    "factor": "LoKr factor",
    "dora_wd": "DoRA",
    "rs_lora": "rsLoRA",
    "network_weights": "Begin with a LoRA",
    "dim_from_weights": "Dims of that LoRA",
    "base_weights": "LoRAs merged in before",
    "base_weights_multiplier": "Their strengths",
    "network_train_unet_only": "UNet only",
    "network_train_text_encoder_only": "Text encoder only",
    "scale_weight_norms": "Limit of the weights' norms",
    "learning_rate": "Learning rate",
    "unet_lr": "Learning rate, UNet",
    "text_encoder_lr": "Learning rate, text encoder",
    "text_encoder2_lr": "Learning rate, second text encoder",
    "loraplus_lr_ratio": "LoRA+ ratio",
    "loraplus_unet_lr_ratio": "LoRA+ ratio, UNet",
    "loraplus_text_encoder_lr_ratio": "LoRA+ ratio, text encoder",
    "down_lr_weight": "Rate factors, down blocks",
    "mid_lr_weight": "Rate factor, middle block",
    "up_lr_weight": "Rate factors, up blocks",
    "block_lr_zero_threshold": "Leave out blocks below",
    "optimizer_type": "Optimizer",
    "optimizer_args": "Optimizer arguments",
    "optimizer_fallback": "Plain optimizer where 8 bits can't run",
    "lr_scheduler": "Scheduler",
    "lr_scheduler_type": "Another scheduler",
    "lr_scheduler_args": "Its arguments",
    "lr_warmup_steps": "Warm-up steps",
    "lr_scheduler_num_cycles": "Scheduler cycles",
    "lr_scheduler_power": "Scheduler power",
    "lr_scheduler_min_lr_ratio": "Share of the rate at the end",
    "max_grad_norm": "Limit of the gradients' norm",
    "max_train_epochs": "Epochs",
    "max_train_steps": "Steps",
    "train_batch_size": "Batch size",
    "gradient_accumulation_steps": "Batches a step",
    "save_every_n_epochs": "Save every n epochs",
    "save_every_n_steps": "Save every n steps",
    "save_last_n_epochs": "Keep the last n epochs",
    "save_last_n_steps": "Keep the last n steps",
    "save_precision": "Precision of the file",
    "save_state": "Save states",
    "save_state_on_train_end": "Save a state at the end",
    "save_last_n_epochs_state": "Keep states of the last n epochs",
    "save_last_n_steps_state": "Keep states of the last n steps",
    "resume": "Go on from a state",
    "ema_decay": "Average of the weights",
    "training_comment": "Comment",
    "no_metadata": "Little metadata",
    "enable_bucket": "Buckets",
    "min_bucket_reso": "Shortest side of a bucket",
    "max_bucket_reso": "Longest side of a bucket",
    "bucket_reso_steps": "Steps of the sides",
    "bucket_no_upscale": "Never enlarge",
    "flip_aug": "Mirror at random",
    "random_crop": "Crop at random",
    "alpha_mask": "Transparency as a mask",
    "masked_loss": "Masks",
    "conditioning_data_dir": "Folder of masks",
    "prior_loss_weight": "Weight of regularisation",
    "cache_latents": "Encode pictures once",
    "cache_latents_to_disk": "Keep encoded pictures",
    "vae_batch_size": "Pictures encoded at once",
    "cache_text_encoder_outputs": "Encode captions once",
    "caption_extension": "Caption ending",
    "caption_prefix": "Before every caption",
    "caption_suffix": "Behind every caption",
    "caption_separator": "Separator of tags",
    "keep_tokens": "Keep tokens",
    "keep_tokens_separator": "Mark behind kept tokens",
    "secondary_separator": "Mark inside a group of tags",
    "shuffle_caption": "Shuffle captions",
    "enable_wildcard": "Wildcards",
    "caption_dropout_rate": "Captions left out",
    "caption_dropout_every_n_epochs": "No captions in every n-th epoch",
    "caption_tag_dropout_rate": "Tags left out",
    "token_warmup_min": "Tags at the start",
    "token_warmup_step": "Steps until all tags are used",
    "max_token_length": "Caption length",
    "weighted_captions": "Weights in captions",
    "clip_skip": "CLIP skip",
    "noise_offset_random_strength": "Noise offset at random",
    "multires_noise_iterations": "Layers of multi-resolution noise",
    "multires_noise_discount": "Discount of multi-resolution noise",
    "ip_noise_gamma": "Input perturbation",
    "ip_noise_gamma_random_strength": "Input perturbation at random",
    "min_timestep": "First timestep",
    "max_timestep": "End of the timesteps",
    "v_parameterization": "v-prediction",
    "zero_terminal_snr": "Zero terminal SNR",
    "min_snr_gamma": "Min SNR gamma",
    "debiased_estimation_loss": "Debiased estimation",
    "scale_v_pred_loss_like_noise_pred": "Scale v-prediction's loss",
    "v_pred_like_loss": "v-prediction-like loss",
    "loss_type": "Measure of the loss",
    "huber_c": "Huber threshold",
    "mixed_precision": "Precision",
    "full_fp16": "LoRA in fp16",
    "full_bf16": "LoRA in bf16",
    "fp8_base": "Checkpoint in 8 bits",
    "no_half_vae": "VAE in full precision",
    "torch_compile": "Compile the UNet",
    "xformers": "xformers",
    "validation_split": "Share held out",
    "validation_data_dir": "Folder of held-out pictures",
    "validate_every_n_epochs": "Measure every n epochs",
    "validate_every_n_steps": "Measure every n steps",
    "max_validation_steps": "Pictures measured",
    "early_stop_epochs": "Stop early after n epochs",
    "stop_on_blow_up": "Stop when it blows up",
    "sample_prompts": "Prompts of the previews",
    "sample_every_n_epochs": "Preview every n epochs",
    "sample_every_n_steps": "Preview every n steps",
    "sample_at_first": "Preview at the start",
    "sample_sampler": "Sampler of the previews",
    "logging_dir": "Folder for logs",
    "log_with": "Kind of logs",
    "log_prefix": "Prefix of the logs",
    "grid.weights": "Grid weights",
    "grid.prompts": "Grid prompts",
    "grid.prompt": "Grid prompts",
    "grid.epochs": "Grid epochs",
    "grid.negative_prompt": "Grid negative prompt",
    "grid.seed": "Grid seed",
    "grid.steps": "Grid steps",
    "grid.cfg_scale": "Grid CFG scale",
    "grid.sampler": "Grid sampler",
    "grid.width": "Grid width",
    "grid.height": "Grid height",
}

PICTURES = ("train_data_dir",)
OTHER_PICTURES = (("reg_data_dir", "dataset_config"),)
SHAPES = (("enable_bucket", "bucket_no_upscale"), ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps"))
CAPTIONS = (("caption_extension", "keep_tokens"), ("shuffle_caption",))
TRAINING = (
    ("output_name", "max_train_epochs", "save_every_n_epochs"),
    ("resolution", "train_batch_size", "mixed_precision"),
    ("network_dim", "network_alpha", "optimizer_type"),
    ("unet_lr", "text_encoder_lr", "lr_scheduler"),
)
"""The rows of fields that stand in front, step by step; all others are folded by the sections of their declaration."""

FIRST: dict[str, Any] = {
    "output_name": "my-lora",
    "max_train_epochs": 10,
    "unet_lr": "1e-4",
    "text_encoder_lr": "5e-5",
}
"""Where the tab begins with something else than the setting's default."""

HINTS = {
    "pretrained_model_name_or_path": "Empty: the one that is named at the top",
    "vae": "Empty: the one that is named at the top",
    "output_dir": "Empty: a folder of the LoRA's name among the LoRAs",
    "clip_skip": "Use the text encoder's n-th layer from the end; empty: as the WebUI has it",
    "train_data_dir": "It holds folders named <repeats>_<name>, such as 10_mira; a single one of them will do too",
    "output_name": "Without an ending",
    "max_train_epochs": "Empty: by steps",
    "train_batch_size": "Pictures a step",
    "optimizer_type": "8bit: less memory",
    "network_dim": "More: finer, larger",
    "network_alpha": "Half of dim is common",
    "resolution": "Pixels, or width,height",
    "unet_lr": "1e-4 is common",
    "text_encoder_lr": "Half of that is common",
    "save_every_n_epochs": "Empty: at the end only",
    "lr_scheduler": "The rate over the run",
    "mixed_precision": "GPU: fp16 or bf16",
    "max_train_steps": "Used only where Epochs is empty",
    "learning_rate": "Used where the UNet or the text encoder has none of its own",
}
"""Said instead of the setting's own help where its neighbours in the tab or a narrow field ask for it."""

PLACEHOLDERS = {
    "train_data_dir": "/path/to/image",
    "optimizer_args": "weight_decay=0.01 betas=0.9,0.99",
}

RECIPES = {
    "person": "A real person's face, from heads cropped to squares: few, well-chosen pictures, 3000 to 5000 steps.",
    "person-adaptive": "The same with an optimizer that finds its learning rate by itself; needs 6 GB of GPU memory.",
    "person-adafactor": "The same for GPUs with less than 6 GB; the learning rate is found by itself too.",
    "person-regularised": "A person's face, kept apart from the figure by regularisation pictures of the same person.",
    "person-high-resolution": "Face, figure and clothes in folders of their own, in pictures of up to 1024 pixels.",
    "general": "A middle way for a character or a thing, as an overview for beginners recommends.",
    "style": "A drawing style, from pictures of many subjects in the same hand.",
}
"""What each recipe is for, in one line."""


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
