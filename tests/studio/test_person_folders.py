"""A person's plan put into the project, and taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_train.dataset import folders
from lora_train.errors import UserError
from lora_train.studio import person_folders, person_plan
from lora_train.studio import project as projects
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
