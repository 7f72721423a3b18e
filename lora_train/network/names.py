"""Which layers get a LoRA, and what kohya calls them: `lora_<part>_<path>` with part te, te1, te2 or unet.

As sd-scripts 48d368fa, networks/lora.py. Its UNet of SDXL has the names of the checkpoint (input_blocks.4.1 …), those
of SD1.5 and SD2 have diffusers'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from ..model.load import StableDiffusion

_ATTENTION = {"Transformer2DModel"}
_CONVOLUTION = {"ResnetBlock2D", "Downsample2D", "Upsample2D"}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d)\.(attentions|resnets|downsamplers|upsamplers)\.(\d)\.")
_MIDDLE = re.compile(r"mid_block\.(attentions|resnets)\.(\d)\.")
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_DIFFUSERS = re.compile(
    r"lora_unet_(?:(?P<side>down|up)_blocks_(?P<level>\d)|mid_block(?!_(?:down|up)))_"
    r"(?P<kind>attentions|resnets|downsamplers|upsamplers)_(?P<n>\d)_(?P<rest>.+)"
)


@dataclass(frozen=True)
class Target:
    """A layer that can get a LoRA. name: its path in the part's module; key: kohya's name; block: see block_of."""

    part: str
    name: str
    key: str
    layer: nn.Module
    block: int | None = None

    @property
    def is_large(self) -> bool:
        """Whether it is a convolution of more than one pixel, which LoCon gives a size of its own."""
        return isinstance(self.layer, nn.Conv2d) and self.layer.kernel_size != (1, 1)


def roots(model: StableDiffusion) -> dict[str, nn.Module]:
    """The modules that can be trained, by part, text encoders first."""
    return {**model.text_encoders, "unet": model.unet}


def is_xl(model: StableDiffusion) -> bool:
    """Whether the model is SDXL, which alone has two text encoders."""
    return len(model.text_encoders) > 1


def targets(model: StableDiffusion, conv: bool = False) -> Iterator[Target]:
    """Every layer that gets a LoRA, text encoders first; with `conv` those of convolutional blocks too.

    SD1.5: 264 or 350, SD2: 330 or 416, SDXL: 986 or 1052.
    """
    for part, text_encoder in model.text_encoders.items():
        for name, layer in _text_encoder_layers(text_encoder):
            path = name if name.startswith("text_model.") else f"text_model.{name}"
            yield Target(part, name, _key(part, path), layer)
    xl = is_xl(model)
    for name, layer in _unet_layers(model.unet, conv):
        yield Target("unet", name, _key("unet", xl_path(name) if xl else name), layer, block_of(name, xl))


def block_of(name: str, xl: bool) -> int:
    """Number of the UNet block that holds a layer of diffusers' name: SD1.5 and SD2 0 to 24, SDXL 0 to 22.

    SD1.5: 0 the first convolution, 1 to 11 down, 12 middle, 13 to 24 up; SDXL: 0 embeddings, 1 to 9 input, 10 to 12
    middle, 13 to 21 output, 22 the end.
    """
    if match := _MIDDLE.match(name):
        if not xl:
            return 12
        return 11 if match[1] == "attentions" else 10 + 2 * int(match[2])
    match = _BLOCK.match(name)
    assert match, name
    level, kind, n = int(match[2]), match[3], int(match[4])
    within = 3 * level + (2 if kind in ("downsamplers", "upsamplers") else n)
    if match[1] == "up":
        return 13 + within
    return within + (2 if xl else 1)


def xl_path(name: str) -> str:
    """An SDXL checkpoint's name for a layer of diffusers' UNet: down_blocks.1.attentions.0.x -> input_blocks.4.1.x."""
    block = block_of(name, xl=True)
    match = _MIDDLE.match(name) or _BLOCK.match(name)
    assert match, name
    rest, kind = name[match.end() :], match[match.lastindex - 1]  # type: ignore[operator]  # both end with kind, number
    if kind == "resnets":
        rest = _RESNET[rest]
    if kind == "downsamplers":
        rest = "op"
    if block in (10, 11, 12):
        return f"middle_block.{block - 10}.{rest}"
    stem = f"input_blocks.{block - 1}" if block < 10 else f"output_blocks.{block - 13}"
    place = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 2}[kind]
    return f"{stem}.{place}.{rest}"


def xl_key(key: str) -> str:
    """A module's key in kohya's names, where a file of SDXL has diffusers' instead; other keys as they are."""
    match = _DIFFUSERS.fullmatch(key)
    if not match:
        return key
    block = f"{match['side']}_blocks.{match['level']}" if match["side"] else "mid_block"
    try:
        return _key("unet", xl_path(f"{block}.{match['kind']}.{match['n']}.{match['rest']}"))
    except KeyError:  # a layer that resnets don't have
        return key


def _key(part: str, path: str) -> str:
    return f"lora_{part}_{path.replace('.', '_')}"


def _unet_layers(unet: nn.Module, conv: bool) -> Iterator[tuple[str, nn.Module]]:
    kinds = _ATTENTION | (_CONVOLUTION if conv else set())
    seen = set()
    for name, module in unet.named_modules():
        if type(module).__name__ in kinds:
            for child, layer in module.named_modules():
                full = f"{name}.{child}"
                if isinstance(layer, (nn.Linear, nn.Conv2d)) and full not in seen:
                    seen.add(full)
                    yield full, layer


def _text_encoder_layers(text_encoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in text_encoder.named_modules():
        if isinstance(layer, nn.Linear) and (".self_attn." in name or ".mlp." in name):
            yield name, layer
