"""Adapters on kohya's modules."""

import pytest
import torch

from lora_train.errors import UserError
from lora_train.model.load import load_model
from lora_train.model.text import encode_prompts
from lora_train.network.lora import LoraNetwork, LoraSpec, Size
from tests import support

SPEC = LoraSpec(Size(4, 2.0))


@pytest.fixture
def model(tmp_path_factory, narrow=[]):  # noqa: B006 - one file for all tests here
    if not narrow:
        narrow.append(support.checkpoint(tmp_path_factory.mktemp("lora") / "narrow.safetensors"))
    return load_model(narrow[0])


def predict(model, size=8):
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, size, size, generator=g)
    with torch.no_grad():
        return model.unet(latents, torch.tensor([500]), encode_prompts(model, ["a cat"])).sample


def shaken(state, scale=0.05):
    g = torch.Generator().manual_seed(1)
    return {k: v if k.endswith(".alpha") else v + scale * torch.randn(v.shape, generator=g) for k, v in state.items()}


def test_the_264_modules_of_kohya(model):
    network = LoraNetwork.create(model, SPEC)
    unet = [key for key in network.layers if key.startswith("lora_unet_")]
    assert (len(network.layers), len(unet)) == (264, 192)
    assert len(network.state_dict()) == 792
    for key in (
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_te_text_model_encoder_layers_11_mlp_fc2",
        "lora_unet_down_blocks_0_attentions_0_proj_in",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0",
        "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj",
    ):
        assert key in network.layers


def test_the_350_modules_with_convolutions(model):
    network = LoraNetwork.create(model, LoraSpec(Size(4, 2.0), conv=Size(2, 1.0)))
    assert len(network.layers) == 350
    state = network.state_dict()
    assert state["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"].shape == (2, 32, 3, 3)
    assert state["lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight"].shape == (32, 2, 1, 1)
    assert state["lora_unet_down_blocks_0_resnets_0_time_emb_proj.lora_down.weight"].shape[0] == 4


def test_a_new_network_changes_nothing_and_remove_restores(model):
    before = predict(model)
    names = [name for name, _ in model.unet.named_modules()]
    network = LoraNetwork.create(model, SPEC)
    assert torch.equal(predict(model), before)
    network.load(shaken(network.state_dict()))
    assert not torch.allclose(predict(model), before)
    network.remove()
    assert torch.equal(predict(model), before)
    assert [name for name, _ in model.unet.named_modules()] == names


def test_the_seed_decides_the_start(model):
    first = LoraNetwork.create(model, SPEC, seed=1)
    state = first.state_dict()
    first.remove()
    second = LoraNetwork.create(model, SPEC, seed=1)
    assert all(torch.equal(state[key], value) for key, value in second.state_dict().items())


def test_only_adapters_are_trained_in_float32(model):
    network = LoraNetwork.create(model, SPEC)
    trained = {id(p) for p in network.parameters()}
    for module in (model.unet, model.text_encoder):
        assert all(p.requires_grad == (id(p) in trained) for p in module.parameters())
    assert all(p.dtype is torch.float32 for p in network.parameters())


def test_from_state_has_the_files_ranks_and_effect(model):
    network = LoraNetwork.create(model, LoraSpec(Size(4, 2.0), conv=Size(2, 1.0)))
    state = shaken(network.state_dict())
    network.load(state)
    expected = predict(model)
    network.remove()
    again = LoraNetwork.from_state(model, state)
    assert torch.equal(predict(model), expected)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in state.items())


def test_a_missing_alpha_is_the_rank(model):
    network = LoraNetwork.create(model, LoraSpec(Size(4, 4.0)))
    state = shaken(network.state_dict())
    network.load(state)
    expected = predict(model)
    network.load({key: value for key, value in state.items() if not key.endswith(".alpha")})
    assert torch.equal(predict(model), expected)


def test_the_weight_multiplies_the_effect(model):
    base = predict(model)
    network = LoraNetwork.create(model, LoraSpec(Size(4, 2.0), text_encoder=False))
    network.load(shaken(network.state_dict(), 0.002))
    whole = predict(model) - base
    network.set_weight(te=1.0, unet=0.5)
    half = predict(model) - base
    assert torch.allclose(half, whole / 2, atol=0.1 * whole.abs().max())
    network.set_weight(te=1.0, unet=0.0)
    assert torch.equal(predict(model), base)


def test_what_does_not_fit_is_said(model):
    network = LoraNetwork.create(model, SPEC)
    state = network.state_dict()
    with pytest.raises(UserError, match="shape"):
        network.load({k: v[..., :-1] if k.endswith("attn1_to_q.lora_down.weight") else v for k, v in state.items()})
    with pytest.raises(UserError, match="2 differ"):
        network.load({key: value for key, value in state.items() if "mid_block_attentions_0_proj_in" not in key})
    network.remove()
    with pytest.raises(UserError, match="1 of 1 modules are not in this checkpoint, lora_te1_x"):
        LoraNetwork.from_state(model, {"lora_te1_x.lora_down.weight": torch.zeros(1)})
    names = [name for name, _ in model.unet.named_modules()]
    wide = {k: v if v.ndim == 0 else v.repeat(2, *[1] * (v.ndim - 1)) for k, v in state.items()}
    with pytest.raises(UserError, match="shape"):
        LoraNetwork.from_state(model, wide)
    assert [name for name, _ in model.unet.named_modules()] == names
