"""Where a LoRA's modules lie in a checkpoint file: kohya's name of a layer -> its tensor, or its rows of one.

OpenCLIP keeps query, key and value of a layer in one matrix; a LoRA has them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..header import AGAIN, Header, read_header
from ..model.checkpoint import DTYPES, OPEN_CLIP, SDXL_CLIP, SDXL_OPEN_CLIP, TEXT, UNET, recognise
from .families import SD15
from .layout import Index, canonical_module

_WEIGHT = re.compile(r"(.+)(\.weight|in_proj_weight)")
_OPEN_CLIP_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_OPEN_CLIP_WORDS = {
    "attn.out_proj": "self_attn_out_proj",
    "mlp.c_fc": "mlp_fc1",
    "mlp.c_proj": "mlp_fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}
_OPEN_CLIP_OUTSIDE = {
    "ln_final": "text_model_final_layer_norm",
    "token_embedding": "text_model_embeddings_token_embedding",
}


@dataclass(frozen=True)
class Place:
    """A layer's weight. rows: first and last + 1 of them, or None for all."""

    key: str
    rows: tuple[int, int] | None = None

    @property
    def bias(self) -> str:
        return self.key.removesuffix("weight") + "bias"

    def of(self, tensor: Tensor) -> Tensor:
        """The layer's share of the tensor, a view."""
        return tensor if self.rows is None else tensor[self.rows[0] : self.rows[1]]


class Checkpoint:
    """An open checkpoint of SD1.5, SD2 or SDXL that reads one tensor at a time. Made by open_checkpoint."""

    def __init__(self, path: Path, header: Header, handle: BufferedReader) -> None:
        self.path, self.header, self._handle = path, header, handle
        self.family = _family(header, path)
        self.places = dict(_places(header.shapes(), self.family))

    def read(self, key: str) -> bytearray:
        """A tensor's bytes as stored. Raises UserError where the file ends before them."""
        begin, end = self.header.entries[key]["data_offsets"]
        data = bytearray(end - begin)
        self._handle.seek(self.header.start + begin)
        if self._handle.readinto(data) != end - begin:
            raise UserError(f"the tensor {key} can't be read", where=self.path, remedy=AGAIN)
        return data

    def tensor(self, key: str) -> Tensor:
        """As stored. Raises UserError for a kind of number that is not known here."""
        entry = self.header.entries[key]
        kind = DTYPES.get(entry["dtype"])
        if kind is None:
            raise UserError(f"the tensor {key} is stored as {entry['dtype']}", where=self.path, remedy="Convert it")
        return torch.frombuffer(self.read(key), dtype=torch.uint8).view(kind).reshape(entry["shape"])

    def weight(self, name: str) -> Tensor:
        """A layer's weight in float64. For kinds.read."""
        place = self.places[name]
        return place.of(self.tensor(place.key)).double()

    def require(self, index: Index, path: Path) -> None:
        """Raise UserError, naming the LoRA, where it is for another family or for layers that the checkpoint lacks."""
        if index.family != self.family:
            what = f"this LoRA is for {index.family}, and {self.path.name} is {self.family}"
            raise UserError(what, where=path, remedy="Choose a checkpoint that the LoRA was trained for")
        missing = sorted(index.modules.keys() - self.places.keys())
        if missing:
            some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            what = f"{self.path.name} lacks {len(missing)} of its {len(index.modules)} layers: {some}"
            raise UserError(what, where=path, remedy="Choose a checkpoint that the LoRA was trained for")


@contextmanager
def open_checkpoint(path: str | Path) -> Iterator[Checkpoint]:
    """Open a .safetensors checkpoint. Raises UserError: missing, cut off, a LoRA, another model, a .ckpt …"""
    path = Path(path)
    header = read_header(path, "checkpoint")
    with path.open("rb") as handle:
        yield Checkpoint(path, header, handle)


def _family(header: Header, path: Path) -> str:
    """Told by the text encoder. Variants of a family, such as for inpainting, take LoRAs as well."""

    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in header.entries)

    if not has(UNET) or not (has(TEXT) or has(SDXL_OPEN_CLIP)):
        recognise(path)  # says what it is instead
        raise UserError("this is not a checkpoint whose layers are known here", where=path)
    if has(SDXL_OPEN_CLIP):
        return "SDXL"
    return "SD2" if has(OPEN_CLIP) else SD15


def _places(shapes: dict[str, tuple[int, ...]], family: str) -> Iterator[tuple[str, Place]]:
    roots = {
        SD15: {"cond_stage_model.transformer.": "lora_te_"},
        "SD2": {OPEN_CLIP: "lora_te_"},
        "SDXL": {SDXL_CLIP: "lora_te1_", SDXL_OPEN_CLIP: "lora_te2_"},
    }[family]
    for key, shape in shapes.items():
        found = _WEIGHT.fullmatch(key)
        if not found:
            continue
        if key.startswith(UNET):
            yield canonical_module("lora_unet_" + _words(found[1].removeprefix(UNET)), family), Place(key)
        for root, part in roots.items():
            if key.startswith(root):
                rest = key.removeprefix(root)
                named = _open_clip(rest, shape) if root in (OPEN_CLIP, SDXL_OPEN_CLIP) else _clip(rest)
                yield from ((part + name, Place(key, rows)) for name, rows in named)


def _words(path: str) -> str:
    return path.replace(".", "_")


Named = Iterator[tuple[str, tuple[int, int] | None]]


def _clip(rest: str) -> Named:
    name = _words(rest.removesuffix(".weight"))
    yield (name if name.startswith("text_model_") else f"text_model_{name}"), None


def _open_clip(rest: str, shape: tuple[int, ...]) -> Named:
    """Transformers' names of OpenCLIP's layers."""
    layer = _OPEN_CLIP_LAYER.fullmatch(rest)
    if not layer:
        word = _OPEN_CLIP_OUTSIDE.get(rest.removesuffix(".weight"))
        if word:
            yield word, None
        return
    stem = f"text_model_encoder_layers_{layer[1]}_"
    if layer[2] == "attn.in_proj_weight":
        height = shape[0] // 3
        for n, part in enumerate("qkv"):
            yield f"{stem}self_attn_{part}_proj", (n * height, (n + 1) * height)
    elif word := _OPEN_CLIP_WORDS.get(layer[2].removesuffix(".weight")):
        yield stem + word, None
