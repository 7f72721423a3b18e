"""What the training that the fields describe will be: pictures, steps, memory and time."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import settings as settings_module
from ..dataset.captions import tag_frequency
from ..dataset.pictures import Dataset
from ..dataset.source import open_dataset
from ..errors import UserError, raise_all
from ..host.base import Host
from ..jobs.request import unreadable
from ..plan import history
from ..plan.costs import Costs, estimate
from ..plan.steps import Aim, Plan, aim, plan
from ..settings import TrainSettings

SOURCES = ("train_data_dir", "reg_data_dir", "dataset_config")
INPUTS = (
    *(*SOURCES, "caption_extension", "max_train_epochs", "max_train_steps", "train_batch_size"),
    *("gradient_accumulation_steps", "resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso"),
    *("bucket_reso_steps", "bucket_no_upscale", "pretrained_model_name_or_path", "mixed_precision", "optimizer_type"),
    *("network_dim", "algo", "conv_dim", "gradient_checkpointing", "learning_rate", "unet_lr", "text_encoder_lr"),
    *("network_train_unet_only", "network_train_text_encoder_only", "cache_latents", "shuffle_caption"),
    *("full_fp16", "full_bf16", "fp8_base", "max_token_length", "ema_decay"),
)
"""The settings that decide it."""

_IN_TURN = threading.Lock()  # an answer for older fields must not overtake a newer one's


@dataclass(frozen=True)
class Sum:
    """aim: where a number of steps was wanted; tags: the most frequent first."""

    settings: TrainSettings
    dataset: Dataset
    plan: Plan
    costs: Costs
    tags: tuple[tuple[str, int], ...]
    aim: Aim | None = None


def reckon(values: dict[str, Any], host: Host, wanted: int | None = None) -> Sum | UserError | None:
    """The sum for the values of INPUTS as the fields hold them; what is wrong with them; None without pictures."""
    values = {name: value for name, value in values.items() if value not in ("", None)}
    sources = [str(values.get(name, "")).strip() for name in SOURCES]
    if not (sources[0] or sources[2]):
        return None
    if "pretrained_model_name_or_path" not in values and (checkpoint := host.checkpoint()):
        values["pretrained_model_name_or_path"] = str(checkpoint.path)
    try:
        with _IN_TURN:
            settings, _ = settings_module.from_dict(values)
            raise_all(unreadable(host, settings))
            dataset, tags = _opened(_seen_by(settings), tuple(map(_stamp, sources)))
            planned = plan(settings, dataset)
            aimed = aim(settings, dataset, wanted) if wanted and wanted > 0 else None
            return Sum(settings, dataset, planned, _costs(settings, planned, host), tags, aimed)
    except UserError as error:
        return error


def read_again() -> None:
    """Forget what was read of pictures and captions, whose files may have changed meanwhile."""
    _opened.cache_clear()


def _costs(settings: TrainSettings, planned: Plan, host: Host) -> Costs:
    return estimate(settings, planned, _former(host.data_dir() / "jobs"))


def _former(jobs: Path) -> tuple[history.Measured, ...]:
    try:
        newest = max((path.stat().st_mtime_ns for path in jobs.glob("*/record.json")), default=0)
    except OSError:
        return ()
    return _measured(jobs, newest) if newest else ()


@lru_cache(maxsize=2)
def _measured(jobs: Path, _newest: int) -> tuple[history.Measured, ...]:
    return tuple(history.read(jobs))


_OF_PICTURES = frozenset(INPUTS[: INPUTS.index("pretrained_model_name_or_path")]) | {"shuffle_caption"}


def _seen_by(settings: TrainSettings) -> tuple[tuple[str, Any], ...]:
    """The settings on which the pictures depend."""
    return tuple((name, getattr(settings, name)) for name in sorted(_OF_PICTURES))


def _stamp(folder: str) -> tuple[float, ...]:
    """Changes when files come or go in the folder or in those directly inside it."""
    try:
        path = Path(folder).expanduser()
        inside = [entry for entry in path.iterdir() if entry.is_dir()][:200] if path.is_dir() else []
        return tuple(place.stat().st_mtime for place in [path, *inside]) if folder else ()
    except (OSError, ValueError):
        return ()


@lru_cache(maxsize=8)
def _opened(
    values: tuple[tuple[str, Any], ...], _seen: tuple[tuple[float, ...], ...]
) -> tuple[Dataset, tuple[tuple[str, int], ...]]:
    dataset = open_dataset(replace(TrainSettings(), **dict(values)))
    tags: Counter[str] = Counter()
    trained = replace(dataset, concepts=tuple(concept for concept in dataset.concepts if not concept.is_reg))
    for counted in tag_frequency(trained).values():
        tags.update(counted)
    return dataset, tuple(tags.most_common())
