"""Text states that are kept."""

import pytest
import torch

from lora_train.dataset.options import CaptionOptions
from lora_train.dataset.pictures import Concept, Dataset, Picture
from lora_train.model.load import load_model
from lora_train.model.text import encode_prompts
from lora_train.settings import TrainSettings
from lora_train.train import text_cache
from lora_train.train.text_cache import TextCache, cache_text, texts_of
from tests import support


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    widths = support.Widths(text=32, text_inner=64, text_layers=3)
    return load_model(support.checkpoint(tmp_path_factory.mktemp("text") / "narrow.safetensors", widths))


@pytest.fixture
def encoded(monkeypatch):
    """The texts that were encoded, in order."""
    texts, encode = [], TextCache.encode

    def counting(cache, wanted):
        texts.extend(wanted)
        return encode(cache, wanted)

    monkeypatch.setattr(TextCache, "encode", counting)
    return texts


def settings_of(**changes):
    return TrainSettings(**{"network_train_unet_only": True, "clip_skip": 2, "max_token_length": 150, **changes})


def dataset_of(tmp_path, settings, texts=("a cat", "a dog, red", "a cat")):
    pictures = tuple(Picture(tmp_path / f"{n}.png", text, 64, 64) for n, text in enumerate(texts))
    return Dataset(tmp_path, (Concept(tmp_path, "x", 2, pictures, captions=CaptionOptions.of(settings)),), ())


def test_every_text_is_encoded_once_and_found_again(model, tmp_path, encoded):
    settings = settings_of(caption_prefix="photo of")
    told = []
    cache = cache_text(model, dataset_of(tmp_path, settings), settings, progress=lambda *now: told.append(now))
    assert cache.complete and told == [(2, 2)]
    assert encoded == ["photo of a cat", "photo of a dog, red"]
    wanted = ["photo of a dog, red", "photo of a cat", "photo of a dog, red"]
    with torch.no_grad():
        exact = encode_prompts(model, wanted, 2, 150)
    states = cache.rows(wanted)
    assert len(encoded) == 2 and states.pooled is None
    torch.testing.assert_close(states.states, exact.states)


def test_a_left_out_caption_is_one_text_more(model, tmp_path):
    settings = settings_of(caption_dropout_rate=0.3)
    cache = cache_text(model, dataset_of(tmp_path, settings), settings)
    assert cache.complete and cache.rows(["", "a cat"]).states.shape == (2, 152, 32)


@pytest.mark.parametrize(
    "changes",
    [{"shuffle_caption": True}, {"enable_wildcard": True}, {"caption_tag_dropout_rate": 0.1}, {"token_warmup_step": 9}],
)
def test_where_captions_vary_texts_are_encoded_as_they_come_and_the_latest_kept(model, tmp_path, encoded, changes):
    settings = settings_of(**changes)
    dataset = dataset_of(tmp_path, settings)
    assert texts_of(dataset) is None
    cache = cache_text(model, dataset, settings)
    assert not cache.complete and not encoded
    first = cache.rows(["b", "a", "b"]).states
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    assert torch.equal(cache.rows(["a"]).states[0], first[1])
    assert encoded == ["b", "a"]


def test_only_as_many_as_fit_are_kept(model, tmp_path, encoded):
    one = 152 * 32 * 4
    cache = TextCache(model, settings_of(), limit=2 * one)
    assert cache.rows(["a", "b", "c", "d"]).states.shape == (4, 152, 32)
    cache.rows(["d", "c"])
    assert len(encoded) == 4
    cache.rows(["d", "a"])  # c is the oldest now
    cache.rows(["d", "a"])
    cache.rows(["c"])
    assert encoded == ["a", "b", "c", "d", "a", "c"]


def test_too_many_texts_are_said_and_encoded_as_they_come(model, tmp_path, encoded, monkeypatch):
    monkeypatch.setattr(text_cache, "LIMIT", 1000)
    settings = settings_of()
    warnings = []
    cache = cache_text(model, dataset_of(tmp_path, settings), settings, warn=warnings.append)
    assert not cache.complete and len(warnings) == 1 and "GiB" in warnings[0]
    assert cache.rows(["a cat"]).states.shape == (1, 152, 32)


def test_nothing_is_kept_where_it_would_be_wrong_or_isnt_wanted(model, tmp_path):
    for changes in ({"network_train_unet_only": False}, {"cache_text_encoder_outputs": False}):
        settings = settings_of(**changes)
        assert cache_text(model, dataset_of(tmp_path, settings), settings) is None


def test_states_have_the_precision_of_the_run(model, tmp_path):
    settings = settings_of(mixed_precision="bf16")
    cache = cache_text(model, dataset_of(tmp_path, settings), settings)
    assert cache.rows(["a cat"]).states.dtype is torch.bfloat16
