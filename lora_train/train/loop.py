"""The training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..dataset.folders import Dataset
from ..events import Listener, event
from ..model.load import StableDiffusion
from ..network.kohya import PRECISIONS, write_lora
from ..network.lora import LoraNetwork
from ..settings import TrainSettings
from . import noise
from .data import TrainingData, length
from .metadata import Metadata
from .progress import Progress
from .step import Step


@dataclass
class Outcome:
    """How a run ended: the steps done, the files written, and whether it was stopped before its end."""

    steps: int
    files: list[Path]
    stopped: bool


def train(
    model: StableDiffusion,
    network: LoraNetwork,
    dataset: Dataset,
    data: TrainingData,
    settings: TrainSettings,
    emit: Listener,
    stop: Callable[[], bool],
) -> Outcome:
    """Train `network` and save it every n epochs as {name}-{epoch:06d} and at the end as {name} too."""
    total, epochs = length(settings, data.steps_per_epoch)
    step = Step(model, network, settings, total)
    metadata = Metadata(settings, dataset, model.path, data.steps_per_epoch, total, epochs)
    progress = Progress(total, data.steps_per_epoch)
    files: list[Path] = []
    done = 0

    def save(name: str, epoch: int) -> None:
        path = Path(settings.output_dir) / f"{name}.safetensors"
        write_lora(path, network.state_dict(), metadata.at(done, epoch), PRECISIONS[settings.save_precision])
        files.append(path)
        emit(event("saved", path=str(path), epoch=epoch, step=done))

    for epoch in range(1, epochs + 1):
        for batch in data.epoch(epoch):
            draws = noise.draw(batch.latents.shape, settings.seed, done)
            result = step(batch, draws)
            done += 1
            emit(event("progress", **progress.after(done, epoch, result)))
            if done == total or stop():
                break
        if stop() and done < total:
            return Outcome(done, files, stopped=True)
        if done == total or (settings.save_every_n_epochs and epoch % settings.save_every_n_epochs == 0):
            save(f"{settings.output_name}-{epoch:06d}", epoch)
    save(settings.output_name, epochs)
    return Outcome(done, files, stopped=False)
