"""Scalars for TensorBoard and Weights & Biases, under sd-scripts' names. A log that fails never ends a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..settings import TrainSettings

_FLUSH_SECONDS = 5.0
_PROJECT = "network_train"  # sd-scripts' name for it
_ADAPTIVE = ("DAdapt", "Prodigy")


def step_values(
    loss: float, average: float, grad_norm: float, names: Sequence[str], rates: Sequence[float], settings: TrainSettings
) -> dict[str, float]:
    """What is logged of a step. names: the optimizer groups' names (unet, textencoder…); rates: those in use, d×lr for
    adaptive optimizers, whose own lr stays what the settings say.
    """
    adaptive = settings.optimizer_type.startswith(_ADAPTIVE)
    kind = "lr/d*lr" if adaptive else "lr"
    return {
        "loss/current": loss,
        "loss/average": average,
        "norm/grad": grad_norm,
        **{f"{kind}/{name}": rate for name, rate in zip(names, rates, strict=True)},
    }


def validation_values(measured: Mapping[str, float | None], at: str = "epoch") -> dict[str, float]:
    """What is logged of a measurement, after an epoch or (at="step") within one."""
    train, held_out = measured["train"], measured.get("held_out")
    values = {f"loss/validation/{at}_train": train, f"loss/validation/{at}_average": held_out}
    if train is not None and held_out is not None:
        values[f"loss/validation/{at}_divergence"] = held_out - train
    return {name: value for name, value in values.items() if value is not None}


class _Writer(Protocol):
    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Log:
    """Where the settings want logs. warn(text) hears of what can't be written, once for each kind of log."""

    def __init__(self, settings: TrainSettings, warn: Callable[[str], None] = lambda text: None) -> None:
        self._warn = warn
        self._writers: dict[str, _Writer] = {}
        stamp = time.strftime("%Y%m%d%H%M%S", time.localtime())
        self.folder = Path(settings.logging_dir) / f"{settings.log_prefix}{stamp}" if settings.logging_dir else None
        if self.folder and settings.log_with in ("tensorboard", "all"):
            self._open("TensorBoard", _TensorBoard, self.folder)
        if settings.log_with in ("wandb", "all"):
            self._open("wandb", _WandB, self.folder, settings)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write values by name at an optimizer step."""
        for name in list(self._writers):
            self._try(name, lambda writer: writer.scalars(step, values))

    def close(self) -> None:
        """Write what is left."""
        for name in list(self._writers):
            self._try(name, lambda writer: writer.close())
        self._writers.clear()

    def _open(self, name: str, kind: Callable[..., _Writer], *arguments: Any) -> None:
        try:
            self._writers[name] = kind(*arguments)
        except ImportError as error:
            self._warn(f"no log for {name}: {error.name or name} is not installed")
        except Exception as error:  # noqa: BLE001 - a log is never worth a run
            self._warn(f"no log for {name}: {error}")

    def _try(self, name: str, action: Callable[[_Writer], None]) -> None:
        try:
            action(self._writers[name])
        except Exception as error:  # noqa: BLE001 - a log is never worth a run
            del self._writers[name]
            self._warn(f"the log for {name} ends here: {error}")


class _TensorBoard:
    """An event file, written at once: tensorboardX's SummaryWriter hands events to a thread through a queue of ten, and
    would wait forever once that thread has died of a full disk.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._scalar = Event, scalar
        self._file = EventsWriter(str(folder / "events"))
        self._file.flush()
        self._flushed = time.monotonic()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = time.time()
        for name, value in values.items():
            self._file.write_event(self._event(wall_time=now, step=step, summary=self._scalar(name, value)))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()


class _WandB:
    """A run of Weights & Biases, which the user has asked for by name."""

    def __init__(self, folder: Path | None, settings: TrainSettings) -> None:
        import wandb

        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(project=_PROJECT, name=settings.output_name, dir=str(folder) if folder else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
