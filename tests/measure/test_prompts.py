"""Neutral prompts, from captions of all kinds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.measure.prompts import NEUTRAL_TAGS, are_tags, composed, neutral, trigger_of, without_trigger

TAGGED = [f"hina, 1girl, {hair}, {top}, smile" for hair in ("long hair", "twintails") for top in ("coat", "red shirt")]
TAG = st.sampled_from(["1girl", "long hair", "red eyes", "my_own_thing", "a b c", "smile", "hat", "(a:1.2)", "花"])
CAPTION = st.lists(TAG, min_size=1, max_size=9, unique=True).map(", ".join)


def test_the_trigger_and_what_else_captions_say() -> None:
    captions = ["hina, smile, red hair", "hina, smile, red hair", "hina, hat", "hina"]
    assert trigger_of(captions) == "hina"
    assert without_trigger(captions, "hina") == ["smile, red hair", "hat"]
    assert (trigger_of(["a", "b"]), without_trigger(["a, c", "b"], "")) == ("", [])


def test_what_captions_leave_open_is_named() -> None:
    """Hair has no colour in any caption, as the trigger stands for it: most prompts have one."""
    found = neutral(TAGGED, "hina", 60, 1)
    assert len(found) == 60 == len(set(found))
    assert not any("hina" in text for text in found)
    assert found == neutral(TAGGED, "hina", 60, 1) != neutral(TAGGED, "hina", 60, 2)
    colours = set(NEUTRAL_TAGS[1])
    named = [colours & set(text.split(", ")) for text in found]
    assert sum(map(bool, named)) > 30 and len(set().union(*named)) == len(colours)


def test_sentences_stay_sentences() -> None:
    captions = ["sks dog, it runs along a beach at dawn", "sks dog, it sleeps on an old red sofa"]
    assert not are_tags(captions) and are_tags(TAGGED) and not are_tags([])
    found = neutral(captions, "sks dog", 9, 1)
    assert len(found) == 9 and "a landscape with mountains and a lake" in found
    assert any(text in ("it runs along a beach at dawn", "it sleeps on an old red sofa") for text in found)


@pytest.mark.parametrize("captions", [[], ["a"], ["hina", "hina"]])
def test_there_are_always_some(captions: list[str]) -> None:
    assert neutral(captions, trigger_of(captions), 6, 1)


@given(CAPTION, st.integers(0, 1000))
def test_a_composed_prompt_says_each_thing_once(caption: str, seed: int) -> None:
    tags = composed(caption, random.Random(seed)).split(", ")
    assert len(tags) == len(set(tags))
    assert all(sum(tag in its for tag in tags) <= 1 for its in map(set, NEUTRAL_TAGS))
    assert any(tag in NEUTRAL_TAGS[0] for tag in tags)
    known = {tag for its in NEUTRAL_TAGS for tag in its}
    assert {tag for tag in tags if tag not in known} <= set(caption.split(", "))


@given(st.lists(CAPTION, min_size=1, max_size=5), st.integers(1, 40))
def test_none_names_the_subject(captions: list[str], count: int) -> None:
    found = neutral([f"zzz, {caption}" for caption in captions], "zzz", count, 1)
    assert 0 < len(found) <= count
    assert not any("zzz" in text for text in found)


def test_a_trigger_that_is_in_every_word_leaves_some() -> None:
    assert neutral(["i, long hair, smile, hat", "i, short hair, smile, hat"], "i", 6, 1)
    assert neutral(["1girl, smile, hat", "1girl, hat, coat"], "1girl", 1, 3)
