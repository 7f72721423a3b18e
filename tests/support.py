"""What tests are made of: narrow checkpoints with the topology of each model family and random weights, and pictures.

With PARITY widths they are the checkpoint on which the sd-scripts runs in tests/data/parity were recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor

from lora_train.model.checkpoint import Family

LEVELS = (1, 2, 4, 4)
WEIGHT, BIAS, NORM, EMBEDDING = "weight", "bias", "norm", "embedding"
# Layers that end a residual branch start small; cross-attention starts strong, so that a prompt changes the picture.
SMALL = ("proj_out", "out_layers.3", "conv2", "to_out.0", "ff.net.2", "out_proj", "fc2", "decoder.conv_out")
STRONG = (".attn2.to_k", ".attn2.to_q")

Entry = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True)
class Widths:
    """Sizes of a narrow checkpoint; every UNet and VAE width is a multiple of 32 (GroupNorm has 32 groups)."""

    unet: int = 32
    vae: int = 32
    text: int = 64
    text_inner: int = 128
    text_layers: int = 12
    text2: int = 64
    text2_inner: int = 128
    text2_layers: int = 3
    depths: tuple[int, ...] = (0, 1, 2)
    """SDXL alone: the second text encoder (its projection is as wide), and transformer blocks in each level."""


NARROW = {
    Family.SD15: Widths(),
    Family.SD2: Widths(text_layers=4),
    Family.SDXL: Widths(text=32, text_inner=64, text_layers=3),
}
"""As small as they get. SD2's last text layer is never used, so that 3 of 4 remain."""

FULL = {
    Family.SD15: Widths(320, 128, 768, 3072, 12),
    Family.SD2: Widths(320, 128, 1024, 4096, 24),
    Family.SDXL: Widths(320, 128, 768, 3072, 12, 1280, 5120, 32, (0, 2, 10)),
}

PARITY = Widths(text=768, text_inner=3072)
"""UNet and VAE narrow, the text encoder of full size: sd-scripts knows no other."""


def conv(name: str, i: int, o: int, k: int = 3) -> Iterator[Entry]:
    yield f"{name}.weight", (o, i, k, k), WEIGHT
    yield f"{name}.bias", (o,), BIAS


def linear(name: str, i: int, o: int, bias: bool = True) -> Iterator[Entry]:
    yield f"{name}.weight", (o, i), WEIGHT
    if bias:
        yield f"{name}.bias", (o,), BIAS


def norm(name: str, n: int) -> Iterator[Entry]:
    yield f"{name}.weight", (n,), NORM
    yield f"{name}.bias", (n,), BIAS


def resnet(name: str, i: int, o: int, time: int) -> Iterator[Entry]:
    yield from norm(f"{name}.in_layers.0", i)
    yield from conv(f"{name}.in_layers.2", i, o)
    yield from linear(f"{name}.emb_layers.1", time, o)
    yield from norm(f"{name}.out_layers.0", o)
    yield from conv(f"{name}.out_layers.3", o, o)
    if i != o:
        yield from conv(f"{name}.skip_connection", i, o, 1)


def transformer(name: str, c: int, context: int, depth: int = 1, flat: bool = False) -> Iterator[Entry]:
    """flat: linear layers at both ends (SD2, SDXL), else 1x1 convolutions."""
    yield from norm(f"{name}.norm", c)
    yield from linear(f"{name}.proj_in", c, c) if flat else conv(f"{name}.proj_in", c, c, 1)
    for n in range(depth):
        block = f"{name}.transformer_blocks.{n}"
        for attention, width in (("attn1", c), ("attn2", context)):
            yield from linear(f"{block}.{attention}.to_q", c, c, bias=False)
            yield from linear(f"{block}.{attention}.to_k", width, c, bias=False)
            yield from linear(f"{block}.{attention}.to_v", width, c, bias=False)
            yield from linear(f"{block}.{attention}.to_out.0", c, c)
        yield from linear(f"{block}.ff.net.0.proj", c, 8 * c)
        yield from linear(f"{block}.ff.net.2", 4 * c, c)
        for part in (1, 2, 3):
            yield from norm(f"{block}.norm{part}", c)
    yield from linear(f"{name}.proj_out", c, c) if flat else conv(f"{name}.proj_out", c, c, 1)


def unet(w: Widths, family: Family = Family.SD15) -> Iterator[Entry]:
    root, base, time, sdxl = "model.diffusion_model", w.unet, 4 * w.unet, family is Family.SDXL
    factors, depths = ((1, 2, 4), w.depths) if sdxl else (LEVELS, (1, 1, 1, 0))
    last, context = len(factors) - 1, w.text + w.text2 if sdxl else w.text

    def attention(name: str, level: int) -> Iterator[Entry]:
        return transformer(name, factors[level] * base, context, depths[level], flat=family is not Family.SD15)

    yield from linear(f"{root}.time_embed.0", base, time)
    yield from linear(f"{root}.time_embed.2", time, time)
    if sdxl:
        yield from linear(f"{root}.label_emb.0.0", w.text2 + 6 * 256, time)
        yield from linear(f"{root}.label_emb.0.2", time, time)
    yield from conv(f"{root}.input_blocks.0.0", 4, base)
    skips, c, n = [base], base, 1
    for level, factor in enumerate(factors):
        for _ in range(2):
            yield from resnet(f"{root}.input_blocks.{n}.0", c, c := factor * base, time)
            if depths[level]:
                yield from attention(f"{root}.input_blocks.{n}.1", level)
            skips.append(c)
            n += 1
        if level < last:
            yield from conv(f"{root}.input_blocks.{n}.0.op", c, c)
            skips.append(c)
            n += 1
    yield from resnet(f"{root}.middle_block.0", c, c, time)
    yield from transformer(f"{root}.middle_block.1", c, context, depths[-1] or 1, flat=family is not Family.SD15)
    yield from resnet(f"{root}.middle_block.2", c, c, time)
    for n in range(3 * len(factors)):
        level = last - n // 3
        yield from resnet(f"{root}.output_blocks.{n}.0", c + skips.pop(), c := factors[level] * base, time)
        if depths[level]:
            yield from attention(f"{root}.output_blocks.{n}.1", level)
        if level and n % 3 == 2:
            yield from conv(f"{root}.output_blocks.{n}.{2 if depths[level] else 1}.conv", c, c)
    yield from norm(f"{root}.out.0", c)
    yield from conv(f"{root}.out.2", c, 4)


def vae(w: Widths) -> Iterator[Entry]:
    root, base = "first_stage_model", w.vae

    def block(name: str, i: int, o: int) -> Iterator[Entry]:
        yield from norm(f"{name}.norm1", i)
        yield from conv(f"{name}.conv1", i, o)
        yield from norm(f"{name}.norm2", o)
        yield from conv(f"{name}.conv2", o, o)
        if i != o:
            yield from conv(f"{name}.nin_shortcut", i, o, 1)

    def middle(name: str, c: int) -> Iterator[Entry]:
        yield from block(f"{name}.mid.block_1", c, c)
        yield from norm(f"{name}.mid.attn_1.norm", c)
        for part in ("q", "k", "v", "proj_out"):
            yield from conv(f"{name}.mid.attn_1.{part}", c, c, 1)
        yield from block(f"{name}.mid.block_2", c, c)

    yield from conv(f"{root}.encoder.conv_in", 3, base)
    c = base
    for level, factor in enumerate(LEVELS):
        for i in range(2):
            yield from block(f"{root}.encoder.down.{level}.block.{i}", c, c := factor * base)
        if level < 3:
            yield from conv(f"{root}.encoder.down.{level}.downsample.conv", c, c)
    yield from middle(f"{root}.encoder", c)
    yield from conv(f"{root}.decoder.conv_in", 4, c)
    yield from middle(f"{root}.decoder", c)
    yield from norm(f"{root}.encoder.norm_out", c)
    yield from conv(f"{root}.encoder.conv_out", c, 8)
    for level in (3, 2, 1, 0):
        for i in range(3):
            yield from block(f"{root}.decoder.up.{level}.block.{i}", c, c := LEVELS[level] * base)
        if level:
            yield from conv(f"{root}.decoder.up.{level}.upsample.conv", c, c)
    yield from norm(f"{root}.decoder.norm_out", c)
    yield from conv(f"{root}.decoder.conv_out", c, 3)
    yield from conv(f"{root}.quant_conv", 8, 8, 1)
    yield from conv(f"{root}.post_quant_conv", 4, 4, 1)


def clip(w: Widths, root: str = "cond_stage_model.transformer.text_model") -> Iterator[Entry]:
    """OpenAI's CLIP text model in transformers' names."""
    yield f"{root}.embeddings.token_embedding.weight", (49408, w.text), EMBEDDING
    yield f"{root}.embeddings.position_embedding.weight", (77, w.text), EMBEDDING
    for n in range(w.text_layers):
        layer = f"{root}.encoder.layers.{n}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{part}", w.text, w.text)
        yield from norm(f"{layer}.layer_norm1", w.text)
        yield from linear(f"{layer}.mlp.fc1", w.text, w.text_inner)
        yield from linear(f"{layer}.mlp.fc2", w.text_inner, w.text)
        yield from norm(f"{layer}.layer_norm2", w.text)
    yield from norm(f"{root}.final_layer_norm", w.text)


def open_clip(root: str, width: int, inner: int, layers: int) -> Iterator[Entry]:
    """OpenCLIP's text model in its own names: query, key and value in one layer, the projection used as x @ P."""
    yield f"{root}.positional_embedding", (77, width), EMBEDDING
    yield f"{root}.text_projection", (width, width), WEIGHT
    yield f"{root}.logit_scale", (), NORM
    yield f"{root}.token_embedding.weight", (49408, width), EMBEDDING
    for n in range(layers):
        block = f"{root}.transformer.resblocks.{n}"
        yield f"{block}.attn.in_proj_weight", (3 * width, width), WEIGHT
        yield f"{block}.attn.in_proj_bias", (3 * width,), BIAS
        yield from linear(f"{block}.attn.out_proj", width, width)
        yield from norm(f"{block}.ln_1", width)
        yield from linear(f"{block}.mlp.c_fc", width, inner)
        yield from linear(f"{block}.mlp.c_proj", inner, width)
        yield from norm(f"{block}.ln_2", width)
    yield from norm(f"{root}.ln_final", width)


def text(w: Widths, family: Family = Family.SD15) -> Iterator[Entry]:
    if family is Family.SD15:
        yield from clip(w)
    elif family is Family.SD2:
        yield from open_clip("cond_stage_model.model", w.text, w.text_inner, w.text_layers)
    else:
        yield from clip(w, "conditioner.embedders.0.transformer.text_model")
        yield from open_clip("conditioner.embedders.1.model", w.text2, w.text2_inner, w.text2_layers)


def entries(widths: Widths | None = None, family: Family = Family.SD15) -> Iterator[Entry]:
    """Names, shapes and kinds of a checkpoint's tensors in LDM's layout."""
    w = widths or NARROW[family]
    yield from unet(w, family)
    yield from vae(w)
    yield from text(w, family)


def state_dict(widths: Widths | None = None, seed: int = 0, family: Family = Family.SD15) -> dict[str, Tensor]:
    """Random fp16 tensors under the names of a checkpoint."""
    g = torch.Generator().manual_seed(seed)

    def value(name: str, shape: tuple[int, ...], kind: str) -> Tensor:
        drawn = torch.randn(shape, generator=g)
        if kind == WEIGHT:
            gain = (
                0.3 if name.removesuffix(".weight").endswith(SMALL) else 1.5 if any(s in name for s in STRONG) else 1.0
            )
            return drawn * (gain / math.sqrt(math.prod(shape[1:])))
        return 1 + drawn * 0.05 if kind == NORM else drawn * 0.02

    return {name: value(name, shape, kind).half() for name, shape, kind in entries(widths, family)}


def checkpoint(path: Path, widths: Widths | None = None, seed: int = 0, family: Family = Family.SD15) -> Path:
    """Write a narrow checkpoint."""
    save_file(state_dict(widths, seed, family), path, metadata={"format": "pt"})
    return path


def pictures(folder: Path, count: int = 3, size: int = 64) -> Path:
    """Write drawn pictures with captions into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        picture = Image.new("RGB", (size, size), (40 * n % 255, 90, 160))
        ImageDraw.Draw(picture).ellipse((8 + n, 8, size - 12, size - 8 - n), fill=(230, 200 - 30 * n % 200, 40))
        picture.save(folder / f"{n:02d}.png")
        (folder / f"{n:02d}.txt").write_text(f"thing, number {n}, yellow", encoding="utf-8")
    return folder
