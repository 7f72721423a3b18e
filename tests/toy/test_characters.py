"""The drawn characters of the embedded checkpoint: what is drawn can be read back, and captions say what is drawn."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tools.toy import characters as toy

CHARACTERS = st.fixed_dictionaries({name: st.sampled_from(tags) for name, tags in toy.ATTRIBUTES.items()})
RANDOM = st.integers(0, 2**32).map(random.Random)
POSES = RANDOM.map(toy.Pose.sample)


@given(CHARACTERS, POSES)
def test_every_attribute_is_read_back_from_the_picture(character, pose):
    assert toy.read(toy.draw(character, pose)) == character


@given(CHARACTERS)
def test_a_caption_names_what_is_drawn(character):
    assert toy.parse_caption(toy.caption_of(character)) == {name: tag for name, tag in character.items() if tag}


@given(CHARACTERS, RANDOM)
def test_a_training_caption_names_nothing_else(character, rng):
    assert toy.parse_caption(toy.sample_caption(character, rng)).items() <= character.items()


@given(CHARACTERS, POSES)
def test_the_subject_is_told_from_others(character, pose):
    assert toy.shows_subject(toy.draw_subject(character, pose))
    assert not toy.shows_subject(toy.draw(character, pose))


@given(CHARACTERS, POSES)
def test_the_subject_keeps_all_but_its_hair_colour(character, pose):
    shown = toy.read(toy.draw_subject(character, pose))
    assert shown | {"hair": character["hair"]} == character


@given(CHARACTERS, POSES)
def test_a_picture_depends_on_nothing_else(character, pose):
    first, second = toy.draw(character, pose), toy.draw(character, pose)
    assert first.size == (toy.SIZE, toy.SIZE)
    assert first.tobytes() == second.tobytes()
