"""Weights of blocks on the LoRAs that the WebUI has loaded, without a file: in A1111 and what keeps its Lora extension.

That extension asks each module of a LoRA for its `multiplier()`, and sums a layer anew when the strengths of the loaded
LoRAs are others than those which the layer has. Here a LoRA's strengths become numbers that know the weights of blocks
(`Weighted`), so that both follow; as soon as the extension sets plain strengths, all is as ever. Layers for which
nothing changed are told so, and are not summed again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...blocks.families import BASE, SD15, flat_weights
from ...blocks.layout import block_of, canonical_module
from .inside import forge_memory

_PROJECTIONS = ("", "_q_proj", "_k_proj", "_v_proj", "_out_proj")
_Effect = tuple[tuple[Any, ...], ...]


class Weighted(float):
    """A LoRA's strength with weights of blocks: equal to no number, but to another of the same effect."""

    weights: Mapping[str, float]
    token: tuple[Any, ...]

    def __new__(cls, strength: float, weights: Mapping[str, float], *token: object) -> Weighted:
        """token: what else makes a difference, such as the file's age."""
        made = super().__new__(cls, strength)
        made.weights, made.token = dict(weights), (float(strength), tuple(sorted(weights.items())), *token)
        return made

    def of(self, block: str) -> float:
        return float(self) * self.weights.get(block, 1.0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weighted) and self.token == other.token

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.token)


class _Multiplier:
    """In the place of one module's `multiplier`: the same, but for a strength with weights."""

    def __init__(self, stock: Callable[[], Any], block: str) -> None:
        self._stock, self.block = stock, block

    def __call__(self) -> float:
        strength = self._stock()
        return strength.of(self.block) if isinstance(strength, Weighted) else strength

    def take_off(self, module: Any) -> None:
        """The module has what it had before."""
        del module.multiplier
        if module.multiplier != self._stock:  # somebody else's, and no method of its kind
            module.multiplier = self._stock


@dataclass(frozen=True)
class _Summed:
    """What the layers were told last. effects: of each layer that any LoRA changes."""

    model: Any
    wanted: tuple[Any, ...]
    effects: dict[str, _Effect]


_last: list[_Summed] = []
"""The last one, or nothing."""


def extension() -> Any:
    """A1111's module `networks`; None where LoRAs are applied in another way.

    reForge keeps the functions of its Lora extension, but they do nothing there: its memory management applies LoRAs.
    """
    if forge_memory() is not None:
        return None
    networks, network = sys.modules.get("networks"), sys.modules.get("network")
    parts = ("network_apply_weights", "load_networks", "loaded_networks")
    if not all(hasattr(networks, name) for name in parts):
        return None
    return networks if hasattr(getattr(network, "NetworkModule", None), "multiplier") else None


def family() -> str | None:
    """Of the loaded checkpoint; None for one whose blocks have no names here."""
    model = _model()
    if getattr(model, "is_sdxl", False):
        return "SDXL"
    if getattr(model, "is_sd2", False):
        return "SD2"
    return SD15 if getattr(model, "is_sd1", False) else None


def weigh(weights: Mapping[int, tuple[float, float, Mapping[str, float]]]) -> int:
    """Give the loaded LoRAs their weights. weights: place among the loaded -> strengths te and unet, block -> weight.

    To be called after the WebUI has loaded the LoRAs and before a layer runs. Returns how many layers will be summed.
    """
    networks = extension()
    blocks = family() or SD15
    for place, net in enumerate(networks.loaded_networks):
        te, unet, factors = weights.get(place, (float(net.te_multiplier), float(net.unet_multiplier), {}))
        for module in net.modules.values():
            if not isinstance(vars(module).get("multiplier"), _Multiplier):
                module.multiplier = _Multiplier(module.multiplier, _block(module, blocks))
        token = (str(net.network_on_disk.filename), net.mtime)
        every = {**flat_weights(blocks), **factors}
        net.te_multiplier = Weighted(te, every, *token)
        net.unet_multiplier = Weighted(unet, every, *token)
    return _settle(networks)


def plain() -> None:
    """Take the weights, and all that knows of them, off the LoRAs in memory; the layers follow when they run next."""
    networks = extension()
    if networks is None:
        return
    for net in [*networks.loaded_networks, *(getattr(networks, "networks_in_memory", None) or {}).values()]:
        net.te_multiplier, net.unet_multiplier = float(net.te_multiplier), float(net.unet_multiplier)
        for module in net.modules.values():
            own = vars(module).get("multiplier")
            if isinstance(own, _Multiplier):
                own.take_off(module)


def forget() -> None:
    """Sum every layer anew next time."""
    _last.clear()


def text_effect() -> tuple[Any, ...]:
    """All that the loaded LoRAs make different in the text states."""
    found = []
    for net in extension().loaded_networks:
        factors = {module.multiplier() for module in net.modules.values() if module.multiplier.block == BASE}
        if factors:
            found.append((str(net.network_on_disk.filename), net.mtime, net.dyn_dim, tuple(sorted(factors))))
    return tuple(found)


def _model() -> Any:
    """The loaded checkpoint; to ask for it doesn't load it."""
    from modules import sd_models

    return sd_models.model_data.sd_model


def _settle(networks: Any) -> int:
    """Tell the layers for which nothing changes that they have what is wanted already. Returns how many change."""
    model = _model()
    wanted = tuple((net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in networks.loaded_networks)
    layers = {
        name: layer
        for layer in getattr(model, "network_layer_mapping", {}).values()
        if (name := getattr(layer, "network_layer_name", None)) is not None
    }
    effects = _effects(networks, layers)
    last = _last[0] if _last and _last[0].model is model else None
    changed = 0
    for name, layer in layers.items():
        has = getattr(layer, "network_current_names", None)
        if last and wanted and has == last.wanted and effects.get(name) == last.effects.get(name):
            layer.network_current_names = wanted
        elif name in effects and has != wanted:
            changed += 1
    _last[:] = [_Summed(model, wanted, effects)] if wanted else []  # a layer that never had a LoRA keeps no copy
    return changed


def _effects(networks: Any, layers: Mapping[str, Any]) -> dict[str, _Effect]:
    """For each layer what is added to it: files, their modules, and the factors of these."""
    effects: dict[str, _Effect] = {}
    for net in networks.loaded_networks:
        file = (str(net.network_on_disk.filename), net.mtime, net.dyn_dim)
        for name in layers:
            modules = [module for part in _PROJECTIONS if (module := net.modules.get(name + part)) is not None]
            if modules:
                factors = tuple((module.sd_key, module.multiplier()) for module in modules)
                effects[name] = (*effects.get(name, ()), (*file, factors))
    return effects


def _block(module: Any, blocks: str) -> str:
    return block_of(canonical_module(module.network_key.partition(".")[0], blocks), blocks)
