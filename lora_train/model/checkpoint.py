"""Checkpoint files: what one is, read from its header, and its tensors."""

from __future__ import annotations

import pickle
import zipfile
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..header import read_header

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
OPEN_CLIP = "cond_stage_model.model."
SDXL_CLIP, SDXL_OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
Shapes = dict[str, tuple[int, ...]]

_ANOTHER = "Choose a checkpoint of Stable Diffusion 1.x, 2.x or SDXL"
_AGAIN = "Download it again"
_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Family(Enum):
    """What a checkpoint is made for."""

    SD15 = "Stable Diffusion 1.5"
    SD2 = "Stable Diffusion 2"
    SDXL = "Stable Diffusion XL"


def recognise(path: str | Path) -> Family:
    """The family of a checkpoint. For .safetensors only the header is read.

    Raises UserError naming what the file is instead: missing, an HTML page, truncated, a LoRA, Flux…
    """
    path = Path(path)
    _require_file(path, (".safetensors", ".ckpt"))
    shapes = _shapes(path)
    problem = _foreign(shapes) or _incomplete(shapes)
    if problem:
        raise UserError(problem, where=path, remedy=_ANOTHER)
    if _any(shapes, "conditioner.embedders."):
        return Family.SDXL
    return Family.SD2 if _any(shapes, OPEN_CLIP) else Family.SD15


def read_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors in a .safetensors file; raises UserError unless the file is whole."""
    return read_header(path, "checkpoint").shapes()


def text_heads(width: int) -> int:
    """Attention heads of a CLIP text encoder, which no shape shows: ViT-L/14 has 12, our narrow ones have 8."""
    return 12 if width == 768 else 8


def read_tensors(
    path: str | Path,
    prefixes: tuple[str, ...] = ("",),
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Tensors under their names in the file that begin with one of `prefixes`; raises UserError.

    Floating-point ones become `dtype`. Nothing else of a .safetensors is read, and never two copies of it are held.
    """
    path = Path(path)
    _require_file(path, (".safetensors", ".ckpt", ".pt"))

    def placed(tensor: Tensor) -> Tensor:
        there = tensor.to(device)
        return there.to(dtype) if dtype is not None and there.is_floating_point() else there

    if path.suffix != ".safetensors":
        return {name: placed(tensor) for name, tensor in _read_ckpt(path).items() if name.startswith(prefixes)}
    header = read_header(path, "checkpoint")
    state: dict[str, Tensor] = {}
    # Read, not mapped: a mapped file counts as memory while it is cast, stays locked on Windows, comes page by page.
    with path.open("rb") as handle:
        for name, entry in header.entries.items():
            if not name.startswith(prefixes):
                continue
            begin, end = entry["data_offsets"]
            data = torch.empty(end - begin, dtype=torch.uint8)
            handle.seek(header.start + begin)
            read = handle.readinto(data.numpy()) if end > begin else 0
            kind = DTYPES.get(entry["dtype"])
            if kind is None or read != end - begin:
                raise UserError(f"the tensor {name} can't be read", where=path, remedy=_AGAIN)
            state[name] = placed(data.view(kind).reshape(entry["shape"]))
    return state


def read_vae(path: str | Path, dtype: torch.dtype, device: str | torch.device) -> dict[str, Tensor]:
    """The tensors of a VAE file (or of the VAE in a checkpoint) under a checkpoint's names. Raises UserError."""
    path = Path(path)
    _require_file(path, (".safetensors", ".ckpt", ".pt"), "Choose a VAE file (.safetensors, .pt or .ckpt)")
    shapes = _shapes(path)
    root = VAE if _any(shapes, VAE) else ""
    first = shapes.get(f"{root}decoder.conv_in.weight", ())
    if len(first) != 4 or first[1] != 4:
        if _any(shapes, "encoder.down_blocks."):
            what = "this VAE is in diffusers' layout"
        else:
            what = "this is a VAE for another kind of model" if first else "this is not a VAE"
        raise UserError(what, where=path, remedy="Choose a VAE as the WebUI uses it, for this kind of checkpoint")
    state = read_tensors(path, tuple(root + part for part in _VAE_PARTS), dtype, device)
    return {VAE + name.removeprefix(root): tensor for name, tensor in state.items()}


def _shapes(path: Path) -> Shapes:
    if path.suffix == ".safetensors":
        return read_shapes(path)
    return {name: tuple(tensor.shape) for name, tensor in _read_ckpt(path).items()}


def _require_file(path: Path, endings: tuple[str, ...], another: str = _ANOTHER) -> None:
    if not path.is_file():
        raise UserError("there is no such file", where=path, remedy="Choose an existing file")
    if path.stat().st_size == 0:
        raise UserError("the file is empty", where=path, remedy=_AGAIN)
    if path.suffix not in endings:
        what = f"{path.suffix or 'a name without ending'} is not the ending of such a file"
        raise UserError(what, where=path, remedy=another)


def _read_ckpt(path: Path) -> dict[str, Tensor]:
    """Tensors of a .ckpt through torch's restricted unpickler: nothing in the file is run. They are mapped."""
    with open(path, "rb") as handle:
        if handle.read(8).lstrip()[:1] == b"<":
            raise UserError("this is an HTML page: the download went wrong", where=path, remedy=_AGAIN)
    try:
        data = torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OSError, AttributeError):
        raise UserError(
            "the file is damaged, or holds more than tensors and is not opened for safety",
            where=path,
            remedy="Use its .safetensors",
        ) from None
    state = data.get("state_dict", data) if isinstance(data, dict) else {}
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _any(shapes: Shapes, *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in shapes)


def _foreign(shapes: Shapes) -> str | None:
    """What a file with these tensors is that holds no UNet of a Stable Diffusion checkpoint; None where it does."""

    def has(*parts: str) -> bool:
        return any(part in name for name in shapes for part in parts)

    if has("lora_unet_", "lora_te", ".lora_A.", ".lora_down.", "hada_w1", "lokr_w1"):
        return "this is a LoRA, not a checkpoint"
    if has("double_blocks.", "joint_blocks."):
        return "this is a Flux or SD3 checkpoint, which can't be trained here"
    if has("string_to_param", "emb_params"):
        return "this is a textual inversion embedding, not a checkpoint"
    if has("input_hint_block", "control_model."):
        return "this is a ControlNet, not a checkpoint"
    if _any(shapes, UNET):
        return None
    if _any(shapes, "down_blocks.", "unet.down_blocks."):
        return "this is a UNet in diffusers' layout, not a whole checkpoint"
    return (
        "this is a VAE, not a whole checkpoint"
        if has("decoder.conv_in", "encoder.conv_in")
        else ("this is not a checkpoint")
    )


def _incomplete(shapes: Shapes) -> str | None:
    """What a checkpoint with a UNet lacks, or which variant of its family it is; None where it can be trained."""
    if not _any(shapes, VAE):
        return "the checkpoint lacks its VAE"
    if _any(shapes, "conditioner.embedders."):
        if _any(shapes, "conditioner.embedders.0.model."):
            return "this is the SDXL refiner, which can't be trained here"
        if not (_any(shapes, SDXL_CLIP) and _any(shapes, SDXL_OPEN_CLIP)):
            return "the SDXL checkpoint lacks one of its two text encoders"
    elif not _any(shapes, TEXT):
        return "the checkpoint lacks its text encoder"
    elif _any(shapes, f"{UNET}label_emb."):
        return "this is an unCLIP or upscaling checkpoint"
    conv_in = shapes.get(f"{UNET}input_blocks.0.0.weight", ())
    if len(conv_in) != 4:
        return "its UNet is not that of Stable Diffusion"
    if conv_in[1] != 4:
        return f"this is an inpainting or otherwise changed checkpoint: its UNet takes {conv_in[1]} channels, not 4"
    return None
