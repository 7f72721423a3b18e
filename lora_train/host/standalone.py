"""A host of nothing but diffusers: for a machine without a WebUI, and for everything that runs without one."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..blocks.families import weights_by_block
from ..blocks.layout import family_of_file
from ..blocks.lbw import parse_prompt, without
from ..blocks.presets import shared_store
from ..blocks.recipe import find_lora
from ..errors import UserError
from ..paths import MINI_CHECKPOINT
from .base import Applied, Cancelled, Captioner, Checkpoint, Grid, OnCell, Sheet, Shot, never

if TYPE_CHECKING:
    from ..model.load import StableDiffusion
    from .merged import Merged

_ENDINGS = (".safetensors", ".ckpt")
_LANCZOS = "Lanczos"
_LENT = "a training has the GPU"


class StandaloneHost:
    """Implements base.Host. The model is loaded at the first grid and kept for the next one."""

    name = "standalone"

    def __init__(
        self,
        checkpoint: str | Path | None,
        lora_dir: str | Path,
        data_dir: str | Path,
        models_dir: str | Path | None = None,
    ) -> None:
        """models_dir: where checkpoints are looked for; the chosen checkpoint's own folder where none is given."""
        self._chosen = Path(checkpoint) if checkpoint else None
        self._lora_dir, self._data_dir = Path(lora_dir), Path(data_dir)
        self._models_dir = Path(models_dir) if models_dir else self._chosen.parent if self._chosen else None
        self._model: StableDiffusion | None = None
        self._merged: Merged | None = None
        self._lock = threading.RLock()
        self._busy = ""

    def capabilities(self) -> frozenset[str]:
        """Grids and pictures on any checkpoint, and the choice of it."""
        return frozenset({"grid", "render", "live", "narrow", "choose"})

    def checkpoint(self) -> Checkpoint | None:
        """The chosen checkpoint; the embedded one where none was chosen; None where that is missing too."""
        if self._chosen:
            return _entry(self._chosen)
        return _entry(MINI_CHECKPOINT) if MINI_CHECKPOINT.is_file() else None

    def choose(self, checkpoint: str | Path) -> None:
        """Draw on this checkpoint from now on; what is being drawn goes on with the one before."""
        self._chosen = Path(checkpoint)
        if self._lock.acquire(blocking=False):  # else the next picture finds that its model is another
            try:
                self.release()
            finally:
                self._lock.release()

    def checkpoints(self) -> list[Checkpoint]:
        """Those of the models folder and its subfolders by name, then the embedded one."""
        folder = self._models_dir
        found = (
            sorted(path for path in folder.rglob("*") if path.suffix in _ENDINGS) if folder and folder.is_dir() else []
        )
        if self._chosen and self._chosen not in found and self._chosen != MINI_CHECKPOINT:
            found.insert(0, self._chosen)
        if MINI_CHECKPOINT.is_file() and MINI_CHECKPOINT not in found:
            found.append(MINI_CHECKPOINT)
        return [_entry(path) for path in found]

    def lora_dir(self) -> Path:
        """Where LoRA files go."""
        return self._lora_dir

    def data_dir(self) -> Path:
        """Where records and grids are kept."""
        return self._data_dir

    def refresh_loras(self) -> None:
        """Nothing is cached: every grid reads its files."""

    def environment(self) -> dict[str, str]:
        """Nothing: a training sees what this process sees."""
        return {}

    def restricted(self) -> bool:
        """No: who may come in is said where the page is served."""
        return False

    def picture_folders(self) -> list[Path]:
        """Where records are kept; this host is never restricted."""
        return [self._data_dir]

    def language(self) -> str:
        """The browser's."""
        return ""

    def busy(self) -> str:
        """Whether it draws, or a training has its memory."""
        return self._busy

    def captioners(self) -> list[Captioner]:
        """None."""
        return []

    def upscalers(self) -> list[str]:
        """Lanczos, which needs no model."""
        return [_LANCZOS]

    def upscale(self, picture: Image.Image, name: str, width: int, height: int) -> Image.Image:
        """By Lanczos. Raises UserError."""
        if name != _LANCZOS:
            remedy = f"Choose {_LANCZOS}; upscalers with a model are the WebUI's"
            raise UserError(f"without a WebUI there is no upscaler {name!r}", where="upscaler", remedy=remedy)
        return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)

    @contextmanager
    def memory_for_training(self) -> Iterator[None]:
        """The model is dropped, and no grid is drawn meanwhile; the next one loads it again."""
        with self._lock, self._doing(_LENT):
            self.release()
            yield

    def draw(self, grid: Grid, on_cell: OnCell) -> Sheet:
        """Draw a grid on the chosen checkpoint."""
        from ..grid.run import make  # diffusers takes seconds to import

        with self._lock, self._doing("drawing"):
            try:
                model = self._loaded()
                if self._merged:
                    self._merged.remove()
                return make(model, grid, on_cell)
            except BaseException:
                self.release()  # whatever went wrong, the next grid starts from the file
                raise

    def render(self, shot: Shot, cancelled: Cancelled = never) -> Image.Image | None:
        """Draw one picture on the chosen checkpoint. Its LoRAs stay on the model for the next one, which changes only
        the layers whose weights moved. Raises UserError.
        """
        if self._busy == _LENT:
            raise UserError(_LENT, where="GPU", remedy="Wait until it is done, or pause it")
        with self._lock, self._doing("drawing"):
            if cancelled():
                return None
            from .merged import Merged, picture  # diffusers takes seconds to import

            try:
                model = self._loaded()
                self._merged = self._merged or Merged(model)
                prompt, more = self._as_applied(shot.prompt)
                self._merged.apply([*shot.loras, *more])
                return picture(model, replace(shot.cell, prompts=(prompt,)), cancelled)
            except UserError:
                raise  # nothing is half done then
            except BaseException:
                self.release()
                raise

    def _as_applied(self, prompt: str) -> tuple[str, list[Applied]]:
        """A prompt without its `<lora:…>`, and what they stand for. Raises UserError."""
        if "<lora:" not in prompt:
            return prompt, []
        file = shared_store(self._data_dir).file
        tags = parse_prompt(prompt, file.with_builtin, faults=file.faults)
        found = []
        for tag in tags:
            path = find_lora(tag.name, self._lora_dir)
            family = family_of_file(path)
            weights = None if tag.numbers is None else weights_by_block(tag.numbers, family=family)
            found.append(Applied(path, tag.te, tag.unet, weights))
        return without(prompt, tags), found

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        before, self._busy = self._busy, what
        try:
            yield
        finally:
            self._busy = before

    def release(self) -> None:
        """Drop the model and give its memory back."""
        with self._lock:
            if self._model is None:
                return
            self._model = self._merged = None
            gc.collect()
            import torch

            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _loaded(self) -> StableDiffusion:
        from ..grid.run import placement
        from ..model.load import load_model

        chosen = self.checkpoint()
        if chosen is None:
            raise UserError("no checkpoint is chosen", where="checkpoint", remedy="Choose a Stable Diffusion 1.5 file")
        if self._model is None or self._model.path != chosen.path:
            self.release()
            self._model = load_model(chosen.path, *placement())
        return self._model


def _entry(path: Path) -> Checkpoint:
    return Checkpoint(path, "Mini (embedded)" if path == MINI_CHECKPOINT else path.stem)
