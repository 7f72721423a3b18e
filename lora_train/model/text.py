"""Captions to text states, with kohya's ways of going past 75 tokens, of CLIP skip and of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ftfy import fix_text  # as OpenAI's tokenizer does first: curly quotes, full-width letters, HTML entities
from torch import Tensor
from transformers import CLIPTokenizer

from . import emphasis
from .checkpoint import Family
from .load import StableDiffusion

CHUNK = 75
OPEN_CLIP_PAD = 0


@dataclass
class TextStates:
    """What the UNet reads of B captions. states [B, n, C]; pooled [B, P], of SDXL alone."""

    states: Tensor
    pooled: Tensor | None = None

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> TextStates:
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        return TextStates(self.states.to(device=device, dtype=dtype), pooled)

    @staticmethod
    def cat(parts: Sequence[TextStates]) -> TextStates:
        """All captions of `parts` in order."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return TextStates(torch.cat([part.states for part in parts]), torch.cat(pooled) if pooled else None)

    def select(self, indices: Sequence[int] | Tensor) -> TextStates:
        """The captions at these places, in this order."""
        rows = torch.as_tensor(indices, device=self.states.device)
        return TextStates(self.states[rows], None if self.pooled is None else self.pooled[rows.to(self.pooled.device)])


def tokenize(
    tokenizer: CLIPTokenizer,
    captions: list[str],
    max_token_length: int | None = None,
    weighted: bool = False,
    pad: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Token ids [B, n, 77] and weights [B, n, 77] in n = max_token_length / 75 chunks, each with a start and an end.

    pad fills up in place of the end token. As in sd-scripts such a chunk then ends with the end token if it is full,
    and has one after its start if it is empty.
    """
    length = CHUNK * ((max_token_length or CHUNK) // CHUNK) + 2
    if weighted:
        ids, weights, used = _weighted(tokenizer, captions, length)
    else:
        mended = [fix_text(caption) for caption in captions]
        tokens = tokenizer(mended, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids, weights, used = tokens.input_ids, torch.ones(tokens.input_ids.shape), tokens.attention_mask.bool()
    if pad is not None:
        ids = ids.masked_fill(~used, pad)
    ids, weights = _chunks(ids), _chunks(weights)
    if pad is not None and ids.shape[1] > 1:
        end = tokenizer.eos_token_id
        full = (ids[..., -2] != end) & (ids[..., -2] != pad)
        ids[..., -1] = ids[..., -1].masked_fill(full, end)
        ids[..., 1] = ids[..., 1].masked_fill(ids[..., 1] == pad, end)
    return ids, weights


def _weighted(tokenizer: CLIPTokenizer, captions: list[str], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, weights and which are no padding, [B, length] each. Every piece of a caption is split into tokens alone."""
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = torch.full((len(captions), length), end)
    weights = torch.ones(ids.shape)
    used = torch.zeros(ids.shape, dtype=torch.bool)
    for row, caption in enumerate(captions):
        tokens, factors = [start], [1.0]
        for text, weight in emphasis.parse(caption):
            piece = tokenizer(fix_text(text), truncation=True, max_length=length).input_ids[1:-1]
            tokens += piece
            factors += [weight] * len(piece)
        count = min(len(tokens), length - 1)
        ids[row, :count] = torch.tensor(tokens[:count])
        weights[row, :count] = torch.tensor(factors[:count])
        used[row, : count + 1] = True
    return ids, weights, used


def _chunks(row: Tensor) -> Tensor:
    """[B, 75 n + 2] to [B, n, 77]: every chunk gets the first and the last column."""
    start, body, end = row[:, :1], row[:, 1:-1], row[:, -1:]
    return torch.stack([torch.cat([start, part, end], dim=1) for part in body.split(CHUNK, dim=1)], dim=1)


def _joined(chunks: Tensor) -> Tensor:
    """[B, n, 77, …] to [B, 75 n + 2, …]: chunks without their inner starts and ends."""
    if chunks.shape[1] == 1:
        return chunks[:, 0]
    return torch.cat([chunks[:, 0, :1], chunks[:, :, 1:-1].flatten(1, 2), chunks[:, -1, -1:]], dim=1)


def encode_prompts(
    model: StableDiffusion,
    captions: list[str],
    clip_skip: int | None = None,
    max_token_length: int | None = None,
    weighted: bool = False,
    keep_mean: bool = False,
) -> TextStates:
    """Text states [B, 77 | 152 | 227, C]: chunks are encoded one by one and joined.

    clip_skip k takes the k-th layer from the end through the final layer norm; None is the last one; SDXL has none.
    weighted: the caption's weights multiply the states, with nothing made up for; keep_mean: each chunk's mean is then
    restored, as by the WebUI's emphasis "Original".
    Padding is an end token for CLIP and token 0 for OpenCLIP. A literal "!" is itself, as in a WebUI; sd-scripts'
    tokenizer for SD2 reads it as padding.
    """

    def tokens(pad: int | None) -> tuple[Tensor, Tensor]:
        return tokenize(model.tokenizer, captions, max_token_length, weighted, pad)

    def finished(states: Tensor, weights: Tensor) -> Tensor:
        chunks = states.unflatten(0, weights.shape[:2])
        if not weighted:
            return _joined(chunks)
        scaled = chunks * weights.to(chunks.device)[..., None]
        if keep_mean:
            scaled = scaled * (chunks.float().mean((-2, -1), True) / scaled.float().mean((-2, -1), True))
        return _joined(scaled.to(chunks.dtype))

    if model.family is Family.SDXL:
        first, second = model.text_encoders["te1"], model.text_encoders["te2"]
        ids, weights = tokens(None)
        states = first(ids.flatten(0, 1).to(first.device), output_hidden_states=True).hidden_states[-2]
        ids, _ = tokens(OPEN_CLIP_PAD)
        ids = ids.to(second.device)
        output = second(ids.flatten(0, 1), output_hidden_states=True)
        both = [finished(states, weights), finished(output.hidden_states[-2], weights)]
        return TextStates(torch.cat(both, dim=-1), _pooled(model, ids, output.last_hidden_state))

    encoder = model.text_encoder
    ids, weights = tokens(OPEN_CLIP_PAD if model.family is Family.SD2 else None)
    output = encoder(ids.flatten(0, 1).to(encoder.device), output_hidden_states=clip_skip is not None)
    if clip_skip is None:
        return TextStates(finished(output.last_hidden_state, weights))
    norm = getattr(encoder, "text_model", encoder).final_layer_norm
    return TextStates(finished(norm(output.hidden_states[-clip_skip]), weights))


def _pooled(model: StableDiffusion, ids: Tensor, last: Tensor) -> Tensor:
    """SDXL's pooled state [B, P]: the projected state of the first chunk's first end token. ids [B, n, 77]."""
    first = last.unflatten(0, ids.shape[:2])[:, 0]
    place = (ids[:, 0] == model.tokenizer.eos_token_id).int().argmax(dim=1)
    projection = model.text_encoders["te2"].text_projection
    states = first[torch.arange(len(first), device=first.device), place]
    return projection(states.to(projection.weight.dtype)).to(last.dtype)
