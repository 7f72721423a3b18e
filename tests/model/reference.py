"""OpenCLIP's text model as its authors compute it, in its own names, from plain functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def open_clip(state: dict[str, Tensor], prefix: str, ids: Tensor, end: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """States before and after every block, the normed last one, and x[end] @ text_projection. ids [B, 77]."""
    weights = {name.removeprefix(prefix): tensor.float() for name, tensor in state.items() if name.startswith(prefix)}
    width = weights["ln_final.weight"].shape[0]
    heads = max(1, width // 64)
    mask = torch.full((77, 77), float("-inf")).triu(1)

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = weights["token_embedding.weight"][ids] + weights["positional_embedding"]
    states = [x]
    for n in range(1 + max(int(name.split(".")[2]) for name in weights if name.startswith("transformer."))):
        block = f"transformer.resblocks.{n}"
        y = norm(f"{block}.ln_1", x).transpose(0, 1)
        y, _ = functional.multi_head_attention_forward(
            y,
            y,
            y,
            width,
            heads,
            weights[f"{block}.attn.in_proj_weight"],
            weights[f"{block}.attn.in_proj_bias"],
            None,
            None,
            False,
            0.0,
            weights[f"{block}.attn.out_proj.weight"],
            weights[f"{block}.attn.out_proj.bias"],
            training=False,
            need_weights=False,
            attn_mask=mask,
        )
        x = x + y.transpose(0, 1)
        x = x + linear(f"{block}.mlp.c_proj", functional.gelu(linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x))))
        states.append(x)
    last = norm("ln_final", x)
    return states, last, last[:, end] @ weights["text_projection"]
