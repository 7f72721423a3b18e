"""The WebUI's own models: off the GPU and back, and free of what was applied to them."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Any

from ...errors import UserError
from .inside import forge_memory, job, on_main_thread, queue, shared

_LENT = "a training has the GPU"
_lent: list[None] = []
"""An entry for each training that has, or waits for, the GPU's memory."""


@contextlib.contextmanager
def lent() -> Iterator[None]:
    """The GPU's memory as free as the WebUI can make it; afterwards its models are where they were.

    The WebUI's queue is held, so that drawing waits: A1111 doesn't move a model back by itself and would fail, and the
    forks would take the memory that the training needs. Nothing is written to a weight.
    """
    _lent.append(None)
    try:
        with queue(), job("Train LoRA: training") as state:
            state.textinfo = "A LoRA is being trained; drawing goes on when it is done or paused"
            moved: list[Any] = []
            try:
                on_main_thread(lambda: unload(moved))
                yield
            finally:
                on_main_thread(lambda: bring_back(moved))
    finally:
        _lent.pop()


def is_lent() -> bool:
    """Whether a training has the GPU, or is next in the queue for it."""
    return bool(_lent)


def refuse_while_lent() -> None:
    """Raises UserError while a training has the GPU: waiting for it might take hours."""
    if is_lent():
        raise UserError(_LENT, where="GPU", remedy="Wait until it is done, or pause it")


def unload(moved: list[Any]) -> None:
    """Everything off the GPU; `moved` receives the models that have to be put back by hand, also if one fails."""
    from modules import devices, sd_models

    _unload_helpers()
    memory = forge_memory()
    if memory is not None:  # loads again by itself what it needs
        memory.unload_all_models()
        memory.soft_empty_cache(True)
    else:
        for model in _loaded():
            if getattr(model, "lowvram", False) or _on_gpu(model):
                moved.append(model)
                sd_models.send_model_to_cpu(model)
    gc.collect()
    devices.torch_gc()


def bring_back(moved: list[Any]) -> None:
    """Put back what `unload` took, except models that the WebUI has dropped in the meantime."""
    from modules import sd_models

    still = [model for model in _loaded() if any(model is other for other in moved)]
    for model in still:
        sd_models.send_model_to_device(model)


def _loaded() -> list[Any]:
    """A1111's models, each once, the one in use first."""
    from modules import sd_models

    data = sd_models.model_data
    models = [data.sd_model, *getattr(data, "loaded_sd_models", [])]
    return list({id(model): model for model in models if model is not None}.values())


def _unload_helpers() -> None:
    """Captioners and upscalers that are kept loaded. They move to the GPU by themselves when they are used."""
    from modules import devices

    danbooru = getattr(sys.modules.get("modules.deepbooru"), "model", None)
    interrogator = getattr(shared(), "interrogator", None)
    for owner, name in ((danbooru, "model"), (interrogator, "blip_model"), (interrogator, "clip_model")):
        model = getattr(owner, name, None)
        if model is not None and forge_memory() is None:
            model.to(devices.cpu)
    for entry in getattr(shared(), "sd_upscalers", []):
        scaler = getattr(entry, "scaler", None)
        clear = getattr(getattr(scaler, "load_model", None), "cache_clear", None)  # Classic: ESRGAN
        if clear is not None:
            clear()
        if scaler is not None and getattr(scaler, "_cached_model", None) is not None:  # SwinIR
            scaler._cached_model = scaler._cached_model_config = None


def _on_gpu(model: Any) -> bool:
    return any(parameter.device.type not in ("cpu", "meta") for parameter in model.parameters())


def forget_applied(networks: Any) -> None:
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
    if hasattr(model, "current_lora_hash"):  # Forge: "" is the name of no list of LoRAs, not even of the empty one
        model.current_lora_hash = ""
        parts = getattr(model, "forge_objects_original", None)
        for patcher in (getattr(parts, "unet", None), getattr(getattr(parts, "clip", None), "patcher", None)):
            loader: Any = getattr(patcher, "lora_loader", None)
            if loader is not None:
                loader.loaded_hash = ""
    restore = getattr(networks, "network_restore_weights_from_backup", None)
    if restore is None or not hasattr(model, "modules"):
        return
    with torch.no_grad():
        for layer in model.modules():
            if getattr(layer, "network_current_names", ()):
                restore(layer)
                layer.network_current_names = ()


def forget_prompts() -> None:
    """The WebUI keeps the last prompt's text states, and so do we; they may come from a replaced LoRA."""
    from modules import processing

    from .picture import forget_texts

    forget_texts()
    for kind in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
        for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
            cache = getattr(kind, name, None)
            if isinstance(cache, list):
                cache[:] = [None] * len(cache)
