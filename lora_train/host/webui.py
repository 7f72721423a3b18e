"""The host inside AUTOMATIC1111's WebUI and its forks.

A1111 1.10.1 is the host this is run against; the forks (Forge, reForge, Classic, Neo) are told apart by what they
offer, never by name. `modules.*` is the WebUI's own package, imported where it is used.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..grid.plan import Grid
from ..paths import ROOT
from .base import Checkpoint, Sheet

T = TypeVar("T")


class WebUIHost:
    """Implements base.Host by the WebUI's own means: its checkpoint, its LoRA list, its X/Y/Z plot."""

    @property
    def name(self) -> str:
        """'Stable Diffusion WebUI v1.10.1'."""
        forge = _optional("modules_forge.forge_version")
        if forge is not None:
            return f"Stable Diffusion WebUI Forge {getattr(forge, 'version', '')}".strip()
        tag = getattr(_optional("modules.launch_utils"), "git_tag", None)
        return f"Stable Diffusion WebUI {tag() if tag else ''}".strip()

    def checkpoint(self) -> Checkpoint | None:
        """The one that is selected, whether or not it is loaded yet."""
        from modules import sd_models

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

        chosen = _flag("lora_dir")
        return Path(chosen) if chosen else Path(paths_internal.models_path) / "Lora"

    def data_dir(self) -> Path:
        """Inside the extension's folder, so that it goes when that is removed; else in the WebUI's data folder."""
        from modules import paths_internal

        own = ROOT / "data"
        writable = os.access(own if own.is_dir() else ROOT, os.W_OK)
        return own if writable else Path(paths_internal.data_path) / "train-lora"

    def environment(self) -> dict[str, str]:
        """What a training process must know of the WebUI's flags: which GPU, or none."""
        if "all" in (_flag("use_cpu") or []):
            return {"CUDA_VISIBLE_DEVICES": ""}
        chosen = _flag("device_id")
        return {} if chosen is None else {"CUDA_VISIBLE_DEVICES": str(chosen)}

    def restricted(self) -> bool:
        """Whether strangers may reach this WebUI, or its owner hides the server's folders."""
        return bool(_flag("disable_extension_access") or _flag("hide_ui_dir_config"))

    def refresh_loras(self) -> None:
        """List the files anew, and forget what is applied or kept: a file may have been replaced under its old name.

        The WebUI itself compares names and weights only, and would go on drawing with the old file.
        """
        networks = sys.modules.get("networks")
        with _queue():
            if networks is not None:
                networks.list_available_networks()
                _forget_applied(networks)
            _forget_prompts()

    @contextlib.contextmanager
    def memory_for_training(self) -> Iterator[None]:
        """Take the model off the GPU and, afterwards, put it back.

        Generations wait meanwhile, as they do for the WebUI's own Train tab: A1111 doesn't move an unloaded model back
        by itself, so that a generation would fail, and elsewhere it would take the memory that the training needs.
        On a CPU there is nothing to move, and generations go on.
        """
        if _device_type() == "cpu":
            yield
            return
        with _queue():
            moved = _on_main_thread(_unload)
            try:
                yield
            finally:
                _on_main_thread(lambda: _bring_back(moved))

    def draw(self, grid: Grid, on_cell: Callable[[int, int], None]) -> Sheet:
        """Draw with the WebUI's X/Y/Z plot. on_cell may raise to end it. Raises UserError."""
        from .xyz import draw

        with _queue():
            on_cell(0, len(grid.loras) * len(grid.weights))
            return _on_main_thread(lambda: draw(grid, on_cell))


def _checkpoint(info: Any) -> Checkpoint:
    return Checkpoint(
        path=Path(info.filename).absolute(),
        title=info.title,
        sha256=getattr(info, "sha256", None),
        vae=_vae(info.filename),
        clip_skip=int(getattr(_shared().opts, "CLIP_stop_at_last_layers", 1) or 1),
    )


def _vae(checkpoint: str) -> Path | None:
    """The separate VAE file that the WebUI would use with a checkpoint; None for the checkpoint's own."""
    resolve = getattr(_optional("modules.sd_vae"), "resolve_vae", None)
    found: Any = resolve(checkpoint) if resolve else None
    vae = found.tuple()[0] if hasattr(found, "tuple") else None
    return Path(vae) if vae else None


def _unload() -> list[Any]:
    """Everything off the GPU; returns the models that have to be put back by hand."""
    from modules import sd_models

    if not hasattr(sd_models, "send_model_to_cpu") or _optional("modules_forge") is not None:
        sd_models.unload_model_weights()  # the forks load again by themselves when they need the model
        return []
    data = sd_models.model_data
    models = {
        id(model): model for model in [data.sd_model, *getattr(data, "loaded_sd_models", [])] if model is not None
    }
    there = [model for model in models.values() if getattr(model, "lowvram", False) or _on_gpu(model)]
    for model in there:
        sd_models.send_model_to_cpu(model)
    return there


def _bring_back(models: list[Any]) -> None:
    from modules import sd_models

    for model in models:
        sd_models.send_model_to_device(model)


def _on_gpu(model: Any) -> bool:
    return any(parameter.device.type not in ("cpu", "meta") for parameter in model.parameters())


def _forget_applied(networks: Any) -> None:
    """Give the loaded model its own weights back, and drop LoRA files kept in memory."""
    import torch
    from modules import sd_models

    for cache in (getattr(networks, "networks_in_memory", None), getattr(networks, "loaded_networks", None)):
        if cache is not None:
            cache.clear()
    cached_reader: Any = getattr(networks, "load_lora_state_dict", None)
    if hasattr(cached_reader, "cache_clear"):
        cached_reader.cache_clear()
    model = sd_models.model_data.sd_model
    if hasattr(model, "current_lora_hash"):  # Forge
        model.current_lora_hash = str([])
    restore = getattr(networks, "network_restore_weights_from_backup", None)
    if restore is None or not hasattr(model, "modules"):
        return
    with torch.no_grad():
        for layer in model.modules():
            if getattr(layer, "network_current_names", ()):
                restore(layer)
                layer.network_current_names = ()


def _forget_prompts() -> None:
    """The WebUI keeps the last prompt's text states; they may come from a replaced LoRA."""
    from modules import processing

    for kind in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
        for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
            cache = getattr(kind, name, None)
            if isinstance(cache, list):
                cache[:] = [None] * len(cache)


def _queue() -> contextlib.AbstractContextManager[Any]:
    """The WebUI's queue: one of all generations and us at a time. It can't be taken twice by the same thread."""
    from modules import call_queue

    return call_queue.queue_lock


def _on_main_thread(action: Callable[[], T]) -> T:
    """Run `action` where the host wants its GPU work: the Forge family's main loop, elsewhere right here."""
    loop = _optional("modules_forge.main_thread")
    if loop is None:
        return action()
    outcome: list[Any] = [None, None]

    def run() -> None:
        try:
            outcome[0] = action()
        except BaseException as error:  # noqa: BLE001 (the loop would swallow it)
            outcome[1] = error

    loop.run_and_wait_result(run)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _device_type() -> str:
    from modules import devices

    return str(getattr(devices.device, "type", devices.device))


def _shared() -> Any:
    from modules import shared

    return shared


def _flag(name: str) -> Any:
    """A command line option; None where this host has none of that name."""
    return getattr(_shared().cmd_opts, name, None)


def _optional(name: str) -> Any:
    """A module that some hosts have; None elsewhere."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
