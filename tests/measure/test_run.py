"""A task from the command line to measure.json, as the child process does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lora_train.blocks.families import flat_weights
from lora_train.cli import main
from lora_train.errors import BAD_INPUT, DONE, UserError
from lora_train.measure.run import run
from tests import support


def test_effects_from_the_command_line(checkpoint: Path, lora_dir: Path, tmp_path: Path, capsys) -> None:
    out, more = tmp_path / "out", ("--steps", "2", "--timesteps", "500", "--width", "64", "--height", "64")
    command = ["effects", "Few:0.8:GP1,Style:-0.5", "--checkpoint", str(checkpoint), "--lora-dir", str(lora_dir)]
    assert main([*command, "--prompt", "a cat", "--out", str(out), *more, "--events"]) == DONE
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events][0 :: len(events) - 1] == ["stage", "done"]
    counted = [(e["done"], e["total"]) for e in events if e["event"] == "measuring"]
    assert counted[-1][0] == counted[-1][1]
    found = json.loads((out / "measure.json").read_text(encoding="utf-8"))
    assert found["kind"] == "effects" and found["mix"][0]["weights"]["IN01"] == 0.6
    assert [one["block"] for one in found["blocks"]] == ["BASE", "IN05", "OUT03", "OUT11"]
    for one in found["blocks"]:
        with Image.open(out / "maps" / one["map"]) as picture:
            assert (picture.mode, picture.size) == ("RGBA", (64, 64))
    with Image.open(out / "maps" / found["picture"]) as picture:
        assert picture.size == (64, 64)


def test_what_is_wrong_is_told_and_nothing_is_drawn(checkpoint: Path, lora_dir: Path, tmp_path: Path, capsys) -> None:
    common = ["--checkpoint", str(checkpoint), "--lora-dir", str(lora_dir), "--out", str(tmp_path), "--events"]
    for command, word in (
        (["effects", "Few:1", *common], "--prompt"),
        (["effects", "Nobody:1", "--prompt", "x", *common], "Nobody"),
        (["tune", "Few:1", *common], "--pictures"),
        (["tune", "--out", str(tmp_path), "--events"], "RECIPE"),
    ):
        assert main(command) == BAD_INPUT
        assert word in json.loads(capsys.readouterr().out)["text"]
    with pytest.raises(UserError, match="can't be measured"):
        run({"kind": "draw"}, tmp_path, lambda e: None, lambda: False)


def test_a_run_that_is_stopped_leaves_no_result(checkpoint: Path, lora_dir: Path, tmp_path: Path) -> None:
    task = {
        "kind": "effects",
        "checkpoint": str(checkpoint),
        "mix": [{"name": "Few", "path": str(lora_dir / "Few.safetensors"), "te": 1, "unet": 1, "weights": {"IN05": 1}}],
        "shot": {
            "prompt": "x",
            "negative_prompt": "",
            "seeds": [1],
            "steps": 2,
            "cfg_scale": 1,
            "sampler": "Euler",
            "width": 64,
            "height": 64,
            "clip_skip": 1,
        },
    }
    told = []
    assert run(task, tmp_path, told.append, lambda: len(told) > 1) is False
    assert told[-1]["event"] == "stopped" and not (tmp_path / "measure.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tuning_from_a_task(checkpoint: Path, lora_dir: Path, tmp_path: Path, capsys) -> None:
    support.pictures(tmp_path / "image" / "1_thing", 6)
    mix = [
        {"name": name, "path": str(lora_dir / f"{name}.safetensors"), "te": w, "unet": w, "weights": flat_weights()}
        for name, w in (("Few", 1.0), ("Style", -0.5))
    ]
    shot = {"prompt": "", "negative_prompt": "", "cfg_scale": 3.0, "clip_skip": 1, "width": 64, "height": 64}
    task = {"kind": "tune", "checkpoint": str(checkpoint), "mix": mix, "shot": shot, "name": "MINE", "rows": 4}
    task |= {"pictures": str(tmp_path / "image"), "prompts": ["a dog", "a house", "a tree"], "keep": 0.5}
    (tmp_path / "task.json").write_text(json.dumps(task), encoding="utf-8")
    assert main(["tune", "--task", str(tmp_path / "task.json"), "--out", str(tmp_path / "out")]) == DONE
    found = json.loads((tmp_path / "out" / "measure.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in found["presets"]] == ["MINE", "MINE-2"]
    assert all(len(one["numbers"]) == 17 for one in found["presets"])
    names = [row["name"] for row in found["table"]]
    assert names[:4] == ["without", "1 everywhere", "0.8 everywhere", "1.2 everywhere"] and names[-1] == "MINE"
    assert {"GP1", "HINA4"} <= set(names)
    assert found["table"][0]["drift"] == pytest.approx(0, abs=1e-6)
    assert found["pictures"] == {"tuned": 4, "compared": 2}
    assert found["trigger"] == "thing"
    assert (len(found["prompts"]["tuned"]), len(found["prompts"]["compared"])) == (2, 1)
    printed = capsys.readouterr().out
    assert "MINE:" in printed and "1 everywhere" in printed
