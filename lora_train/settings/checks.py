"""What no single field shows: settings that exclude each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from ..errors import UserError
from .options import TrainSettings


def contradictions(s: TrainSettings) -> list[UserError]:
    """Every pair of settings that can't both be meant."""
    return [*_training(s), *_rates(s), *_pictures(s), *_noise(s), *_precision(s), *_network(s)]


def _training(s: TrainSettings) -> Iterator[UserError]:
    if s.network_train_unet_only and s.network_train_text_encoder_only:
        yield UserError("nothing is left to train", where="network_train_unet_only", remedy="Switch one of the two off")
    elif not (s.unet_rate or s.trains_text_encoder):
        yield UserError("every learning rate is 0", where="learning_rate", remedy="Give a rate such as 1e-4")
    if s.validation_split and s.validation_data_dir:
        yield _both("validation_split", "validation_data_dir")
    if s.early_stop_epochs and not (s.validation_split or s.validation_data_dir):
        yield UserError(
            "there are no held-out pictures to judge by", where="early_stop_epochs", remedy="Give validation_split 0.1"
        )
    if s.dataset_config and s.train_data_dir:
        yield _both("dataset_config", "train_data_dir")


def _rates(s: TrainSettings) -> Iterator[UserError]:
    if s.lr_scheduler == "constant" and s.lr_warmup_steps and not s.lr_scheduler_type:
        yield UserError("constant has no warm-up", where="lr_scheduler", remedy="Choose constant_with_warmup")
    if s.lr_scheduler == "adafactor" and s.optimizer_type != "AdaFactor":
        yield UserError(
            "the schedule adafactor belongs to the optimizer AdaFactor", where="lr_scheduler", remedy="Choose another"
        )
    if s.lr_scheduler_type and s.lr_warmup_steps:
        yield UserError("has its own warm-up, if any", where="lr_warmup_steps", remedy="Give it in lr_scheduler_args")
    if s.lr_scheduler_args and not s.lr_scheduler_type:
        yield UserError("it has arguments but no path", where="lr_scheduler_type", remedy="Name the scheduler's class")


def _pictures(s: TrainSettings) -> Iterator[UserError]:
    if any(side % 8 for side in s.resolution):
        yield UserError("not a multiple of 8", where="resolution", remedy="Choose 512, 768 or another multiple of 8")
    if s.bucket_reso_steps % 8:
        yield UserError("not a multiple of 8", where="bucket_reso_steps", remedy="64 is common")
    if s.enable_bucket and not s.bucket_no_upscale:
        if s.min_bucket_reso > min(s.resolution):
            yield UserError(
                f"{s.min_bucket_reso} is more than the resolution's {min(s.resolution)}",
                where="min_bucket_reso",
                remedy="Choose a smaller one",
            )
        if s.max_bucket_reso < max(s.resolution):
            yield UserError(
                f"{s.max_bucket_reso} is less than the resolution's {max(s.resolution)}",
                where="max_bucket_reso",
                remedy="Choose a larger one",
            )
    if s.random_crop and s.cache_latents_to_disk:
        yield _both("random_crop", "cache_latents_to_disk")


def _noise(s: TrainSettings) -> Iterator[UserError]:
    if s.min_timestep >= s.max_timestep:
        yield UserError("is not below max_timestep", where="min_timestep", remedy="Choose a smaller one")
    if s.adaptive_noise_scale is not None and not s.noise_offset:
        yield UserError("needs a noise_offset", where="adaptive_noise_scale", remedy="Give noise_offset 0.05")
    if s.scale_v_pred_loss_like_noise_pred and not s.v_parameterization:
        yield UserError(
            "is for v-prediction", where="scale_v_pred_loss_like_noise_pred", remedy="Switch v_parameterization on"
        )
    if s.v_pred_like_loss and s.v_parameterization:
        yield _both("v_pred_like_loss", "v_parameterization")


def _precision(s: TrainSettings) -> Iterator[UserError]:
    for name, precision in (("full_fp16", "fp16"), ("full_bf16", "bf16")):
        if getattr(s, name) and s.mixed_precision != precision:
            yield UserError(f"needs mixed_precision {precision}", where=name, remedy=f"Set mixed_precision {precision}")
    if s.fp8_base and s.mixed_precision == "no":
        yield UserError("needs mixed_precision fp16 or bf16", where="fp8_base", remedy="Set mixed_precision bf16")


def _network(s: TrainSettings) -> Iterator[UserError]:
    if s.dim_from_weights and not s.network_weights:
        yield UserError("there is no file to take them from", where="dim_from_weights", remedy="Give network_weights")
    if len(s.base_weights_multiplier) > len(s.base_weights):
        yield UserError(
            "more strengths than files", where="base_weights_multiplier", remedy="Give one for each of base_weights"
        )
    for name in ("block_dims", "conv_block_dims", "down_lr_weight", "up_lr_weight", "mid_lr_weight"):
        if getattr(s, name) and s.algo != "lora":
            yield UserError(f"is for LoRA, not for {s.algo}", where=name, remedy="Remove it, or choose algo lora")
    if s.dora_wd and s.algo != "lora":
        yield UserError(f"is for LoRA, not for {s.algo}", where="dora_wd", remedy="Choose algo lora")


def _both(first: str, second: str) -> UserError:
    assert {first, second} <= {f.name for f in fields(TrainSettings)}
    return UserError(f"can't be used together with {second}", where=first, remedy="Remove one of the two")
