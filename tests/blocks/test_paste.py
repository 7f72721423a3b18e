from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.blocks import lbw, paste
from lora_train.blocks.paste import Pasted
from lora_train.blocks.presets import BUILTIN, PresetFile, format_numbers
from lora_train.errors import UserError, UserErrors

GP1, GP2 = "1.0,0.6,0.9,0.9,0.9,0.6,0.5,0.4,0.4,0.6,0.8,1.0,1.1,1.1,1.1,1.1,1.1", "0.3" + ",0.1" * 11 + ",0.2" * 5
vectors = st.sampled_from([12, 17, 20, 26]).flatmap(lambda n: st.tuples(*[st.floats(-9, 9)] * n))


def parse(text: str) -> list[Pasted]:
    return paste.parse_pasted(text, BUILTIN)


def test_a_prompt() -> None:
    text = f"masterpiece, <lora:Test0:1:0.8:lbw=GP1>,\n<lora:BASE:-1:lbw={GP2}> <lora:C:0.5>\nNegative prompt: bad"
    assert parse(text) == [
        Pasted(1, BUILTIN["GP1"], "GP1", "Test0", 1, 0.8),
        Pasted(2, BUILTIN["GP2"], None, "BASE", -1, -1),
        Pasted(2, None, None, "C", 0.5, 0.5),
    ]


def test_a_pictures_text_brings_its_own_numbers() -> None:
    numbers = (0.5,) * 17
    kept = lbw.infotext([lbw.Tag("A", weights="MINE", numbers=numbers)])
    text = f"<lora:A:1:lbw=MINE>\nNegative prompt: bad\nSteps: 20, {lbw.INFOTEXT}: {json.dumps(kept)}, Version: 1"
    assert parse(text) == [Pasted(1, numbers, "MINE", "A")]


def test_a_recipe_as_people_publish_it() -> None:
    text = f"# merge\nTest0:1:GP1,BASE:-1:GP2 # what for\n\nA:0.5:{GP1},B:1\nGP1:{GP1}\n  GP2 : {GP2}\n"
    assert parse(text) == [
        Pasted(2, BUILTIN["GP1"], "GP1", "Test0"),
        Pasted(2, BUILTIN["GP2"], "GP2", "BASE", -1, -1),
        Pasted(4, BUILTIN["GP1"], None, "A", 0.5, 0.5),
        Pasted(4, None, None, "B"),
        Pasted(5, BUILTIN["GP1"], "GP1"),
        Pasted(6, BUILTIN["GP2"], "GP2"),
    ]


@given(vectors, st.sampled_from([",", ", ", " ", "，", "\n", ",\n", "\t", " | "]))
def test_bare_numbers(numbers: tuple[float, ...], separator: str) -> None:
    text = separator.join(format_numbers([number]) for number in numbers)
    assert parse(text) == [Pasted(1, numbers)]


def test_two_lines_of_numbers_are_two_sets() -> None:
    assert parse(f"{GP1}\n{GP2}") == [Pasted(1, BUILTIN["GP1"]), Pasted(2, BUILTIN["GP2"])]
    assert parse(f"[{GP1}]") == [Pasted(1, BUILTIN["GP1"])]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is nothing to read"),
        ("# only this", "there is nothing to read"),
        ("1,2,3", "line 1: the list has 3 numbers where"),
        ("A:1,2,3", "line 1: 'A' has 3 numbers where"),
        (f"\nA:{GP1},R", "line 2: 'R', number 18, stands for a value that changes"),
        ("Test0:1:GP9", "line 1: there is no preset 'GP9'. Known are: GP2, GP1"),
        ("Test0:1:1,2", "line 1, Test0:1:1: the list has 2 numbers"),
        ("just words", "line 1, just words: this is not NAME:STRENGTH"),
        ("\n\n<lora:A:1:lbw=GP9>", "prompt, <lora:A:1:lbw=GP9>: there is no preset 'GP9'"),
        ('<lora:A:1> LoRA block numbers: "A:B"', "LoRA block numbers: 'A:B' is not"),
    ],
)
def test_what_is_wrong_is_named(text: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert str(caught.value).startswith(problem)


def test_every_wrong_line_is_named() -> None:
    with pytest.raises(UserErrors) as caught:
        parse(f"A:1,2,3\nGP1:{GP1}\nB:1:GP9\nx")
    assert [str(error.where) for error in caught.value.errors] == ["line 1", "line 3", "line 4, x"]


def test_family_and_faults() -> None:
    with pytest.raises(UserError, match=r"line 1: 'A' has 17 numbers where SDXL has 12"):
        paste.parse_pasted(f"A:{GP1}", BUILTIN, "SDXL")
    file = PresetFile.parse("RAND:" + ",".join(["U"] * 17), "p.txt")
    with pytest.raises(UserError, match=r"preset 'RAND' can't be used"):
        paste.parse_pasted("A:1:RAND", file.presets, faults=file.faults)


@given(st.text())
def test_anything_else_is_an_error_and_no_crash(text: str) -> None:
    with contextlib.suppress(UserError):
        parse(text)
