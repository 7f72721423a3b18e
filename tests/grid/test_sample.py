"""Sampling against diffusers' own pipelines, and what a seed fixes."""

from __future__ import annotations

import numpy
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from lora_train.errors import UserError
from lora_train.model import sample as sampling
from lora_train.model.checkpoint import Family
from lora_train.model.load import StableDiffusion, load_model
from lora_train.model.sample import KOHYA_SAMPLERS, SAMPLERS, sample, sample_many
from lora_train.model.text import encode_prompts
from tests.support import checkpoint

SMALL = {"steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return load_model(checkpoint(tmp_path_factory.mktemp("sdxl") / "sdxl.safetensors", family=Family.SDXL))


@pytest.fixture(scope="module")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return load_model(checkpoint(tmp_path_factory.mktemp("sd2") / "sd2.safetensors", family=Family.SD2))


def pipeline(model: StableDiffusion, sampler: str, prediction_type: str) -> StableDiffusionPipeline:
    model.unet.register_to_config(sample_size=64)  # diffusers 0.31 wants to know
    pipeline = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=sampling._SCHEDULERS[sampler](prediction_type=prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(model: StableDiffusion, sampler: str, prediction_type: str) -> bytes:
    """diffusers' picture."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        picture = pipeline(model, sampler, prediction_type)(
            prompt_embeds=encode_prompts(model, ["a thing"]).states,
            negative_prompt_embeds=encode_prompts(model, ["bad"]).states,
            latents=torch.randn((1, 4, 8, 12), generator=generator),
            generator=generator,
            guidance_scale=5.0,
            num_inference_steps=3,
            width=96,
            height=64,
        ).images[0]
    return picture.tobytes()


OURS = {"seed": 3, "steps": 3, "cfg_scale": 5.0, "width": 96, "height": 64}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_picture_is_that_of_diffusers_pipeline(model: StableDiffusion, sampler: str) -> None:
    ours = sample(model, "a thing", "bad", sampler=sampler, **OURS)
    assert ours.size == (96, 64)
    assert ours.tobytes() == drawn(model, sampler, "epsilon")


@pytest.mark.parametrize(
    ("sampler", "prediction_type"), [("Euler", "epsilon"), *((s, "v_prediction") for s in SAMPLERS)]
)
def test_sd2_with_noise_and_with_v_prediction(sd2: StableDiffusion, sampler: str, prediction_type: str) -> None:
    ours = sample(sd2, "a thing", "bad", sampler=sampler, prediction_type=prediction_type, **OURS).tobytes()
    assert ours == drawn(sd2, sampler, prediction_type)


@pytest.mark.parametrize("negative", ["", "bad"])
@torch.no_grad()
def test_sdxl_draws_as_diffusers_pipeline(sdxl: StableDiffusion, negative: str) -> None:
    sdxl.unet.register_to_config(sample_size=64)
    drawing = StableDiffusionXLPipeline(
        vae=sdxl.vae,
        text_encoder=sdxl.text_encoders["te1"],
        text_encoder_2=sdxl.text_encoders["te2"],
        tokenizer=sdxl.tokenizer,
        tokenizer_2=sdxl.tokenizer,
        unet=sdxl.unet,
        scheduler=sampling._SCHEDULERS["Euler"](),
        add_watermarker=False,
    )
    drawing.vae.register_to_config(scaling_factor=sdxl.scale_factor)
    drawing.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    text, bad = encode_prompts(sdxl, ["a thing"]), encode_prompts(sdxl, [negative])
    zero = 0 if negative == "" else 1
    expected = drawing(
        prompt_embeds=text.states,
        pooled_prompt_embeds=text.pooled,
        negative_prompt_embeds=bad.states * zero,
        negative_pooled_prompt_embeds=bad.pooled * zero,
        latents=torch.randn((1, 4, 8, 12), generator=generator),
        generator=generator,
        guidance_scale=5.0,
        num_inference_steps=3,
        width=96,
        height=64,
    ).images[0]
    ours = sample(sdxl, "a thing", negative, **OURS)
    assert numpy.abs(numpy.asarray(ours, int) - numpy.asarray(expected, int)).max() <= 1


def test_several_at_once_are_the_same_pictures(model: StableDiffusion, sdxl: StableDiffusion) -> None:
    prompts, seeds = ["a thing", "another", "a thing"], [1, 2, 3]
    for drawer, sampler in ((model, "Euler a"), (sdxl, "DPM++ 2M")):
        together = sample_many(drawer, prompts, seeds, "bad", sampler=sampler, **SMALL)
        for prompt, seed, picture in zip(prompts, seeds, together, strict=True):
            alone = sample(drawer, prompt, "bad", seed=seed, sampler=sampler, **SMALL)
            assert numpy.abs(numpy.asarray(alone, int) - numpy.asarray(picture, int)).max() <= 1


def test_long_prompts_are_read_to_their_end_on_demand(model: StableDiffusion) -> None:
    words = "word " * 100
    short, longer = (sample(model, words + end, **SMALL).tobytes() for end in ("", "cat"))
    assert short == longer
    short, longer = (sample(model, words + end, max_token_length=150, **SMALL).tobytes() for end in ("", "cat"))
    assert short != longer


def test_prompts_have_weights_as_in_the_webui(model: StableDiffusion) -> None:
    def drawn(prompt: str) -> bytes:
        return sample(model, prompt, steps=2, width=64, height=64).tobytes()

    assert drawn("(a cat:1)") == drawn("a cat")
    assert drawn("a (cat:1.6)") != drawn("a cat")
    assert drawn("a (cat:1.6)") != drawn("a cat:1.6")
    assert drawn(r"a \(cat\)") != drawn("a (cat)")


def test_samplers_by_sd_scripts_names(model: StableDiffusion) -> None:
    for theirs, ours in KOHYA_SAMPLERS.items():
        sampling.check(theirs, 20, 512, 512)
        assert ours in SAMPLERS
    ours = sample(model, "x", sampler="Euler a", **SMALL).tobytes()
    assert sample(model, "x", sampler="euler_a", **SMALL).tobytes() == ours


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(UserError, match="'heun' is not a sampler here"):
        sampling.check("heun", 20, 512, 512)


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
