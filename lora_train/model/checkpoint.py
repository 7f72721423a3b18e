"""Checkpoint files: what one is, read from its header, and its tensors."""

from __future__ import annotations

import pickle
import zipfile
from enum import Enum
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError
from ..header import read_header

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
_ANOTHER = "Choose a Stable Diffusion 1.5 checkpoint"


class Family(Enum):
    """What a checkpoint is made for."""

    SD15 = "Stable Diffusion 1.5"


def recognise(path: str | Path) -> Family:
    """The family of a checkpoint. For .safetensors only the header is read.

    Raises UserError naming what the file is instead: missing, an HTML page, truncated, a LoRA, SDXL…
    """
    path = Path(path)
    _require_file(path)
    whole = path.suffix != ".safetensors"
    shapes = {name: tuple(v.shape) for name, v in _read_ckpt(path).items()} if whole else read_shapes(path)
    problem = _not_sd15(shapes)
    if problem:
        raise UserError(problem, where=path, remedy=_ANOTHER)
    return Family.SD15


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a .safetensors file; raises UserError unless the file is whole."""
    return read_header(path, "checkpoint").shapes()


def text_heads(width: int) -> int:
    """Attention heads of a text encoder, which no shape shows: CLIP ViT-L/14 has 12, our narrow ones have 8."""
    return 12 if width == 768 else 8


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint under their names in the file, on the CPU. Raises UserError."""
    path = Path(path)
    _require_file(path)
    if path.suffix != ".safetensors":
        return _read_ckpt(path)
    read_shapes(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"the file can't be read ({error})", where=path, remedy="Download it again") from None


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UserError("there is no such file", where=path, remedy="Choose an existing checkpoint")
    if path.stat().st_size == 0:
        raise UserError("the file is empty", where=path, remedy="Download it again")
    if path.suffix not in (".safetensors", ".ckpt"):
        raise UserError(
            f"{path.suffix or 'a name without ending'} is not a checkpoint's ending", where=path, remedy=_ANOTHER
        )


def _read_ckpt(path: Path) -> dict[str, Tensor]:
    """Tensors of a .ckpt through torch's restricted unpickler: nothing in the file is run."""
    with open(path, "rb") as handle:
        if handle.read(8).lstrip()[:1] == b"<":
            what = "this is an HTML page, not a checkpoint: the download went wrong"
            raise UserError(what, where=path, remedy="Download it again")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OSError, AttributeError):
        raise UserError(
            "the file is damaged, or holds more than tensors and is not opened for safety",
            where=path,
            remedy="Use its .safetensors",
        ) from None
    state = data.get("state_dict", data) if isinstance(data, dict) else {}
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _not_sd15(shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Why a file with these tensors is no SD1.5 checkpoint; None where it is one."""

    def has(*parts: str) -> bool:
        return any(part in name for name in shapes for part in parts)

    parts = {part: any(name.startswith(part) for name in shapes) for part in (UNET, VAE, TEXT)}
    if has("lora_unet_", "lora_te", ".lora_A.", ".lora_down.", "hada_w1", "lokr_w1"):
        return "this is a LoRA, not a checkpoint"
    if any(name.startswith("conditioner.embedders.") for name in shapes):
        return "this is an SDXL checkpoint; only SD1.5 can be trained so far"
    if any(name.startswith("cond_stage_model.model.") for name in shapes):
        return "this is an SD2 checkpoint; only SD1.5 can be trained so far"
    if has("double_blocks.", "joint_blocks."):
        return "this is a Flux or SD3 checkpoint; only SD1.5 can be trained so far"
    if has("string_to_param", "emb_params"):
        return "this is a textual inversion embedding, not a checkpoint"
    if not parts[UNET]:
        return (
            "this is a VAE, not a whole checkpoint"
            if has("decoder.conv_in", "encoder.conv_in")
            else "this is not a checkpoint"
        )
    if not (parts[VAE] and parts[TEXT]):
        return "the checkpoint lacks its " + ("text encoder" if parts[VAE] else "VAE")
    conv_in = shapes.get(f"{UNET}input_blocks.0.0.weight")
    if conv_in is None or conv_in[1] != 4:
        return "this is an inpainting or otherwise changed checkpoint"
    return None
