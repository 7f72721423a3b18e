"""Captions to text states: tokens as recorded from sd-scripts, states put together from single chunks."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_train.model import emphasis
from lora_train.model.checkpoint import SDXL_OPEN_CLIP, Family
from lora_train.model.text import OPEN_CLIP_PAD, TextStates, encode_prompts, tokenize
from tests import support
from tests.model.reference import open_clip

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "sdxl_tokens.json").read_text(encoding="utf-8"))
START, END = 49406, 49407
CAPTIONS = ["a cat", "word " * 100, ""]


def test_tokens(model):
    ids, weights = tokenize(model.tokenizer, ["Hello wörld, 猫!"])
    words = [3306, 86, 31762, 730, 267, 163, 234, 360, 256]
    assert ids[0, 0].tolist() == [START, *words, *[END] * 67]
    assert (weights == 1).all() and weights.shape == (1, 1, 77)
    ids, _ = tokenize(model.tokenizer, ["word " * 100, "cat"], 150)
    assert ids.shape == (2, 2, 77)
    assert (ids[:, :, 0] == START).all() and (ids[:, :, -1] == END).all()
    assert ids[1, 1].tolist() == [START, *[END] * 76]


@pytest.mark.parametrize("weighted", [False, True])
def test_odd_signs_are_mended_first_as_by_sd_scripts(model, weighted):
    table = json.loads((Path(__file__).parents[1] / "data" / "tables" / "tokens.json").read_text(encoding="utf-8"))
    for caption, expected in table["mended"]:
        ids, _ = tokenize(model.tokenizer, [caption], weighted=weighted)
        assert ids[0, 0, : len(expected)].tolist() == expected


@pytest.mark.parametrize("recorded", RECORDED["tokens"], ids=("clip", "open_clip"))
def test_long_captions_are_cut_into_chunks_as_by_sd_scripts(model, recorded):
    captions, pad = RECORDED["captions"], recorded["pad"]
    ids, weights = tokenize(model.tokenizer, captions, 225, pad=pad)
    assert ids.tolist() == recorded["ids"]
    assert (weights == 1).all()
    ids, weights = tokenize(model.tokenizer, captions, 225, weighted=True, pad=pad)
    assert ids.tolist() == recorded["weighted_ids"]
    assert torch.allclose(weights, torch.tensor(RECORDED["weights"]))


def test_an_exclamation_mark_is_no_padding(model):
    ids, _ = tokenize(model.tokenizer, ["wow!"], pad=OPEN_CLIP_PAD)
    assert ids[0, 0].tolist() == [START, 2781, 256, END, *[0] * 73]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("", []),
        ("plain, words", [("plain, words", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(red:1.3) [dim]", [("red", 1.3), (" ", 1.0), ("dim", 1 / 1.1)]),
        ("((twice))", [("twice", 1.1 * 1.1)]),
        ("(a [b] c)", [("a ", 1.1), ("b", 1 / 1.1 * 1.1), (" c", 1.1)]),
        (r"artist \(name\) \\", [("artist (name) \\", 1.0)]),
        ("(open", [("open", 1.1)]),
        ("smile :) and ] or 1:2)", [("smile :) and ] or 1:2)", 1.0)]),
        ("(odd:1.2.3)", [("odd:1.2.3", 1.1)]),
        ("(none:-.5)", [("none", -0.5)]),
    ],
)
def test_weights_in_captions(caption, expected):
    assert emphasis.parse(caption) == expected


@given(st.text(alphabet="ab ()[]:.1-\\\n", max_size=30))
def test_any_caption_can_be_weighted(caption):
    pieces = emphasis.parse(caption)
    assert all(first[1] != second[1] for first, second in pairwise(pieces))
    if not set(caption) & set("()[]\\"):
        assert pieces == ([(caption, 1.0)] if caption else [])


@given(st.lists(st.sampled_from("ab,"), min_size=1).map("".join), st.integers(1, 4))
def test_nested_weights_multiply(word, depth):
    assert emphasis.parse("(" * depth + word + ")" * depth) == [(word, pytest.approx(1.1**depth))]
    assert emphasis.parse("[" * depth + word + "]" * depth) == [(word, pytest.approx(1.1**-depth))]


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize(("length", "tokens"), [(None, 77), (75, 77), (150, 152), (225, 227)])
def test_shapes(model_of, family, length, tokens):
    text = encode_prompts(model_of(family), CAPTIONS, max_token_length=length)
    assert text.states.shape == (3, tokens, 96 if family is Family.SDXL else 64)
    assert (text.pooled is None) == (family is not Family.SDXL)


@pytest.mark.parametrize("family", [Family.SD15, Family.SD2])
def test_clip_skip(model_of, family):
    model = model_of(family)
    last = encode_prompts(model, ["a cat"]).states
    assert torch.equal(encode_prompts(model, ["a cat"], clip_skip=1).states, last)
    second = encode_prompts(model, ["a cat"], clip_skip=2).states
    assert not torch.allclose(second, last)
    ids, _ = tokenize(model.tokenizer, ["a cat"], pad=OPEN_CLIP_PAD if family is Family.SD2 else None)
    hidden = model.text_encoder(ids[0], output_hidden_states=True).hidden_states[-2]
    norm = getattr(model.text_encoder, "text_model", model.text_encoder).final_layer_norm
    assert torch.equal(second, norm(hidden))


def test_sdxl_reads_the_last_layer_but_one_of_both(model_of):
    model = model_of(Family.SDXL)
    text = encode_prompts(model, ["a cat"], clip_skip=3)
    first, _ = tokenize(model.tokenizer, ["a cat"])
    second, _ = tokenize(model.tokenizer, ["a cat"], pad=OPEN_CLIP_PAD)
    clip = model.text_encoders["te1"](first[0], output_hidden_states=True).hidden_states[-2]
    layers, _, pooled = open_clip(support.state_dict(family=Family.SDXL), SDXL_OPEN_CLIP, second[0], end=3)
    assert torch.equal(text.states[..., :32], clip)
    assert torch.allclose(text.states[..., 32:], layers[-2], atol=1e-5)
    assert torch.allclose(text.pooled, pooled, atol=1e-5)


@pytest.mark.parametrize("family", Family)
def test_chunks_are_encoded_alone_and_joined(model_of, family):
    model, long = model_of(family), ", ".join(f"thing {n}" for n in range(60))
    pad = None if family is Family.SD15 else OPEN_CLIP_PAD
    ids, _ = tokenize(model.tokenizer, [long], 225, pad=pad)
    joined = encode_prompts(model, [long], max_token_length=225)
    encoder = model.text_encoders["te2" if family is Family.SDXL else "te"]
    output = encoder(ids[0], output_hidden_states=True)
    states = output.hidden_states[-2] if family is Family.SDXL else output.last_hidden_state
    expected = torch.cat([states[0, :1], *(part[1:-1] for part in states), states[-1, -1:]])
    assert torch.allclose(joined.states[0, :, -64:], expected, atol=1e-5)
    if family is Family.SDXL:
        assert torch.allclose(joined.pooled, output.text_embeds[:1], atol=1e-5)  # of the first chunk
        assert torch.allclose(joined.pooled, encode_prompts(model, [long]).pooled, atol=1e-5)


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("length", [75, 225])
def test_weights_multiply_the_states(model_of, family, length):
    model = model_of(family)
    plain = encode_prompts(model, ["a red cat"], max_token_length=length)
    same = encode_prompts(model, ["a red cat"], max_token_length=length, weighted=True)
    assert torch.equal(plain.states, same.states)
    strong = encode_prompts(model, ["a (red:1.5) cat"], max_token_length=length, weighted=True)
    expected = plain.states.clone()
    expected[:, 2] *= 1.5
    assert torch.allclose(strong.states, expected, atol=1e-6)
    if family is Family.SDXL:
        assert torch.equal(strong.pooled, plain.pooled)
    letters = encode_prompts(model, ["a (red:1.5) cat"], max_token_length=length)
    assert not torch.allclose(letters.states, expected)


def test_the_mean_can_be_kept(model):
    """As modules/sd_emphasis.py of the WebUI: z * multipliers, then * (mean before / mean after)."""
    plain = encode_prompts(model, ["a red cat, dog", "a cat"]).states
    kept = encode_prompts(model, ["a (red:1.5) cat, [dog]", "a cat"], weighted=True, keep_mean=True).states
    _, weights = tokenize(model.tokenizer, ["a (red:1.5) cat, [dog]"], weighted=True)
    scaled = plain[0] * weights[0, 0, :, None]
    torch.testing.assert_close(kept[0], scaled * (plain[0].mean() / scaled.mean()), rtol=1e-4, atol=1e-5)
    assert torch.equal(kept[1], plain[1])
    assert not torch.allclose(kept[0], scaled, atol=1e-3)


def test_the_first_75_tokens_do_not_depend_on_the_length(model):
    short, long = (encode_prompts(model, ["a cat on a mat"], max_token_length=n).states for n in (75, 225))
    assert torch.allclose(short[:, :76], long[:, :76], atol=1e-6)


def test_states_are_joined_selected_and_moved():
    states, pooled = torch.randn(3, 4, 2), torch.randn(3, 5)
    text = TextStates(states, pooled)
    picked = text.select([2, 0])
    assert torch.equal(picked.states, states[[2, 0]]) and torch.equal(picked.pooled, pooled[[2, 0]])
    assert torch.equal(text.select(torch.tensor([1])).states, states[1:2])
    both = TextStates.cat([text, picked])
    assert torch.equal(both.states, torch.cat([states, states[[2, 0]]])) and both.pooled.shape == (5, 5)
    assert TextStates.cat([TextStates(states), TextStates(states)]).pooled is None
    half = text.to(dtype=torch.float16)
    assert half.states.dtype is half.pooled.dtype is torch.float16
    assert TextStates(states).to("cpu").select([0]).pooled is None
