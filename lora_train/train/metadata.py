"""What a saved file says about itself: kohya's ss_*, and modelspec.* (Stability AI's ModelSpec 1.0.1)."""

from __future__ import annotations

import hashlib
import json
import random
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import __version__
from ..dataset.captions import tag_frequency
from ..dataset.folders import Dataset
from ..network.kohya import file_hash
from ..settings import TrainSettings

# What sd-scripts writes for options that are off.
_NOT_USED = {
    **dict.fromkeys(
        [
            "ss_noise_offset_random_strength",
            "ss_ip_noise_gamma_random_strength",
            "ss_zero_terminal_snr",
            "ss_debiased_estimation",
            "ss_fp8_base",
            "ss_fp8_base_unet",
            "ss_enable_bucket",
            "ss_bucket_no_upscale",
            "ss_flip_aug",
            "ss_color_aug",
            "ss_random_crop",
        ],
        False,
    ),
    **dict.fromkeys(
        [
            "ss_multires_noise_iterations",
            "ss_adaptive_noise_scale",
            "ss_ip_noise_gamma",
            "ss_scale_weight_norms",
            "ss_face_crop_aug_range",
            "ss_min_bucket_reso",
            "ss_max_bucket_reso",
            "ss_vae_name",
            "ss_vae_hash",
            "ss_new_vae_hash",
            "ss_sd_scripts_commit_hash",
            "ss_validation_seed",
            "ss_validate_every_n_epochs",
            "ss_validate_every_n_steps",
            "ss_max_validation_steps",
            "ss_resize_interpolation",
        ],
        None,
    ),
    **dict.fromkeys(
        [
            "ss_caption_dropout_rate",
            "ss_caption_tag_dropout_rate",
            "ss_validation_split",
        ],
        0.0,
    ),
    "ss_caption_dropout_every_n_epochs": 0,
    "ss_multires_noise_discount": 0.3,
    "ss_huber_schedule": "snr",
    "ss_huber_scale": 1.0,
    "ss_huber_c": 0.1,
}


class Metadata:
    """Metadata of the files of one run; every value is text, as safetensors asks."""

    def __init__(
        self, settings: TrainSettings, dataset: Dataset, checkpoint: Path, steps_per_epoch: int, total: int, epochs: int
    ) -> None:
        self.settings, self.started = settings, time.time()
        values = {
            **_NOT_USED,
            **_of_settings(settings),
            **_of_dataset(dataset, settings),
            **_of_checkpoint(checkpoint),
            "ss_session_id": random.SystemRandom().randint(0, 2**32),
            "ss_training_started_at": self.started,
            "ss_num_batches_per_epoch": steps_per_epoch,
            "ss_num_epochs": epochs,
            "ss_max_train_steps": total,
            "ss_lr_warmup_steps": settings.warmup_steps(total),
        }
        self.values = {name: str(value) for name, value in values.items()}

    def at(self, steps: int, epoch: int) -> dict[str, str]:
        """The metadata of a file saved now."""
        now = datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None)
        return {
            **self.values,
            **_modelspec(self.settings),
            "modelspec.date": now.isoformat(),
            "ss_training_finished_at": str(time.time()),
            "ss_steps": str(steps),
            "ss_epoch": str(epoch),
        }


def _of_settings(s: TrainSettings) -> dict[str, Any]:
    arguments = ",".join(s.optimizer_args)
    values: dict[str, Any] = {
        "ss_output_name": s.output_name,
        "ss_learning_rate": s.learning_rate,
        "ss_unet_lr": s.unet_lr,
        "ss_text_encoder_lr": s.text_encoder_lr,
        "ss_network_module": s.network_module,
        "ss_network_dim": s.network_dim,
        "ss_network_alpha": s.network_alpha,
        "ss_network_dropout": None,
        "ss_optimizer": f"torch.optim.adamw.AdamW({arguments})",
        "ss_lr_scheduler": s.lr_scheduler,
        "ss_max_grad_norm": s.max_grad_norm,
        "ss_gradient_checkpointing": False,
        "ss_gradient_accumulation_steps": 1,
        "ss_mixed_precision": s.mixed_precision,
        "ss_full_fp16": False,
        "ss_v2": False,
        "ss_base_model_version": "sd_v1",
        "ss_clip_skip": s.clip_skip,
        "ss_max_token_length": s.max_token_length,
        "ss_cache_latents": True,
        "ss_seed": s.seed,
        "ss_lowram": False,
        "ss_noise_offset": s.noise_offset or None,
        "ss_min_snr_gamma": s.min_snr_gamma,
        "ss_loss_type": "l2",
        "ss_prior_loss_weight": 1.0,
        "ss_training_comment": s.training_comment or None,
        "ss_batch_size_per_device": s.train_batch_size,
        "ss_total_batch_size": s.train_batch_size,
        "ss_resolution": (s.resolution, s.resolution),
        "ss_shuffle_caption": s.shuffle_caption,
        "ss_keep_tokens": s.keep_tokens,
    }
    if s.conv_dim:
        values["ss_network_args"] = json.dumps({"conv_dim": str(s.conv_dim), "conv_alpha": str(s.conv_alpha)})
    return values


def _of_dataset(dataset: Dataset, settings: TrainSettings) -> dict[str, Any]:
    folders = {c.folder.name: {"n_repeats": c.repeats, "img_count": len(c.pictures)} for c in dataset.concepts}
    bucket = {"resolution": [settings.resolution, settings.resolution], "count": dataset.images_with_repeats}
    return {
        "ss_num_train_images": dataset.images_with_repeats,
        "ss_num_reg_images": 0,
        "ss_num_validation_images": 0,
        "ss_dataset_dirs": json.dumps(folders, ensure_ascii=False),
        "ss_reg_dataset_dirs": "{}",
        "ss_tag_frequency": json.dumps(tag_frequency(dataset), ensure_ascii=False),
        "ss_bucket_info": json.dumps({"buckets": {"0": bucket}, "mean_img_ar_error": None}),
    }


def _of_checkpoint(path: Path) -> dict[str, Any]:
    return {
        "ss_sd_model_name": path.name,
        "ss_sd_model_hash": short_hash(path),
        "ss_new_sd_model_hash": file_hash(path),
    }


def short_hash(path: Path) -> str:
    """The WebUI's old model hash: 8 hex digits of the sha256 of 64 KiB from 1 MiB on."""
    with open(path, "rb") as handle:
        handle.seek(0x100000)
        return hashlib.sha256(handle.read(0x10000)).hexdigest()[:8]


def _modelspec(s: TrainSettings) -> dict[str, str]:
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.implementation_version": f"train-lora/{__version__}",
        "modelspec.title": s.output_name,
        "modelspec.resolution": f"{s.resolution}x{s.resolution}",
        "modelspec.prediction_type": "epsilon",
        "modelspec.encoder_layer": str(s.clip_skip or 1),
        "modelspec.timestep_range": "0,1000",
    }
