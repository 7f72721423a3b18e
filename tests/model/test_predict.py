"""What the UNet is given in each family."""

from __future__ import annotations

import math

import pytest
import torch

from lora_train.model.checkpoint import Family
from lora_train.model.predict import predict
from lora_train.model.text import TextStates, encode_prompts

SIZES = torch.tensor([[1024, 768, 0, 128, 1024, 640], [33, 7777, 5, 0, 640, 512]])


def embedded(sizes: torch.Tensor) -> torch.Tensor:
    """sd-scripts' get_size_embeddings: cosines, then sines of each number at 128 frequencies from 1 to 1/10000."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    angles = sizes.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)


@torch.no_grad()
def test_sdxl_is_given_the_pooled_state_and_the_sizes_as_in_sd_scripts(model_of):
    model, seen = model_of(Family.SDXL), []
    text = encode_prompts(model, ["a cat", "a dog"])
    hook = model.unet.add_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x_t, t = torch.randn(2, 4, 8, 8), torch.tensor([1, 999])
    try:
        output = predict(model, x_t, t, text, SIZES)
        whole = predict(model, x_t, t, text)
    finally:
        hook.remove()
    assert torch.allclose(seen[0], torch.cat([text.pooled, embedded(SIZES)], dim=1), atol=1e-6)
    assert torch.allclose(seen[1][:, 64:], embedded(torch.tensor([[64, 64, 0, 0, 64, 64]] * 2)), atol=1e-6)
    assert not torch.allclose(output, whole)


@torch.no_grad()
@pytest.mark.parametrize("family", [Family.SD15, Family.SD2])
def test_the_others_are_given_the_text_alone(model_of, family):
    model = model_of(family)
    x_t, t, states = torch.randn(2, 4, 8, 8), torch.tensor([1, 999]), torch.randn(2, 77, 64)
    expected = model.unet(x_t, t, encoder_hidden_states=states).sample
    assert torch.equal(predict(model, x_t, t, TextStates(states)), expected)
