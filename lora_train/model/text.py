"""Captions to text states, with kohya's way of going past 75 tokens and CLIP skip."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from .load import StableDiffusion

CHUNK = 75


def tokenize(tokenizer: CLIPTokenizer, captions: list[str], max_token_length: int | None = None) -> Tensor:
    """Token ids [B, n, 77] in n = max_token_length / 75 chunks, each between its own start and end token."""
    chunks = (max_token_length or CHUNK) // CHUNK
    length = CHUNK * chunks + 2
    ids = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    start, body, end = ids[:, :1], ids[:, 1:-1], ids[:, -1:]
    return torch.stack([torch.cat([start, part, end], dim=1) for part in body.split(CHUNK, dim=1)], dim=1)


def encode_prompts(
    model: StableDiffusion, captions: list[str], clip_skip: int | None = None, max_token_length: int | None = None
) -> Tensor:
    """Text states [B, 77 | 152 | 227, C]: chunks are encoded one by one and joined without their inner start and end.

    clip_skip k takes the k-th layer from the end through the final layer norm; None is the last one.
    """
    ids = tokenize(model.tokenizer, captions, max_token_length).to(model.text_encoder.device)
    batch, chunks, _ = ids.shape
    output = model.text_encoder(ids.flatten(0, 1), output_hidden_states=clip_skip is not None)
    if clip_skip is None:
        states = output.last_hidden_state
    else:
        encoder = getattr(model.text_encoder, "text_model", model.text_encoder)
        states = encoder.final_layer_norm(output.hidden_states[-clip_skip])
    if chunks == 1:
        return states
    states = states.unflatten(0, (batch, chunks))
    return torch.cat([states[:, 0, :1], states[:, :, 1:-1].flatten(1, 2), states[:, -1, -1:]], dim=1)
