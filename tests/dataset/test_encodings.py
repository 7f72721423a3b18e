"""The one decoder of text files: what fits for certain first, then the likely one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.dataset import encodings
from lora_train.errors import UserError

ENGLISH = ["1girl", "smile", "long hair", "solo", "looking at viewer", "outdoors", "tree", "sky", "hat"]
WORDS = {
    "GBK": "微笑 蓝色的天空 长发 女孩 站立 看着观众 白色背景 户外 夜晚 帽子 红色眼睛 学校制服 雨伞 樱花 画风 插画",
    "Shift-JIS": "笑顔 スカート 青い空 長い髪 女の子 こちらを見る 白背景 屋外 帽子 赤い目 制服 傘 花 リボン",
    "cp1252": "café naïve fiancée “quoted” it’s créée Ångström Straße übergroß señora forêt garçon mädchen",
}


@pytest.mark.parametrize("name", WORDS)
def test_older_encodings_are_told_apart(name: str) -> None:
    """Captions of mixed words, one line each; a few with a single foreign word are taken for another."""
    chance = random.Random(1)
    right = 0
    for _ in range(300):
        tags = chance.sample(WORDS[name].split(), chance.randint(1, 4)) + chance.sample(ENGLISH, chance.randint(0, 6))
        chance.shuffle(tags)
        text = ", ".join(tags)
        right += encodings.decode(text.encode(encodings.CODECS[name])) == (text, name)
    assert right >= 285


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"abc", ""),
        (b"", ""),
        ("微笑".encode(), ""),
        ("微笑".encode("utf-8-sig"), "UTF-8-BOM"),
        ("微笑".encode("utf-16"), "UTF-16"),
        ("a, b".encode("utf-16-le"), "UTF-16"),
        ("a, b".encode("utf-16-be"), "UTF-16"),
        ("a".encode("utf-32"), "UTF-32"),
    ],
)
def test_what_is_certain(data: bytes, encoding: str) -> None:
    text, found = encodings.decode(data)
    assert found == encoding
    assert not encodings.is_guess(found)
    assert "\ufeff" not in text


def test_named_encodings() -> None:
    assert encodings.decode_as("猫".encode("cp932"), "Shift-JIS") == "猫"
    assert encodings.decode_as(b"\xef\xbb\xbfa", "UTF-8") == "a"
    assert encodings.decode_as(b"abc", "UTF-16") is None
    assert encodings.decode_as("天空".encode("gbk"), "UTF-8") is None


@given(st.binary(max_size=80))
def test_any_bytes_are_text_or_a_user_error_that_names_the_file(data: bytes) -> None:
    try:
        text, encoding = encodings.decode(data, "a.txt")
    except UserError as error:
        assert error.where == "a.txt"
        return
    assert isinstance(text, str)
    assert encoding == "" or encoding in {*encodings.CODECS, encodings.BOM, "UTF-32"}


@given(st.text(max_size=60))
def test_utf8_stays_as_it_is(text: str) -> None:
    data = text.encode("utf-8", "ignore")
    if not data.startswith((b"\xef\xbb\xbf",)) and b"\0" not in data:
        assert encodings.decode(data) == (data.decode("utf-8"), "")
