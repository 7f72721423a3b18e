"""Blocks of SD1.5: which of the 26 (or the 17 that have attention) a LoRA module belongs to, told by its name.

Names follow sd-webui-lora-block-weight: BASE is the text encoder, INnn = input_blocks.n, M00 = middle_block and
OUTnn = output_blocks.n of CompVis's UNet. Diffusers' down_blocks.i.{resnets,attentions}.j is input block 1+3i+j, its
up_blocks.i.{resnets,attentions}.j is output block 3i+j.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UserError

BLOCKS_26 = ("BASE", *(f"IN{n:02}" for n in range(12)), "M00", *(f"OUT{n:02}" for n in range(12)))
_CONVOLUTIONAL = {"IN00", "IN03", "IN06", "IN09", "IN10", "IN11", "OUT00", "OUT01", "OUT02"}
BLOCKS_17 = tuple(block for block in BLOCKS_26 if block not in _CONVOLUTIONAL)
OTHER = "OTHER"  # time embedding, conv_out, and whatever has no block
ALL_BLOCKS = (*BLOCKS_26, OTHER)
BLOCKS_BY_COUNT = {17: BLOCKS_17, 26: BLOCKS_26}
OTHER_FAMILIES = {12: "SDXL", 20: "SDXL", 61: "FLUX"}  # lengths of preset lines that are not for SD1.5

_PARTS = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "scale": "scale",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
}
_UNSUPPORTED = (
    ("DoRA", re.compile(r"dora_scale|lora_magnitude_vector")),
    ("LoHa", re.compile(r"\.hada_")),
    ("LoKr", re.compile(r"\.lokr_")),
    ("OFT", re.compile(r"\.(oft|boft)_")),
    ("IA3", re.compile(r"\.on_input$|ia3_")),
    ("GLoRA", re.compile(r"\.[ab][12]\.weight$")),
    ("full difference", re.compile(r"\.diff(_b)?$")),
    ("norm", re.compile(r"\.[wb]_norm$")),
    ("bundled embedding", re.compile(r"^bundle_emb\.")),
)
_FAMILIES = (
    ("FLUX", re.compile(r"double_blocks|single_blocks|single_transformer_blocks")),
    ("SD3", re.compile(r"joint_blocks|^(transformer\.|lora_transformer_)|lora_te3_")),
    ("SDXL", re.compile(r"lora_te[12]_|text_encoder_2\.|transformer_blocks[._][1-9]|add_embedding|label_emb")),
    ("SD2", re.compile(r"lora_te_\w*_layers_(1[2-9]|2\d)_|^text_encoder\..*layers\.(1[2-9]|2\d)\.")),
)
_CROSS_ATTENTION_WIDTHS = {1024: "SD2", 2048: "SDXL"}
_COMPVIS_RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}


def block_of(module: str) -> str:
    """Block of a module under its kohya name, in diffusers' or CompVis's wording. Unknown names are OTHER."""
    module = canonical_module(module)
    if module.startswith("lora_te_"):
        return "BASE"
    if module.startswith("lora_unet_mid_block_"):
        return "M00"
    if module.startswith("lora_unet_conv_in"):
        return "IN00"
    found = re.match(r"lora_unet_(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_", module)
    return _numbered_block(found[1], int(found[2]), found[3], int(found[4])) if found else OTHER


def _numbered_block(side: str, i: int, kind: str, j: int) -> str:
    step = 2 if kind.endswith("samplers") else j
    block = f"IN{1 + 3 * i + step:02}" if side == "down" else f"OUT{3 * i + step:02}"
    return block if block in BLOCKS_26 else OTHER


def split_key(key: str) -> tuple[str, str]:
    """(module under its kohya name, part) of a tensor's key; part is down, up, mid, alpha or scale.

    Raises UserError naming the kind (LoHa, DoRA…) for a key that no plain LoRA has.
    """
    kind = next((kind for kind, pattern in _UNSUPPORTED if pattern.search(key)), None)
    if kind:
        raise UserError(f"{key} is of the {kind} kind; only plain LoRA and LoCon can be merged so far")
    for suffix, part in _PARTS.items():
        if key.endswith("." + suffix):
            return canonical_module(key[: -len(suffix) - 1]), part
    raise UserError(f"{key} is no tensor of a LoRA that is known here; only plain LoRA and LoCon can be merged so far")


def canonical_module(name: str) -> str:
    """One name for one layer: kohya's prefix and diffusers' path, from PEFT's dotted or CompVis's wording too."""
    if "." in name:
        name = _from_peft(name)
    found = re.fullmatch(r"lora_unet_(input|output|middle)_blocks?_(\d+)_(.+)", name)
    return "lora_unet_" + _from_compvis(found[1], int(found[2]), found[3]) if found else name


def _from_peft(name: str) -> str:
    name = name.removeprefix("base_model.model.")
    prefixes = {"unet.": "lora_unet_", "text_encoder.": "lora_te_", "text_model.": "lora_te_text_model."}
    for prefix, kohya in prefixes.items():
        if name.startswith(prefix):
            return (kohya + name[len(prefix) :]).replace(".", "_")
    return "lora_unet_" + name.replace(".", "_") if re.match(r"(down|mid|up)_block|conv_|time_emb", name) else name


def _from_compvis(side: str, n: int, rest: str) -> str:
    """Path after `lora_unet_` in diffusers' words of CompVis's {input,output}_blocks.n.j or middle_block.n."""
    if side == "middle":
        resnet = f"mid_block_resnets_{n // 2}_{_COMPVIS_RESNET.get(rest, rest)}"
        return f"mid_block_attentions_0_{rest}" if n == 1 else resnet
    if side == "input" and n == 0:
        return "conv_in"
    i, j = divmod(n - 1, 3) if side == "input" else divmod(n, 3)
    blocks = f"{'down' if side == 'input' else 'up'}_blocks_{i}_"
    child, _, path = rest.partition("_")
    if path in ("op", "conv"):
        return blocks + ("downsamplers_0_conv" if path == "op" else "upsamplers_0_conv")
    return blocks + (f"resnets_{j}_{_COMPVIS_RESNET.get(path, path)}" if child == "0" else f"attentions_{j}_{path}")


def detect_family(shapes: Mapping[str, Sequence[int]]) -> str:
    """SD1.5, SD2, SDXL, SD3 or FLUX, from the keys and the width of cross-attention in a LoRA."""
    for family, pattern in _FAMILIES:
        if any(pattern.search(key) for key in shapes):
            return family
    width = next((shape[1] for key, shape in shapes.items() if _is_cross_attention_down(key) and len(shape) > 1), None)
    return _CROSS_ATTENTION_WIDTHS.get(width, "SD1.5") if width else "SD1.5"


def _is_cross_attention_down(key: str) -> bool:
    return bool(re.search(r"attn2[._]to_[kv]\.(lora_down|lora_A|lora\.down)", key))


def require_sd15(shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    """Raise UserError, naming the file, when a LoRA is made for another model than SD1.5."""
    family = detect_family(shapes)
    if family != "SD1.5":
        remedy = "Only LoRAs for Stable Diffusion 1.5 can be merged so far"
        raise UserError(f"this LoRA is for {family}", where=path, remedy=remedy)


def weights_by_block(numbers: Sequence[float], unlisted: float = 0.0) -> dict[str, float]:
    """Weight of every block, from 17 or 26 numbers. The nine blocks that 17 numbers don't name get `unlisted`.

    sd-webui-lora-block-weight gives them 0 and OTHER 1, as is the default here; kohya's svd_merge_lora leaves all at 1.
    """
    names = BLOCKS_BY_COUNT[len(numbers)]
    return {**dict.fromkeys(BLOCKS_26, unlisted), **dict(zip(names, map(float, numbers), strict=True)), OTHER: 1.0}


def flat_weights() -> dict[str, float]:
    """1 for every block: a LoRA at its plain strength."""
    return dict.fromkeys(ALL_BLOCKS, 1.0)
