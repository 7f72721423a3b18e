"""Mixes: read from JSON with every problem at once, found in the folder, said as text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.blocks import sound
from lora_train.blocks.families import BLOCKS_17, BLOCKS_26
from lora_train.blocks.lbw import parse_prompt
from lora_train.blocks.mix import Mix, Part, Scene, difference, find, mix_from, numbers_text, prompt_of, recipe_of
from lora_train.blocks.presets import BUILTIN
from lora_train.blocks.recipe import parse_recipe, resolve
from lora_train.errors import UserError, UserErrors

from . import loras

PLAIN = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (8, 6),
    "lora_unet_mid_block_attentions_0_proj_in": (8, 8, 1, 1),
    "lora_unet_down_blocks_0_attentions_0_proj_in": (8, 8, 1, 1),
}
WITH_CONV = {**PLAIN, "lora_unet_down_blocks_0_downsamplers_0_conv": (8, 8, 3, 3), "lora_unet_conv_out": (4, 8, 3, 3)}


@pytest.fixture
def lora_dir(tmp_path: Path) -> Path:
    loras.write(tmp_path / "style" / "Test0.safetensors", loras.state(PLAIN, rank=2, seed=1))
    loras.write(tmp_path / "a, b c.safetensors", loras.state(PLAIN, rank=3, seed=2))
    loras.write(tmp_path / "conv.safetensors", loras.state(WITH_CONV, rank=2, seed=3))
    xl = {"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q": (8, 8)}
    loras.write(tmp_path / "xl.safetensors", loras.state(xl, rank=2))
    return tmp_path


def weights(value: float = 1.0, **other: float) -> dict[str, float]:
    return {**dict.fromkeys(BLOCKS_17, value), **other}


def test_a_mix_comes_back_from_json() -> None:
    mix = Mix(
        (Part("a", 0.5, -1.0, weights(0.3), "X", True),), Scene("p", "n", ("q",), (1, 2), 7, 4.5, "DDIM", 64, 72, 2)
    )
    assert mix_from(mix.as_dict()) == mix
    assert mix_from({}) == Mix()
    assert mix.scene.pictures() == [("p", 1), ("p", 2), ("q", 1), ("q", 2)]
    assert mix_from({"loras": [{"name": "a"}]}).loras == (Part("a"),)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ([], "mix"),
        ({"lora": []}, "mix.lora"),
        ({"loras": {}}, "mix.loras"),
        ({"loras": [1]}, "mix.loras[0]"),
        ({"loras": [{"name": ""}]}, "mix.loras[0].name"),
        ({"loras": [{"name": "a", "te": "1"}]}, "mix.loras[0].te"),
        ({"loras": [{"name": "a", "unet": float("nan")}]}, "mix.loras[0].unet"),
        ({"loras": [{"name": "a", "weights": {"IN99": 1}}]}, "mix.loras[0].weights.IN99"),
        ({"loras": [{"name": "a", "weights": {"IN01": True}}]}, "mix.loras[0].weights.IN01"),
        ({"loras": [{"name": "a", "hidden": 1}]}, "mix.loras[0].hidden"),
        ({"shot": {"seeds": []}}, "mix.shot.seeds"),
        ({"shot": {"seeds": [-1]}}, "mix.shot.seeds"),
        ({"shot": {"seeds": list(range(17))}}, "mix.shot.seeds"),
        ({"shot": {"width": 100}}, "mix.shot.width"),
        ({"shot": {"height": 10_000}}, "mix.shot.height"),
        ({"shot": {"steps": 0}}, "mix.shot.steps"),
        ({"shot": {"colour": 1}}, "mix.shot.colour"),
    ],
)
def test_what_is_wrong_is_named(values: Any, place: str) -> None:
    with pytest.raises(UserError) as caught:
        mix_from(values)
    assert caught.value.where == place


def test_all_that_is_wrong_is_named_together() -> None:
    with pytest.raises(UserErrors) as caught:
        mix_from({"loras": [{"name": 3, "te": []}], "shot": {"steps": "x"}})
    assert {error.where for error in caught.value.errors} >= {"mix.loras[0].name", "mix.loras[0].te", "mix.shot.steps"}


def test_files_are_found_by_their_names_in_the_folder(lora_dir: Path) -> None:
    found = find(Mix((Part("style/Test0"), Part("a, b c", weights=weights(0.5)))), lora_dir, BUILTIN)
    assert [one.path.stem for one in found] == ["Test0", "a, b c"]
    assert (found[0].flat, found[0].weights["OUT11"], found[0].present) == (True, 1.0, {"BASE", "IN01", "M00"})
    assert (found[1].weights["IN01"], found[1].weights["IN03"], found[1].weights["OTHER"]) == (0.5, 0.0, 1.0)
    [preset] = find(Mix((Part("Test0", preset="GP1"),)), lora_dir, BUILTIN)
    assert preset.weights["IN01"] == 0.6


def test_hidden_and_silent_ones_are_left_out(lora_dir: Path) -> None:
    parts = (
        Part("gone", hidden=True),
        Part("Test0", 0, 0),
        Part("Test0", weights=weights(0, OTHER=0)),
        Part("conv", 0, 1),
    )
    assert [one.part.name for one in find(Mix(parts), lora_dir, BUILTIN)] == ["conv"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "style", "style/../../x", "Test0.safetensors", "none"])
def test_no_name_leads_out_of_the_folder(lora_dir: Path, name: str) -> None:
    loras.write(lora_dir.parent / "x.safetensors", loras.state(PLAIN, rank=2))
    with pytest.raises(UserError, match="there is no LoRA"):
        find(Mix((Part(name),)), lora_dir, BUILTIN)


def test_everything_that_would_be_silently_wrong_is_said_together(lora_dir: Path) -> None:
    some = {block: 1.0 for block in BLOCKS_17 if block != "M00"}
    parts = (
        Part("Test0", preset="GP9"),
        Part("Test0", preset="SHORT"),
        Part("conv", weights=some),
        Part("xl", weights={**weights(), "IN04": 1.0}),
    )
    with pytest.raises(UserErrors) as caught:
        find(Mix(parts), lora_dir, {**BUILTIN, "SHORT": (1.0,) * 16})
    said = [str(error) for error in caught.value.errors]
    assert "there is no preset 'GP9'" in said[0]
    assert "16 numbers where SD1.5 has 17 (or 26)" in said[1]
    assert "there is no weight for M00" in said[2]
    assert "SDXL has no block OUT09, OUT10, OUT11" in said[3]


def test_loras_for_different_models_are_refused(lora_dir: Path) -> None:
    with pytest.raises(UserError, match=r"for different models: 'Test0' for SD1\.5 and 'xl' for SDXL"):
        find(Mix((Part("Test0"), Part("xl"))), lora_dir, BUILTIN)


def test_the_short_list_where_it_says_all_of_this_file(lora_dir: Path) -> None:
    full = {**dict.fromkeys(BLOCKS_26, 0.5), "OTHER": 0.25}
    mix = Mix((Part("Test0", weights=full), Part("conv", weights=full), Part("conv", weights=weights(0.5))))
    found = find(mix, lora_dir, BUILTIN)
    assert [len(one.numbers()) for one in found] == [17, 26, 17]
    assert numbers_text(found[0]) == ",".join(["0.5"] * 17)
    assert recipe_of(found[1:2], lora_dir, {}) == "conv:1:other=0.25:" + ",".join(["0.5"] * 26)


def test_a_recipe_says_the_same_as_the_mix(lora_dir: Path) -> None:
    parts = (
        Part("a, b c", 0.5, -1.0, weights(0.3, M00=2.5), "GP1"),
        Part("conv", -0.2, -0.2, {**dict.fromkeys(BLOCKS_26, 0.7), "OTHER": 0.1}),
        Part("style/Test0", preset="GP2"),
        Part("Test0", 1.0, 0.5),
    )
    found = find(Mix(parts), lora_dir, BUILTIN)
    text = recipe_of(found, lora_dir, BUILTIN)
    assert text.startswith('"a, b c":0.5/-1:')
    assert ",style/Test0:1:GP2," in text
    sources = resolve(parse_recipe(text), lora_dir, BUILTIN)
    for one, source in zip(found, sources, strict=True):
        told = one.source(lora_dir, BUILTIN)
        for block in one.present:
            assert source.factor(block) == told.factor(block), (text, block)
    assert sources[0].factor("BASE") == 0.5 * 0.3
    assert sources[0].factor("M00") == -2.5


def test_a_preset_is_named_only_while_it_stands_for_these_numbers(lora_dir: Path) -> None:
    numbers = dict(zip(BLOCKS_17, BUILTIN["GP1"], strict=True))
    same, moved = (
        find(Mix((Part("Test0", weights=its, preset="GP1"),)), lora_dir, BUILTIN)
        for its in (numbers, {**numbers, "M00": 0.9})
    )
    assert recipe_of(same, lora_dir, BUILTIN) == "style/Test0:1:GP1"
    assert "GP1" not in recipe_of(moved, lora_dir, BUILTIN)
    assert recipe_of(same, lora_dir, {}).count(",") == 16


def test_a_prompt_says_the_same_as_the_mix(lora_dir: Path) -> None:
    found = find(Mix((Part("a, b c", 0.5, -1.0, weights(0.3)), Part("Test0"))), lora_dir, BUILTIN)
    text = prompt_of(found, "a cat, ")
    assert text.startswith("a cat, <lora:a, b c:0.5:-1:lbw=0.3,")
    first, second = parse_prompt(text, {})
    assert (first.te, first.unet, first.numbers) == (0.5, -1.0, (0.3,) * 17)
    assert (second.name, second.te, second.numbers) == ("Test0", 1.0, None)


def test_what_changed_in_a_few_words() -> None:
    before = Mix((Part("a", weights=weights()), Part("b")), Scene("x"))
    after = Mix((Part("a", weights=weights(OUT05=0.5)), Part("c")), Scene("x", seeds=(7,)))
    assert difference(before, after) == "a OUT05 1→0.5, + c, − b, seeds"
    assert difference(before, before) == ""
    louder = Mix((Part("a", 1.5, 1.5, weights()), Part("b", hidden=True)), Scene("x"))
    assert difference(before, louder) == "a 1→1.5, b off"


def test_a_smaller_scene_is_half_the_size_and_can_be_drawn() -> None:
    small = Scene(width=520, height=64, steps=20).smaller()
    assert (small.width, small.height, small.steps) == (264, 64, 14)
    assert Scene(steps=2).smaller().steps == 2


def test_a_file_is_read_again_only_when_it_changed(lora_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lora_dir / "conv.safetensors"
    first = sound.digest(path)
    monkeypatch.setattr(sound, "file_hash", lambda path: pytest.fail("it is read again"))
    assert sound.digest(path) == first
    monkeypatch.undo()
    loras.write(path, loras.state(WITH_CONV, rank=2, seed=9))
    assert sound.digest(path) != first


def test_a_large_folder_is_read_bit_by_bit(lora_dir: Path) -> None:
    paths = sorted(lora_dir.rglob("*.safetensors"))
    (lora_dir / "empty.safetensors").touch()
    paths.append(lora_dir / "empty.safetensors")
    with sound._reading:
        assert sound.families(paths, 0) == [sound.Seen()] * len(paths), "nothing is read while the page waits"
    for _ in range(2000):
        found = sound.families(paths, 0)
        if sound.Seen() not in found:
            break
        time.sleep(0.02)
    assert [one.family for one in found] == ["SD1.5", "SD1.5", "SD1.5", "SDXL", None]
    assert found[-1].problem == "the file is empty"
    assert sound.families([lora_dir / "none.safetensors"], 1) == [sound.Seen(problem="there is no such file")]


def test_broken_files_are_told_apart(lora_dir: Path) -> None:
    state = loras.state(PLAIN, rank=2)
    state["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"][0] = torch.nan
    nan = loras.write(lora_dir / "nan.safetensors", state)
    assert sound.held(nan).index.family == "SD1.5"
    with pytest.raises(UserError, match="NaN"):
        sound.digest(nan)
    whole = (lora_dir / "conv.safetensors").read_bytes()
    growing = lora_dir / "growing.safetensors"
    growing.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut off"):
        sound.held(growing)
