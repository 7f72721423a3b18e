"""The adapters of one LoRA on a model, on the layers that kohya's networks.lora takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..model.load import StableDiffusion
from ..settings import TrainSettings
from .groups import param_groups
from .layers import Adapter, inject
from .names import Target, is_xl, roots, targets, xl_key
from .spec import Drops, LoraSpec, Size, sizes_in, spec_of
from .weights import WeightAdapter, is_loha, is_lokr, new_loha, new_lokr

__all__ = ["LoraNetwork", "LoraSpec", "Size", "merge_into", "spec_of"]

State = dict[str, Tensor]
_LORA = {"lora_down.weight", "lora_up.weight"}
_DORA = {*_LORA, "dora_scale"}
_KINDS = "Use a LoRA, LoCon, LoHa, LoKr or DoRA in kohya's or LyCORIS' format"


class LoraNetwork:
    """Trainable layers in the place of the model's own. layers: kohya's module name -> layer, text encoders first."""

    def __init__(self, model: StableDiffusion, drops: Drops | None = None) -> None:
        self._roots, self._drops = roots(model), drops
        self._targets: dict[str, Target] = {}
        self.layers: dict[str, Adapter | WeightAdapter] = {}
        self.is_xl = is_xl(model)

    @classmethod
    def create(cls, model: StableDiffusion, spec: LoraSpec, seed: int = 0) -> LoraNetwork:
        """New adapters that change nothing yet, with initial weights from `seed`, in training mode."""
        network = cls(model, spec.drops)
        found = [(target, spec.size_of(target)) for target in targets(model, spec.has_conv)]
        chosen = {target: size for target, size in found if size}
        if not chosen:
            raise UserError("no layer is left to train", where="block_dims", remedy="Give a block a rank above 0")
        generator = torch.Generator().manual_seed(seed)
        if spec.form == "lora":
            network._inject(chosen, generator)
            for layer in network.layers.values():
                if spec.dora and isinstance(layer, Adapter):
                    layer.decompose()
        else:
            for target, size in chosen.items():
                if spec.form == "loha":
                    network._place(target, new_loha(target.layer, size, generator))
                else:
                    network._place(target, new_lokr(target.layer, size, generator, spec.factor))
        network.train(True)
        return network

    @classmethod
    def from_state(cls, model: StableDiffusion, state: Mapping[str, Tensor]) -> LoraNetwork:
        """Adapters with the forms, ranks, alphas and weights of a file. Raises UserError if it doesn't fit the model"""
        network = cls(model)
        state = network._named(state)
        known = {target.key: target for target in targets(model, conv=True)}
        modules = _by_module(state)
        unknown = sorted(modules.keys() - known.keys())
        if unknown:
            raise UserError(
                f"{len(unknown)} of {len(modules)} modules are not in this checkpoint, {unknown[0]} for one",
                remedy=f"Use a LoRA that was trained for {model.family.value}",
            )
        sizes = sizes_in(state)
        loras = {}
        try:
            for key, target in known.items():
                tensors = modules.get(key, {})
                if tensors.keys() == _LORA or tensors.keys() == _DORA:
                    loras[target] = sizes[key]
                elif is_loha(set(tensors)) or is_lokr(set(tensors)):
                    network._place(target, _fitting(target, tensors, sizes[key]))
                elif tensors:
                    raise UserError(f"{key} holds {', '.join(sorted(tensors))}", remedy=_KINDS)
            network._inject(loras, torch.Generator())
            for target in loras:
                layer = network.layers[target.key]
                if "dora_scale" in modules[target.key] and isinstance(layer, Adapter):
                    layer.decompose()
            network.load(state)
        except UserError:
            network.remove()
            raise
        for weight in network.parameters():
            weight.requires_grad_(True)
        return network

    def _inject(self, sizes: Mapping[Target, Size], generator: torch.Generator) -> None:
        """LoRA layers of peft's, a part at a time."""
        for part, root in self._roots.items():
            chosen = {target: size for target, size in sizes.items() if target.part == part}
            if chosen:
                made = inject(root, {target.name: size for target, size in chosen.items()}, generator)
                for target in chosen:
                    self._targets[target.key], self.layers[target.key] = target, made[target.name]

    def _place(self, target: Target, layer: nn.Module) -> None:
        """Put a layer in the place of the model's own."""
        parent, _, child = target.name.rpartition(".")
        setattr(self._roots[target.part].get_submodule(parent), child, layer)
        if isinstance(layer, WeightAdapter):
            self._targets[target.key], self.layers[target.key] = target, layer

    @property
    def sizes(self) -> dict[str, Size]:
        """Rank and alpha by module."""
        return {key: layer.size for key, layer in self.layers.items()}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that have adapters, text encoders first."""
        found = {target.part for target in self._targets.values()}
        return tuple(part for part in self._roots if part in found)

    def layers_of(self, part: str) -> dict[str, Adapter | WeightAdapter]:
        """The layers of a part by module name."""
        return {key: layer for key, layer in self.layers.items() if self._targets[key].part == part}

    def block_of(self, key: str) -> int | None:
        """Number of the UNet block that a module is in."""
        return self._targets[key].block

    def parameters_of(self, part: str) -> list[nn.Parameter]:
        """Trainable parameters of a part, in the order of the modules."""
        return [weight for layer in self.layers_of(part).values() for weight in layer.tensors().values()]

    def parameters(self) -> list[nn.Parameter]:
        """All trainable parameters."""
        return [weight for _, weight in self.named_parameters()]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(key in a file, parameter)."""
        for key, layer in self.layers.items():
            for name, weight in layer.tensors().items():
                yield f"{key}.{name}", weight

    def param_groups(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """Groups for an optimizer: params, lr, name. What learns at a rate of 0 is in no group and gets no gradient."""
        return param_groups(self, settings)

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off."""
        for layer in self.layers.values():
            layer.drops = (self._drops or None) if mode else None

    def to(self, dtype: torch.dtype) -> None:
        """Keep the adapters in another number type; they begin in float32."""
        for weight in self.parameters():
            weight.data = weight.data.to(dtype)

    def state_dict(self) -> State:
        """A file's keys, float32 copies on the CPU: lora_down [r, in, …], lora_up [out, r, …], alpha [] or alike."""
        state = {key: weight.detach().float().cpu().clone().contiguous() for key, weight in self.named_parameters()}
        alphas = {f"{key}.alpha": torch.tensor(float(size.alpha)) for key, size in self.sizes.items()}
        return dict(sorted({**state, **alphas}.items()))

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], partial: bool = False) -> list[str]:
        """Copy weights and alphas from a file's state; raises UserError unless it has exactly these tensors.

        partial: the modules that both have are enough. Returns the keys that only one of the two has.
        """
        state = self._named(state)
        mine = dict(self.named_parameters())
        weights = {key: value for key, value in state.items() if not key.endswith(".alpha")}
        different = sorted(mine.keys() ^ weights.keys())
        shared = mine.keys() & weights.keys()
        if (different and not partial) or not shared:
            first = f", {different[0]} for one" if different else ""
            raise UserError(f"the LoRA's tensors are not those expected: {len(different)} differ{first}", remedy=_KINDS)
        for key in shared:
            if mine[key].shape != weights[key].shape:
                raise UserError(
                    f"{key} has the shape {list(weights[key].shape)} where {list(mine[key].shape)} is needed",
                    remedy="Use a LoRA of this rank for this kind of checkpoint, or set dim_from_weights",
                )
        for key in shared:
            mine[key].copy_(weights[key])
        for key, size in sizes_in(state).items():
            if key in self.layers:
                self.layers[key].size = size
        return different

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether `load` would take this state: the same tensors in the same shapes."""
        weights = {key: value.shape for key, value in self._named(state).items() if not key.endswith(".alpha")}
        return weights == {key: weight.shape for key, weight in self.named_parameters()}

    def set_weight(self, te: float, unet: float) -> None:
        """Multiply the LoRA's effect on the text encoders and on the UNet."""
        for key, layer in self.layers.items():
            layer.multiplier = unet if self._targets[key].part == "unet" else te

    @torch.no_grad()
    def limit_norms(self, limit: float) -> int:
        """Scale down each module whose change of the weights has a larger norm; returns how many were scaled.

        As kohya's scale_weight_norms: every factor takes an equal share, sqrt(limit / norm) for up and down.
        """
        layers = list(self.layers.values())
        norms = torch.stack([layer.norm() for layer in layers]).tolist() if layers else []
        large = [(layer, norm) for layer, norm in zip(layers, norms, strict=True) if norm > limit]
        for layer, norm in large:
            factors = layer.factors()
            for weight in factors:
                weight.mul_((limit / norm) ** (1 / len(factors)))
        return len(large)

    def remove(self) -> None:
        """Take the adapters off; the model is as it was."""
        for key, target in self._targets.items():
            self._place(target, self.layers[key].get_base_layer())
        for root in self._roots.values():
            vars(root).pop("peft_config", None)
        self._targets, self.layers = {}, {}

    def _named(self, state: Mapping[str, Tensor]) -> State:
        """The state under kohya's names; SDXL's UNet has diffusers' names in some files."""
        if not self.is_xl:
            return dict(state)
        named = {}
        for key, value in state.items():
            module, dot, tensor = key.partition(".")
            named[xl_key(module) + dot + tensor] = value
        return named


@torch.no_grad()
def merge_into(model: StableDiffusion, state: Mapping[str, Tensor], strength: float) -> None:
    """Add a LoRA to the checkpoint's weights for good. Raises UserError if it doesn't fit."""
    network = LoraNetwork.from_state(model, state)
    network.set_weight(strength, strength)
    for layer in network.layers.values():
        weight = layer.get_base_layer().weight
        weight.copy_(weight.float() + layer.change())
    network.remove()


def _by_module(state: Mapping[str, Tensor]) -> dict[str, State]:
    """Tensors by module, alphas left out."""
    modules: dict[str, State] = defaultdict(dict)
    for key, value in state.items():
        module, _, name = key.partition(".")
        if name != "alpha":
            modules[module][name] = value
    return modules


def _fitting(target: Target, tensors: State, size: Size) -> WeightAdapter:
    """A LoHa or LoKr with the tensors of a file. Raises UserError where they don't make the layer's weights."""
    layer = WeightAdapter(target.layer, tensors, size)
    try:
        layer.delta()
    except RuntimeError:
        raise UserError(
            f"the tensors of {target.key} don't make {list(target.layer.weight.shape)}",
            remedy="Use a LoRA that was trained for this kind of checkpoint",
        ) from None
    return layer
