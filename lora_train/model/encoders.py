"""Text encoders from a checkpoint's tensors: CLIP ViT-L (SD1.5, SDXL), OpenCLIP ViT-H (SD2) and ViT-bigG (SDXL)."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from .checkpoint import text_heads

State = dict[str, Tensor]
_UNUSED = ("position_ids", "logit_scale", "attn_mask")
_SD2_LAYERS = 23
"""OpenCLIP ViT-H has 24; SD2 was trained on the states of the last but one. Some files come without the last."""

_NAMES = (
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
"""OpenCLIP's names, transformers' names."""


def clip(state: State, prefix: str) -> CLIPTextModel:
    """CLIP's text model. Some old files leave out `text_model.`, newer transformers leave it out in the module."""
    tensors = {
        re.sub(rf"^{re.escape(prefix)}(text_model\.)?", "", name): tensor
        for name, tensor in state.items()
        if not name.endswith(_UNUSED)
    }
    width = tensors["final_layer_norm.weight"].shape[0]
    return _built(CLIPTextModel, tensors, text_heads(width), "quick_gelu")


def open_clip(state: State, prefix: str, projected: bool) -> CLIPTextModel | CLIPTextModelWithProjection:
    """OpenCLIP's text model. projected: with the projection of its pooled state (SDXL), else without its last layer.

    OpenCLIP applies the projection as x @ P, transformers as x @ W.T.
    """
    tensors = {name.removeprefix(prefix): tensor for name, tensor in state.items() if not name.endswith(_UNUSED)}
    projection = tensors.pop("text_projection", None)
    if not projected:
        layers = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("transformer.resblocks."))
        if layers != _SD2_LAYERS:
            last = f"transformer.resblocks.{layers - 1}."
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(last)}
    renamed: State = {}
    for name, tensor in tensors.items():
        for theirs, ours in _NAMES:
            name = re.sub(theirs, ours, name)
        if match := re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name):
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{match[1]}.{part}_proj.{match[2]}"] = piece.clone()
        else:
            renamed[name] = tensor
    heads = max(1, renamed["final_layer_norm.weight"].shape[0] // 64)
    if not projected:
        return _built(CLIPTextModel, renamed, heads, "gelu")
    if projection is None:
        raise KeyError("text_projection")
    return _built(CLIPTextModelWithProjection, renamed, heads, "gelu", projection.T.contiguous())


def _built(kind: type[nn.Module], tensors: State, heads: int, act: str, projection: Tensor | None = None) -> Any:
    """A module that holds exactly these tensors, named as in transformers without `text_model.`."""
    width = tensors["final_layer_norm.weight"].shape[0]
    config = CLIPTextConfig(
        vocab_size=tensors["embeddings.token_embedding.weight"].shape[0],
        hidden_size=width,
        intermediate_size=tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len({name.split(".")[2] for name in tensors if name.startswith("encoder.layers.")}),
        num_attention_heads=heads,
        max_position_embeddings=tensors["embeddings.position_embedding.weight"].shape[0],
        hidden_act=act,
        projection_dim=width if projection is None else projection.shape[0],
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.device("meta"):
        model = kind(config)
    prefix = "text_model." if hasattr(model, "text_model") else ""
    state = {prefix + name: tensor for name, tensor in tensors.items()}
    if projection is not None:
        state["text_projection.weight"] = projection
    embeddings = getattr(model, "text_model", model).embeddings
    embeddings.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None], persistent=False)
    model.load_state_dict(state, strict=True, assign=True)
    return model
