import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.dataset import captions
from lora_train.dataset.folders import Concept, Dataset, Picture
from lora_train.errors import UserError

TEXTS = st.text(max_size=80)


def stripped_tags(caption: str) -> list[str]:
    return [tag.strip() for tag in caption.split("\n")[0].strip().split(",")]


@given(TEXTS, st.integers(0, 10), st.integers())
def test_without_shuffling_the_first_line_is_left_verbatim(caption: str, keep: int, seed: int) -> None:
    assert captions.process(caption, random.Random(seed), False, keep) == caption.split("\n")[0]


@given(TEXTS, st.integers(0, 10), st.integers())
def test_shuffling_keeps_every_tag_and_the_first_ones_in_place(caption: str, keep: int, seed: int) -> None:
    before = stripped_tags(caption)
    after = captions.process(caption, random.Random(seed), True, keep).split(", ")
    assert Counter(", ".join(after)) == Counter(", ".join(before))
    if all(", " not in tag for tag in before):
        assert Counter(after) == Counter(before)
        assert after[:keep] == before[:keep]


def test_shuffling_depends_on_the_generator_alone() -> None:
    caption = "a, b ,c,,d,  e"
    first = captions.process(caption, random.Random(3), True, 1)
    assert first == captions.process(caption, random.Random(3), True, 1)
    assert {captions.process(caption, random.Random(n), True, 1) for n in range(9)} != {first}
    assert captions.process(caption, random.Random(0), True, 99) == "a, b, c, , d, e"


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1))
def test_utf8_is_read_as_it_is(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("captions") / "a.txt"
    path.write_bytes(text.encode())
    if not text.startswith("\ufeff"):
        assert captions.read(path) == (text.strip(), "")


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [
        ("1girl, 微笑, 蓝色的天空", "utf-8-sig", ""),
        ("1girl, 微笑", "utf-16", "UTF-16"),
        ("1girl, smile", "utf-16-le", "UTF-16"),
        ("1girl, smile", "utf-16-be", "UTF-16"),
        ("1girl, smile", "utf-32", "UTF-32"),
        ("1girl, 微笑, 蓝色的天空", "gbk", "GBK"),
        ("狗", "gbk", "GBK"),
        ("sky, 云, tree", "gbk", "GBK"),
        ("繁體字, 髮", "gbk", "GBK"),
        ("1girl, 笑顔, スカート, 青い空", "cp932", "Shift-JIS"),
        ("スカート", "cp932", "Shift-JIS"),
        ("café, naïve fiancée, “quoted”", "cp1252", "cp1252"),
        ("it’s a créée, Ångström – Straße", "cp1252", "cp1252"),
    ],
)
def test_older_encodings_are_read_and_noted(tmp_path: Path, text: str, codec: str, name: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(codec))
    caption, note = captions.read(path)
    assert caption == text
    assert name in note
    assert bool(name) == bool(note)


@pytest.mark.parametrize(
    ("data", "caption", "note"),
    [
        (b"", "", ""),
        (b" \r\n", "", ""),
        (b" a, b \r\n\r\n", "a, b", ""),
        (b"a\nb", "a", "first line"),
        (b"\na", "", "first line"),
        (b"a\rb", "a", "first line"),
        (b"a,\0 b", "a, b", "NUL"),
        (b"<lora:x:1>, (a:1.2)", "<lora:x:1>, (a:1.2)", ""),
        (b",,,", ",,,", ""),
    ],
)
def test_first_line(tmp_path: Path, data: bytes, caption: str, note: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    read, noted = captions.read(path)
    assert read == caption
    assert note in noted
    assert bool(note) == bool(noted)


@pytest.mark.parametrize("data", [b"\xff\xfea", b"\xff\xff\x81\x8d", b"x" * (2**20 + 1)])
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.txt"):
        captions.read(path)
    with pytest.raises(UserError):
        captions.read(tmp_path)


@given(st.binary(max_size=60))
def test_any_bytes_give_a_caption_or_a_user_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("captions") / "a.txt"
    path.write_bytes(data)
    try:
        caption, note = captions.read(path)
    except UserError:
        return
    assert "\0" not in caption
    assert "\n" not in caption
    try:
        data.decode()
    except UnicodeDecodeError:
        assert note


def test_tag_frequency_counts_pictures_in_lower_case() -> None:
    pictures = tuple(Picture(Path(c), c, 1, 1) for c in ("Red Hat, smile,", "smile , red hat,, cat", ""))
    dataset = Dataset(Path(), (Concept(Path("x/25_a"), "a", 25, pictures), Concept(Path("x/2_b"), "b", 2, ())), ())
    assert captions.tag_frequency(dataset) == {"25_a": {"red hat": 2, "smile": 2, "cat": 1}, "2_b": {}}
