"""What a saved file says about itself: kohya's ss_*, and modelspec.* (Stability AI's ModelSpec 1.0.1)."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import __version__
from ..dataset import buckets as buckets_of
from ..dataset.captions import tag_frequency
from ..dataset.folders import Concept, Dataset
from ..errors import UserError
from ..files import write_text
from ..model.checkpoint import Family
from ..model.load import StableDiffusion
from ..network.kohya import file_hash
from ..paths import HASHES
from ..settings import TrainSettings

# Settings that stand in the metadata as ss_<name>; what is off is None, as sd-scripts writes it.
_PLAIN = (
    *("output_name", "learning_rate", "unet_lr", "text_encoder_lr", "network_module", "network_dim", "network_alpha"),
    *("lr_scheduler", "max_grad_norm", "gradient_checkpointing", "gradient_accumulation_steps", "mixed_precision"),
    *("full_fp16", "clip_skip", "max_token_length", "cache_latents", "seed", "noise_offset_random_strength"),
    *("multires_noise_discount", "adaptive_noise_scale", "zero_terminal_snr", "caption_dropout_rate"),
    *("caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "prior_loss_weight", "min_snr_gamma"),
    *("scale_weight_norms", "ip_noise_gamma", "ip_noise_gamma_random_strength", "loss_type", "huber_schedule"),
    *("huber_scale", "huber_c", "fp8_base", "validation_seed", "validation_split", "max_validation_steps"),
    *("validate_every_n_epochs", "validate_every_n_steps", "flip_aug", "random_crop", "shuffle_caption"),
    *("enable_bucket", "bucket_no_upscale", "keep_tokens"),
)
_OR_NONE = ("network_dropout", "noise_offset", "multires_noise_iterations", "training_comment")
_NETWORK_ARGS = (
    *("conv_dim", "conv_alpha", "rank_dropout", "module_dropout", "block_dims", "block_alphas", "conv_block_dims"),
    *("conv_block_alphas", "down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold"),
    *("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio", "algo", "factor", "dora_wd"),
    "rs_lora",
)
_LIBRARY = {"AdamW": "torch.optim.adamw.AdamW"}
_NEVER = ("ss_color_aug", "ss_lowram", "ss_fp8_base_unet")
_NONE = ("ss_face_crop_aug_range", "ss_sd_scripts_commit_hash", "ss_resize_interpolation")
_NEEDED = (
    "ss_v2",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
)


class Metadata:
    """Metadata of the files of one run; every value is text, as safetensors asks."""

    def __init__(self, settings: TrainSettings, dataset: Dataset, model: StableDiffusion, counts: Counts) -> None:
        self.settings, self.model, self.started = settings, model, time.time()
        self._checkpoint = _in_background(lambda: _of_checkpoint(model.path, settings.vae))
        values = {
            **_of_settings(settings),
            **_of_dataset(dataset, settings, counts),
            "ss_v2": model.family is Family.SD2,
            "ss_base_model_version": _VERSIONS[model.family],
            "ss_session_id": random.SystemRandom().randint(0, 2**32),
            "ss_training_started_at": self.started,
            "ss_total_batch_size": settings.train_batch_size * settings.gradient_accumulation_steps * counts.processes,
            "ss_num_batches_per_epoch": counts.batches_per_epoch,
            "ss_num_epochs": counts.epochs,
            "ss_max_train_steps": counts.steps,
            "ss_lr_warmup_steps": settings.warmup_steps(counts.steps),
        }
        self.values = {name: str(value) for name, value in values.items()}

    def at(self, steps: int, epoch: int) -> dict[str, str]:
        """The metadata of a file saved now."""
        now = datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None)
        everything = {
            **self.values,
            **{name: str(value) for name, value in self._checkpoint().items()},
            **_modelspec(self.settings, self.model.family),
            "modelspec.date": now.isoformat(),
            "ss_training_finished_at": str(time.time()),
            "ss_steps": str(steps),
            "ss_epoch": str(epoch),
        }
        if not self.settings.no_metadata:
            return everything
        return {name: value for name, value in everything.items() if name in _NEEDED or name.startswith("modelspec.")}


@dataclass(frozen=True)
class Counts:
    """Numbers of a run: optimizer steps, epochs, steps and batches in an epoch, processes, pictures held out."""

    steps: int
    epochs: int
    steps_per_epoch: int
    batches_per_epoch: int
    processes: int = 1
    held_out: int = 0


def _in_background(work: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Start `work` in a thread; what is returned waits for its result. Hashing gigabytes leaves Python's lock."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="hash")
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future.result


_VERSIONS = {Family.SD15: "sd_v1", Family.SD2: "sd_v2", Family.SDXL: "sdxl_base_v1-0"}
_ARCHITECTURES = {
    Family.SD15: "stable-diffusion-v1",
    Family.SD2: "stable-diffusion-v2-768-v",
    Family.SDXL: "stable-diffusion-xl-v1-base",
}


def _of_settings(s: TrainSettings) -> dict[str, Any]:
    arguments = ",".join(s.optimizer_args)
    values: dict[str, Any] = {
        **{f"ss_{name}": getattr(s, name) for name in _PLAIN},
        **{f"ss_{name}": getattr(s, name) or None for name in _OR_NONE},
        **dict.fromkeys(_NEVER, False),
        **dict.fromkeys(_NONE),
        "ss_network_module": s.network_module if s.algo == "lora" and not s.dora_wd else "lycoris.kohya",
        "ss_optimizer": f"{_LIBRARY.get(s.optimizer_type, s.optimizer_type)}({arguments})",
        "ss_debiased_estimation": s.debiased_estimation_loss,
        "ss_min_bucket_reso": s.min_bucket_reso if s.enable_bucket else None,
        "ss_max_bucket_reso": s.max_bucket_reso if s.enable_bucket else None,
        "ss_batch_size_per_device": s.train_batch_size,
        "ss_resolution": s.resolution,
    }
    defaults = {f.name: f.default for f in fields(TrainSettings)}
    arguments_given = {name: str(getattr(s, name)) for name in _NETWORK_ARGS if getattr(s, name) != defaults[name]}
    if arguments_given:
        values["ss_network_args"] = json.dumps(arguments_given)
    return values


def _of_dataset(dataset: Dataset, settings: TrainSettings, counts: Counts) -> dict[str, Any]:
    trained = [c for c in dataset.concepts if not c.is_reg]
    regular = [c for c in dataset.concepts if c.is_reg]
    buckets: Counter[tuple[int, int]] = Counter()
    errors = []
    for concept in dataset.concepts:
        for picture in concept.pictures:
            fit = buckets_of.fit((picture.width, picture.height), concept.frame)
            buckets[fit.bucket] += concept.repeats
            errors.append(fit.ar_error)
    info = {
        "buckets": {
            str(i): {"resolution": list(size), "count": n} for i, (size, n) in enumerate(sorted(buckets.items()))
        },
        "mean_img_ar_error": sum(errors) / len(errors) if settings.enable_bucket and errors else None,
    }
    return {
        "ss_num_train_images": sum(len(c.pictures) * c.repeats for c in trained),
        "ss_num_reg_images": sum(len(c.pictures) * c.repeats for c in regular),
        "ss_num_validation_images": counts.held_out,
        "ss_dataset_dirs": json.dumps(_folders(trained), ensure_ascii=False),
        "ss_reg_dataset_dirs": json.dumps(_folders(regular), ensure_ascii=False),
        "ss_tag_frequency": json.dumps(tag_frequency(dataset), ensure_ascii=False),
        "ss_bucket_info": json.dumps(info),
    }


def _folders(concepts: list[Concept]) -> dict[str, dict[str, int]]:
    return {c.folder.name: {"n_repeats": c.repeats, "img_count": len(c.pictures)} for c in concepts}


def _of_checkpoint(path: Path, vae: str) -> dict[str, Any]:
    return {
        "ss_sd_model_name": path.name,
        "ss_sd_model_hash": short_hash(path),
        "ss_new_sd_model_hash": hash_once(path),
        "ss_vae_name": Path(vae).name if vae else None,
        "ss_vae_hash": short_hash(Path(vae)) if vae else None,
        "ss_new_vae_hash": hash_once(Path(vae)) if vae else None,
    }


def short_hash(path: Path) -> str:
    """The WebUI's old model hash: 8 hex digits of the sha256 of 64 KiB from 1 MiB on."""
    with open(path, "rb") as handle:
        handle.seek(0x100000)
        return hashlib.sha256(handle.read(0x10000)).hexdigest()[:8]


def hash_once(path: Path) -> str:
    """sha256 of the whole file, remembered by path, size and time of change: a checkpoint takes seconds to read."""
    status = path.stat()
    key = f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
    try:
        known: dict[str, str] = json.loads(HASHES.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = file_hash(path)
        with suppress(OSError, UserError):  # remembering is a convenience
            write_text(HASHES, json.dumps(dict(list(known.items())[-200:]), indent=0))
    return known[key]


def _modelspec(s: TrainSettings, family: Family) -> dict[str, str]:
    width, height = s.resolution
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_ARCHITECTURES[family]}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.implementation_version": f"train-lora/{__version__}",
        "modelspec.title": s.output_name,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": "v" if s.v_parameterization else "epsilon",
        "modelspec.encoder_layer": str(s.clip_skip or 1),
        "modelspec.timestep_range": f"{s.min_timestep},{s.max_timestep}",
    }
