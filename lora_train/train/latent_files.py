"""Encoded pictures on disk, so that the next run needn't encode them again.

They lie in a folder .latents beside the pictures, a file each. A file's name is a hash of all that its content
depends on, so that a changed picture, mask, resolution or VAE is never served an old one. Any of them may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import UserError
from ..files import replace_file

FOLDER = ".latents"
_FORMAT = 1  # raise it when the same picture would be encoded to other numbers


@dataclass(frozen=True)
class Posterior:
    """What the VAE says of a picture: mean and std [4, h, w]; mask [1, h, w] where it has one. float32 on the CPU."""

    mean: Tensor
    std: Tensor
    mask: Tensor | None = None

    def sample(self, generator: torch.Generator) -> Tensor:
        """[4, h, w] drawn from N(mean, std^2)."""
        return self.mean + self.std * torch.randn(self.mean.shape, generator=generator)


def identity(vae: nn.Module) -> str:
    """A hash of a VAE's encoder: its tensors, their names and their precision."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in vae.state_dict().items():
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """A hash of a file's bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as handle:
        while block := handle.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def entry(picture: Path, *facts: object) -> Path:
    """Where the posterior of `picture` lies, given all the facts that it depends on."""
    text = json.dumps([_FORMAT, *facts], default=str)
    return picture.parent / FOLDER / f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.safetensors"


def read(path: Path) -> Posterior | None:
    """The posterior in a file; None where there is none, or the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it isn't iterable
            checksum = (file.metadata() or {}).get("crc32")
        if checksum != _checksum(tensors):
            return None
        return Posterior(tensors["mean"], tensors["std"], tensors.get("mask"))
    except (OSError, SafetensorError, KeyError):
        return None


def write(path: Path, posterior: Posterior) -> None:
    """Write one file as a whole. Raises OSError or UserError where that can't be done."""
    tensors = {"mean": posterior.mean, "std": posterior.std}
    if posterior.mask is not None:
        tensors["mask"] = posterior.mask
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replace_file(path) as temporary:
        save_file(tensors, temporary, metadata={"crc32": _checksum(tensors)})


class Writer:
    """Writes in a thread of its own. The first folder that can't be written ends the writing with a warning."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._pool = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []
        self._failed = False

    def put(self, path: Path, posterior: Posterior) -> None:
        """Write it soon."""
        self._pending = [future for future in self._pending if not self._is_done(future)]
        if not self._failed:
            self._pending.append(self._pool.submit(write, path, posterior))

    def close(self) -> None:
        """Wait for what is to be written."""
        self._pool.shutdown(wait=True)
        for future in self._pending:
            self._is_done(future)

    def _is_done(self, future: Future[None]) -> bool:
        if not future.done():
            return False
        error = future.exception()
        if isinstance(error, (OSError, UserError, SafetensorError)):
            if not self._failed:
                self._warn(f"the encoded pictures are kept in memory only: {error}")
            self._failed = True
        elif error:
            raise error
        return True


def _checksum(tensors: dict[str, Tensor]) -> str:
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(_bytes(tensors[name]), zlib.crc32(f"{name} {list(tensors[name].shape)}".encode(), crc))
    return str(crc)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
