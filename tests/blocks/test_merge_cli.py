from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from lora_train.blocks import cli
from lora_train.blocks.metadata import open_recipe
from lora_train.blocks.presets import BUILTIN
from lora_train.errors import UserError

from . import loras

SHAPES: dict[str, tuple[int, ...]] = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (8, 6),
    "lora_unet_mid_block_attentions_0_proj_in": (8, 8, 1, 1),
    "lora_unet_down_blocks_0_downsamplers_0_conv": (8, 8, 3, 3),
}


@pytest.fixture
def lora_dir(tmp_path: Path) -> Path:
    loras.write(tmp_path / "Test0.safetensors", loras.state(SHAPES, rank=4, seed=1))
    loras.write(tmp_path / "BASE.safetensors", loras.state(SHAPES, rank=4, seed=2))
    return tmp_path


def merge(lora_dir: Path, *arguments: str, recipe: str = "Test0:1:GP1,BASE:-1:GP2") -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser.add_subparsers())
    out = str(lora_dir / "out.safetensors")
    args = parser.parse_args(["merge", recipe, "--lora-dir", str(lora_dir), "--out", out, *arguments])
    result: int = args.run(args)
    return result


def test_table(lora_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(lora_dir) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["block", "BASE", "M00", "total"]
    assert lines[4] == f"wrote {lora_dir / 'out.safetensors'} in fp16"
    assert lines[5] == "left out because their sum is 0: 1 modules"
    assert lines[6] == "not among the blocks that the numbers name: IN03; weight 0 there (--unlisted)"


def test_json(lora_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(lora_dir, "--json", "--precision", "float", "--unlisted", "1", "--target-error", "0.3") == 0
    report = json.loads(capsys.readouterr().out)
    assert [block["block"] for block in report["blocks"]] == ["BASE", "IN03", "M00"]
    assert report["total"]["relative_error"] <= 0.3
    assert report["target_error"] == 0.3


def test_presets_of_a_file_go_before_the_built_in(lora_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    presets = lora_dir / "presets.txt"
    presets.write_text("GP1:" + ",".join(["0"] * 7 + ["1"] + ["0"] * 9), encoding="utf-8")
    assert merge(lora_dir, "--presets", str(presets), recipe="Test0:1:GP1") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[:3]] == ["block", "M00", "total"]


def test_of_a_preset_file_only_what_is_used_has_to_be_right(lora_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    presets = lora_dir / "presets.txt"
    ones = ",".join(["1"] * 17)
    lines = [
        "My presets, 17 numbers each:",
        "",
        f"MINE:{ones}  ",
        "GP1:1,x" + ",1" * 15,
        "#OLD:0,0",
        f"FLUX:{'1,' * 60}1",
    ]
    presets.write_text("\r\n".join(lines), encoding="utf-8-sig")
    assert merge(lora_dir, "--presets", str(presets), recipe="Test0:1:MINE,BASE:-1:GP2") == 0
    with pytest.raises(UserError, match=r"preset 'GP1' can't be used: 'x', number 2, is not a number") as caught:
        merge(lora_dir, "--presets", str(presets), recipe="Test0:1:GP1")
    assert "line 4" in str(caught.value), "its own GP1 is wrong, so the built-in one isn't taken instead"
    with pytest.raises(UserError, match="preset 'FLUX' has 61 numbers"):
        merge(lora_dir, "--presets", str(presets), recipe="Test0:1:FLUX")


def test_the_weight_of_what_lies_in_no_block(lora_dir: Path) -> None:
    state = loras.state({**SHAPES, "lora_unet_conv_out": (4, 8, 3, 3)}, rank=2, seed=4)
    loras.write(lora_dir / "conv.safetensors", state)
    wanted = {name: loras.dense(state, name) for name in (*SHAPES, "lora_unet_conv_out")}
    wanted["lora_unet_down_blocks_0_downsamplers_0_conv"] *= 0
    for options, recipe, other in (
        ((), "conv:1:ALL", 1.0),
        (("--other", "0"), "conv:1:ALL", 0.0),
        (("--other", "0.5"), "conv:1:ALL", 0.5),
        (("--other", "0.5"), "conv:1:other=2:ALL", 2.0),
    ):
        assert merge(lora_dir, *options, "--precision", "float", recipe=recipe) == 0
        its = {**wanted, "lora_unet_conv_out": other * wanted["lora_unet_conv_out"]}
        assert loras.relative_error(lora_dir / "out.safetensors", its) < 1e-6
        opened = open_recipe(lora_dir / "out.safetensors")
        assert opened.text == ("conv:1:ALL" if other == 1 else f"conv:1:other={other:g}:ALL")
        again = merge(lora_dir, "--precision", "float", recipe=opened.recipe(BUILTIN))
        assert again == 0
        assert loras.relative_error(lora_dir / "out.safetensors", its) < 1e-6, "the recipe in the file says it all"


def test_errors_are_raised_for_main(lora_dir: Path) -> None:
    with pytest.raises(UserError, match="there is no preset 'GP9'"):
        merge(lora_dir, recipe="Test0:1:GP9")
    with pytest.raises(UserError, match="there is no such preset file"):
        merge(lora_dir, "--presets", str(lora_dir / "none.txt"))
    assert not (lora_dir / "out.safetensors").exists()


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser.add_subparsers())
    args = parser.parse_args(list(arguments))
    result: int = args.run(args)
    return result


def test_resize(lora_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = lora_dir / "small.safetensors"
    assert command("resize", str(lora_dir / "Test0.safetensors"), "--out", str(out), "--rank", "2", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["total"]["rank_max"], report["precision"]) == (2, "float")
    assert {module["name"] for module in report["modules"]} == set(SHAPES)
    with pytest.raises(UserError, match="give a rank or a target error"):
        command("resize", str(lora_dir / "Test0.safetensors"), "--out", str(out))


def test_the_card_beside_the_file(lora_dir: Path) -> None:
    picture = lora_dir / "cell.png"
    picture.write_bytes(b"\x89PNG")
    card = ("--preview", str(picture), "--preferred-weight", "0.8", "--activation-text", " hina ")
    assert merge(lora_dir, *card) == 0
    text = json.loads((lora_dir / "out.json").read_text(encoding="utf-8"))
    assert text == {"preferred weight": 0.8, "activation text": "hina", "sd version": "SD1"}
    assert (lora_dir / "out.png").read_bytes() == picture.read_bytes()
    with pytest.raises(UserError, match="there is no such PNG picture"):
        merge(lora_dir, "--preview", str(lora_dir / "none.png"))


def test_into_a_checkpoint_takes_no_options_of_a_lora(lora_dir: Path) -> None:
    with pytest.raises(UserError, match="--rank: this is not for a merge into a checkpoint"):
        merge(lora_dir, "--into", "base.safetensors", "--rank", "4")
    with pytest.raises(UserError, match=r"none\.safetensors: there is no such file"):
        merge(lora_dir, "--into", str(lora_dir / "none.safetensors"))
