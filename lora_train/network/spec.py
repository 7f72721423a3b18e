"""What a new network consists of: its form, its dropouts, the size of the adapter on each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import UserError
from ..model.checkpoint import Family
from ..settings import TrainSettings
from .blocks import SD, XL, Layout, per_block, rate_factors
from .kohya import open_lora
from .names import Target, xl_key


@dataclass(frozen=True)
class Size:
    """Rank r and alpha of one module; its weights are scaled by alpha / r."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Drops:
    """Shares left out in training: of the rank-r activation, of the ranks of a picture, of the modules of a step."""

    inner: float = 0.0
    rank: float = 0.0
    module: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.inner or self.rank or self.module)


@dataclass(frozen=True)
class LoraSpec:
    """What a new network has. conv: the size on 3x3 convolutions (LoCon); None: no convolutional blocks.

    blocks, conv_blocks: a size for each block of the UNet instead, None where it is left out. modules: sizes by kohya's
    module name instead of all others. form: lora, loha or lokr; dora: with a magnitude for each input channel.
    """

    size: Size
    conv: Size | None = None
    unet: bool = True
    text_encoder: bool = True
    text_encoder2: bool = True
    blocks: tuple[Size | None, ...] | None = None
    conv_blocks: tuple[Size | None, ...] | None = None
    modules: Mapping[str, Size] | None = None
    form: str = "lora"
    factor: int = -1
    dora: bool = False
    drops: Drops = Drops()

    @property
    def has_conv(self) -> bool:
        """Whether convolutional blocks get adapters."""
        return self.conv is not None or self.conv_blocks is not None or self.modules is not None

    def size_of(self, target: Target) -> Size | None:
        """The adapter's size on a layer; None where it gets none. In LoCon, 3x3 convolutions have the conv size and
        everything else the plain one."""
        if not {"unet": self.unet, "te2": self.text_encoder2}.get(target.part, self.text_encoder):
            return None
        if self.modules is not None:
            return self.modules.get(target.key)
        plain, large = self.blocks, self.conv_blocks
        if target.is_large:
            return self.conv if large is None or target.block is None else large[target.block]
        return self.size if plain is None or target.block is None else plain[target.block]


def spec_of(settings: TrainSettings, family: Family) -> LoraSpec:
    """The network that the settings describe for a kind of checkpoint; reads network_weights where ranks come from it.

    Raises UserError naming the setting.
    """
    layout = XL if family is Family.SDXL else SD
    root = settings.rs_lora
    size = _size(settings.network_dim, settings.network_alpha, root)
    conv = _size(settings.conv_dim, settings.conv_alpha, root) if settings.conv_dim else None
    form = "lora" if settings.algo == "locon" else settings.algo
    if settings.network_dropout and form != "lora":
        remedy = "Use rank_dropout or module_dropout"
        raise UserError(f"is for LoRA, not for {form}", where="network_dropout", remedy=remedy)
    blocks, conv_blocks = _blocks(settings, layout, size, conv)
    return LoraSpec(
        size=size,
        conv=conv,
        unet=settings.unet_rate > 0,
        text_encoder=settings.text_encoder_rate > 0,
        text_encoder2=settings.text_encoder2_rate > 0,
        blocks=blocks,
        conv_blocks=conv_blocks,
        modules=_sizes_in_file(settings, family) if settings.dim_from_weights else None,
        form=form,
        factor=settings.factor,
        dora=settings.dora_wd,
        drops=Drops(settings.network_dropout, settings.rank_dropout, settings.module_dropout),
    )


def sizes_in(state: Mapping[str, Tensor]) -> dict[str, Size]:
    """Rank and alpha of every module of a LoRA's tensors."""
    alphas = {name.removesuffix(".alpha"): float(value) for name, value in state.items() if name.endswith(".alpha")}
    return _sizes({name: tuple(value.shape) for name, value in state.items()}, alphas)


def _sizes(shapes: Mapping[str, tuple[int, ...]], alphas: Mapping[str, float]) -> dict[str, Size]:
    """From shapes. Without an alpha it is the rank. The rank of a LoKr of two full factors doesn't matter: 1."""
    ranks: dict[str, int] = {}
    for name, shape in shapes.items():
        key, _, tensor = name.partition(".")
        ranks.setdefault(key, 0)
        if tensor in ("lora_down.weight", "hada_w1_b", "lokr_w2_b") or (tensor == "lokr_w1_b" and not ranks[key]):
            ranks[key] = shape[0]
    return {key: Size(rank, alphas.get(key, 0.0) or rank) if rank else Size(1, 1.0) for key, rank in ranks.items()}


def _size(rank: int, alpha: float, root: bool) -> Size:
    """An alpha of 0 is the rank, as kohya has it. root: rsLoRA (Kalajdzievski 2023) scales by alpha / sqrt(r); to every
    reader that is an alpha of alpha sqrt(r)."""
    alpha = alpha or rank
    return Size(rank, alpha * math.sqrt(rank) if root else alpha)


def _blocks(
    settings: TrainSettings, layout: Layout, size: Size, conv: Size | None
) -> tuple[tuple[Size | None, ...] | None, tuple[Size | None, ...] | None]:
    """Sizes by block for all layers but 3x3 convolutions, and for those; None where all blocks are alike."""
    dims = per_block(settings, "block_dims", layout, int)
    alphas = per_block(settings, "block_alphas", layout, float)
    conv_dims = per_block(settings, "conv_block_dims", layout, int)
    conv_alphas = per_block(settings, "conv_block_alphas", layout, float)
    factors = rate_factors(settings, layout)
    if conv_alphas and not (conv_dims or conv):
        raise UserError("there are no ranks for them", where="conv_block_alphas", remedy="Give conv_block_dims")
    if not (dims or alphas or conv_dims or conv_alphas or factors):
        return None, None
    trained = [factor > 0 for factor in factors or [1.0] * layout.count]

    def sizes(dims: list[int], alphas: list[float]) -> tuple[Size | None, ...]:
        return tuple(
            _size(dim, alpha, settings.rs_lora) if dim and on else None
            for dim, alpha, on in zip(dims, alphas, trained, strict=True)
        )

    n = layout.count
    plain = sizes(dims or [settings.network_dim] * n, alphas or [settings.network_alpha] * n)
    if not (conv_dims or conv):
        return plain, None
    return plain, sizes(conv_dims or [settings.conv_dim] * n, conv_alphas or [settings.conv_alpha] * n)


def _sizes_in_file(settings: TrainSettings, family: Family) -> dict[str, Size]:
    with open_lora(settings.network_weights) as lora:
        alphas = {
            name.removesuffix(".alpha"): float(lora.tensor(name)) for name in lora.shapes if name.endswith(".alpha")
        }
        sizes = _sizes(lora.shapes, alphas)
    return {xl_key(key): size for key, size in sizes.items()} if family is Family.SDXL else sizes
