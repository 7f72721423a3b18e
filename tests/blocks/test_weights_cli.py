"""The verbs presets, inspect and advise, as they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_train.blocks.norms import norms
from lora_train.blocks.presets import BUILTIN, format_numbers
from lora_train.cli import main

from . import loras

GP1 = format_numbers(BUILTIN["GP1"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lbwpresets.txt"
    path.write_bytes(f"# mine\r\nGP1:{GP1}\r\nBAD:1,2,3\r\n".encode())
    return path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(list(words)) == code
    captured = capsys.readouterr()
    return captured.err if code == 2 and captured.err else captured.out


def test_presets_are_listed_and_checked(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "presets", "--file", str(file), "list") == f"GP1:{GP1}\n"
    assert "line 3: 'BAD' has 3 numbers" in said(capsys, "presets", "--file", str(file), "check", code=2)


def test_presets_are_changed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ones = ",".join(["1"] * 12)
    assert f"XL:{ones}\nwrote" in said(capsys, "presets", "--file", str(file), "put", "XL", ones)
    said(capsys, "presets", "--file", str(file), "rename", "GP1", "style")
    said(capsys, "presets", "--file", str(file), "remove", "BAD")
    said(capsys, "presets", "--file", str(file), "import", "Test0:1:GP2,B:-1:style")
    said(capsys, "presets", "--file", str(file), "import", GP1, "--name", "again")
    gp2 = format_numbers(BUILTIN["GP2"])
    expected = ["# mine", f"style:{GP1}", f"XL:{ones}", f"GP2:{gp2}", f"again:{GP1}", ""]
    assert file.read_bytes().decode() == "\r\n".join(expected)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("put", "A", "1,2"), "line 1: the list has 2 numbers"),
        (("put", "A", "GP9"), "there is no preset 'GP9'"),
        (("put", "A", "BAD"), "preset 'BAD' can't be used: 'BAD' has 3 numbers"),
        (("import", GP1), "line 1: these weights have no name. Give --name"),
        (("import", "A:1"), "there are no block weights in this text"),
        (("remove", "gp1"), "there is no preset 'gp1'"),
    ],
)
def test_what_is_wrong(file: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], problem: str) -> None:
    before = file.read_bytes()
    assert problem in said(capsys, "presets", "--file", str(file), *words, code=2)
    assert file.read_bytes() == before


def test_the_built_in_presets_need_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"GP1:{GP1}\n" in said(capsys, "presets", "list")
    assert "Give --file" in said(capsys, "presets", "remove", "GP1", code=2)


def test_the_extensions_own_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not among these extensions" in said(capsys, "presets", "--extensions", str(tmp_path), "list", code=2)
    scripts = tmp_path / "lbw" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "lora_block_weight.py").touch()
    assert "OUTALL:" in said(capsys, "presets", "--extensions", str(tmp_path), "list")


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = {**loras.modules(), "lora_unet_down_blocks_0_downsamplers_0_conv": (8, 8, 3, 3)}
    path = loras.write(tmp_path / "a.safetensors", loras.state(shapes, rank=2))
    text = said(capsys, "inspect", str(path))
    head, *rows = text.splitlines()
    assert head == "a.safetensors: for SD1.5, 265 LoRA" and rows[0].split() == ["block", "modules", "norm"]
    sizes = norms(path)
    assert rows[1].split() == ["BASE", "72", f"{sizes['BASE']:.4g}"]
    assert text.endswith("a list of 17 numbers says nothing of IN03\n")
    told = json.loads(said(capsys, "inspect", str(path), "--json"))
    assert (told["kinds"], told["blocks"]["OUT11"], told["unlisted"]) == ({"LoRA": 265}, 12, ["IN03"])


def test_advise(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    text = said(capsys, "advise", "style_weak")
    assert "Style too weak, step 1: GP2 01 up" in text
    assert "  GP2 BASE: 0.3 → 0.4" in text
    assert "if that is not enough: --step 2" in text
    assert f"GP1:{GP1}\nGP2:0.4,0.1," in text
    assert "strength of GP1: 0.8" in said(capsys, "advise", "chaotic", "--step", "2")
    alone = said(capsys, "advise", "hands", "--gp1", GP1, "--gp2", "", "--amount", "0.2", "--presets", str(file))
    assert "GP2 stays: there is no LoRA of the checkpoint's own style" in alone
    assert "GP1 IN04: 0.9 → 0.7" in alone
    assert "it has 1 step, and no step 2" in said(capsys, "advise", "hands", "--step", "2", code=2)
    assert "amount: -1 is not between 0 and 2" in said(capsys, "advise", "hands", "--amount", "-1", code=2)
