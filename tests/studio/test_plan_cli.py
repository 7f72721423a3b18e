"""The planners on the command line, over a project on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_train.cli import main
from lora_train.studio import project as projects
from lora_train.studio import style_sort
from lora_train.studio.project import Project
from lora_train.studio.style_sort import Item
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
    assert "renamed: image/1_hina to image/25_hina" in capsys.readouterr().out


def test_pictures_are_named_by_their_folders_and_go_back_to_what_was_suggested(tmp_path: Path) -> None:
    project = projects.make(tmp_path / "ink").project
    assert project is not None
    for number in range(4):
        put(project.image / "1_ink" / f"{number}.png", scene(number, 300, 450))
        put(project.image / "1_ink face" / f"{number}.png", scene(number, 300, 300))
    at = str(project.root)
    assert main(["plan-style", at, "--suggest", "--sort", "full=1_ink/3.png", "--sort", "face=1_ink face/*"]) == 0
    names = {f"{item.concept}/{item.path.name}": item.name for item in sorted_now(project)}
    assert names["1_ink/3.png"] == "full" and names["1_ink face/3.png"] == "face"
    assert main(["plan-style", at, "--sort", "suggested=1_ink/3.png", "--no-variants", "--write"]) == 0
    assert {item.name for item in sorted_now(project)} == {"main", "face"}
    assert {path.name.partition("_")[2] for path in project.image.iterdir()} == {"ink", "ink face", "main", "face"}


def sorted_now(project: Project) -> list[Item]:
    return style_sort.items(project, style_sort.load(project))


def test_what_was_planned_is_trained_on_by_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = projects.make(tmp_path / "hina").project
    assert project is not None
    for number in range(4):
        put(project.image / "1_hina" / f"{number}.png", scene(number, 300, 450))
    at, file = str(project.root), tmp_path / "hina.json"
    file.write_text('{"network_dim": 8, "train_data_dir": "elsewhere"}', encoding="utf-8")
    assert main(["project", "settings", at, "--config", str(file), "--data-dir", str(tmp_path / "d")]) == 0
    told = json.loads(file.read_text(encoding="utf-8"))
    assert (told["train_data_dir"], told["network_dim"], "dataset_config" in told) == (at, 8, False)
    assert main(["plan", "--config", str(file)]) == 0
    assert "1_hina" in capsys.readouterr().out
    projects.use(project, project.image / "1_hina", False)
    put(project.image / "5_other" / "o.png")
    assert main(["project", "settings", at, "--config", str(file), "--data-dir", str(tmp_path / "d")]) == 0
    told = json.loads(file.read_text(encoding="utf-8"))
    assert told["dataset_config"] and "train_data_dir" not in told  # folders that are left out aren't trained on
    assert main(["project", "settings", at, "--config", "x.toml", "--data-dir", str(tmp_path / "d")]) == 2
