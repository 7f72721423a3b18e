"""What a LoRA file holds: its tensors grouped by module, each module's kind and the block it belongs to.

Read are the key styles of kohya (with diffusers' or CompVis's words), PEFT, diffusers and LyCORIS. Every layer has one
name, kohya's: SD1.5 and SD2 in diffusers' words (lora_unet_down_blocks_0_…), SDXL in CompVis's
(lora_unet_input_blocks_1_…), so that two files of different styles meet in it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ..errors import UserError, raise_all
from ..header import read_header
from ..network.names import xl_key
from .families import BASE, FAMILIES, MIDDLE, OTHER, SD15, blocks_of, topology

Shapes = Mapping[str, Sequence[int]]


class Kind(Enum):
    """How a module's change of the weights is stored. The value is the name for people."""

    LORA = "LoRA"
    LOHA = "LoHa"
    LOKR = "LoKr"
    DIFFERENCE = "full difference"
    NORM = "norm"
    IA3 = "IA3"
    GLORA = "GLoRA"
    OFT = "OFT"


_MULTIPLICATIVE = {Kind.IA3, Kind.GLORA, Kind.OFT}
_SUFFIXES: dict[str, tuple[Kind | None, str]] = {
    "alpha": (None, "alpha"),
    "scale": (None, "scale"),
    "diff_b": (None, "diff_b"),
    "dora_scale": (None, "magnitude"),
    "lora_magnitude_vector": (None, "magnitude"),
    "lora_magnitude_vector.weight": (None, "magnitude"),
    **{f"lora_{part}.weight": (Kind.LORA, part) for part in ("down", "up", "mid")},
    **{f"lora{_}.{part}.weight": (Kind.LORA, part) for _ in ("", "_linear_layer") for part in ("down", "up")},
    "lora_A.weight": (Kind.LORA, "down"),
    "lora_B.weight": (Kind.LORA, "up"),
    **{f"hada_{part}": (Kind.LOHA, part) for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{part}": (Kind.LOKR, part) for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    "diff": (Kind.DIFFERENCE, "diff"),
    "w_norm": (Kind.NORM, "w_norm"),
    "b_norm": (Kind.NORM, "b_norm"),
    "weight": (Kind.IA3, "weight"),
    "on_input": (Kind.IA3, "on_input"),
    **{f"{part}.weight": (Kind.GLORA, part) for part in ("a1", "a2", "b1", "b2")},
    **{part: (Kind.OFT, part) for part in ("oft_blocks", "oft_diag", "boft_blocks", "rescale")},
}
_KEY = re.compile(rf"(.+?)\.({'|'.join(map(re.escape, sorted(_SUFFIXES, key=len, reverse=True)))})")
_PEFT_ADAPTER = re.compile(r"(?<=\.lora_[AB])\.default(?=\.weight$)|(?<=\.lora_magnitude_vector)\.default(?=\.weight$)")
_LOKR_FACTORS = ({"w1"}, {"w1_a", "w1_b"}), ({"w2"}, {"w2_a", "w2_b"}, {"w2_a", "w2_b", "t2"})
_LOHA_FACTORS = {"w1_a", "w1_b", "w2_a", "w2_b"}
_BUNDLED = "bundle_emb."

_FAMILIES = (
    ("FLUX", re.compile(r"double_blocks|single_blocks|single_transformer_blocks")),
    ("SD3", re.compile(r"joint_blocks|^(transformer\.|lora_transformer_)|lora_te3_")),
    ("SDXL", re.compile(r"lora_te[12]_|text_encoder_2\.|transformer_blocks[._][1-9]|add_embedding|label_emb")),
    ("SD2", re.compile(r"lora_te_\w*_layers_(1[2-9]|2\d)_|^text_encoder\..*layers\.(1[2-9]|2\d)\.")),
)
_CROSS_ATTENTION = re.compile(r".*attn2[._]to_[kv]\.")
_CROSS_ATTENTION_WIDTHS = {1024: "SD2", 2048: "SDXL"}

_DIFFUSERS = re.compile(r"(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_")
_COMPVIS = re.compile(r"(in|out)put_blocks_(\d+)_")
_COMPVIS_RESNET = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_OUTSIDE = {  # CompVis's words for what lies in no block, and the first convolution: diffusers'
    "input_blocks_0_0": "conv_in",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "out_0": "conv_norm_out",
    "out_2": "conv_out",
}
_UNET = "lora_unet_"


@dataclass(frozen=True)
class Module:
    """A layer's tensors in one file. parts: what each is -> its key.

    Any kind may have alpha, scale, diff_b (of the bias) and magnitude (DoRA). LoRA: down, up, mid. LoHa: w1_a w1_b
    w2_a w2_b t1 t2. LoKr: w1 or w1_a w1_b, w2 or w2_a w2_b t2. Full difference: diff. Norm: w_norm b_norm. The others:
    as named in the file.
    """

    name: str
    kind: Kind
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_dora(self) -> bool:
        return "magnitude" in self.parts

    @property
    def needs_checkpoint(self) -> bool:
        """Whether what it does depends on the weights that it is applied to."""
        return self.is_dora or self.kind in _MULTIPLICATIVE

    @property
    def label(self) -> str:
        """The kind for people: `DoRA`, `DoRA on LoHa`, `CP LoRA` …"""
        core = {"mid", "t1", "t2"} & self.parts.keys()
        label = ("CP " if core else "") + self.kind.value
        if self.is_dora:
            return "DoRA" if label == "LoRA" else f"DoRA on {label}"
        return label


@dataclass(frozen=True)
class Index:
    """The modules of a file by name. bundled: keys of embeddings that lie in it."""

    family: str
    modules: dict[str, Module]
    bundled: list[str] = field(default_factory=list)

    def kinds(self) -> dict[str, int]:
        """How many modules there are of each kind, for people."""
        counts: dict[str, int] = defaultdict(int)
        for module in self.modules.values():
            counts[module.label] += 1
        return dict(counts)

    def blocks(self) -> dict[str, list[str]]:
        """The names of the modules of each block that the file has, in the order of blocks."""
        found: dict[str, list[str]] = {block: [] for block in blocks_of(self.family)}
        for name in self.modules:
            found[block_of(name, self.family)].append(name)
        return {block: names for block, names in found.items() if names}


def index_of(shapes: Shapes, path: str | Path, family: str | None = None) -> Index:
    """Group a file's tensors by module. shapes: key -> shape; family: if it is known already.

    Raises every UserError at once, naming the file: another model's LoRA, unknown keys, half a module, two tensors for
    one part, two kinds in one module. Modules that need the checkpoint are named by require_plain, not here.
    """
    family = require_family(shapes, path) if family is None else family
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    kinds: dict[str, set[Kind]] = defaultdict(set)
    errors, unknown = [], []
    bundled = [key for key in shapes if key.startswith(_BUNDLED)]
    for key in shapes.keys() - set(bundled):
        found = _split(key)
        if not found:
            unknown.append(key)
            continue
        name, kind, part = canonical_module(found[0], family), found[1], found[2]
        if part in parts[name]:
            first, second = sorted((key, parts[name][part]))
            errors.append(UserError(f"{first} and {second} are the same part of one module", where=path))
        parts[name][part] = key
        kinds[name] |= {kind} if kind else set()
    if unknown:
        remedy = "Known are LoRA, LoCon, LoHa, LoKr, DoRA, IA3, GLoRA, OFT, differences and norms"
        errors.append(UserError(f"{_some(unknown)}: no such tensor of a LoRA is known", where=path, remedy=remedy))
    modules = {}
    for name in sorted(parts):
        problem = _incomplete(kinds[name], parts[name])
        if problem:
            errors.append(UserError(f"{name} {problem}", where=path))
        else:
            modules[name] = Module(name, next(iter(kinds[name]), Kind.DIFFERENCE), parts[name])
    raise_all(sorted(errors, key=str)[:10])
    return Index(family, modules, sorted(bundled))


def require_plain(index: Index, path: str | Path) -> None:
    """Raise UserError, naming the kinds, where the change of the weights can't be told without the checkpoint."""
    held = [module for module in index.modules.values() if module.needs_checkpoint]
    if held:
        kinds = sorted({module.label for module in held})
        what = f"{len(held)} of its modules are {' and '.join(kinds)}, which change a checkpoint by its own weights"
        raise UserError(what, where=path, remedy="Name the checkpoint that it is for")


def split_key(key: str, family: str = SD15) -> tuple[str, str]:
    """(module under its kohya name, part) of a tensor's key. Raises UserError for a key that no LoRA has."""
    found = _split(key)
    if not found:
        raise UserError(f"{key}: no such tensor of a LoRA is known")
    return canonical_module(found[0], family), found[2]


def _split(key: str) -> tuple[str, Kind | None, str] | None:
    """(module as the file names it, kind, part); None for an unknown key. `x.weight` is IA3 in kohya's style alone."""
    found = _KEY.fullmatch(_PEFT_ADAPTER.sub("", key))
    if not found or (found[2] == "weight" and "." in found[1]):
        return None
    return found[1], *_SUFFIXES[found[2]]


def _incomplete(kinds: set[Kind], parts: Mapping[str, str]) -> str:
    """What a module lacks; empty where it is whole."""
    if len(kinds) > 1:
        return f"is {' and '.join(sorted(kind.value for kind in kinds))} at once"
    kind = next(iter(kinds), None)
    if kind is None:
        return "" if "diff_b" in parts else f"has nothing but {' and '.join(sorted(parts))}"
    if kind is Kind.LORA and not {"down", "up"} <= parts.keys():
        return "lacks its lora_up or lora_down"
    if kind is Kind.LOHA and _LOHA_FACTORS - parts.keys():
        return f"lacks its hada_{min(_LOHA_FACTORS - parts.keys())}"
    if kind is Kind.LOKR:
        for number, forms in zip("12", _LOKR_FACTORS, strict=True):
            if {part for part in parts if part[:2] in (f"w{number}", f"t{number}")} not in forms:
                return f"lacks a part of its lokr_w{number}"
    return ""


def block_of(module: str, family: str = SD15) -> str:
    """Block of a module under its kohya name, in diffusers' or CompVis's wording. Unknown names are OTHER."""
    if "." in module:
        module = canonical_module(module, family)
    if re.match(r"lora_te[12]?_", module):
        return BASE
    path = module.removeprefix(_UNET)
    if path.startswith(("mid_block_", "middle_block_")):
        return MIDDLE
    if path.startswith("conv_in"):
        return "IN00"
    block = OTHER
    if found := _DIFFUSERS.match(path):
        level, number = int(found[2]), int(found[4])
        within = 3 * level + (2 if found[3].endswith("samplers") else number)
        block = f"IN{1 + within:02}" if found[1] == "down" else f"OUT{within:02}"
    elif found := _COMPVIS.match(path):
        block = f"{found[1].upper()}{int(found[2]):02}"
    return block if block in topology(family).blocks else OTHER


def canonical_module(name: str, family: str = SD15) -> str:
    """One name for one layer: kohya's, from PEFT's dotted, LyCORIS's or the other of CompVis's and diffusers' words."""
    if "." in name:
        name = _from_peft(name, family)
    elif re.match(r"lycoris_(down|mid|up)_block|lycoris_conv_", name):
        name = _UNET + name.removeprefix("lycoris_")
    if not name.startswith(_UNET):
        return name
    path = name.removeprefix(_UNET)
    if family == "SDXL":
        outside = {diffusers: compvis for compvis, diffusers in _OUTSIDE.items()}
        return _UNET + outside[path] if path in outside else xl_key(name)
    if path in _OUTSIDE:
        return _UNET + _OUTSIDE[path]
    found = re.fullmatch(r"(input|output|middle)_blocks?_(\d+)_(.+)", path)
    return _UNET + _from_compvis(found[1], int(found[2]), found[3]) if found else name


def _from_peft(name: str, family: str) -> str:
    name = name.removeprefix("base_model.model.")
    first = "lora_te1_" if family == "SDXL" else "lora_te_"
    prefixes = {"unet.": _UNET, "diffusion_model.": _UNET, "text_encoder_2.": "lora_te2_", "text_encoder.": first}
    for prefix, kohya in prefixes.items():
        if name.startswith(prefix):
            rest = name[len(prefix) :].replace(".", "_")
            return kohya + ("text_model_" if kohya != _UNET and rest.startswith("encoder_") else "") + rest
    path = name.replace(".", "_")
    if path.startswith("text_model_"):
        return first + path
    return (
        _UNET + path if re.match(r"(down|mid|up)_block|(in|out)put_blocks_|middle_block|conv_|time_emb", path) else name
    )


def _from_compvis(side: str, n: int, rest: str) -> str:
    """Path after `lora_unet_` in diffusers' words of CompVis's {input,output}_blocks.n.j or middle_block.n."""
    if side == "middle":
        resnet = f"mid_block_resnets_{n // 2}_{_COMPVIS_RESNET.get(rest, rest)}"
        return f"mid_block_attentions_0_{rest}" if n == 1 else resnet
    i, j = divmod(n - 1, 3) if side == "input" else divmod(n, 3)
    blocks = f"{'down' if side == 'input' else 'up'}_blocks_{i}_"
    child, _, path = rest.partition("_")
    if path in ("op", "conv"):
        return blocks + ("downsamplers_0_conv" if path == "op" else "upsamplers_0_conv")
    return blocks + (f"resnets_{j}_{_COMPVIS_RESNET.get(path, path)}" if child == "0" else f"attentions_{j}_{path}")


def detect_family(shapes: Shapes) -> str:
    """SD1.5, SD2, SDXL, SD3 or FLUX, from the keys and the width of cross-attention in a LoRA."""
    for family, pattern in _FAMILIES:
        if any(pattern.search(key) for key in shapes):
            return family
    width = _cross_attention_width(shapes)
    return _CROSS_ATTENTION_WIDTHS.get(width, SD15) if width else SD15


def _cross_attention_width(shapes: Shapes) -> int | None:
    """Inputs of the first layer that reads the text; None where there is none, or it doesn't show."""
    key = next((key for key in shapes if _CROSS_ATTENTION.match(key)), None)
    found = _split(key) if key else None
    if not key or not found:
        return None
    module = {split[2]: shapes[k] for k in shapes if k.startswith(found[0] + ".") and (split := _split(k))}
    inner = {part: shape[1] for part, shape in module.items() if len(shape) > 1}
    if found[1] is Kind.LOKR:
        first, second = (inner.get(f"w{n}", inner.get(f"w{n}_b", 0)) for n in (1, 2))
        return first * second or None
    return next((inner[part] for part in ("down", "w1_b", "diff") if part in inner), None)


def require_family(shapes: Shapes, path: str | Path) -> str:
    """The family of a LoRA. Raises UserError, naming the file, when its blocks are not known here."""
    family = detect_family(shapes)
    if family not in FAMILIES:
        remedy = f"Only LoRAs for {', '.join(FAMILIES[:-1])} and {FAMILIES[-1]} can be used here"
        raise UserError(f"this LoRA is for {family}", where=path, remedy=remedy)
    return family


def family_of_file(path: str | Path) -> str:
    """The family of a LoRA file, from its header alone. Raises UserError as read_header and require_family."""
    return require_family(read_header(Path(path), "LoRA").shapes(), path)


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
