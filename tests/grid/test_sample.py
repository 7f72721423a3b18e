"""Sampling against diffusers' own pipeline, and what a seed fixes."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline

from lora_train.model import sample as sampling
from lora_train.model.load import StableDiffusion
from lora_train.model.sample import SAMPLERS, sample
from lora_train.model.text import encode_prompts


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_picture_is_that_of_diffusers_pipeline(model: StableDiffusion, sampler: str) -> None:
    model.unet.register_to_config(sample_size=64)  # diffusers 0.31 wants to know
    pipeline = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=sampling._SCHEDULERS[sampler](),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        expected = pipeline(
            prompt_embeds=encode_prompts(model, ["a thing"]),
            negative_prompt_embeds=encode_prompts(model, ["bad"]),
            latents=torch.randn((1, 4, 8, 12), generator=generator),
            generator=generator,
            guidance_scale=5.0,
            num_inference_steps=3,
            width=96,
            height=64,
        ).images[0]
    ours = sample(model, "a thing", "bad", seed=3, steps=3, cfg_scale=5.0, sampler=sampler, width=96, height=64)
    assert ours.size == (96, 64)
    assert ours.tobytes() == expected.tobytes()


def test_seed_prompt_sampler_and_clip_skip_each_change_the_picture(model: StableDiffusion) -> None:
    common = {"seed": 1, "steps": 2, "width": 64, "height": 64}
    changes = [{}, {"seed": 2}, {"sampler": "DDIM"}, {"clip_skip": 2}, {"cfg_scale": 2.0}, {"negative_prompt": "x"}]
    pictures = [sample(model, **{"prompt": "a thing", **common, **change}).tobytes() for change in changes]
    pictures.append(sample(model, "another", **common).tobytes())
    assert len(set(pictures)) == len(pictures)
    torch.manual_seed(0)  # the surroundings' random state plays no part, and is not touched
    state = torch.get_rng_state()
    assert sample(model, "a thing", **common).tobytes() == pictures[0]
    assert torch.equal(torch.get_rng_state(), state)
