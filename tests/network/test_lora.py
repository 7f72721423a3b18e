"""Adapters on whole models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lora_train.errors import UserError
from lora_train.model.checkpoint import Family
from lora_train.model.load import StableDiffusion
from lora_train.model.predict import predict as unet
from lora_train.model.text import encode_prompts
from lora_train.network.lora import LoraNetwork, LoraSpec, Size, merge_into
from lora_train.network.spec import Drops
from tests.network.conftest import shaken

SPEC = LoraSpec(Size(4, 2.0))
FORMS = {
    "lora": SPEC,
    "locon": LoraSpec(Size(4, 2.0), conv=Size(2, 1.0)),
    "dora": LoraSpec(Size(4, 2.0), dora=True),
    "loha": LoraSpec(Size(2, 1.0), form="loha", conv=Size(1, 1.0)),
    "lokr": LoraSpec(Size(2, 1.0), form="lokr", conv=Size(200, 1.0)),
}


def predict(model: StableDiffusion, grad: bool = False, clip_skip: int | None = None) -> Tensor:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(grad):
        return unet(model, latents, torch.tensor([500]), encode_prompts(model, ["a cat"], clip_skip))


def names(model: StableDiffusion) -> list[str]:
    return [name for root in (*model.text_encoders.values(), model.unet) for name, _ in root.named_modules()]


@pytest.mark.parametrize(("spec", "count"), [(SPEC, 264), (FORMS["locon"], 350), (FORMS["loha"], 350)])
def test_the_modules_of_kohya(model: StableDiffusion, spec: LoraSpec, count: int) -> None:
    network = LoraNetwork.create(model, spec)
    assert len(network.layers) == count
    assert network.parts == ("te", "unet")
    assert len(network.parameters()) == len(network.parameters_of("te")) + len(network.parameters_of("unet"))


def test_shapes_of_a_locon(model: StableDiffusion) -> None:
    state = LoraNetwork.create(model, FORMS["locon"]).state_dict()
    assert state["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"].shape == (2, 32, 3, 3)
    assert state["lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight"].shape == (32, 2, 1, 1)
    assert state["lora_unet_down_blocks_0_resnets_0_time_emb_proj.lora_down.weight"].shape[0] == 4
    assert state["lora_unet_down_blocks_0_resnets_0_conv1.alpha"] == 1


@pytest.mark.parametrize(
    ("family", "form"),
    [*((Family.SD15, form) for form in FORMS), (Family.SD2, "locon"), (Family.SDXL, "locon"), (Family.SDXL, "loha")],
)
def test_a_network_lives_through_file_and_removal(bare: Callable, family: Family, form: str) -> None:
    """A new one changes nothing; its file brings the same back; without it the model is as it was."""
    model = bare(family)
    before, modules = predict(model), names(model)
    network = LoraNetwork.create(model, FORMS[form])
    assert (predict(model) - before).norm() < 1e-5 * before.norm()
    state = shaken(network.state_dict(), 0.01)
    assert network.fits(state)
    network.load(state)
    after = predict(model)
    assert (after - before).norm() > 1e-4 * before.norm()
    network.remove()
    assert torch.equal(predict(model), before)
    assert names(model) == modules
    again = LoraNetwork.from_state(model, state)
    assert torch.equal(predict(model), after)
    found = again.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in state.items())


@pytest.mark.parametrize("form", ["locon", "dora", "lokr"])
def test_merging_does_what_the_adapters_do(model: StableDiffusion, form: str) -> None:
    roots = (model.unet, model.text_encoder)
    kept = [{name: value.clone() for name, value in root.state_dict().items()} for root in roots]
    network = LoraNetwork.create(model, FORMS[form])
    state = shaken(network.state_dict(), 0.01)
    network.load(state)
    network.set_weight(0.7, 0.7)
    expected = predict(model)
    network.remove()
    before = predict(model)
    try:
        merge_into(model, state, 0.7)
        assert (predict(model) - expected).norm() < 1e-4 * (expected - before).norm()
    finally:
        for root, tensors in zip(roots, kept, strict=True):
            root.load_state_dict(tensors)


def test_the_seed_decides_the_start_and_nothing_else_draws(model: StableDiffusion) -> None:
    torch.manual_seed(5)
    states = []
    for seed in (1, 1, 2):
        network = LoraNetwork.create(model, SPEC, seed=seed)
        states.append(network.state_dict())
        network.remove()
    drawn = torch.rand(1)
    assert drawn == torch.rand(1, generator=torch.Generator().manual_seed(5))
    first, second, third = states
    assert all(torch.equal(first[key], value) for key, value in second.items())
    assert not torch.equal(
        first["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"],
        third["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"],
    )


@pytest.mark.parametrize("form", FORMS)
def test_only_adapters_are_trained_in_float32(model: StableDiffusion, form: str) -> None:
    network = LoraNetwork.create(model, FORMS[form])
    trained = {id(p) for p in network.parameters()}
    for module in (model.unet, model.text_encoder):
        assert all(p.requires_grad == (id(p) in trained) for p in module.parameters())
        assert sum(id(p) in trained for p in module.parameters()) > 0
    assert all(p.dtype is torch.float32 for p in network.parameters())
    network.to(torch.bfloat16)
    assert all(p.dtype is torch.bfloat16 for p in network.parameters())


def test_layers_past_clip_skip_get_no_gradient(model: StableDiffusion) -> None:
    """None, not zeros, which an optimizer would let decay."""
    network = LoraNetwork.create(model, SPEC)
    predict(model, grad=True, clip_skip=2).square().sum().backward()
    without = {key.split("layers_")[1].split("_")[0] for key, p in network.named_parameters() if p.grad is None}
    assert without == {"11"}


def test_dropout_is_for_training_alone(model: StableDiffusion) -> None:
    network = LoraNetwork.create(model, LoraSpec(Size(4, 2.0), drops=Drops(rank=0.5)))
    network.load(shaken(network.state_dict()))
    assert not torch.equal(predict(model), predict(model))
    network.train(False)
    assert torch.equal(predict(model), predict(model))
    network.train(True)
    assert not torch.equal(predict(model), predict(model))


def test_gradient_checkpointing_makes_the_same_gradients(model: StableDiffusion) -> None:
    network = LoraNetwork.create(model, SPEC)
    network.load(shaken(network.state_dict(), 0.01))
    gradients = []
    for again in (False, True):
        if again:
            model.unet.enable_gradient_checkpointing()
            model.unet.train()
        predict(model, grad=True).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
        for p in network.parameters():
            p.grad = None
    model.unet.disable_gradient_checkpointing()
    model.unet.eval()
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_a_missing_alpha_is_the_rank(model: StableDiffusion) -> None:
    network = LoraNetwork.create(model, LoraSpec(Size(4, 4.0)))
    state = shaken(network.state_dict())
    network.load(state)
    expected = predict(model)
    network.load({key: value for key, value in state.items() if not key.endswith(".alpha")})
    assert torch.equal(predict(model), expected)


def test_a_files_alpha_decides_the_scale(model: StableDiffusion) -> None:
    """sd-scripts keeps the scale of the settings and files the alpha of the file."""
    network = LoraNetwork.create(model, LoraSpec(Size(4, 4.0)))
    state = shaken(network.state_dict())
    network.load({key: value / 4 if key.endswith(".alpha") else value for key, value in state.items()})
    assert {size.scale for size in network.sizes.values()} == {0.25}
    assert network.state_dict()["lora_unet_mid_block_attentions_0_proj_in.alpha"] == 1


def test_the_weight_multiplies_the_effect(model: StableDiffusion) -> None:
    base = predict(model)
    network = LoraNetwork.create(model, LoraSpec(Size(4, 2.0), text_encoder=False))
    assert network.parts == ("unet",)
    network.load(shaken(network.state_dict(), 0.002))
    whole = predict(model) - base
    network.set_weight(te=1.0, unet=0.5)
    half = predict(model) - base
    assert torch.allclose(half, whole / 2, atol=0.1 * whole.abs().max())
    network.set_weight(te=1.0, unet=0.0)
    assert torch.equal(predict(model), base)


def test_a_part_of_a_file_may_be_enough(model: StableDiffusion) -> None:
    network = LoraNetwork.create(model, SPEC)
    state = shaken(network.state_dict())
    unet_alone = {key: value for key, value in state.items() if key.startswith("lora_unet_")}
    missing = network.load({**unet_alone, "lora_te_other.lora_up.weight": torch.zeros(1)}, partial=True)
    assert len(missing) == 145
    found = network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in unet_alone.items())
    with pytest.raises(UserError, match="not those expected"):
        network.load({"lora_te_other.lora_up.weight": torch.zeros(1)}, partial=True)


@pytest.mark.parametrize("form", ["locon", "loha", "lokr"])
def test_norms_are_limited(model: StableDiffusion, form: str) -> None:
    network = LoraNetwork.create(model, FORMS[form])
    network.load(shaken(network.state_dict(), 0.3))
    before = {key: layer.norm() for key, layer in network.layers.items()}
    directions = {key: layer.delta() / before[key] for key, layer in network.layers.items()}
    limit = float(torch.stack(list(before.values())).median())
    assert network.limit_norms(limit) == sum(bool(norm > limit) for norm in before.values())
    for key, layer in network.layers.items():
        torch.testing.assert_close(layer.norm(), before[key].clamp(max=limit), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(layer.delta() / layer.norm(), directions[key], rtol=1e-3, atol=1e-5)
    assert network.limit_norms(2 * limit) == 0


def test_norms_are_limited_as_in_sd_scripts(model: StableDiffusion) -> None:
    """apply_max_norm_regularization: ratio = min(n, max) / n, n = max(|s up down|, max / 2); both times its root."""
    network = LoraNetwork.create(model, FORMS["locon"])
    state = shaken(network.state_dict(), 0.1)
    network.load(state)
    network.limit_norms(0.8)
    found = network.state_dict()
    for key in network.layers:
        down, up, alpha = (state[f"{key}.{name}"] for name in ("lora_down.weight", "lora_up.weight", "alpha"))
        n = (up.flatten(1) @ down.flatten(1) * alpha / len(down)).norm().clamp(min=0.4)
        ratio = n.clamp(max=0.8) / n
        torch.testing.assert_close(found[f"{key}.lora_up.weight"], up * ratio**0.5, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found[f"{key}.lora_down.weight"], down * ratio**0.5, rtol=1e-5, atol=1e-7)


def test_dims_of_a_file_make_the_same_network(model: StableDiffusion) -> None:
    network = LoraNetwork.create(model, LoraSpec(Size(4, 2.0), conv=Size(2, 1.0), text_encoder=False))
    state, sizes = network.state_dict(), network.sizes
    network.remove()
    again = LoraNetwork.create(model, LoraSpec(Size(1, 1.0), modules=sizes))
    assert again.fits(state)
    again.load(state)
    assert again.sizes == sizes


def test_diffusers_names_of_an_sdxl_file(bare: Callable) -> None:
    model = bare(Family.SDXL)
    network = LoraNetwork.create(model, LoraSpec(Size(2, 1.0), text_encoder=False, text_encoder2=False))
    state = shaken(network.state_dict())
    renamed = {key.replace("input_blocks_4_1", "down_blocks_1_attentions_0"): value for key, value in state.items()}
    assert renamed.keys() != state.keys()
    network.remove()
    again = LoraNetwork.from_state(model, renamed)
    assert again.state_dict().keys() == state.keys()
    assert again.fits(renamed)


def test_what_does_not_fit_is_said(model: StableDiffusion) -> None:
    network = LoraNetwork.create(model, SPEC)
    state = network.state_dict()
    with pytest.raises(UserError, match="shape"):
        network.load({k: v[..., :-1] if k.endswith("attn1_to_q.lora_down.weight") else v for k, v in state.items()})
    with pytest.raises(UserError, match="2 differ"):
        network.load({key: value for key, value in state.items() if "mid_block_attentions_0_proj_in" not in key})
    network.remove()
    modules = names(model)
    with pytest.raises(
        UserError, match=r"1 of 1 modules are not in this checkpoint, lora_te1_x.*Stable Diffusion 1\.5"
    ):
        LoraNetwork.from_state(model, {"lora_te1_x.lora_down.weight": torch.zeros(1)})
    wide = {k: v if v.ndim == 0 else v.repeat(2, *[1] * (v.ndim - 1)) for k, v in state.items()}
    with pytest.raises(UserError, match="shape"):
        LoraNetwork.from_state(model, wide)
    key = "lora_unet_mid_block_attentions_0_proj_in"
    with pytest.raises(UserError, match=rf"{key} holds diff\. Use a LoRA, LoCon"):
        LoraNetwork.from_state(model, {f"{key}.diff": torch.zeros(1)})
    loha = {f"{key}.hada_w{n}_{c}": torch.zeros(2, 2) for n in (1, 2) for c in "ab"}
    with pytest.raises(UserError, match=rf"the tensors of {key} don't make \[128, 128, 1, 1\]"):
        LoraNetwork.from_state(model, loha)
    assert names(model) == modules
    with pytest.raises(UserError, match="no layer is left to train"):
        LoraNetwork.create(model, LoraSpec(Size(4, 2.0), unet=False, text_encoder=False))
