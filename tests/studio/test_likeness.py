"""Like pictures are found, others are not, and many take no time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from lora_train.studio import likeness

from .drawn import loaded, scene


def hashed(picture: Image.Image) -> int:
    found = likeness.phash(picture.convert("L"))
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_changed_copy_is_near_and_another_picture_is_not(seed, tmp_path):
    original = scene(seed)
    original.save(tmp_path / "a.jpg", quality=40)
    copies = [
        loaded(tmp_path / "a.jpg"),
        original.resize((150, 150)),
        ImageEnhance.Brightness(original).enhance(0.8),
    ]
    assert [likeness.distance(hashed(original), hashed(copy)) <= likeness.NEAR for copy in copies] == [True] * 3
    others = [likeness.distance(hashed(original), hashed(scene(n))) for n in range(20) if n != seed]
    assert min(others) > likeness.NEAR


def test_a_flat_picture_has_no_hash():
    assert likeness.phash(Image.new("L", (50, 50), 9)) is None
    assert likeness.groups([None, None]) == []


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 2**64 - 1), st.integers(0, 600)), max_size=40), st.integers(0, 20))
def test_groups_are_exact(hashes, near):
    found = likeness.groups(hashes, near)
    members = [index for group in found for index in group]
    assert len(members) == len(set(members)) and all(len(group) > 1 for group in found)
    for group in found:
        assert any(all(likeness.distance(hashes[i], hashes[j]) <= near for j in group) for i in group)
    alone = [i for i, value in enumerate(hashes) if value is not None and i not in members]
    for index in alone:  # of those that are near it, none stood first when it was looked at
        assert not [i for i in alone if i != index and likeness.distance(hashes[i], hashes[index]) <= near]


def test_ten_thousand_hashes_take_a_moment():
    chance = np.random.default_rng(1)
    bases = [int(n) for n in chance.integers(0, 2**63, 5000)]
    hashes = [value for base in bases for value in (base, base ^ 0b111)]
    began = time.process_time()
    found = likeness.groups(hashes)
    assert time.process_time() - began < 10
    assert found == [[2 * n, 2 * n + 1] for n in range(5000)]
