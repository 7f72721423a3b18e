from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.blocks import presets
from lora_train.errors import UserError, UserErrors

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(
    st.characters(codec="utf-8", exclude_characters=":#", exclude_categories=("Cc", "Zl", "Zp")), min_size=1
).filter(lambda name: name == name.strip())
vectors = st.sampled_from([12, 17, 20, 26, 61]).flatmap(lambda n: st.tuples(*[finite] * n))
GP1 = "1.0,0.6,0.9,0.9,0.9,0.6,0.5,0.4,0.4,0.6,0.8,1.0,1.1,1.1,1.1,1.1,1.1"
GP2 = "0.3,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.2,0.2,0.2,0.2,0.2"
HINA4 = "0.25,0.25,0.25,0.25,0.75,0.5,0.75,0.75,0.8,0.8,0.8,0.85,0.85,0.85,1,1,1"


@given(st.dictionaries(names, vectors, max_size=3))
def test_round_trip(given_presets: presets.Presets) -> None:
    assert presets.parse_presets(presets.format_presets(given_presets)) == given_presets


@given(finite)
def test_numbers_round_trip(value: float) -> None:
    assert presets.parse_number(presets.format_number(value)) == value


def test_built_in_presets_are_the_seeds() -> None:
    seeds = presets.parse_presets(f"GP1:{GP1}\nGP2:{GP2}\nHINA4:{HINA4}\n")
    assert {name: presets.BUILTIN[name] for name in seeds} == seeds
    assert all(len(numbers) == 17 for numbers in presets.BUILTIN.values())
    assert presets.BUILTIN["MIDD"] == (1, 0, 0, 0, *[1] * 8, *[0] * 5)
    assert presets.BUILTIN["OUTALL"] == (1, *[0] * 7, *[1] * 9)
    assert presets.BUILTIN["GP1_MORE"][3:7] == (1, 1, 0.8, 0.6)


def test_comments_blank_lines_and_spaces() -> None:
    text = f"# what for\r\n\r\n  GP1 : {GP1.replace(',', ' , ')}  # style\r\nGP1:{GP1}\r\n"
    assert presets.parse_presets(text) == {"GP1": presets.BUILTIN["GP1"]}


def test_every_bad_line_is_named() -> None:
    text = f"A:{GP1}\nA:{GP2}\nB:1,2\n\nno colon\nC:{GP1.replace('0.4', 'R', 1)}\nD:{GP1},nan\n:{GP1}"
    with pytest.raises(UserErrors) as caught:
        presets.parse_presets(text, "p.txt")
    assert [str(error) for error in caught.value.errors] == [
        "p.txt, line 2: 'A' stands above with other numbers. Rename one of the two",
        "p.txt, line 3: 'B' has 2 numbers where SD1.5 has 17 (or 26)",
        "p.txt, line 5: this is not NAME:17 numbers. Begin the line with # if it is a comment",
        "p.txt, line 6: 'R', number 8, is not a number",
        "p.txt, line 7: 'nan', number 18, is not a number",
        "p.txt, line 8: this is not NAME:17 numbers. Begin the line with # if it is a comment",
    ]


@pytest.mark.parametrize("text", ["nan", "inf", "1_0", "1e999", "", "0x1", "１", "1,5"])
def test_what_is_no_number(text: str) -> None:
    assert presets.parse_number(text) is None


def test_sixteen_numbers() -> None:
    with pytest.raises(UserError, match=r"line 1: 'A' has 16 numbers where SD1\.5 has 17"):
        presets.parse_presets("A:" + ",".join(["1"] * 16))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "lbwpresets.txt"
    with pytest.raises(UserError, match=r"lbwpresets\.txt: there is no such preset file"):
        presets.read_presets(path)
    path.write_bytes(b"\xef\xbb\xbfGP1:" + GP1.encode())  # Windows Notepad's byte order mark
    assert presets.read_presets(path) == {"GP1": presets.BUILTIN["GP1"]}
    path.write_bytes(b"\xb7\xe7:1")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        presets.read_presets(path)
    with pytest.raises(UserError, match="preset file can't be read"):
        presets.read_presets(tmp_path)
    presets.write_presets(path, presets.BUILTIN)
    assert presets.read_presets(path) == presets.BUILTIN


@pytest.mark.parametrize("name", ["", "a:b", "a#b", " a", "a\nb"])
def test_names_that_no_line_can_hold(name: str) -> None:
    with pytest.raises(UserError, match="can't be the name of a preset"):
        presets.format_presets({name: presets.BUILTIN["ALL"]})
