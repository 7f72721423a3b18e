"""Making a loaded model ready: precision, attention, checkpointing, compilation."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from ..errors import UserError
from ..model.convolution import quicken
from ..model.load import StableDiffusion
from ..settings import TrainSettings


def prepare(model: StableDiffusion, settings: TrainSettings) -> list[str]:
    """Set the frozen modules up as `settings` say, before adapters are put in. Returns warnings."""
    warnings = _attention(model, settings)
    if settings.fp8_base:
        _eight_bits(model.unet, settings)
    if settings.gradient_checkpointing:
        _checkpoint(model, settings)
    if model.device.type == "cuda":
        model.unet.to(memory_format=torch.channels_last)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    else:
        quicken(model.unet)
    if settings.torch_compile:
        warnings += _compile(model.unet)
    return warnings


def _attention(model: StableDiffusion, settings: TrainSettings) -> list[str]:
    if not settings.xformers:
        return []
    if model.device.type != "cuda" or find_spec("xformers") is None:
        return ["xformers is not installed here, or there is no GPU: attention is PyTorch's own, which is as fast"]
    model.unet.enable_xformers_memory_efficient_attention()
    return []


def _eight_bits(unet: Any, settings: TrainSettings) -> None:
    """Weights rest as float8_e4m3fn and are widened one layer at a time, norms excepted."""
    if not hasattr(unet, "enable_layerwise_casting") or not hasattr(torch, "float8_e4m3fn"):
        raise UserError("the packages here are too old for it", where="fp8_base", remedy="Switch it off")
    compute = torch.float16 if settings.mixed_precision == "fp16" else torch.bfloat16
    unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)


def _checkpoint(model: StableDiffusion, settings: TrainSettings) -> None:
    """Activations are computed again in the backward pass. Both modules do so in training mode only."""
    model.unet.enable_gradient_checkpointing()
    model.unet.train()
    if settings.trains_text_encoder:
        for text_encoder in model.text_encoders.values():
            text_encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            text_encoder.train()


def _compile(unet: Any) -> list[str]:
    if not hasattr(unet, "compile_repeated_blocks"):
        return ["torch_compile needs newer packages than those here: it has no effect"]
    unet.compile_repeated_blocks(dynamic=False)
    return []
