from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.blocks import lbw
from lora_train.blocks.lbw import Tag
from lora_train.blocks.presets import BUILTIN, PresetFile, format_numbers
from lora_train.errors import UserError, UserErrors

ONES = ",".join(["1"] * 17)
finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(st.characters(exclude_characters=":<>=", exclude_categories=("Cs",)), min_size=1).filter(
    lambda name: name == name.strip()
)
vectors = st.sampled_from([12, 17, 20, 26]).flatmap(lambda n: st.tuples(*[finite] * n))


def tags(prompt: str, family: str | None = None) -> list[Tag]:
    return lbw.parse_prompt(prompt, BUILTIN, family)


@pytest.mark.parametrize(
    ("text", "te", "unet", "weights"),
    [
        ("<lora:Test 0:1:lbw=GP1>", 1, 1, "GP1"),
        ("<lora:Test 0:0.5:0.7:lbw=GP1>", 0.5, 0.7, "GP1"),
        ("<lora:Test 0:lbw=ALL0.5:-.5>", -0.5, -0.5, "ALL0.5"),
        ("<lora:Test 0:te=0.5:unet=2:w=GP2>", 0.5, 2, "GP2"),
        ("<lora:Test 0:unet=0.3:lbw=GP1>", 0.3, 0.3, "GP1"),
        ("<lora:Test 0:te=0.3:lbw=GP1>", 0.3, 0.3, "GP1"),
        ("<lora:Test 0: lbw = GP1 >", 1, 1, "GP1"),
        (f"<lyco:Test 0:1:1:lbw={ONES}>", 1, 1, (1.0,) * 17),
        ("<lora:Test 0:0.8>", 0.8, 0.8, None),
        ("<lora:Test 0>", 1, 1, None),
        ("<lora:Test 0:unet=0.3>", 1, 0.3, None),  # without weights it is the WebUI's own
        ("<lora:Test 0:1:start=5>", 1, 1, None),  # another extension's
    ],
)
def test_what_a_tag_says(text: str, te: float, unet: float, weights: str | tuple[float, ...] | None) -> None:
    [tag] = tags(f"a girl, {text} smile")
    assert (tag.name, tag.te, tag.unet, tag.weights) == ("Test 0", te, unet, weights)
    assert tag.numbers == (BUILTIN.get(weights) if isinstance(weights, str) else weights)
    assert tag.span == (8, 8 + len(text))
    assert lbw.has_weights(text) == (weights is not None)


def test_names_that_look_like_arguments() -> None:
    """A LoRA's name is the first piece whatever it holds; w= is an argument of its own and not the end of lbw=."""
    assert tags("<lora:te=x:1:lbw=GP1>")[0].name == "te=x"
    assert tags("<lora:A:1:newlbw=GP9>")[0].weights is None
    assert tags("<hypernet:A:1:lbw=nothing> (a:1.2) <b") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<lora:A:1:lbw=GP3>", "there is no preset 'GP3'. Known are: GP2, GP1, …"),
        ("<lora:A:1:lbw=gp1>", "there is no preset 'gp1'"),
        ("<lora:A:1:lbw=>", "lbw= is empty"),
        ("<lora:A:1:lbw=1>", "the list has 1 number where SD1.5 and SD2 have 17"),
        (f"<lora:A:1:lbw={ONES[:-2]}>", "the list has 16 numbers where SD1.5 and SD2 have 17"),
        (f"<lora:A:1:lbw={ONES[:-2]},R>", "'R', number 17, stands for a value that changes"),
        (f"<lora:A:1:lbw={ONES[:-2]},x>", "'x', number 17, is not a number"),
        ("<lora:A:1:GP1>", "'GP1' stands where the UNet's strength belongs. Write lbw=GP1 if it is a preset"),
        ("<lora:A:GP1>", "'GP1' stands where the text encoder's strength belongs"),
        ("<lora:A::lbw=GP1>", "'' stands where the text encoder's strength belongs. Write a number"),
        ("<lora:A:1:lbw=GP1:lbw=GP2>", "lbw= stands there twice"),
        ("<lora:A:1:lbw=GP1:w=GP1>", "lbw= and w= mean the same"),
        ("<lora:A:te=1:te=2>", "te= stands there twice"),
        ("<lora:A:1:lbw=GP1:start=5>", "start= is of the extension LoRA Block Weight, which is not in use"),
        ("<lora:A:1:lbw=GP1:lbwe=ATTNDEEPON>", "lbwe= is of the extension LoRA Block Weight"),
        ("<lora:A:1:1:0.5>", "'0.5', the rank to use, is not a whole number"),
    ],
)
def test_nothing_is_guessed(text: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        tags(text)
    shown = text if len(text) <= 60 else text[:57] + "…>"
    assert str(caught.value).startswith(f"prompt, {shown}: {problem}")


def test_a_preset_comes_before_numbers() -> None:
    """As for LoRA Block Weight, a preset may have the name of a number or hold a comma."""
    presets = {"1": (0.5,) * 17, "a,b": (0.25,) * 17}
    first, second = lbw.parse_prompt("<lora:A:1:lbw=1><lora:A:1:lbw=a,b>", presets)
    assert (first.numbers, second.numbers) == ((0.5,) * 17, (0.25,) * 17)


def test_every_wrong_tag_is_named() -> None:
    with pytest.raises(UserErrors) as caught:
        tags("<lora:A:1:lbw=GP9>, <lora:B:1:lbw=GP1> <lora:C:1:lbw=1,2>")
    assert [error.where for error in caught.value.errors] == [
        "prompt, <lora:A:1:lbw=GP9>",
        "prompt, <lora:C:1:lbw=1,2>",
    ]


def test_the_count_is_the_familys() -> None:
    with pytest.raises(UserError, match=r"preset 'GP1' has 17 numbers where SDXL has 12 \(or 20\); 17 are for SD1.5"):
        tags("<lora:A:1:lbw=GP1>", "SDXL")
    assert tags("<lora:A:1:lbw=" + ",".join(["1"] * 12) + ">", "SDXL")[0].numbers == (1.0,) * 12


def test_faulty_presets_say_why() -> None:
    file = PresetFile.parse("RAND:" + ",".join(["U"] * 17), "p.txt")
    with pytest.raises(UserError, match=r"prompt, <lora:A:1:lbw=RAND>: preset 'RAND' can't be used: 'U', number 1"):
        lbw.parse_prompt("<lora:A:1:lbw=RAND>", file.presets, faults=file.faults)


@given(names, finite, finite, st.none() | st.integers(1, 999), st.none() | vectors | st.sampled_from(sorted(BUILTIN)))
def test_tags_round_trip(
    name: str, te: float, unet: float, dyn: int | None, weights: str | tuple[float, ...] | None
) -> None:
    tag = Tag(name, te, unet, dyn, weights)
    [again] = tags(f"x {lbw.format_tag(tag)} y")
    assert (again.name, again.te, again.unet, again.dyn, again.weights) == (name, te, unet, dyn, weights)


@pytest.mark.parametrize("tag", [Tag("a:b"), Tag("a>"), Tag(""), Tag("A", weights="1"), Tag("A", weights="a,b")])
def test_what_a_prompt_cannot_hold(tag: Tag) -> None:
    with pytest.raises(UserError, match="a prompt can't hold"):
        lbw.format_tag(tag)


@given(st.lists(st.tuples(names, names, vectors), max_size=3))
def test_infotext_is_read_back(cases: list[tuple[str, str, tuple[float, ...]]]) -> None:
    presets = {preset: numbers for _, preset, numbers in cases}
    text = lbw.infotext([Tag(name, weights=preset, numbers=presets[preset]) for name, preset, _ in cases])
    assert lbw.parse_infotext(text) == presets


def test_a_picture_is_drawn_again_after_its_preset_was_changed() -> None:
    prompt = f"a <lora:A:1:lbw=GP1>, <lora:B:-1:lbw=GP2> <lora:C:1:lbw={ONES}> b"
    text = lbw.infotext(tags(prompt))
    assert text == f"A:GP1:{format_numbers(BUILTIN['GP1'])}; B:GP2:{format_numbers(BUILTIN['GP2'])}"
    assert lbw.restore(prompt, text, BUILTIN) == prompt
    changed = {**BUILTIN, "GP1": (0.5,) * 17}
    again = lbw.restore(prompt, text, changed)
    assert again == prompt.replace("lbw=GP1", "lbw=" + format_numbers(BUILTIN["GP1"]))
    assert [tag.numbers for tag in lbw.parse_prompt(again, changed)] == [tag.numbers for tag in tags(prompt)]
    assert lbw.restore(prompt, text, {}) == lbw.with_numbers(prompt, tags(prompt)), "presets that are gone"
    gp1, gp2 = (format_numbers(BUILTIN[name]) for name in ("GP1", "GP2"))
    assert lbw.with_numbers(prompt, tags(prompt)) == prompt.replace("GP1", gp1).replace("GP2", gp2)
    assert lbw.with_numbers("<lora:A:lbw=NONE:0.5>", tags("<lora:A:lbw=NONE:0.5>")) == (
        "<lora:A:lbw=" + ",".join(["0"] * 17) + ":0.5>"
    )
    with pytest.raises(UserError, match="LoRA block numbers: 'A:GP1:1,x' is not LORA:PRESET:NUMBERS"):
        lbw.parse_infotext("A:GP1:1,x")
