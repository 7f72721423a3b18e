"""About how much memory and time a run takes.

A simple model, so that it can be held against what happened. All of it is reckoned from the checkpoint's header, the
settings and the largest bucket; n is the number of latent pixels (width × height ÷ 64) of a batch.

Memory is the sum of
- weights: parameters × bytes (4; 2 in fp16 and bf16; 1 for the UNet in fp8),
- activations that the backward pass of the UNet needs: 113,000 values for each latent pixel of SD1.5 and SD2, 206,000
  of SDXL, and 65 more for each rank of the LoRA, counted from what autograd keeps in diffusers' UNets with LoRA on
  every attention and feed-forward layer, without attention matrices; narrower UNets keep less in proportion to their
  width. With gradient checkpointing 0.3 (SD1.5) or 0.2 (SDXL) of it: the blocks' inputs, and one block at a time,
- activations of a trained text encoder: 20 × width × layers × tokens,
- the LoRA, its gradients and the optimizer's state,
and of a reserve for the driver and for what the allocator holds back.

Time is arithmetic ÷ speed. A forward pass of the UNet takes 0.17 + 7.3e-6 × n₁ GFLOP for each latent pixel of SD1.5, n₁
being one picture's latent pixels, and 0.41 GFLOP of SDXL (counted); a backward pass 1.2 times that, checkpointing one
forward pass more; a text encoder 2 FLOP for each parameter and token. The speed is that of former runs, or a guess, to
which the handing out of the operations is added: it is all that counts in a very small model.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..dataset.options import CaptionOptions
from ..errors import UserError
from ..header import read_header
from ..settings import TrainSettings
from .history import Measured
from .steps import Plan

_GIB = 1 << 30
_UNET, _VAE, _SD2 = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."
_FULL_UNET = {False: 860e6, True: 2567e6}  # parameters, by whether it is SDXL
_DISPATCH = {False: (0.05, 0.4), True: (0.03, 0.2)}  # seconds to hand out a step's some thousand operations
_RESERVE = (0.4 * _GIB, 1.0 * _GIB)
_SLACK = 1.35  # normalisation in single precision, copies, what the allocator can't fit

# Bytes of state for each trained parameter, in single precision.
_STATE = {
    "AdamW8bit": 2,
    "PagedAdamW8bit": 0,
    "Lion": 4,
    "Lion8bit": 1,
    "AdaFactor": 1,
    "AdamWScheduleFree": 8,
    "DAdaptAdam": 12,
    "DAdaptLion": 8,
    "DAdaptAdaGrad": 12,
    "DAdaptSGD": 12,
    "Prodigy": 16,
}

_LINEAR = re.compile(r"\.(to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)\.weight$")
_TEXT = re.compile(r"\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2|c_fc|c_proj)\.weight$|\.(in_proj_weight)$")
_LAYER = re.compile(r"(.*\.(?:layers|resblocks)\.\d+)\.")
_CONV = re.compile(r"\.(in_layers\.2|out_layers\.3|op|conv)\.weight$")
_RESNET = re.compile(r"\.(emb_layers\.1|skip_connection)\.weight$")


@dataclass(frozen=True)
class Checkpoint:
    """Sizes of a model. unet, text, vae: parameters; lora: parameters of a LoRA for each rank of its part."""

    sdxl: bool
    unet: float
    text: float
    vae: float
    text_width: int
    text_layers: int
    lora_unet: int
    lora_text: int
    lora_conv: int
    lora_resnet: int


@dataclass(frozen=True)
class Costs:
    """Ranges, low and high: memory of the device in bytes, seconds a step and of all steps. basis: how they came about.

    parts: bytes of memory by what they are for, before reserve and slack.
    """

    memory: tuple[int, int]
    parts: dict[str, int]
    seconds_per_step: tuple[float, float]
    seconds: tuple[float, float]
    basis: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON and events."""
        return asdict(self)


# What the full-size checkpoint of Stable Diffusion 1.5 has: the guess where no file can be read.
SD15 = Checkpoint(False, 859.5e6, 123.1e6, 83.7e6, 768, 12, 423_936, 165_888, 0, 0)


def estimate(settings: TrainSettings, plan: Plan, former: Sequence[Measured] = (), gpu: bool | None = None) -> Costs:
    """Memory and time of a planned run. former: runs on this machine, the newest last; gpu: None looks for NVIDIA's."""
    gpu = shutil.which("nvidia-smi") is not None if gpu is None else gpu
    model, notes = _model(settings)
    largest = max(plan.buckets, key=lambda shape: shape.width * shape.height * min(shape.batch_size, shape.images))
    rows = min(largest.batch_size, largest.images)
    parts = _memory(settings, model, rows, largest.width * largest.height // 64)
    total = sum(parts.values())
    memory = (int(total + _RESERVE[0]), int(total * _SLACK + _RESERVE[1]))
    precision = "fp32" if settings.mixed_precision == "no" else settings.mixed_precision
    notes.append(
        f"memory: {rows} x {largest.width} x {largest.height} pixels in {precision}, "
        + ", ".join(f"{name} {size / _GIB:.1f} GiB" for name, size in parts.items())
    )
    work = _work(settings, model, plan)
    slow, fast, basis = _speed(settings, former, gpu)
    notes.append(f"time: {work / 1e12:.2f} TFLOP a step {basis}; loading, caching and previews come on top")
    least, most = (0.0, 0.0) if former else _DISPATCH[gpu]
    each = (round(work / fast + least, 4), round(work / slow + most, 4))
    return Costs(memory, parts, each, (round(each[0] * plan.steps, 1), round(each[1] * plan.steps, 1)), tuple(notes))


def _keeps_text_encoder(settings: TrainSettings) -> bool:
    """Whether captions are encoded while training, and not once before."""
    varies = CaptionOptions.of(settings).vary
    return settings.trains_text_encoder or varies or not settings.cache_text_encoder_outputs


def _model(settings: TrainSettings) -> tuple[Checkpoint, list[str]]:
    path = Path(settings.pretrained_model_name_or_path)
    if path.suffix != ".safetensors":
        return SD15, ["model: Stable Diffusion 1.5 of full size is assumed"]
    try:
        return measure(read_header(path, "checkpoint").shapes()), [f"model: {path.name}"]
    except (UserError, OSError):
        return SD15, ["model: Stable Diffusion 1.5 of full size is assumed, since the checkpoint can't be read"]


def measure(shapes: dict[str, tuple[int, ...]]) -> Checkpoint:
    """The sizes of a checkpoint with these tensors."""
    unet = {name: shape for name, shape in shapes.items() if name.startswith(_UNET)}
    text = {n: s for n, s in shapes.items() if n.startswith(("cond_stage_model.", "conditioner."))}
    vae = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(_VAE))
    layers = {name: match[1] for name in text if _TEXT.search(name) and (match := _LAYER.match(name))}
    if any(name.startswith(_SD2) for name in text):  # Stable Diffusion 2 never uses its last layer
        last = max(layers.values(), key=lambda layer: int(layer.rpartition(".")[2]))
        layers = {name: layer for name, layer in layers.items() if layer != last}
    linear = [text[name] for name in layers]
    return Checkpoint(
        sdxl=any(name.startswith("conditioner.") for name in text),
        unet=sum(map(math.prod, unet.values())),
        text=sum(map(math.prod, text.values())),
        vae=vae,
        text_width=max((shape[1] for shape in linear), default=768) // 4,
        text_layers=len(set(layers.values())),
        lora_unet=sum(_per_rank(shape) for name, shape in unet.items() if _LINEAR.search(name)),
        lora_text=sum(_per_rank(shape) for shape in linear),
        lora_conv=sum(_per_rank(s) for n, s in unet.items() if _CONV.search(n) and len(s) == 4 and s[2] == 3),
        lora_resnet=sum(_per_rank(shape) for name, shape in unet.items() if _RESNET.search(name)),
    )


def _per_rank(shape: tuple[int, ...]) -> int:
    """Parameters of a LoRA of rank 1 on a weight [out, in, k, k]; OpenCLIP's in_proj is three layers in one."""
    if len(shape) == 2 and shape[0] == 3 * shape[1]:
        return 6 * shape[1]
    return shape[0] + math.prod(shape[1:])


def lora_parameters(settings: TrainSettings, model: Checkpoint) -> int:
    """Trained numbers of a plain LoRA; LoHa has twice as many, LoKr far fewer."""
    rank = settings.network_dim
    count = rank * model.lora_text * settings.trains_text_encoder
    if settings.unet_rate:
        count += rank * model.lora_unet
        if settings.conv_dim:
            count += rank * model.lora_resnet + settings.conv_dim * model.lora_conv
    return int(count * {"loha": 2, "lokr": 0.1}.get(settings.algo, 1))


def _memory(settings: TrainSettings, model: Checkpoint, rows: int, latent_pixels: int) -> dict[str, int]:
    """Bytes while a step is at its fullest. latent_pixels: of one picture."""
    size = 4 if settings.mixed_precision == "no" else 2
    text_stays = _keeps_text_encoder(settings)
    weights = model.unet * (1 if settings.fp8_base else size)
    weights += model.text * size * text_stays
    weights += model.vae * size * (not settings.cache_latents)
    width = math.sqrt(model.unet / _FULL_UNET[model.sdxl])
    values = (206_000 if model.sdxl else 113_000) + 65 * settings.network_dim
    kept = 1.0
    if settings.gradient_checkpointing:
        kept = 0.2 if model.sdxl else 0.3
    activations = rows * latent_pixels * values * size * width * kept
    if settings.trains_text_encoder:
        activations += 20 * model.text_width * model.text_layers * _tokens(settings) * rows * size
    exact = 2 if settings.full_fp16 or settings.full_bf16 else 4
    state = _STATE.get(settings.optimizer_type, 8) * exact / 4
    trained = lora_parameters(settings, model) * (2 * exact + state + (4 if settings.ema_decay else 0))
    return {"weights": int(weights), "activations": int(activations), "LoRA and optimizer": int(trained)}


def _tokens(settings: TrainSettings) -> int:
    return 77 * ((settings.max_token_length or 75) // 75)


def _work(settings: TrainSettings, model: Checkpoint, plan: Plan) -> float:
    """FLOP of a mean step: all batches of an epoch by the epoch's steps."""
    width = model.unet / _FULL_UNET[model.sdxl]
    passes = 1 + 1.2 + settings.gradient_checkpointing
    total = 0.0
    for shape in plan.buckets:
        pixels = shape.width * shape.height / 64
        forward = 0.41e9 if model.sdxl else 0.17e9 + 7.3e3 * pixels
        total += shape.images * pixels * forward * width * passes
    reads_text = _keeps_text_encoder(settings)
    if reads_text:
        blocks = 12 * model.text_width**2 * model.text_layers
        total += plan.images * 2 * blocks * _tokens(settings) * (3 if settings.trains_text_encoder else 1)
    return total / plan.steps_per_epoch


def _speed(settings: TrainSettings, former: Sequence[Measured], gpu: bool) -> tuple[float, float, str]:
    """(slow, fast) in FLOP a second, and where they come from."""
    alike = [run for run in former if run.settings.mixed_precision == settings.mixed_precision] or list(former)
    if alike:
        run = alike[-1]
        reached = _work(run.settings, _model(run.settings)[0], run.plan) / run.seconds_per_step
        same = run.settings.mixed_precision == settings.mixed_precision
        slow, fast = (0.75, 1.25) if same else (0.4, 2.5)
        return reached * slow, reached * fast, f"at {reached / 1e12:.3g} TFLOPS, as {run.name} reached on this machine"
    if gpu:
        slow, fast = (5e12, 20e12) if settings.mixed_precision == "no" else (8e12, 60e12)
        return slow, fast, f"on a GPU of {slow / 1e12:g} to {fast / 1e12:g} TFLOPS; no former run tells more"
    cores = os.cpu_count() or 1
    slow, fast = cores * 10e9, cores * 60e9
    return slow, fast, f"on {cores} processor cores of 10 to 60 GFLOPS; no former run tells more"
