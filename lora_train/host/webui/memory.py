"""The WebUI's own model: off the GPU and back, and free of what was applied to it."""

from __future__ import annotations

from typing import Any

from .inside import optional


def unload() -> list[Any]:
    """Everything off the GPU; returns the models that have to be put back by hand."""
    from modules import sd_models

    if not hasattr(sd_models, "send_model_to_cpu") or optional("modules_forge") is not None:
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


def bring_back(models: list[Any]) -> None:
    from modules import sd_models

    for model in models:
        sd_models.send_model_to_device(model)


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


def forget_prompts() -> None:
    """The WebUI keeps the last prompt's text states; they may come from a replaced LoRA."""
    from modules import processing

    for kind in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
        for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
            cache = getattr(kind, name, None)
            if isinstance(cache, list):
                cache[:] = [None] * len(cache)
