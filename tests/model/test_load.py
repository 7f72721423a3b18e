"""A narrow checkpoint as modules: every tensor where it belongs, and the text states as kohya has them."""

import pytest
import torch

from lora_train.errors import UserError
from lora_train.model.load import load_model
from lora_train.model.text import encode_prompts, tokenize
from tests import support


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(support.checkpoint(tmp_path_factory.mktemp("load") / "narrow.safetensors"))


def test_modules_are_frozen_and_whole(model):
    for module in (model.unet, model.vae, model.text_encoder):
        assert not module.training
        assert all(p.dtype is torch.float32 and not p.is_meta and not p.requires_grad for p in module.parameters())
        assert not any(buffer.is_meta for buffer in module.buffers())


def test_shapes_are_read_from_the_file(model):
    assert tuple(model.unet.config.block_out_channels) == (32, 64, 128, 128)
    assert model.unet.config.cross_attention_dim == 64
    assert tuple(model.vae.config.block_out_channels) == (32, 64, 128, 128)
    assert model.text_encoder.config.num_hidden_layers == 12


def test_weights_are_those_of_the_file(model):
    state = support.state_dict()
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert torch.equal(
        model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k.weight, state[key].float()
    )
    last = state["model.diffusion_model.out.2.weight"].float()
    assert torch.equal(model.unet.conv_out.weight, last)


def test_old_names_of_the_text_encoder(tmp_path, model):
    from safetensors.torch import save_file

    renamed = {
        key.replace("transformer.text_model.", "transformer."): value for key, value in support.state_dict().items()
    }
    save_file(renamed, tmp_path / "old.safetensors")
    other = load_model(tmp_path / "old.safetensors")
    assert torch.equal(encode_prompts(model, ["a cat"]), encode_prompts(other, ["a cat"]))


def test_a_missing_tensor_is_said(tmp_path):
    from safetensors.torch import save_file

    state = support.state_dict()
    del state["model.diffusion_model.middle_block.1.norm.weight"]
    save_file(state, tmp_path / "holed.safetensors")
    with pytest.raises(UserError, match=r"holed\.safetensors"):
        load_model(tmp_path / "holed.safetensors")


def test_tokens(model):
    assert model.tokenizer(["Hello wörld, 猫!"]).input_ids[0] == [
        49406,
        3306,
        86,
        31762,
        730,
        267,
        163,
        234,
        360,
        256,
        49407,
    ]
    ids = tokenize(model.tokenizer, ["word " * 100, "cat"], 150)
    assert ids.shape == (2, 2, 77)
    assert (ids[:, :, 0] == 49406).all() and (ids[:, :, -1] == 49407).all()
    assert ids[1, 1].tolist() == [49406, *[49407] * 76]


@pytest.mark.parametrize(("length", "tokens"), [(None, 77), (75, 77), (150, 152), (225, 227)])
def test_text_states(model, length, tokens):
    states = encode_prompts(model, ["a cat", "word " * 300], max_token_length=length)
    assert states.shape == (2, tokens, 64)


def test_clip_skip(model):
    last = encode_prompts(model, ["a cat"])
    assert torch.equal(encode_prompts(model, ["a cat"], clip_skip=1), last)
    second = encode_prompts(model, ["a cat"], clip_skip=2)
    assert not torch.allclose(second, last)
    hidden = model.text_encoder(tokenize(model.tokenizer, ["a cat"])[0], output_hidden_states=True).hidden_states[-2]
    norm = getattr(model.text_encoder, "text_model", model.text_encoder).final_layer_norm
    assert torch.equal(second, norm(hidden))


def test_the_first_75_tokens_do_not_depend_on_the_length(model):
    short, long = (encode_prompts(model, ["a cat on a mat"], max_token_length=n) for n in (75, 225))
    assert torch.allclose(short[:, :76], long[:, :76], atol=1e-6)
