import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.dataset import captions
from lora_train.dataset.options import CaptionOptions
from lora_train.dataset.pictures import Concept, Dataset, Picture
from lora_train.errors import UserError
from lora_train.settings import TrainSettings

from .tables import table

TABLE = table("captions")
TEXTS = st.text(max_size=80)


OPTIONS = {
    "caption_prefix": "prefix",
    "caption_suffix": "suffix",
    "caption_separator": "separator",
    "keep_tokens": "keep_tokens",
    "keep_tokens_separator": "keep_tokens_separator",
    "secondary_separator": "secondary_separator",
    "shuffle_caption": "shuffle",
    "enable_wildcard": "wildcard",
    "caption_dropout_rate": "dropout_rate",
    "caption_dropout_every_n_epochs": "dropout_every_n_epochs",
    "caption_tag_dropout_rate": "tag_dropout_rate",
    "token_warmup_min": "token_warmup_min",
    "token_warmup_step": "token_warmup_step",
}


def options(**kohya: object) -> CaptionOptions:
    """From sd-scripts' names; what it leaves empty is None there."""
    return CaptionOptions(**{OPTIONS[name]: value for name, value in kohya.items() if value is not None})


def processed(caption: str, seed: int = 0, epoch: int = 1, step: int = 0, max_steps: int = 0, **kohya: object) -> str:
    return captions.process(caption, options(**kohya), random.Random(seed), epoch=epoch, step=step, max_steps=max_steps)


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: str(case[2]))
def test_captions_become_what_sd_scripts_makes_of_them_with_the_same_draws(case: list[Any]) -> None:
    caption, given_options, seed, epoch, step, total, result, following = case
    generator = random.Random(seed)
    made = captions.process(caption, options(**given_options), generator, epoch=epoch, step=step, max_steps=total)
    assert made == result
    assert generator.random() == following


def test_the_table_knows_every_option() -> None:
    assert {name for case in TABLE["cases"] for name in case[1]} == set(OPTIONS)


def test_options_come_from_the_settings() -> None:
    given_settings: dict[str, Any] = {
        **dict.fromkeys(OPTIONS, "x"),
        "keep_tokens": 2,
        "shuffle_caption": True,
        "enable_wildcard": True,
        "caption_dropout_rate": 0.25,
        "caption_dropout_every_n_epochs": 3,
        "caption_tag_dropout_rate": 0.5,
        "token_warmup_min": 4,
        "token_warmup_step": 0.75,
    }
    assert CaptionOptions.of(TrainSettings(**given_settings)) == options(**given_settings)
    assert CaptionOptions.of(TrainSettings()) == CaptionOptions()
    assert not CaptionOptions().vary
    assert options(shuffle_caption=True).vary


@given(TEXTS, st.integers(0, 10), st.integers())
def test_without_an_option_the_first_line_is_left_verbatim(caption: str, keep: int, seed: int) -> None:
    assert processed(caption, seed, keep_tokens=keep) == caption.split("\n")[0]


TAG = st.text(alphabet="abcdefgh 0{}()", max_size=6)


@given(st.lists(TAG, min_size=1, max_size=8), st.integers(0, 10), st.integers(), st.sampled_from([",", ";", "|"]))
def test_shuffling_keeps_every_tag_and_the_first_ones_in_place(
    tags: list[str], keep: int, seed: int, separator: str
) -> None:
    before = [tag.strip() for tag in separator.join(tags).strip().split(separator)]
    caption = separator.join(tags)
    after = processed(caption, seed, shuffle_caption=True, keep_tokens=keep, caption_separator=separator).split(", ")
    assert Counter(after) == Counter(before)
    assert after[:keep] == before[:keep]


@given(st.lists(TAG, min_size=1, max_size=8), st.integers(0, 5), st.integers(), st.floats(0.01, 1), st.integers(0, 30))
def test_leaving_out_and_warming_up_invent_nothing_and_spare_what_is_kept(
    tags: list[str], keep: int, seed: int, rate: float, step: int
) -> None:
    before = [tag.strip() for tag in ",".join(tags).strip().split(",")]
    made = processed(
        ",".join(tags), seed, step=step, keep_tokens=keep, caption_tag_dropout_rate=rate, token_warmup_step=20
    )
    after = made.split(", ") if made or "" in before else []
    assert not Counter(after) - Counter(before)
    assert after[:keep] == before[:keep]


@given(TEXTS, st.integers())
def test_double_braces_are_no_wildcards(text: str, seed: int) -> None:
    plain = text.replace("{", "").replace("}", "").replace("\n", "")
    assert processed("{{" + plain + "}}", seed, enable_wildcard=True) == "{" + plain + "}"


def test_a_wildcard_chooses_one_of_its_words_and_one_line() -> None:
    made = {processed("a {red|blue} hat\na dog", seed, enable_wildcard=True) for seed in range(50)}
    assert made == {"a red hat", "a blue hat", "a dog"}
    assert processed("a {red|blue} hat\na dog") == "a {red|blue} hat"


def test_every_nth_epoch_has_no_captions() -> None:
    made = [processed("a", epoch=epoch, caption_dropout_every_n_epochs=3) for epoch in range(1, 7)]
    assert made == ["a", "a", "", "a", "a", ""]


def test_tags_come_one_by_one_in_the_warm_up() -> None:
    caption = "a, b, c, d, e"
    counts = [
        len(processed(caption, step=step, max_steps=100, token_warmup_step=0.1, token_warmup_min=1).split(", "))
        for step in (0, 2, 5, 9, 10, 50)
    ]
    assert counts == [1, 1, 3, 4, 5, 5]


def test_chance_depends_on_the_generator_alone() -> None:
    def shuffled(seed: int, keep: int = 1) -> str:
        return processed("a, b ,c,,d,  e", seed, shuffle_caption=True, keep_tokens=keep)

    assert shuffled(3) == shuffled(3)
    assert {shuffled(n) for n in range(9)} != {shuffled(3)}
    assert shuffled(0, 99) == "a, b, c, , d, e"


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


def test_wildcards_choose_among_all_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\r\n  first, line \n\n\nsecond\0 line\r\n \n")
    assert captions.read(path, all_lines=True) == ("first, line\nsecond line", "NUL characters left out")


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
    reg = Concept(Path("reg/25_a"), "a", 25, pictures[1:2], is_reg=True)
    again = Concept(Path("x/25_a"), "a", 25, pictures, group=1)
    both = Dataset(Path(), (*dataset.concepts, reg, again), ())
    assert captions.tag_frequency(both)["25_a"] == {"red hat": 3, "smile": 3, "cat": 2}
