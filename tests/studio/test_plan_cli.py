"""The planners on the command line, over a project on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_train.cli import main
from lora_train.studio import project as projects
from tests.studio.drawn import put, scene


def test_a_style_is_sorted_planned_written_and_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(10):
        put(tmp_path / "ink" / f"p{number}.png", scene(number, 300, 450))
    project = projects.make(tmp_path / "ink").project
    assert project is not None
    at = str(project.root)
    assert main(["plan-style", at, "--suggest"]) == 0
    assert "both are needed" in capsys.readouterr().out
    assert main(["plan-style", at, "--sort", "face=p[01].png", "--name", "ink", "--write", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["written"]["copied"] == 10 and told["plan"]["solved"]
    assert sorted(path.name for path in project.image.iterdir()) == sorted(told["plan"]["folders"])
    assert main(["plan-style", at, "--sort", "backs=p9.png", "--repeats", "main=9", "--write"]) == 0
    assert sorted(path.name for path in project.image.iterdir()) == ["1_ink backs", "1_ink face", "9_ink main"]
    assert main(["project", "undo", at]) == 0
    assert sorted(path.name for path in project.image.iterdir()) == sorted(told["plan"]["folders"])
    assert main(["plan-style", at, "--sort", "face=none*"]) == 2
    assert main(["plan-style", "--write"]) == 2


def test_a_persons_folders_get_the_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = projects.make(tmp_path / "hina").project
    assert project is not None
    for number in range(4):
        put(project.image / "1_hina" / f"{number}.png", scene(number, 48, 48))
    assert main(["plan-person", str(project.root), "--steps", "1000", "--epochs", "10", "--write"]) == 0
    assert [path.name for path in project.image.iterdir()] == ["25_hina"]
    assert "renamed: 1_hina to 25_hina" in capsys.readouterr().out
