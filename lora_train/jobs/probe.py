"""Do torch, diffusers, transformers and peft work together here? Two training steps of something tiny, or an exception.

Run by `packages` in a process of its own: importing is not enough, and a package that fails must not fail its caller.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def text_encoder() -> torch.nn.Module:
    """One layer of CLIP with adapters."""
    config = CLIPTextConfig(
        vocab_size=8,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    return _with_adapters(CLIPTextModel(config), "q_proj", "v_proj")


def unet() -> torch.nn.Module:
    """One level down, one up, with adapters."""
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32,),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
    )
    return _with_adapters(model, "to_q", "to_v")


def _with_adapters(model: torch.nn.Module, *names: str) -> torch.nn.Module:
    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=list(names)), model)
    return model


def main() -> None:
    """Every adapter must get a gradient, and the loss must be a number."""
    assert AutoencoderKL and CLIPTokenizer
    reader, painter = text_encoder(), unet()
    parameters = [p for model in (reader, painter) for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters)
    for _ in range(2):
        states = reader(torch.tensor([[0, 2, 1]])).last_hidden_state
        loss = painter(torch.ones(1, 4, 8, 8), torch.tensor([3]), states).sample.square().mean()
        loss.backward()
        if not loss.isfinite() or any(p.grad is None for p in parameters):
            raise RuntimeError("a training step with adapters gives no gradients")
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
