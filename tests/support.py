"""What tests are made of: narrow checkpoints with Stable Diffusion 1.5's topology and random weights, and pictures.

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


def transformer(name: str, c: int, context: int) -> Iterator[Entry]:
    yield from norm(f"{name}.norm", c)
    yield from conv(f"{name}.proj_in", c, c, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, width in (("attn1", c), ("attn2", context)):
        yield from linear(f"{block}.{attention}.to_q", c, c, bias=False)
        yield from linear(f"{block}.{attention}.to_k", width, c, bias=False)
        yield from linear(f"{block}.{attention}.to_v", width, c, bias=False)
        yield from linear(f"{block}.{attention}.to_out.0", c, c)
    yield from linear(f"{block}.ff.net.0.proj", c, 8 * c)
    yield from linear(f"{block}.ff.net.2", 4 * c, c)
    for n in (1, 2, 3):
        yield from norm(f"{block}.norm{n}", c)
    yield from conv(f"{name}.proj_out", c, c, 1)


def unet(w: Widths) -> Iterator[Entry]:
    root, base, time = "model.diffusion_model", w.unet, 4 * w.unet
    yield from linear(f"{root}.time_embed.0", base, time)
    yield from linear(f"{root}.time_embed.2", time, time)
    yield from conv(f"{root}.input_blocks.0.0", 4, base)
    skips, c, n = [base], base, 1
    for level, factor in enumerate(LEVELS):
        for _ in range(2):
            yield from resnet(f"{root}.input_blocks.{n}.0", c, c := factor * base, time)
            if level < 3:
                yield from transformer(f"{root}.input_blocks.{n}.1", c, w.text)
            skips.append(c)
            n += 1
        if level < 3:
            yield from conv(f"{root}.input_blocks.{n}.0.op", c, c)
            skips.append(c)
            n += 1
    yield from resnet(f"{root}.middle_block.0", c, c, time)
    yield from transformer(f"{root}.middle_block.1", c, w.text)
    yield from resnet(f"{root}.middle_block.2", c, c, time)
    for n in range(12):
        level = 3 - n // 3
        yield from resnet(f"{root}.output_blocks.{n}.0", c + skips.pop(), c := LEVELS[level] * base, time)
        if level < 3:
            yield from transformer(f"{root}.output_blocks.{n}.1", c, w.text)
        if level and n % 3 == 2:
            yield from conv(f"{root}.output_blocks.{n}.{2 if level < 3 else 1}.conv", c, c)
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


def text(w: Widths) -> Iterator[Entry]:
    root = "cond_stage_model.transformer.text_model"
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


def state_dict(widths: Widths = Widths(), seed: int = 0) -> dict[str, Tensor]:
    """Random fp16 tensors under the names of an SD1.5 checkpoint."""
    g = torch.Generator().manual_seed(seed)

    def value(name: str, shape: tuple[int, ...], kind: str) -> Tensor:
        drawn = torch.randn(shape, generator=g)
        if kind == WEIGHT:
            gain = (
                0.3 if name.removesuffix(".weight").endswith(SMALL) else 1.5 if any(s in name for s in STRONG) else 1.0
            )
            return drawn * (gain / math.sqrt(math.prod(shape[1:])))
        return 1 + drawn * 0.05 if kind == NORM else drawn * 0.02

    entries = [*unet(widths), *vae(widths), *text(widths)]
    return {name: value(name, shape, kind).half() for name, shape, kind in entries}


def checkpoint(path: Path, widths: Widths = Widths(), seed: int = 0) -> Path:
    """Write a narrow checkpoint."""
    save_file(state_dict(widths, seed), path, metadata={"format": "pt"})
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
