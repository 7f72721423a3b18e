"""One whole run in a process of its own: check everything, load, cache, train."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..dataset.folders import Dataset, scan
from ..errors import UserError, raise_all
from ..events import Listener, event
from ..files import check_output_name, require_space
from ..model.checkpoint import recognise
from ..model.load import load_model
from ..network.lora import LoraNetwork, LoraSpec, Size
from ..settings import TrainSettings
from .data import TrainingData, length
from .latents import cache_latents
from .loop import Outcome, train
from .step import compute_dtype


class _Stopped(Exception):
    """Told to stop before the first step."""


def run(settings: TrainSettings, emit: Listener, stop: Callable[[], bool]) -> Outcome:
    """Train as told. Nothing is created before everything has been checked. Raises UserError."""
    began = time.monotonic()
    try:
        outcome = _run(settings, emit, stop)
    except _Stopped:
        outcome = Outcome(0, [], stopped=True)
    last = str(outcome.files[-1]) if outcome.files else None
    name, seconds = "stopped" if outcome.stopped else "done", round(time.monotonic() - began, 1)
    emit(event(name, path=last, steps=outcome.steps, seconds=seconds))
    return outcome


def _run(settings: TrainSettings, emit: Listener, stop: Callable[[], bool]) -> Outcome:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = check(settings, device)
    for warning in dataset.warnings:
        emit(event("warning", text=warning))
    emit(event("stage", text=f"loading {Path(settings.pretrained_model_name_or_path).name}"))
    model = load_model(settings.pretrained_model_name_or_path, compute_dtype(settings, device), device)
    pictures = [picture for concept in dataset.concepts for picture in concept.pictures]

    def cached(done: int) -> None:
        emit(event("cache", done=done, total=len(pictures)))
        if stop():
            raise _Stopped

    latents = cache_latents(model, pictures, settings.resolution, settings.seed, cached)
    model.vae.to("cpu")
    network = LoraNetwork.create(model, spec_of(settings), settings.seed)
    data = TrainingData(dataset, latents, settings)
    steps, epochs = length(settings, data.steps_per_epoch)
    counts = {"steps": steps, "epochs": epochs, "steps_per_epoch": data.steps_per_epoch, "pictures": len(pictures)}
    emit(event("start", **counts, device=str(device)))
    return train(model, network, dataset, data, settings, emit, stop)


def check(settings: TrainSettings, device: torch.device) -> Dataset:
    """Look at everything that the run needs; all problems are reported together."""
    errors: list[UserError] = []

    def attempt(action: Callable[[], object]) -> object:
        try:
            return action()
        except UserError as error:
            errors.append(error)
            return None

    attempt(lambda: check_output_name(settings.output_name))
    attempt(lambda: compute_dtype(settings, device))
    attempt(lambda: _required(settings, "output_dir"))
    if attempt(lambda: _required(settings, "pretrained_model_name_or_path")):
        attempt(lambda: recognise(settings.pretrained_model_name_or_path))
    dataset = None
    if attempt(lambda: _required(settings, "train_data_dir")):
        dataset = attempt(lambda: scan(Path(settings.train_data_dir), settings.caption_extension))
    if settings.output_dir:
        attempt(lambda: require_space(settings.output_dir, _space_needed(settings)))
    raise_all(errors)
    assert isinstance(dataset, Dataset)
    return dataset


def _required(settings: TrainSettings, name: str) -> str:
    if not getattr(settings, name):
        raise UserError("is not given", where=name, remedy="Write it into the configuration")
    return str(getattr(settings, name))


def _space_needed(settings: TrainSettings) -> int:
    """A generous guess in bytes for the LoRA files of a full-size SD1.5: 1.2 MB per rank in fp16, every saved epoch."""
    bytes_each = 1_200_000 * settings.network_dim * (2 if settings.save_precision == "float" else 1)
    files = 2 + (settings.max_train_epochs or 1) // (settings.save_every_n_epochs or 10**9)
    checkpoint = Path(settings.pretrained_model_name_or_path)
    share = min(1.0, checkpoint.stat().st_size / 2e9) if checkpoint.is_file() else 1.0
    return int(bytes_each * files * share)


def spec_of(settings: TrainSettings) -> LoraSpec:
    """The network that the settings describe."""
    return LoraSpec(
        size=Size(settings.network_dim, settings.network_alpha),
        conv=Size(settings.conv_dim, settings.conv_alpha) if settings.conv_dim else None,
        unet=settings.unet_rate > 0,
        text_encoder=settings.text_encoder_rate > 0,
    )
