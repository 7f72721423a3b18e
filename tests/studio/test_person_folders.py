"""A person's plan put into the project, and taken back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lora_train.dataset import folders
from lora_train.errors import UserError
from lora_train.studio import journal, person_folders, person_plan
from lora_train.studio import project as projects
from lora_train.studio.person_plan import PersonPlan
from lora_train.studio.project import Project
from tests.studio.drawn import put, scene, tree


def test_folders_get_the_plans_repeats_and_regularisation_with_them(tmp_path: Path) -> None:
    project = projects.make(tmp_path / "hina").project
    assert project is not None
    for number in range(4):
        put(project.image / "1_hina woman" / f"{number}.png", scene(number, 48, 48), caption="hina")
        put(project.reg / "1_hina woman" / f"{number}.png", scene(9 + number, 48, 48))
    put(project.image / "1_hina shoes" / "s.png", scene(20, 48, 48))
    put(project.root / "masks" / "1_hina woman" / "0.png", scene(0, 48, 48))
    before = tree(project.root)
    parts = person_folders.parts_of(project)
    assert [(p.name, p.pictures, p.repeats, p.reg) for p in parts] == [
        ("hina shoes", 1, 1, 0),
        ("hina woman", 4, 1, 4),
    ]
    plan = person_plan.with_repeats(parts, 1200, 10)
    done = person_folders.apply(project, plan)
    assert len(done.renamed) == 3
    dataset = folders.scan(project.root)
    assert {c.folder.name for c in dataset.concepts} == {
        name for one in plan.folders for name in (one.folder, one.reg_folder) if name
    }
    assert (project.root / "masks" / plan.folders[1].folder / "0.png").is_file()
    assert person_folders.apply(project, plan).entries == ()
    project.journal.undo()
    assert {name: data for name, data in tree(project.root).items() if "journal" not in name} == before


def test_pictures_elsewhere_are_copied_and_their_folder_left_alone(tmp_path: Path) -> None:
    loose = tmp_path / "mira"
    for number in range(3):
        put(loose / f"{number}.png", scene(number, 48, 48), caption=f"{number}")
    before = tree(loose)
    project = projects.make(loose).project
    assert project is not None
    for repeats in (20, 7):  # again: the copies are renamed, not made anew
        (part,) = person_folders.parts_of(project)
        plan = person_plan.plan([person_plan.Part(part.name, part.pictures, repeats)], 8)
        person_folders.apply(project, plan)
        assert sorted(tree(project.image)) == [f"{repeats}_mira/{n}.{end}" for n in range(3) for end in ("png", "txt")]
    assert projects.training(project)["train_data_dir"] == str(project.root)
    assert tree(loose) == before
    project.journal.undo()
    project.journal.undo()
    assert not tree(project.image) and [c.used for c in project.concepts()] == [True]


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    project = projects.make(tmp_path / "x").project
    assert project is not None
    put(project.image / "1_a" / "a.png")
    (project.image / "5_a").mkdir()
    with pytest.raises(UserError, match="of that name"):
        person_folders.apply(project, person_plan.plan([person_plan.Part("a", 1, 5)]))


def mixed(folder: Path) -> tuple[Project, PersonPlan]:
    """A project with a folder of its own, masked, and one elsewhere; both get other repeats."""
    for number in range(3):
        put(folder / "mira" / f"{number}.png", scene(number, 48, 48), caption=f"{number}")
    project = projects.make(folder / "mira").project
    assert project is not None
    put(project.image / "1_hina" / "h.png", scene(7, 48, 48))
    put(project.masks / "1_hina" / "h.png", scene(8, 48, 48))
    parts = [person_plan.Part(part.name, part.pictures, 5) for part in person_folders.parts_of(project)]
    return project, person_plan.plan(parts, 8)


def kept(project: Project) -> dict[str, bytes]:
    return {name: data for name, data in tree(project.root).items() if "journal" not in name}


def test_all_of_it_is_one_change(tmp_path: Path) -> None:
    project, plan = mixed(tmp_path)
    before = kept(project)
    done = person_folders.apply(project, plan)
    assert (done.renamed, done.copied) == ((("image/1_hina", "image/5_hina"),), ("5_mira",))
    assert len(done.entries) == 1 and (project.masks / "5_hina" / "h.png").is_file()
    project.journal.undo()
    assert kept(project) == before


def failing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The disk is full at the copy of that number."""
    copy, calls = journal._copy, []

    def full(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == at:
            raise UserError("it can't be copied (No space left on device)", where=source, remedy="Free some space")
        copy(source, target)

    monkeypatch.setattr(journal, "_copy", full)


def test_a_failed_copy_leaves_no_rename_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, plan = mixed(tmp_path)
    before = kept(project)
    failing(monkeypatch, 3)
    with pytest.raises(UserError, match="No space left"):
        person_folders.apply(project, plan)
    assert kept(project) == before
    assert [entry.undone for entry in project.journal.entries()] == [True]


def test_what_cannot_be_taken_back_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, plan = mixed(tmp_path)
    before = kept(project)
    failing(monkeypatch, 3)
    with monkeypatch.context() as stuck:
        stuck.setattr(journal.Journal, "undo", lambda *_: (_ for _ in ()).throw(UserError("it is still open")))
        with pytest.raises(UserError) as told:
            person_folders.apply(project, plan)
    assert "No space left" in told.value.what and "could not be taken back (it is still open)" in told.value.what
    assert "repeats: 5_mira, 5_hina" in str(told.value) and "list of changes" in told.value.remedy
    assert (project.image / "5_hina").is_dir()
    (entry,) = project.journal.entries()
    assert not entry.whole and not entry.undone
    project.journal.undo()
    assert kept(project) == before


def test_what_a_killed_process_did_is_listed_and_undone(tmp_path: Path) -> None:
    project, _ = mixed(tmp_path)
    before = kept(project)
    code = f"""
import os
from pathlib import Path
from lora_train.studio import journal, person_folders, person_plan
from lora_train.studio.project import Project
copy, calls = journal._copy, []
def dies(source, target):
    calls.append(source)
    os._exit(9) if len(calls) == 3 else copy(source, target)
journal._copy = dies
project = Project(Path({str(project.root)!r}))
parts = [person_plan.Part(part.name, part.pictures, 5) for part in person_folders.parts_of(project)]
person_folders.apply(project, person_plan.plan(parts, 8))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 9
    (entry,) = project.journal.entries()
    assert (entry.whole, entry.undone, entry.files) == (False, False, 4)  # two renames, a picture, its caption
    project.journal.undo()
    assert {name: data for name, data in kept(project).items() if not name.endswith(".tmp")} == before
