"""Kohya's LoRA file: safetensors, keys `lora_<part>_<path>.lora_down.weight` and the like, text metadata, two hashes.

Container: https://github.com/huggingface/safetensors#format. Hashes: kohya-ss/sd-scripts, library/train_util.py.
It is written here and not by safetensors.torch.save_file, which orders metadata at random and copies every tensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UserError
from ..files import replace_file, require_space
from ..header import AGAIN, Header, header_bytes, read_header

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "float": torch.float32}

_DTYPE_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000
_CHUNK = 1 << 20
_LORA_KEY = re.compile(
    r"^(lora_(te|unet)|lycoris_)|\.(lora_[ABupdownmi]+|lora|lora_linear_layer|hada_\w+|lokr_\w+|oft_\w+|dora_scale)(\.|$)"
)
_CHECKPOINT_PREFIXES = ("model.diffusion_model.", "cond_stage_model.", "first_stage_model.", "conditioner.")
_WHAT = "LoRA"
_HALVES = (torch.float16, torch.bfloat16)
_MAGNITUDE = 0x7FFF


class LoraFile:
    """An open LoRA that reads one tensor at a time. Made by open_lora."""

    def __init__(self, path: Path, header: Header, handle: Any) -> None:
        self.path, self.metadata, self._handle = path, header.metadata, handle
        self.shapes = header.shapes()

    def tensor(self, name: str) -> Tensor:
        """The tensor as stored. Raises UserError when it holds NaN or infinity."""
        tensor: Tensor = self._handle.get_tensor(name)
        if not _is_finite(tensor):
            raise _not_finite([name], self.path)
        return tensor


@contextmanager
def open_lora(path: str | Path) -> Iterator[LoraFile]:
    """Open a LoRA of any kind. Raises UserError: missing, not safetensors, cut off, an HTML page, a checkpoint…"""
    path = Path(path)
    header = read_header(path, _WHAT)
    problem = _no_lora(header.entries)
    if problem:
        raise UserError(problem, where=path, remedy="Choose a LoRA file")
    try:
        handle = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise UserError(f"the file can't be read ({error})", where=path, remedy=AGAIN) from None
    with handle:
        yield LoraFile(path, header, handle)


def read_lora(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors as stored, on the CPU, and the metadata. Raises UserError as open_lora, or naming NaN/Inf tensors."""
    with open_lora(path) as lora:
        state = {name: lora._handle.get_tensor(name).clone() for name in lora.shapes}
    bad = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if bad:
        raise _not_finite(bad, path)
    return state, lora.metadata


def write_lora(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str], dtype: torch.dtype) -> None:
    """Write every tensor, alpha too, as `dtype`; add sshs_model_hash and sshs_legacy_hash to the metadata.

    dora_scale stays float32. The same state and metadata give the same bytes. The file is read back before it takes
    its name.
    Raises UserError: nothing to save, NaN or Inf, too large for `dtype`, disk full.
    """
    path = Path(path)
    if not state:
        raise UserError("there is nothing to save: the LoRA has no tensors", where=path)
    _check_finite(path, state, dtype)
    entries = _entries({name: tuple(state[name].shape) for name in sorted(state)}, dtype)
    texts = {str(k): str(v) for k, v in metadata.items() if not str(k).startswith("sshs_")}
    blank = header_bytes(entries, {**texts, **_hashes("0" * 64, "0" * 8)})
    require_space(path.parent, len(blank) + max(entry["data_offsets"][1] for entry in entries.values()))
    with replace_file(path) as temporary:
        with temporary.open("wb+") as handle:
            handle.write(blank)
            hashed = _write_tensors(handle, state, list(entries), dtype)
            legacy = _legacy_hash(handle, len(blank), header_bytes(entries, _kohya_only(texts)))
            handle.seek(0)
            handle.write(header_bytes(entries, {**texts, **_hashes(hashed, legacy)}))
        _verify(temporary, path, state, len(blank), entries, dtype)


def model_hash(path: str | Path) -> str:
    """sshs_model_hash: sha256 of the tensors' bytes, everything after the header."""
    header = read_header(Path(path), _WHAT)
    with Path(path).open("rb") as handle:
        handle.seek(header.start)
        return _digest(handle)


def legacy_hash(path: str | Path) -> str:
    """sshs_legacy_hash: 8 hex digits over 64 KiB at 1 MiB of the file as it is with no metadata but ss_*."""
    header = read_header(Path(path), _WHAT)
    with Path(path).open("rb") as handle:
        return _legacy_hash(handle, header.start, header_bytes(header.entries, _kohya_only(header.metadata)))


def file_hash(path: str | Path) -> str:
    """sha256 of the whole file."""
    with Path(path).open("rb") as handle:
        return _digest(handle)


def cast_finite(name: str, tensor: Tensor, dtype: torch.dtype, where: object = None) -> Tensor:
    """A contiguous CPU tensor of `dtype`. Raises UserError when a value is not finite, before or after the cast."""
    cast = tensor.detach().to("cpu", dtype).contiguous()
    if not _is_finite(cast):
        raise _too_large([name], where, dtype) if _is_finite(tensor) else _not_finite([name], where)
    return cast


def _no_lora(names: Mapping[str, object]) -> str | None:
    """Why a file with these tensors is no LoRA; None where it is one."""
    if any(_LORA_KEY.search(name) for name in names):
        return None
    if any(name.startswith(_CHECKPOINT_PREFIXES) for name in names):
        return "this is a checkpoint, not a LoRA"
    if "emb_params" in names:
        return "this is a textual inversion embedding, not a LoRA"
    return f"this is not a LoRA (its first tensor is {next(iter(names))!r})" if names else "this file holds no tensors"


def _check_finite(path: Path, state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    bad = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if bad:
        raise _not_finite(bad, path)
    other = {name: tensor for name, tensor in state.items() if tensor.dtype != _stored(name, dtype)}
    large = [name for name, tensor in other.items() if not _is_finite(tensor.to(_stored(name, dtype)))]
    if large:
        raise _too_large(large, path, dtype)


def greatest(tensor: Tensor) -> float:
    """The largest absolute value; infinite or NaN where one is, 0 of no values."""
    tensor = tensor.detach()
    if not tensor.is_floating_point() or not tensor.numel():
        return 0.0
    if tensor.dtype in _HALVES:  # their bits without the sign are in the order of the values; many times as fast
        bits = (tensor.view(torch.int16) & _MAGNITUDE).max()
        return float(bits.view(tensor.dtype).float())
    wide = tensor.float() if tensor.element_size() < 4 else tensor
    return max(map(abs, map(float, wide.aminmax())))


def _is_finite(tensor: Tensor) -> bool:
    return math.isfinite(greatest(tensor))


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _not_finite(names: list[str], where: object) -> UserError:
    remedy = "This LoRA is broken; use an earlier save"
    return UserError(f"NaN or infinite values in {_some(names)}", where=where, remedy=remedy)


def _too_large(names: list[str], where: object, dtype: torch.dtype) -> UserError:
    return UserError(f"values too large for {dtype} in {_some(names)}", where=where, remedy="Save as bf16 or float")


def _entries(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """Header entries of tensors that follow each other without gaps."""
    if dtype not in _DTYPE_NAMES:
        raise ValueError(f"LoRAs are saved as one of {list(_DTYPE_NAMES)}, not {dtype}")
    entries, end = {}, 0
    for name, shape in sorted(shapes.items(), key=lambda item: -_stored(item[0], dtype).itemsize):  # aligned
        kind = _stored(name, dtype)
        begin, end = end, end + torch.Size(shape).numel() * kind.itemsize
        entries[name] = {"dtype": _DTYPE_NAMES[kind], "shape": list(shape), "data_offsets": [begin, end]}
    return entries


def _stored(name: str, dtype: torch.dtype) -> torch.dtype:
    """What a tensor is saved as.

    DoRA's magnitudes are as large as the weights: rounded to 16 bits they would change every weight by about as much
    as was trained.
    """
    return torch.float32 if name.endswith(".dora_scale") else dtype


def _write_tensors(handle: BinaryIO, state: Mapping[str, Tensor], names: list[str], dtype: torch.dtype) -> str:
    """Write the tensors one after another; returns the sha256 of what is written, taken in a thread meanwhile."""
    digest = sha256()
    with ThreadPoolExecutor(1) as hashing:
        before = None
        for name in names:
            data = _bytes_of(name, state, dtype)
            after = hashing.submit(digest.update, data)
            handle.write(data)
            if before:
                before.result()
            before = after
    return digest.hexdigest()


def _bytes_of(name: str, state: Mapping[str, Tensor], dtype: torch.dtype) -> memoryview:
    """What the file holds of a tensor."""
    stored = state[name].detach().to("cpu", _stored(name, dtype)).contiguous()
    return stored.reshape(-1).view(torch.uint8).numpy().data


def _kohya_only(metadata: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in metadata.items() if k.startswith("ss_")}


def _hashes(model: str, legacy: str) -> dict[str, str]:
    return {"sshs_model_hash": model, "sshs_legacy_hash": legacy}


def _legacy_hash(handle: BinaryIO, start: int, header: bytes) -> str:
    """Over [1 MiB, 1 MiB + 64 KiB) of `header` followed by the tensors, which begin at `start` of `handle`."""
    head = header[_LEGACY_START : _LEGACY_START + _LEGACY_LENGTH]
    handle.seek(start + max(0, _LEGACY_START - len(header)))
    return sha256(head + handle.read(_LEGACY_LENGTH - len(head))).hexdigest()[:8]


def _digest(handle: BinaryIO) -> str:
    digest = sha256()
    while chunk := handle.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _verify(
    temporary: Path, path: Path, state: Mapping[str, Tensor], start: int, entries: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Every tensor in the file is the one that was meant."""
    with safe_open(temporary, framework="pt", device="cpu") as handle:
        same = sorted(handle.keys()) == sorted(entries)
    with temporary.open("rb") as file:
        file.seek(start)
        for name, entry in entries.items() if same else ():
            begin, end = entry["data_offsets"]
            same = same and file.read(end - begin) == bytes(_bytes_of(name, state, dtype))
    if not same:
        raise UserError("what was written can't be read back", where=path, remedy="Check the disk, or save elsewhere")
