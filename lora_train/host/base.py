"""What surrounds the engine: a WebUI, or nothing but diffusers. One small interface, two real implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Protocol

from PIL import Image

from ..dataset.tagging import Tagged, TagOptions
from ..errors import UserError
from ..grid.plan import Grid
from ..grid.sheet import OnCell, Sheet
from .shot import Applied, Cancelled, Shot, never

__all__ = [
    "Applied",
    "Cancelled",
    "Captioner",
    "Checkpoint",
    "Grid",
    "Host",
    "OnCaption",
    "OnCell",
    "Sheet",
    "Shot",
    "TagOptions",
    "Tagged",
    "find_captioner",
    "never",
]

OnCaption = Callable[[int, int, Path, str], None]
"""Called with (done, total, picture, caption); the caption of a picture that can't be read is empty."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file that the host offers, and what the host draws with it: a separate VAE file, CLIP skip.

    sha256 may be unknown; vae is None where the checkpoint's own is used.
    """

    path: Path
    title: str
    sha256: str | None = None
    vae: Path | None = None
    clip_skip: int = 1


class Captioner(Protocol):
    """One of the host's programs that describe pictures."""

    @property
    def name(self) -> str:
        """'deepbooru', 'blip'."""

    @property
    def title(self) -> str:
        """For people."""

    @property
    def kind(self) -> str:
        """'tags' or 'sentence': which of TagOptions it heeds."""

    def note(self) -> str:
        """'' where its model is on disk, else what its first use will download."""

    def tag(self, pictures: Sequence[Path], options: TagOptions, on_done: OnCaption, stop: Event) -> Tagged:
        """Caption pictures one batch at a time until all are done or `stop` is set; what on_done raises ends it.

        Drawing gets its turn every few seconds. Pictures that can't be read are among the result's problems. Raises
        UserError where the model is missing and can't be had, and while a training has the GPU.
        """


class Host(Protocol):
    """Everything that the tab, the jobs and the grid ask of their surroundings."""

    @property
    def name(self) -> str:
        """For people: 'Stable Diffusion WebUI v1.10.1', 'standalone'."""

    def capabilities(self) -> frozenset[str]:
        """What this host can do besides: "captions:deepbooru", "captions:blip", "upscale", "grid", "render", "live",
        "narrow", "choose".

        "upscale" stands for more than Lanczos; "narrow" for drawing with checkpoints of any width, as the demo's;
        "choose" for a method of that name that takes a checkpoint; "live" for block weights without a file.
        """

    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint that is loaded or chosen in the host; None where there is none."""

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint that the host knows."""

    def lora_dir(self) -> Path:
        """Where LoRA files go so that the host finds them."""

    def data_dir(self) -> Path:
        """Where the records of jobs and drawn grids are kept."""

    def refresh_loras(self) -> None:
        """Make the host see LoRA files that have just been written."""

    def memory_for_training(self) -> AbstractContextManager[None]:
        """While inside, the host's own model is out of the way; afterwards it is as it was."""

    def environment(self) -> Mapping[str, str]:
        """What a training process must know of the host's own flags: which GPU, or none."""

    def restricted(self) -> bool:
        """Whether strangers may reach this host, or its owner hides the server's folders."""

    def picture_folders(self) -> list[Path]:
        """Where the pictures of a training may lie while the host is restricted."""

    def language(self) -> str:
        """The language of the host's own page: "en", "zh-CN"; "" where it has no wish or one that we don't speak."""

    def busy(self) -> str:
        """What the host is doing, in a few words for people; "" where it is idle."""

    def captioners(self) -> Sequence[Captioner]:
        """Its captioners; see `find_captioner` for one by its name."""

    def upscalers(self) -> list[str]:
        """Names of its upscalers; "Lanczos" is always among them."""

    def upscale(self, picture: Image.Image, name: str, width: int, height: int) -> Image.Image:
        """The picture as RGB of exactly width x height pixels, enlarged by the upscaler of that name.

        Its proportions are the caller's. A picture that is large enough is made smaller by Lanczos. Raises UserError.
        """

    def draw(self, grid: Grid, on_cell: OnCell) -> Sheet:
        """Draw a grid on the host's checkpoint; calls on_cell, which may raise to end it. Raises UserError."""

    def render(self, shot: Shot, cancelled: Cancelled = never) -> Image.Image | None:
        """Draw one picture on the host's checkpoint. None when it was called off. Raises UserError.

        The host's settings, its own jobs and its folder of pictures stay as they are.
        """


def find_captioner(host: Host, name: str) -> Captioner:
    """The host's captioner of that name. Raises UserError saying which ones there are."""
    found = {captioner.name: captioner for captioner in host.captioners()}
    if name in found:
        return found[name]
    if not found:
        remedy = "Write the captions by hand, or let another program write .txt files beside the pictures"
        raise UserError(f"{host.name} has no captioner", where="captioner", remedy=remedy)
    remedy = f"Choose from {', '.join(found)}"
    raise UserError(f"{host.name} has no captioner {name!r}", where="captioner", remedy=remedy)
