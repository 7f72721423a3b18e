"""Captions written beside pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_train.dataset.tagging import TagOptions, Writer, Writing, combine, tags_text
from lora_train.errors import UserError, UserErrors

NAMES = ["long_hair", "1girl", "smile_(person)", "rating:safe", "hat"]
SCORES = [0.9, 0.99, 0.5, 1.0, 0.49]


@pytest.mark.parametrize(
    ("options", "caption"),
    [
        ({}, "1girl, long hair, smile (person)"),
        ({"threshold": 0.4}, "1girl, long hair, smile (person), hat"),
        ({"spaces": False}, "1girl, long_hair, smile_(person)"),
        ({"escape": True}, r"1girl, long hair, smile \(person\)"),
        ({"sort": "alphabet"}, "1girl, long hair, smile (person)"),
        ({"sort": "alphabet", "threshold": 0.0}, "1girl, hat, long hair, smile (person)"),
        ({"exclude": "long hair, 1girl"}, "smile (person)"),
        ({"exclude": ["long_hair"]}, "1girl, smile (person)"),
        ({"ranks": True, "threshold": 0.9}, "(1girl:0.990), (long hair:0.900)"),
        ({"threshold": 1}, ""),
    ],
)
def test_tags_as_a_caption(options: dict[str, Any], caption: str) -> None:
    assert tags_text(NAMES, SCORES, TagOptions.from_dict(options)) == caption


@pytest.mark.parametrize(
    "options",
    [
        *({"threshold": value} for value in (-0.1, 1.5, "0.5", None, True, float("nan"))),
        *({"batch_size": value} for value in (0, 65, 2.5, "1e9", 1e308)),
        {"sort": "length"},
        {"spaces": 1},
        {"exclude": [1]},
        {"exclude": 3},
        {"min_length": 50, "max_length": 20},
    ],
)
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        TagOptions.from_dict(options)
    assert caught.value.where in options
    assert caught.value.remedy


def test_all_wrong_options_at_once() -> None:
    with pytest.raises(UserErrors) as caught:
        TagOptions.from_dict({"threshold": 2, "beams": 0, "nonsense": 1})
    assert [error.where for error in caught.value.errors] == ["beams", "nonsense", "threshold"]
    for wrong in ({"existing": "burn"}, {"extension": "txt"}, {"extension": "./../x"}, {"trigger": "a\nb"}):
        with pytest.raises(UserError) as one:
            Writing.from_dict(wrong)
        assert one.value.where in wrong
    assert Writing.from_dict({"existing": "append"}) == Writing("append")


@pytest.mark.parametrize(
    ("existing", "old", "written"),
    [
        ("keep", None, "hina, a, b"),
        ("keep", "", "hina, a, b"),
        ("keep", "mine", None),
        ("replace", "mine, a", "hina, a, b"),
        ("append", "mine, A", "hina, mine, A, b"),
        ("prepend", "mine, a", "hina, a, b, mine"),
        ("append", "mine, hina", "hina, mine, a, b"),
        ("append", "one\n\ntwo, b", "hina, one, a, b\nhina, two, b, a"),
        ("append", None, "hina, a, b"),
    ],
)
def test_what_becomes_of_a_caption(existing: str, old: str | None, written: str | None) -> None:
    assert combine(old, "a, b", Writing(existing, trigger="hina")) == written


@pytest.mark.parametrize("existing", ["keep", "replace", "append", "prepend"])
def test_nothing_never_takes_the_place_of_something(existing: str) -> None:
    assert combine("mine", "", Writing(existing, trigger="hina")) is None
    assert combine(None, "", Writing(existing)) is None
    assert combine(None, " ", Writing(existing, trigger="hina")) == "hina"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures: without a caption, with one, with one in another encoding, with an empty one."""
    for name in ("none", "some", "utf16", "empty"):
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "some.txt").write_bytes(b"mine\r\n")
    (tmp_path / "utf16.txt").write_text("mine", encoding="utf-16")
    (tmp_path / "empty.txt").touch()
    return tmp_path


def texts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.txt"))}


def write_all(folder: Path, writing: Writing) -> dict[str, str]:
    writer = Writer(writing, lambda path, data: path.write_bytes(data))
    return {path.stem: writer.write(path, "a, b") for path in sorted(folder.glob("*.png"))}


def test_nothing_is_overwritten_without_being_told(folder: Path) -> None:
    before = texts(folder)
    done = write_all(folder, Writing(trigger="hina"))
    assert done == {"none": "written", "some": "kept", "utf16": "kept", "empty": "written"}
    assert texts(folder) == {**before, "none.txt": b"hina, a, b", "empty.txt": b"hina, a, b"}


@pytest.mark.parametrize("existing", ["replace", "append", "prepend"])
def test_what_writes_is_given_every_caption(folder: Path, existing: str) -> None:
    """A project's journal, which remembers what was there."""
    before = texts(folder)
    written: dict[str, bytes] = {}
    writer = Writer(Writing(existing), lambda path, data: written.update({path.name: data}))
    for path in sorted(folder.glob("*.png")):
        assert writer.write(path, "a, b") == "written"
    assert set(written) == {"none.txt", "some.txt", "utf16.txt", "empty.txt"}
    assert texts(folder) == before


def test_a_caption_that_is_the_same_is_left_alone(folder: Path) -> None:
    (folder / "some.txt").write_text("a, b", encoding="utf-8")
    done = write_all(folder, Writing("append"))
    assert done == {"none": "written", "some": "same", "utf16": "written", "empty": "written"}


def test_two_pictures_of_one_caption_file(folder: Path) -> None:
    (folder / "none.jpg").touch()
    writer = Writer(Writing("append"), lambda path, data: path.write_bytes(data))
    writer.write(folder / "none.png", "a")
    with pytest.raises(UserError, match=r"none\.png has the same caption file, none\.txt"):
        writer.write(folder / "none.jpg", "b")


def test_text_that_cannot_be_read_is_not_mixed_with_ours(folder: Path) -> None:
    (folder / "some.txt").write_bytes(b"\xff\xfe\x00")
    for existing in ("append", "prepend"):
        with pytest.raises(UserError, match=r"some\.txt"):
            Writer(Writing(existing), lambda path, data: None).write(folder / "some.png", "a")
    assert Writer(Writing("keep"), lambda path, data: None).write(folder / "some.png", "a") == "kept"
    assert (folder / "some.txt").read_bytes() == b"\xff\xfe\x00"
