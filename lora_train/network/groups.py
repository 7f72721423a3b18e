"""Which parameters learn at which rate, in sd-scripts' groups and order (LoRANetwork.prepare_optimizer_params).

LoRA+ (Hayou et al. 2024): the up weights learn faster by a ratio, in a group of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..settings import TrainSettings
from .blocks import SD, XL, rate_factors

if TYPE_CHECKING:
    from .lora import LoraNetwork

_UP = "lora_up.weight"


def param_groups(network: LoraNetwork, settings: TrainSettings) -> list[dict[str, Any]]:
    """Text encoders, then the UNet, block by block where blocks have rates. Raises UserError for unreadable lists."""
    groups = [
        group
        for keys, rate, ratio, name in [*_text_encoders(network, settings), *_unet(network, settings)]
        for group in _groups(network, keys, rate, ratio, name)
    ]
    learning = {id(weight) for group in groups for weight in group["params"]}
    for weight in network.parameters():
        weight.requires_grad_(id(weight) in learning)
    return groups


Share = tuple[list[str], float, float | None, str]  # module names, rate, LoRA+ ratio, name of the group


def _text_encoders(network: LoraNetwork, settings: TrainSettings) -> Iterator[Share]:
    """One group, as sd-scripts, unless SDXL's two have different rates."""
    ratio = settings.loraplus_text_encoder_lr_ratio or settings.loraplus_lr_ratio
    by_rate: dict[float, list[str]] = defaultdict(list)
    for part in network.parts:
        if part != "unet":
            by_rate[settings.rate_of(part)].extend(network.layers_of(part))
    for n, (rate, keys) in enumerate(by_rate.items(), 1):
        yield keys, rate, ratio, "textencoder" if n == 1 else f"textencoder{n}"


def _unet(network: LoraNetwork, settings: TrainSettings) -> Iterator[Share]:
    keys = list(network.layers_of("unet"))
    ratio = settings.loraplus_unet_lr_ratio or settings.loraplus_lr_ratio
    factors = rate_factors(settings, XL if network.is_xl else SD)
    if factors is None:
        yield keys, settings.unet_rate, ratio, "unet"
        return
    blocks: dict[int, list[str]] = defaultdict(list)
    for key in keys:
        block = network.block_of(key)
        assert block is not None, key
        blocks[block].append(key)
    # SDXL's modules come in the order of the blocks there; here, as in SD1.5 there, the middle comes last.
    for block in sorted(blocks) if network.is_xl else blocks:
        yield blocks[block], settings.unet_rate * factors[block], ratio, f"unet_block{block}"


def _groups(
    network: LoraNetwork, keys: Iterable[str], rate: float, ratio: float | None, name: str
) -> Iterator[dict[str, Any]]:
    """The group of some modules, and with LoRA+ that of their up weights; none where the rate is 0."""
    named = [item for key in keys for item in network.layers[key].tensors().items()]
    plain = [weight for tensor, weight in named if ratio is None or tensor != _UP]
    plus = [weight for tensor, weight in named if ratio is not None and tensor == _UP]
    for params, lr, label in ((plain, rate, name), (plus, rate * (ratio or 0), f"{name} plus")):
        if params and lr:
            yield {"params": params, "lr": lr, "name": label}
