from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.blocks import recipe
from lora_train.blocks.presets import BUILTIN, PresetFile, Presets
from lora_train.blocks.recipe import Item
from lora_train.errors import UserError, UserErrors

from . import loras

finite = st.floats(allow_nan=False, allow_infinity=False)
vectors = st.sampled_from([12, 17, 20, 26]).flatmap(lambda n: st.tuples(*[finite] * n))
texts = st.text(min_size=1) | st.sampled_from(["1", "-0.5", 'a"b', "a,b:c", " a ", "x.y", "other=1"])
items = st.builds(Item, texts, finite, st.none() | texts | vectors, st.none() | finite, st.none() | finite).map(
    lambda item: replace(item, te=None) if item.te == item.strength else item
)
ONES = ",".join(["1"] * 17)


@given(st.lists(items, min_size=1, max_size=4))
def test_round_trip(given_items: list[Item]) -> None:
    assert recipe.parse_recipe(recipe.format_recipe(given_items)) == given_items


def test_the_seeds_recipe() -> None:
    assert recipe.parse_recipe("Test0:1:GP1,BASE:-1:GP2") == [Item("Test0", 1, "GP1"), Item("BASE", -1, "GP2")]


def test_spaces_and_lines_between_items() -> None:
    assert recipe.parse_recipe(" Test 0 : 1 : GP1 ,\n BASE:-.5") == [Item("Test 0", 1, "GP1"), Item("BASE", -0.5)]


def test_numbers_in_line_among_items() -> None:
    parsed = recipe.parse_recipe(f"A:1:{ONES},B:-1:GP2,C:2:{ONES.replace('1', '0.5')},D:1")
    assert parsed == [Item("A", 1, (1.0,) * 17), Item("B", -1, "GP2"), Item("C", 2, (0.5,) * 17), Item("D", 1)]


def test_strengths_apart_and_what_lies_in_no_block() -> None:
    parsed = recipe.parse_recipe(f"A:0.5/1:GP1,B:1 / -2:other=0:{ONES},C:1/1:other = 2")
    ones = (1.0,) * 17
    assert parsed == [Item("A", 1, "GP1", 0.5), Item("B", -2, ones, 1, 0), Item("C", 1, None, None, 2)]
    assert recipe.parse_recipe('A:1:"other=1"') == [Item("A", 1, "other=1")]


def test_quotes() -> None:
    assert recipe.parse_recipe('"a,b:c""d":1:"0.5",x:1') == [Item('a,b:c"d', 1, "0.5"), Item("x", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe, an empty item: this is not NAME:STRENGTH"),
        ("A:1,", "recipe, an empty item: this is not NAME:STRENGTH"),
        ("A", "recipe, A: this is not NAME:STRENGTH"),
        ("a, b:1", "recipe, a: this is not NAME:STRENGTH"),
        ("A:1:GP1,B", "recipe, B: this is not NAME:STRENGTH"),
        ("A:x:GP1", "recipe, A:x:GP1: this is not NAME:STRENGTH"),
        ("A:1/2/3", "recipe, A:1/2/3: this is not NAME:STRENGTH"),
        ("A:/1", "recipe, A:/1: this is not NAME:STRENGTH"),
        ("A:1:other=x:GP1", "recipe, A:1:other=x: 'x', the weight of what lies in no block, is not a number"),
        ("A:nan", "recipe, A:nan: this is not NAME:STRENGTH"),
        (":1:GP1", "recipe, :1:GP1: this is not NAME:STRENGTH"),
        ("A:1:", "recipe, A:1:: the third part is neither a preset nor 17 numbers"),
        ("A:1:GP1:2", "recipe, A:1:GP1: the third part is neither a preset nor 17 numbers"),
        (
            "A:1:1,0.5,B:1",
            "recipe, A:1:1: the list has 2 numbers where SD1.5 and SD2 have 17 (or 26) and SDXL has 12 (or 20)",
        ),
        ("A:1:1", "recipe, A:1:1: the list has 1 number where SD1.5 and SD2 have 17 (or 26) and SDXL has 12 (or 20)"),
        (
            "A:1:" + ",".join(["1"] * 16),
            "the list has 16 numbers where SD1.5 and SD2 have 17 (or 26) and SDXL has 12 (or 20)",
        ),
        ("A:1:" + ",".join(["1"] * 61), "SDXL has 12 (or 20); 61 are for FLUX"),
        ("A:1:1,R,1", "recipe, A:1:1: 'R', number 2, stands for a value that changes from picture to picture"),
        ("A:1:1,r,1", "recipe, A:1:1: 'r', number 2, is not a number"),
        ('A"b:1', "recipe: a quotation mark is out of place at 'A\"b:1'"),
        ('"A:1', "a quotation mark is out of place"),
    ],
)
def test_what_cannot_be_parsed(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe.parse_recipe(text)
    assert message in str(caught.value)


@pytest.fixture
def lora_dir(tmp_path: Path) -> Path:
    for name in (
        "Test0.safetensors",
        "style/BASE.safetensors",
        "a/same.safetensors",
        "b/same.safetensors",
        "v1.5.safetensors",
    ):
        path = tmp_path / "loras" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "loras"


def resolve(text: str, lora_dir: Path) -> list[recipe.Source]:
    return recipe.resolve(recipe.parse_recipe(text), lora_dir, BUILTIN, family="SD1.5")


def test_files_are_found_below_the_folder(lora_dir: Path) -> None:
    test0, base, path, dotted = resolve(f"Test0:2:GP1,BASE:-1,a/same:1:{ONES},v1.5:1", lora_dir)
    assert test0.path == lora_dir / "Test0.safetensors"
    assert test0.factor("IN01") == 1.2
    assert test0.factor("IN03") == 0
    assert base.path == lora_dir / "style" / "BASE.safetensors"
    assert {base.factor(block) for block in base.weights} == {-1}
    assert path.path == lora_dir / "a" / "same.safetensors"
    assert dotted.path.name == "v1.5.safetensors"


def test_everything_unknown_is_named_at_once(lora_dir: Path) -> None:
    with pytest.raises(UserErrors) as caught:
        resolve("Tset0:1:GP1,BASE:1:GP3,same:1", lora_dir)
    assert [str(error) for error in caught.value.errors] == [
        f"{lora_dir}: there is no LoRA 'Tset0'. Known are: Test0, …",
        "recipe, BASE: there is no preset 'GP3'. Known are: GP2, GP1, …",
        f"{lora_dir}: 2 LoRAs are named 'same'. Write one of a/same, b/same",
    ]


def test_presets_of_another_model(lora_dir: Path) -> None:
    def refusal(item: Item, presets: Presets) -> str:
        with pytest.raises(UserError) as caught:
            recipe.resolve([item], lora_dir, presets, family="SD1.5")
        return str(caught.value)

    twelve = "has 12 numbers where SD1.5 has 17 (or 26); 12 are for SDXL"
    assert refusal(Item("Test0", 1, "XL"), {"XL": (1.0,) * 12}) == f"recipe, Test0: preset 'XL' {twelve}"
    assert refusal(Item("Test0", 1, (1.0,) * 12), {}) == f"recipe, Test0: the list {twelve}"
    assert "the list has 16 numbers where" in refusal(Item("Test0", 1, (1.0,) * 16), {})
    assert "there is no preset 'GP1'. None is known" in refusal(Item("Test0", 1, "GP1"), {})


def test_a_preset_whose_line_is_faulty(lora_dir: Path) -> None:
    file = PresetFile.parse("RAND:" + ",".join(["R"] * 17), "p.txt")
    with pytest.raises(UserError, match=r"preset 'RAND' can't be used: 'R', number 1, stands for a value that changes"):
        recipe.resolve([Item("Test0", 1, "RAND")], lora_dir, file.presets, family="SD1.5", faults=file.faults)


def test_the_family_is_that_of_the_files(lora_dir: Path) -> None:
    xl = {"lora_te2_text_model_encoder_layers_0_mlp_fc1": (8, 8)}
    loras.write(lora_dir / "xl.safetensors", loras.state(xl, rank=2))
    loras.write(lora_dir / "sd.safetensors", loras.state({"lora_unet_conv_in": (8, 4, 3, 3)}, rank=2))
    weights = tuple(n / 10 for n in range(12))
    [source] = recipe.resolve([Item("xl", 2, weights)], lora_dir, {})
    assert source.family == "SDXL"
    assert (source.factor("IN04"), source.factor("OUT05"), source.factor("IN00")) == (0.2, 2.2, 0)
    assert source.factor("OTHER") == 2
    assert "OUT11" not in source.weights
    [source] = recipe.resolve([Item("xl", 1, weights)], lora_dir, {}, unlisted=1, other=0.5)
    assert (source.factor("IN00"), source.factor("OTHER")) == (1, 0.5)
    with pytest.raises(UserError) as caught:
        recipe.resolve([Item("xl", 1), Item("sd", -1, "GP2")], lora_dir, BUILTIN)
    assert str(caught.value).startswith(
        "recipe: these LoRAs are for different models: 'sd' for SD1.5 and 'xl' for SDXL. "
    )
    with pytest.raises(UserError, match=r"the list has 17 numbers where SDXL has 12 \(or 20\); 17 are for SD1.5"):
        recipe.resolve([Item("xl", 1, (1.0,) * 17)], lora_dir, {})


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: there is no such folder"):
        resolve("A:1", tmp_path / "none")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_once(lora_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.safetensors").touch()
    (lora_dir / "link").symlink_to(tmp_path / "elsewhere")
    (lora_dir / "loop").symlink_to(lora_dir)
    assert [source.path for source in resolve("far:1", lora_dir)] == [lora_dir / "link" / "far.safetensors"]
