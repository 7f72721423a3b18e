from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_train.cli import main

from ..dataset.pictures import noise, place


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for n in range(4):
        place(tmp_path / "set" / "5_cat" / f"{n}.png", noise(600, 400), "cat")
    place(tmp_path / "reg" / "1_cat" / "r.png", noise(400, 400))
    return tmp_path / "set"


def test_a_plan_for_people(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--enable_bucket", "true", "--train_batch_size", "3", "--max_train_epochs", "10"]
    assert main(["plan", str(pictures), *options, "--target-steps", "200"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "folder  pictures  repeats  an epoch",
        "5_cat          4        5        20",
        "",
        "size       an epoch  batches  empty places",
        "640 x 384        20        7             1",
    ]
    text = "\n".join(lines)
    assert "7 batches = 7 steps an epoch; 10 epochs, 70 steps in all" in text
    assert "200 steps: repeats 5_cat 15 make 200 in 10 epochs" in text
    assert "or 29 epochs as it is, which make 203" in text
    assert "GiB of memory" in text


def test_a_plan_as_json_with_a_file_and_regularisation(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'reg_data_dir = "{(tmp_path / "reg").as_posix()}"\nmax_train_epochs = 3\nvalidation_split = 0.1\n'
    )
    assert main(["plan", str(pictures), "--config", str(config), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], report["reg_pictures"], report["images"], report["steps"]) == (4, 1, 40, 120)
    assert [folder["images"] for folder in report["folders"]] == [20, 20]
    assert report["estimate"]["memory"][0] < report["estimate"]["memory"][1]
    assert report["notes"] == ["10% of the pictures will be held out; they are counted here"]
    assert "target" not in report


def test_a_dataset_file_can_be_planned(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "set.toml"
    file.write_text('[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = "set/5_cat"\nnum_repeats = 3\n')
    assert main(["plan", str(file), "--json", "--target-steps", "60"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["batches_per_epoch"]) == (12, 6)
    assert report["target"]["repeats"] == [3]


def test_mistakes_are_told(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(pictures / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["plan", str(pictures), "--train_batch_size", "0"]) == 2
    assert "train_batch_size" in capsys.readouterr().err
    assert main(["plan"]) == 2
    with pytest.raises(SystemExit):
        main(["plan", str(pictures), "--target-steps", "-3"])
