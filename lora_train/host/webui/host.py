"""The host inside AUTOMATIC1111's WebUI and its forks.

A1111 1.10.1 is the host this is run against; the forks (Forge, reForge, Classic, Neo) are told apart by what they
offer, never by name. `modules.*` is the WebUI's own package, imported where it is used.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ...grid.plan import Grid
from ...paths import ROOT
from ..base import Cancelled, Captioner, Checkpoint, OnCell, Sheet, Shot, never
from . import captions, live, upscale
from .inside import device_type, flag, forge_flag, forge_memory, on_main_thread, optional, queue, shared
from .memory import forget_applied, forget_prompts, is_lent, lent, refuse_while_lent

_CHINESE = re.compile(r"zh[-_ ]?(cn|hans)|简体|chinese.*simplified|simplified.*chinese", re.IGNORECASE)
_ENGLISH = re.compile(r"en([-_ .].*)?|english.*", re.IGNORECASE)


class WebUIHost:
    """Implements base.Host by the WebUI's own means: its checkpoint, its LoRA list, its X/Y/Z plot, its captioners."""

    @property
    def name(self) -> str:
        """'Stable Diffusion WebUI v1.10.1'."""
        forge = optional("modules_forge.forge_version")
        if forge is not None:
            own = str(getattr(forge, "version", "")).partition("v")[0]  # "2.0.1v1.10.1": its own, then A1111's
            return f"Stable Diffusion WebUI Forge {own}".strip()
        tag = getattr(optional("modules.launch_utils"), "git_tag", None)
        return f"Stable Diffusion WebUI {tag() if tag else ''}".strip()

    def capabilities(self) -> frozenset[str]:
        """By what is there, never by name."""
        found = {f"captions:{captioner.name}" for captioner in self.captioners()}
        if len(self.upscalers()) > 1:
            found.add("upscale")
        if forge_memory() is None:  # the Forge family knows the widths of real models only
            found.add("narrow")
        if live.extension() is not None:
            found.add("live")
        return frozenset({"grid", "render", *found})

    def checkpoint(self) -> Checkpoint | None:
        """The one that is selected, whether or not it is loaded yet."""
        from modules import sd_models

        if not sd_models.checkpoints_list:  # Forge would print a page about it at each look
            return None
        try:
            info = sd_models.select_checkpoint()
        except FileNotFoundError:
            return None
        return _checkpoint(info) if info else None

    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint in the WebUI's list."""
        from modules import sd_models

        return [_checkpoint(info) for info in sd_models.checkpoints_list.values()]

    def lora_dir(self) -> Path:
        """--lora-dir, or models/Lora."""
        from modules import paths_internal

        chosen = flag("lora_dir")
        return Path(chosen) if chosen else Path(paths_internal.models_path) / "Lora"

    def data_dir(self) -> Path:
        """Inside the extension's folder, so that it goes when that is removed; else in the WebUI's data folder."""
        from modules import paths_internal

        own = ROOT / "data"
        writable = os.access(own if own.is_dir() else ROOT, os.W_OK)
        return own if writable else Path(paths_internal.data_path) / "train-lora"

    def environment(self) -> dict[str, str]:
        """What a training process must know of the WebUI's flags: which GPU, or none."""
        if "all" in (flag("use_cpu") or []) or forge_flag("always_cpu"):
            return {"CUDA_VISIBLE_DEVICES": ""}
        chosen = flag("device_id")
        return {} if chosen is None else {"CUDA_VISIBLE_DEVICES": str(chosen)}

    def restricted(self) -> bool:
        """Whether strangers may reach this WebUI, or its owner hides the server's folders."""
        return bool(flag("disable_extension_access") or flag("hide_ui_dir_config"))

    def picture_folders(self) -> list[Path]:
        """The WebUI's data folder, and what its owner opens by --gradio-allowed-path."""
        from modules import paths_internal

        opened = flag("gradio_allowed_path") or []
        return [Path(folder) for folder in (paths_internal.data_path, *opened)]

    def language(self) -> str:
        """By the name of the localization file, which is free: "zh_CN", "zh-Hans (Stable)", "简体中文"."""
        name = str(getattr(shared().opts, "localization", None) or "None")
        if _CHINESE.search(name):
            return "zh-CN"
        return "en" if _ENGLISH.fullmatch(name) else ""

    def busy(self) -> str:
        """What holds the GPU or the queue."""
        if is_lent():
            return "a training has the GPU"
        job = str(getattr(shared().state, "job", "") or "")
        return job.partition("Train LoRA: ")[2] or ("drawing" if job else "")

    def captioners(self) -> list[Captioner]:
        """deepbooru and BLIP, where this WebUI has them."""
        return captions.captioners()

    def upscalers(self) -> list[str]:
        """As its Extras tab lists them."""
        return upscale.upscalers()

    def upscale(self, picture: Image.Image, name: str, width: int, height: int) -> Image.Image:
        """By the WebUI's upscaler of that name, then to the exact size. Raises UserError."""
        return upscale.upscale(picture, name, width, height)

    def refresh_loras(self) -> None:
        """List the files anew, and forget what is applied or kept: a file may have been replaced under its old name.

        The WebUI itself compares names and weights only, and would go on drawing with the old file.
        """
        networks = sys.modules.get("networks")
        with queue():
            if networks is not None:
                networks.list_available_networks()
                forget_applied(networks)
            forget_prompts()

    @contextlib.contextmanager
    def memory_for_training(self) -> Iterator[None]:
        """Take the model off the GPU and, afterwards, put it back.

        Generations wait meanwhile, as they do for the WebUI's own Train tab: A1111 doesn't move an unloaded model back
        by itself, so that a generation would fail, and elsewhere it would take the memory that the training needs.
        On a CPU there is nothing to move, and generations go on.
        """
        with contextlib.nullcontext() if device_type() == "cpu" else lent():
            yield

    def draw(self, grid: Grid, on_cell: OnCell) -> Sheet:
        """Draw with the WebUI's X/Y/Z plot. on_cell may raise to end it. Raises UserError."""
        from .xyz import draw

        with queue():
            on_cell(0, grid.count, None)
            return on_main_thread(lambda: draw(grid, on_cell))

    def render(self, shot: Shot, cancelled: Cancelled = never) -> Image.Image | None:
        """Draw with the WebUI's txt2img, without its always-on scripts. Raises UserError, also while a training has the
        GPU.
        """
        from .picture import draw

        refuse_while_lent()
        with queue():
            return None if cancelled() else on_main_thread(lambda: draw(shot, cancelled))


def _checkpoint(info: Any) -> Checkpoint:
    return Checkpoint(
        path=Path(info.filename).absolute(),
        title=info.title,
        sha256=getattr(info, "sha256", None),
        vae=_vae(info.filename),
        clip_skip=int(getattr(shared().opts, "CLIP_stop_at_last_layers", 1) or 1),
    )


def _vae(checkpoint: str) -> Path | None:
    """The separate VAE file that the WebUI would use with a checkpoint; None for the checkpoint's own."""
    chosen = getattr(shared().opts, "forge_additional_modules", None)
    if chosen is not None:  # Forge and Neo: one list of VAE and text encoders; of VAEs the last counts
        found = next((path for path in reversed(chosen) if _is_vae(Path(path))), None)
    else:
        from modules import sd_vae

        found = sd_vae.resolve_vae(checkpoint).tuple()[0]
    return Path(found).absolute() if found and Path(found).is_file() else None


def _is_vae(path: Path) -> bool:
    """Whether a file lies in a folder of VAEs, which is how Forge tells them from text encoders."""
    from modules import paths_internal

    folders = [Path(paths_internal.models_path) / "VAE", *(Path(folder) for folder in [flag("vae_dir")] if folder)]
    return any(path.absolute().is_relative_to(folder.absolute()) for folder in folders)
