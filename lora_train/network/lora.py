"""LoRA (Hu et al. 2021) on the modules that kohya's networks.lora takes, through peft: y = W x + (alpha / r) B A x."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ..errors import UserError
from ..model.load import StableDiffusion

_ADAPTER = "default"
_ATTENTION = {"Transformer2DModel"}
_CONVOLUTION = {"ResnetBlock2D", "Downsample2D", "Upsample2D"}


@dataclass(frozen=True)
class Size:
    """Rank r and alpha of one module."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class LoraSpec:
    """What a new network has. conv: the size on 3x3 convolutions (LoCon); None: no convolutional blocks."""

    size: Size
    conv: Size | None = None
    unet: bool = True
    text_encoder: bool = True


def unet_targets(unet: nn.Module, conv: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of every UNet layer that gets a LoRA: 192 in SD1.5, 278 with the convolutional blocks."""
    kinds = _ATTENTION | (_CONVOLUTION if conv else set())
    seen = set()
    for name, module in unet.named_modules():
        if type(module).__name__ in kinds:
            for child, layer in module.named_modules():
                full = f"{name}.{child}"
                if isinstance(layer, (nn.Linear, nn.Conv2d)) and full not in seen:
                    seen.add(full)
                    yield full, layer


def text_encoder_targets(text_encoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of every text encoder layer that gets a LoRA: 72 in SD1.5."""
    for name, layer in text_encoder.named_modules():
        if isinstance(layer, nn.Linear) and (".self_attn." in name or ".mlp." in name):
            yield name, layer


def kohya_name(part: str, name: str) -> str:
    """The module's name in a kohya file. part: 'unet' or 'te'."""
    if part == "te" and not name.startswith("text_model."):
        name = f"text_model.{name}"
    return f"lora_{part}_{name.replace('.', '_')}"


def _sizes_of(spec: LoraSpec, part: str, targets: Iterator[tuple[str, nn.Module]]) -> dict[str, Size]:
    """Size for each target's name. In LoCon, 3x3 convolutions have the conv size and everything else the plain one."""
    sizes = {}
    for name, layer in targets:
        large = isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
        sizes[name] = spec.conv if large and spec.conv else spec.size
    return sizes


class LoraNetwork:
    """The adapters of one LoRA on a model. `layers` maps kohya's module name to peft's layer."""

    def __init__(self, model: StableDiffusion, sizes: dict[str, dict[str, Size]]) -> None:
        """sizes: {'unet': {module name: Size}, 'te': {…}}."""
        self._roots: dict[str, nn.Module] = {"te": model.text_encoder, "unet": model.unet}
        self.layers: dict[str, LoraLayer] = {}
        self.sizes: dict[str, Size] = {}
        self._weights = {"te": 1.0, "unet": 1.0}
        for part in ("te", "unet"):
            if sizes.get(part):
                self._attach(part, sizes[part])

    @classmethod
    def create(cls, model: StableDiffusion, spec: LoraSpec, seed: int = 0) -> LoraNetwork:
        """New adapters that change nothing yet: A is Kaiming-uniform from `seed`, B is zero."""
        sizes = {
            "te": _sizes_of(spec, "te", text_encoder_targets(model.text_encoder)) if spec.text_encoder else {},
            "unet": _sizes_of(spec, "unet", unet_targets(model.unet, spec.conv is not None)) if spec.unet else {},
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(model, sizes)

    @classmethod
    def from_state(cls, model: StableDiffusion, state: dict[str, Tensor]) -> LoraNetwork:
        """Adapters with the ranks, alphas and weights of a kohya file; raises UserError if it doesn't fit the model."""
        names = {
            "te": {kohya_name("te", name): name for name, _ in text_encoder_targets(model.text_encoder)},
            "unet": {kohya_name("unet", name): name for name, _ in unet_targets(model.unet, conv=True)},
        }
        wanted = {key.partition(".")[0] for key in state}
        unknown = wanted - names["te"].keys() - names["unet"].keys()
        if unknown:
            raise UserError(
                f"{len(unknown)} of {len(wanted)} modules are not in this checkpoint, {sorted(unknown)[0]} for one",
                remedy="Use a LoRA that was trained for Stable Diffusion 1.5",
            )
        sizes = {
            part: {name: _size_in(state, key) for key, name in known.items() if key in wanted}
            for part, known in names.items()
        }
        network = cls(model, sizes)
        try:
            network.load(state)
        except UserError:
            network.remove()
            raise
        return network

    def _attach(self, part: str, sizes: dict[str, Size]) -> None:
        """Let peft wrap the named layers. The commonest size is the default, the others are patterns."""
        root = self._roots[part]
        common = Counter(sizes.values()).most_common(1)[0][0]
        other = {name: size for name, size in sizes.items() if size != common}
        config = LoraConfig(
            r=common.rank,
            lora_alpha=common.alpha,
            target_modules=list(sizes),
            rank_pattern={name: size.rank for name, size in other.items()},
            alpha_pattern={name: size.alpha for name, size in other.items()},
            lora_dropout=0.0,
            bias="none",
        )
        inject_adapter_in_model(config, root, adapter_name=_ADAPTER)
        for name, size in sizes.items():
            layer = root.get_submodule(name)
            key = kohya_name(part, name)
            self.layers[key], self.sizes[key] = layer, size
            for weight in _pair(layer):
                weight.data = weight.data.float()

    def parameters_of(self, part: str) -> list[nn.Parameter]:
        """Trainable parameters of 'te' or 'unet', in the order of the modules."""
        return [
            weight for key, layer in self.layers.items() if key.startswith(f"lora_{part}_") for weight in _pair(layer)
        ]

    def parameters(self) -> list[nn.Parameter]:
        """All trainable parameters."""
        return [weight for layer in self.layers.values() for weight in _pair(layer)]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(kohya's key, parameter)."""
        for key, layer in self.layers.items():
            down, up = _pair(layer)
            yield f"{key}.lora_down.weight", down
            yield f"{key}.lora_up.weight", up

    def state_dict(self) -> dict[str, Tensor]:
        """kohya's keys, float32 copies on the CPU: lora_down [r, in, …], lora_up [out, r, …], alpha []."""
        state = {key: weight.detach().float().cpu().clone().contiguous() for key, weight in self.named_parameters()}
        alphas = {f"{key}.alpha": torch.tensor(float(size.alpha)) for key, size in self.sizes.items()}
        return dict(sorted({**state, **alphas}.items()))

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Copy weights from a kohya state; raises UserError unless it has exactly these modules, ranks and shapes."""
        mine = dict(self.named_parameters())
        weights = {key: value for key, value in state.items() if not key.endswith(".alpha")}
        different = sorted(mine.keys() ^ weights.keys())
        if different:
            raise UserError(
                f"the LoRA's tensors are not those expected: {len(different)} differ, {different[0]} for one",
                remedy="Use a plain LoRA or LoCon in kohya's format",
            )
        for key, value in weights.items():
            if mine[key].shape != value.shape:
                raise UserError(
                    f"{key} has the shape {list(value.shape)} where the checkpoint needs {list(mine[key].shape)}",
                    remedy="Use a LoRA that was trained for this kind of checkpoint",
                )
            mine[key].copy_(value)
        self.sizes = {key: _size_in(state, key) for key in self.layers}
        self._rescale()

    def fits(self, state: dict[str, Tensor]) -> bool:
        """Whether `load` would take this state: the same tensors in the same shapes."""
        weights = {key: value.shape for key, value in state.items() if not key.endswith(".alpha")}
        return weights == {key: weight.shape for key, weight in self.named_parameters()}

    def set_weight(self, te: float, unet: float) -> None:
        """Multiply the LoRA's effect on the text encoder and on the UNet."""
        self._weights = {"te": te, "unet": unet}
        self._rescale()

    def _rescale(self) -> None:
        for key, layer in self.layers.items():
            weight = self._weights["te" if key.startswith("lora_te_") else "unet"]
            layer.scaling[_ADAPTER] = weight * self.sizes[key].alpha / self.sizes[key].rank

    def remove(self) -> None:
        """Take the adapters off; the model is as it was."""
        wrapped = set(self.layers.values())
        for root in self._roots.values():
            for parent in list(root.modules()):
                for name, child in list(parent.named_children()):
                    if child in wrapped and parent not in wrapped:
                        setattr(parent, name, child.get_base_layer())
            vars(root).pop("peft_config", None)
        self.layers, self.sizes = {}, {}


def _pair(layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """(A, B) of a peft layer: kohya's lora_down and lora_up."""
    return layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight


def _size_in(state: dict[str, Tensor], key: str) -> Size:
    """Rank and alpha of a module in a kohya state; without an alpha it is the rank."""
    down = state.get(f"{key}.lora_down.weight")
    if down is None:
        raise UserError(f"{key} has no lora_down", remedy="Use a plain LoRA or LoCon in kohya's format")
    rank = down.shape[0]
    alpha = state.get(f"{key}.alpha")
    return Size(rank, float(rank if alpha is None else alpha))
