"""What a module of each kind adds to the weights, exactly: as a low-rank product where there is one, else as a matrix.

A Hadamard or Kronecker product of low-rank matrices is one of low rank, so LoHa and LoKr become plain LoRA. DoRA, IA3
and GLoRA change a weight by its own value and need the checkpoint. Formulas: LyCORIS, and the readers of the WebUI's
Lora extension (scale, alpha, the form of the tensors).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..network.kohya import LoraFile
from .algebra import LowRank, factored, flatten, hadamard, kronecker, numerical_rank, spectrum, truncate
from .layout import Kind, Module

_KERNEL_3 = re.compile(
    r"(conv1|conv2|(in|out)_layers_[23]|samplers_0_conv|conv_in|conv_out|_op|blocks_\d+_\d_conv|out_2)$"
)


@dataclass(frozen=True)
class Delta:
    """What a module adds at strength 1: scale · matrix to the weight, `bias` to the bias.

    matrix: low rank, or a tensor in the weight's own shape, or None; row: the shape of a row of the weight, (inputs,)
    or (inputs, height, width), () for a vector; is_norm: a normalisation layer's; is_plain: stored as LoRA.
    """

    matrix: LowRank | Tensor | None
    scale: float = 1.0
    row: tuple[int, ...] = ()
    bias: Tensor | None = None
    is_norm: bool = False
    is_plain: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight; a linear layer equals a 1×1 convolution."""
        if self.matrix is None:
            return ()
        out = self.matrix.B.shape[0] if isinstance(self.matrix, LowRank) else self.matrix.shape[0]
        return (int(out), *self.row, *((1, 1) if len(self.row) == 1 else ()))

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """scale · matrix as [out, in·kh·kw], or [n] for a vector."""
        assert self.matrix is not None
        if isinstance(self.matrix, LowRank):
            low = self.matrix.to(dtype)
            return (low.B * self.scale) @ low.A
        whole = self.matrix.to(dtype) * self.scale
        return whole.flatten(1) if whole.dim() > 1 else whole


Weight = Callable[[str], Tensor]
"""A module's weight in the checkpoint, float64, by the module's name."""


def read(file: LoraFile, module: Module, weight: Weight | None = None) -> Delta:
    """What a module does. weight: for kinds that need the checkpoint; require_plain has refused them without it.

    Raises UserError naming the file: NaN or infinite values, tensors that don't fit each other or the checkpoint, OFT.
    """
    reader = _READERS.get(module.kind)
    if reader is None:
        what = f"{module.name} is {module.label}, which can't be merged"
        raise UserError(what, where=file.path, remedy="Use it as it is, in the prompt")
    parts = {part: file.tensor(key) for part, key in module.parts.items()}
    try:
        delta = reader(parts, module.name, weight)
        return _decomposed(delta, parts["magnitude"], module.name, weight) if module.is_dora else delta
    except (RuntimeError, ValueError, IndexError):
        shapes = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in sorted(parts.items()) if tensor.dim())
        what = f"the tensors of {module.name} don't fit: {shapes}"
        remedy = "The file is damaged, or made for another checkpoint" if weight else "The file is damaged"
        raise UserError(what, where=file.path, remedy=remedy) from None


Parts = dict[str, Tensor]


def _scale(parts: Parts, rank: int | None) -> float:
    """The `scale` tensor, else alpha / rank, else 1: a missing alpha equals the rank. Without a rank alpha is idle."""
    if "scale" in parts:
        return float(parts["scale"])
    return float(parts["alpha"]) / rank if "alpha" in parts and rank else 1.0


def _lora(parts: Parts, name: str, weight: Weight | None) -> Delta:
    up, down, mid = parts["up"], parts["down"], parts.get("mid")
    rank = down.shape[0]
    if min(up.dim(), down.dim()) < 2 or up.numel() != up.shape[0] * (rank if mid is None else mid.shape[0]):
        raise ValueError("ranks")
    row = (*down.shape[1:2], *(down if mid is None else mid).shape[2:])
    return Delta(flatten(up, down, mid), _scale(parts, rank), tuple(row), parts.get("diff_b"), is_plain=True)


def _loha(parts: Parts, name: str, weight: Weight | None) -> Delta:
    rank = parts["w1_b"].shape[0]
    pairs = [_pair(parts, n) for n in ("1", "2")]
    kernel = parts["t1"].shape[2:] if "t1" in parts else parts["w1_b"].shape[2:]
    product = hadamard(*pairs)
    row = _row(name, product.A.shape[1], kernel)
    return Delta(_shortest(product), _scale(parts, rank), row, parts.get("diff_b"))


def _pair(parts: Parts, n: str) -> LowRank:
    """w_a [out, r] @ w_b [r, in…]; with a Tucker core t [r, r', kh, kw] both are [r, …], as LyCORIS has them."""
    a, b, core = parts[f"w{n}_a"].double(), parts[f"w{n}_b"].double(), parts.get(f"t{n}")
    if core is None:
        return LowRank(a.flatten(1), b.flatten(1))
    return flatten(a.T, b, core)


def _lokr(parts: Parts, name: str, weight: Weight | None) -> Delta:
    rank = next((parts[part].shape[0] for part in ("w2_b", "w1_b") if part in parts), None)
    first, second = (
        factored(parts[f"w{n}"].double().flatten(1)) if f"w{n}" in parts else _pair(parts, n) for n in ("1", "2")
    )
    core = next((parts[part] for part in ("w2", "t2", "w2_b") if part in parts), None)
    kernel = core.shape[2:] if core is not None else torch.Size()
    product = kronecker(first, second)
    row = _row(name, product.A.shape[1], kernel)
    return Delta(_shortest(product), _scale(parts, rank), row, parts.get("diff_b"))


def _row(name: str, length: int, kernel: torch.Size) -> tuple[int, ...]:
    """Shape of a row. Where a convolution's kernel was flattened away, the layer's name tells that it is 3×3."""
    if not kernel and length % 9 == 0 and _KERNEL_3.search(name):
        kernel = torch.Size((3, 3))
    return (length // kernel.numel(), *kernel) if kernel else (length,)


def _shortest(x: LowRank) -> LowRank:
    """The same matrix with no more columns than it has rows or columns itself."""
    if x.rank <= min(x.B.shape[0], x.A.shape[1]):
        return x
    s = spectrum(x)
    return truncate(s, numerical_rank(s.sigma))


def _difference(parts: Parts, name: str, weight: Weight | None) -> Delta:
    whole = parts.get("diff")
    row = tuple(whole.shape[1:]) if whole is not None else ()
    return Delta(whole, _scale(parts, None), row, parts.get("diff_b"))


def _norm(parts: Parts, name: str, weight: Weight | None) -> Delta:
    return Delta(parts.get("w_norm"), _scale(parts, None), (), parts.get("b_norm"), is_norm=True)


def _ia3(parts: Parts, name: str, weight: Weight | None) -> Delta:
    assert weight is not None
    base, gain = weight(name), parts["weight"].double().flatten()
    shape = (1, -1) if "on_input" in parts and bool(parts["on_input"]) else (-1, 1)
    return Delta(base * gain.reshape(*shape, *[1] * (base.dim() - 2)), _scale(parts, None), tuple(base.shape[1:]))


def _glora(parts: Parts, name: str, weight: Weight | None) -> Delta:
    """(b2 b1 + W a2 a1) alpha / rank."""
    assert weight is not None
    base = weight(name)
    a1, a2, b1, b2 = (parts[part].double().flatten(1) for part in ("a1", "a2", "b1", "b2"))
    whole = b2 @ b1 + base.flatten(1) @ a2 @ a1
    return Delta(whole.reshape(base.shape), _scale(parts, b1.shape[0]), tuple(base.shape[1:]))


def _decomposed(delta: Delta, magnitude: Tensor, name: str, weight: Weight | None) -> Delta:
    """DoRA's W' − W, W' = (W + ΔW) m / ‖W + ΔW‖. The shape of m says whether the norm is that of rows or of columns."""
    assert weight is not None
    base = weight(name)
    moved = base + delta.dense().reshape(base.shape)
    m = magnitude.double()
    by_output = m.dim() < 2 or (m.shape[0] == base.shape[0] and m.shape[1] == 1)
    flat = moved.flatten(1) if by_output else moved.transpose(0, 1).flatten(1)
    shape = (-1, 1) if by_output else (1, -1)
    gain = (m.flatten() / flat.norm(dim=1)).reshape(*shape, *[1] * (base.dim() - 2))
    return Delta(moved * gain - base, 1.0, tuple(base.shape[1:]), delta.bias)


_READERS: dict[Kind, Callable[[Parts, str, Weight | None], Delta]] = {
    Kind.LORA: _lora,
    Kind.LOHA: _loha,
    Kind.LOKR: _lokr,
    Kind.DIFFERENCE: _difference,
    Kind.NORM: _norm,
    Kind.IA3: _ia3,
    Kind.GLORA: _glora,
}
