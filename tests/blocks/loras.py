"""Small LoRAs with the 264 modules of SD1.5, and the effect of a LoRA calculated without lora_train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WIDTH, TEXT = 24, 20

# The 17 numbers in their order, each with the beginning of its modules' names.
PLACES = (
    "lora_te_",
    *(f"lora_unet_down_blocks_{i}_attentions_{j}_" for i in (0, 1, 2) for j in (0, 1)),
    "lora_unet_mid_block_",
    *(f"lora_unet_up_blocks_{i}_attentions_{j}_" for i in (1, 2, 3) for j in (0, 1, 2)),
)
_ATTENTION = {f"transformer_blocks_0_attn{n}_to_{part}": 1 for n in (1, 2) for part in ("q", "k", "v", "out_0")}
_TRANSFORMER = {
    "proj_in": 1,
    "proj_out": 1,
    **_ATTENTION,
    "transformer_blocks_0_ff_net_0_proj": 8,
    "transformer_blocks_0_ff_net_2": 1,
}
_TEXT = ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2")

Shape = tuple[int, ...]


def modules() -> dict[str, Shape]:
    """Name -> shape of its weight, [out, in] or [out, in, kh, kw]: 72 of the text encoder and 192 of the UNet."""
    text = {f"lora_te_text_model_encoder_layers_{n}_{part}": (TEXT, TEXT) for n in range(12) for part in _TEXT}
    unet: dict[str, Shape] = {}
    for place in PLACES[1:]:
        stem = place if "attentions" in place else place + "attentions_0_"
        for part, factor in _TRANSFORMER.items():
            unet[stem + part] = (WIDTH, WIDTH, 1, 1) if part.startswith("proj") else (factor * WIDTH, WIDTH)
    return text | unet


def state(shapes: Mapping[str, Shape], rank: int = 16, alpha: float | None = 8, seed: int = 0) -> dict[str, Tensor]:
    """kohya's keys with random values, in float."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (out, *row) in shapes.items():
        tensors[f"{name}.lora_up.weight"] = torch.randn((out, rank, *([1] * (len(row) - 1))), generator=g) / 4
        tensors[f"{name}.lora_down.weight"] = torch.randn((rank, *row), generator=g) / 5
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    return tensors


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path, metadata=metadata)
    return path


def dense(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """ΔW of one module at strength 1, [out, in·kh·kw] in float64: every element summed out."""
    up, down = (tensors[f"{name}.lora_{part}.weight"].double() for part in ("up", "down"))
    rank = down.shape[0]
    alpha = float(tensors.get(f"{name}.alpha", torch.tensor(float(rank))))
    return (up.reshape(-1, rank, 1) * down.reshape(1, rank, -1)).sum(1) * (alpha / rank)


def place(name: str) -> int:
    return next(n for n, beginning in enumerate(PLACES) if name.startswith(beginning))


def relative_error(path: Path, wanted: Mapping[str, Tensor]) -> float:
    """Of all modules together; a module that the file lacks counts as 0."""
    stored = load_file(path)
    pairs = [
        (w, dense(stored, n) if f"{n}.lora_up.weight" in stored else torch.zeros_like(w)) for n, w in wanted.items()
    ]
    return _norm(s - w for w, s in pairs) / _norm(wanted.values())


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt())
