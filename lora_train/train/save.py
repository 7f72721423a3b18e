"""What a run leaves on disk: LoRA files, states to go on from, and as few of them as wanted."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from ..events import Listener, event
from ..network.kohya import PRECISIONS, write_lora
from ..settings import TrainSettings
from .keep import Saved, expired, remove
from .metadata import Metadata
from .position import Position
from .state import save_state
from .step import Step


class Saver:
    """Names and writes the files of one run; `files` are the LoRA files that are there now."""

    def __init__(self, step: Step, metadata: Metadata, pictures: int, settings: TrainSettings, emit: Listener) -> None:
        self.step, self.metadata, self.pictures = step, metadata, pictures
        self.settings, self.emit = settings, emit
        self.folder = Path(settings.output_dir)
        self.files: list[Path] = []
        self._saved: list[Saved] = []

    def epoch(self, at: Position) -> None:
        """{name}-{epoch:06d}, as in sd-scripts; the last epoch's has its number too."""
        self._numbered(f"{self.settings.output_name}-{at.epoch:06d}", "epoch", at.epoch, at)

    def at_step(self, at: Position) -> None:
        """{name}-step{step:08d}."""
        self._numbered(f"{self.settings.output_name}-step{at.done:08d}", "step", at.done, at)

    def last(self, at: Position) -> None:
        """{name}, at the end of the run."""
        self._lora(self.settings.output_name, at)
        if self.settings.save_state or self.settings.save_state_on_train_end:
            self._state(self.settings.output_name, at)

    def stopped(self, at: Position) -> None:
        """A state to go on from after a stop."""
        self._state(f"{self.settings.output_name}-step{at.done:08d}", at)

    def _numbered(self, name: str, kind: Literal["epoch", "step"], number: int, at: Position) -> None:
        """Save, then remove what this run has written before and no longer needs."""
        self._saved.append(Saved(self._lora(name, at), kind, number))
        if self.settings.save_state:
            self._saved.append(Saved(self._state(name, at), kind, number, is_state=True))
        for old in expired(self._saved, self.settings):
            self._saved.remove(old)
            if old.path in self.files:
                self.files.remove(old.path)
            if warning := remove(old.path):
                self.emit(event("warning", text=warning))

    def _lora(self, name: str, at: Position) -> Path:
        path = self.folder / f"{name}.safetensors"
        with self.step.resting():
            state = self.step.network.state_dict()
        write_lora(path, state, self.metadata.at(at.done, at.epoch), PRECISIONS[self.settings.save_precision])
        self.files.append(path)
        self.emit(event("saved", path=str(path), epoch=at.epoch, step=at.done))
        return path

    def _state(self, name: str, at: Position) -> Path:
        folder = self.folder / f"{name}-state"
        save_state(
            folder,
            network_state=self.step.network.state_dict(),
            optimizer=self.step.optimizer,
            schedule=self.step.schedule,
            scaler=self.step.scaler,
            ema=self.step.ema,
            position=asdict(at),
            pictures=self.pictures,
            settings=self.settings,
        )
        self.emit(event("state", path=str(folder), epoch=at.epoch, step=at.done))
        return folder
