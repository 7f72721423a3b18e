"""Whatever folder is named, the project that was meant is found or made, and pictures stay where they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_train import cli
from lora_train.dataset.source import open_dataset
from lora_train.errors import UserError
from lora_train.settings import from_dict
from lora_train.studio import project as projects

from .drawn import put, tree


def made(root: Path) -> projects.Project:
    project = projects.make(root).project
    assert project is not None
    return project


@pytest.mark.parametrize("name", ["hina", "羽菜 2", "ä ö ü"])
def test_one_call_makes_the_four_folders(tmp_path, name):
    project = made(tmp_path / name)
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == [".studio", "image", "log", "models", "reg"]
    assert projects.understand(tmp_path / name).project == project


def test_an_empty_folder_becomes_the_project_and_making_it_again_changes_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    first = made(tmp_path / "a")
    put(first.image / "10_x" / "1.png")
    before = tree(tmp_path)
    assert made(tmp_path / "a") == first and tree(tmp_path) == before


def test_a_project_of_kohya_s_gets_what_it_lacks(tmp_path):
    put(tmp_path / "p" / "img" / "10_x" / "1.png")
    (tmp_path / "p" / "model").mkdir()
    opened = projects.make(tmp_path / "p")
    assert opened.kind == "project" and opened.project.image.name == "img"
    assert opened.said == ("Added: models, log, reg",)
    assert not (tmp_path / "p" / "image").exists()


@pytest.mark.parametrize(
    ("inner", "kind"),
    [("", "project"), ("image", "image"), ("reg", "image"), ("image/10_x y", "concept"), ("..", "parent")],
)
def test_every_folder_of_a_project_opens_it_and_says_so(tmp_path, inner, kind):
    project = made(tmp_path / "all" / "hina")
    put(project.image / "10_x y" / "1.png")
    opened = projects.open_project(project.root / inner)
    assert (opened.kind, opened.project) == (kind, project)
    assert bool(opened.said) == bool(inner)
    assert (opened.focus is not None) == (kind == "concept")


def test_of_several_projects_none_is_guessed(tmp_path):
    for name in ("a", "b"):
        made(tmp_path / name)
    assert len(projects.understand(tmp_path).choices) == 2
    for action in (projects.open_project, projects.make):
        with pytest.raises(UserError, match="Choose one: a, b"):
            action(tmp_path)


@pytest.mark.parametrize(
    ("files", "named", "beside", "kind"),
    [
        (["pics/1.png", "pics/2.jpg"], "pics", "pics project", "loose"),
        (["set/10_a b/1.png", "set/5_c/2.png"], "set", "set project", "kohya"),
        (["set/10_a b/1.png"], "set/10_a b", "set/a b project", "concept"),
        (["set/face/1.png", "set/body/2.png"], "set", "set project", "loose"),
        (["home/image/1.png"], "home/image", "home/image project", "loose"),
    ],
)
def test_pictures_stay_where_they_are_and_are_trained_from_there(tmp_path, files, named, beside, kind):
    for name in files:
        put(tmp_path / name, caption="words")
    before = tree(tmp_path)
    opened = projects.make(tmp_path / named)
    assert opened.kind == kind and opened.project.root == tmp_path / beside
    assert any("nothing is copied" in text for text in opened.said)
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name not in before and not name.startswith(f"{beside}/.studio/")]
    settings = from_dict({**projects.training(opened.project), "resolution": 64})[0]
    dataset = open_dataset(settings)
    assert dataset.picture_count == len(files)
    repeats = {c.folder.name: c.repeats for c in dataset.concepts}
    assert all(n == (int(name.split("_")[0]) if "_" in name else 1) for name, n in repeats.items())


def test_a_project_of_its_own_pictures_alone_is_trained_on_as_kohya_does(tmp_path):
    project = made(tmp_path / "p")
    put(project.image / "10_x" / "1.png")
    put(project.reg / "2_x" / "1.png")
    values = projects.training(project)
    assert values["dataset_config"] == "" and values["output_dir"] == str(project.models)
    dataset = open_dataset(from_dict({**values, "resolution": 64})[0])
    assert [(c.repeats, c.is_reg) for c in dataset.concepts] == [(10, False), (2, True)]


def test_folders_can_be_left_out_and_taken_back(tmp_path):
    project = made(tmp_path / "p")
    for name in ("10_whole", "10_cut"):
        put(project.image / name / "1.png")
    put(project.reg / "2_x" / "1.png")
    projects.use(project, project.image / "10_whole", False)
    moved = projects.Project(project.root.rename(tmp_path / "moved"))
    dataset = open_dataset(from_dict({**projects.training(moved), "resolution": 64})[0])
    assert [(c.name, c.is_reg) for c in dataset.concepts] == [("cut", False), ("x", True)]
    projects.use(moved, moved.image / "10_whole", True)
    assert projects.training(moved)["train_data_dir"]
    with pytest.raises(UserError, match="no such folder"):
        projects.use(moved, tmp_path, False)


def test_folders_elsewhere_are_added_once_and_dropped_without_a_trace(tmp_path):
    project = made(tmp_path / "p")
    put(tmp_path / "x" / "10_a" / "1.png")
    for _ in range(2):
        projects.add(project, tmp_path / "x")
    assert [(c.name, c.repeats, c.elsewhere) for c in project.concepts()] == [("a", 10, True)]
    projects.drop(project, tmp_path / "x")
    assert not project.concepts() and (tmp_path / "x" / "10_a" / "1.png").is_file()
    (tmp_path / "nothing").mkdir()
    for folder, what in (
        (tmp_path / "nothing", "no picture"),
        (project.image, "lies in the project"),
        (tmp_path / "y", "no such"),
    ):
        with pytest.raises(UserError, match=what):
            projects.add(project, folder)


def test_the_list_has_the_latest_first_and_finds_by_id(tmp_path):
    data = tmp_path / "data"
    one, two = made(tmp_path / "one"), made(tmp_path / "two")
    for project in (one, two, one):
        projects.remember(data, project)
    assert [r.project for r in projects.recent(data)] == [one, two]
    assert projects.by_id(data, two.id) == two
    projects.forget(data, two)
    for wrong in (two.id, "", "../..", str(two.root)):
        with pytest.raises(UserError, match="no such project"):
            projects.by_id(data, wrong)
    (data / "projects.json").write_text('{"projects": [1, {"path": 3}]}')
    assert projects.recent(data) == []


def test_what_cannot_be_a_project_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in ("", tmp_path / "none", tmp_path / "file", tmp_path):
        with pytest.raises(UserError):
            projects.open_project(folder)
    with pytest.raises(UserError):
        projects.make(tmp_path / "file")


def test_the_command_line_makes_lists_adds_and_undoes(tmp_path, capsys):
    def run(*words: str) -> str:
        assert cli.main(["project", *words, "--data-dir", str(tmp_path / "data")]) == 0
        return capsys.readouterr().out

    put(tmp_path / "pics" / "1.png")
    assert "no project" in run("list")
    assert str(tmp_path / "hina") in run("make", str(tmp_path / "hina"))
    assert "nothing is copied: pics (1)" in run("add", str(tmp_path / "hina"), str(tmp_path / "pics"))
    assert "left out" in run("leave-out", str(tmp_path / "hina"), str(tmp_path / "pics"))
    said = json.loads(run("list", str(tmp_path / "hina"), "--json"))
    assert [(c["name"], c["used"], c["elsewhere"]) for c in said["concepts"]] == [("pics", False, True)]
    assert str(tmp_path / "hina") in run("list")
    assert "nothing was changed" in run("history", str(tmp_path / "hina"))
    assert cli.main(["project", "undo", str(tmp_path / "hina"), "--data-dir", str(tmp_path / "data")]) == 2
