"""A style's pictures, sorted, written as folders, sorted anew and written again: copies that follow the plan."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from lora_train.dataset import folders
from lora_train.errors import UserError
from lora_train.studio import project as projects
from lora_train.studio import style_sort
from lora_train.studio.crops import Box, Face
from lora_train.studio.project import Project
from lora_train.studio.style_sort import Sorting, suggest
from tests.studio.drawn import face, put, scene, tree

SIDE = 48


def style(folder: Path, main: int = 12, faces: int = 3, full: int = 2) -> Project:
    """A project beside loose pictures, each with a caption, those of the first also with a mask."""
    loose = folder / "loose"
    for number in range(main + faces + full):
        put(loose / f"p{number:02}.png", scene(number, SIDE, SIDE), caption=f"caption {number}")
    opened = projects.make(loose)
    assert opened.project is not None
    put(opened.project.root / "masks" / "loose" / "p00.png", scene(99, SIDE, SIDE))
    return opened.project


def sorted_by_hand(project: Project, main: int = 12, faces: int = 3) -> Sorting:
    keys = [item.key for item in style_sort.items(project, Sorting())]
    names = ["main"] * main + ["face"] * faces
    names += ["full"] * (len(keys) - len(names))
    return Sorting(chosen=dict(zip(keys, names, strict=True)))


def inside(project: Project) -> dict[str, list[str]]:
    """Pictures of each folder in image/."""
    return {
        folder.name: sorted(path.name for path in folder.iterdir() if path.suffix == ".png")
        for folder in sorted(project.image.iterdir())
    }


@pytest.mark.parametrize(
    ("size", "box", "name"),
    [
        ((512, 512), Box(120, 100, 250, 280), "face"),
        ((512, 768), Box(180, 120, 120, 140), "main"),
        ((512, 1024), Box(220, 60, 70, 90), "full"),
        ((512, 768), None, "main"),
        ((400, 1000), None, "full"),
        ((512, 512), None, "face"),
        ((200, 600), Box(1, 1, 150, 150), "discard"),
        ((3000, 512), None, "discard"),
    ],
)
def test_classes_are_suggested_by_face_and_shape(size: tuple[int, int], box: Box | None, name: str) -> None:
    found = suggest(*size, [Face(box)] if box else None)
    assert found.name == name
    assert found.sure == (box is not None or name == "discard")


def test_folders_are_written_with_captions_and_masks_and_undone(tmp_path: Path) -> None:
    project = style(tmp_path)
    before = tree(tmp_path / "loose")
    sorting = sorted_by_hand(project)
    made = style_sort.planned(style_sort.items(project, sorting), sorting)
    assert made is not None
    written = style_sort.write(project, sorting)
    assert written.copied == 17 and written.left_out == ("loose",)
    assert dict(written.folders) == {one.folder: one.files for one in made.classes}
    assert tree(tmp_path / "loose") == before
    main = project.image / made.classes[0].folder
    assert (main / "p00.txt").read_text() == "caption 0"
    assert (main / "p00.png").read_bytes() == before["p00.png"]
    assert (project.root / "masks" / main.name / "p00.png").is_file()
    dataset = folders.scan(project.root)
    assert {(c.name, c.repeats, len(c.pictures)) for c in dataset.concepts} == {
        (one.name, one.repeats, one.files) for one in made.classes
    }
    assert projects.training(project)["train_data_dir"] == str(project.root)
    assert style_sort.write(project, sorting).entry is None  # nothing has changed

    project.journal.undo()
    assert not list(project.image.rglob("*"))
    assert all(concept.used for concept in project.concepts())
    assert tree(tmp_path / "loose") == before


def test_a_second_write_changes_the_folders_and_makes_no_duplicates(tmp_path: Path) -> None:
    project = style(tmp_path)
    sorting = sorted_by_hand(project)
    style_sort.write(project, sorting)
    first = tree(project.image)
    edited = next(project.image.rglob("p13.txt"))
    edited.write_text("edited by hand")
    keys = list(sorting.chosen)
    moved, dropped = keys[13], keys[0]
    again = replace(
        sorting,
        chosen={**sorting.chosen, moved: "full", dropped: "discard"},
        repeats=dict.fromkeys(("main", "face", "full"), 7),
    )
    written = style_sort.write(project, again)
    assert inside(project) == {
        "7_face": ["p12.png", "p14.png"],
        "7_full": ["p13.png", "p15.png", "p16.png"],
        "7_main": [f"p{n:02}.png" for n in range(1, 12)],
    }
    assert (written.copied, written.aside) == (0, 1)
    assert (project.image / "7_full" / "p13.txt").read_text() == "edited by hand"  # its caption came along
    assert not (project.root / "masks" / "7_main" / "p00.png").exists()

    style_sort.write(project, replace(again, chosen=sorting.chosen))
    assert "p00.png" in inside(project)["7_main"]  # from aside, with what belongs to it
    assert (project.root / "masks" / "7_main" / "p00.png").is_file()
    project.journal.undo()
    project.journal.undo()
    edited.write_text("caption 13")
    assert tree(project.image) == first


def test_captions_written_before_a_rename_can_only_be_undone_after_it(tmp_path: Path) -> None:
    project = style(tmp_path)
    sorting = sorted_by_hand(project)
    style_sort.write(project, sorting)
    text = next(project.image.rglob("p03.txt"))
    with project.journal.change("caption") as change:
        change.write(text, b"new")
    caption = project.journal.entries()[0].id
    style_sort.write(project, replace(sorting, repeats={"main": 9}))
    with pytest.raises(UserError, match="later change"):
        project.journal.undo(caption)
    project.journal.undo()
    project.journal.undo(caption)
    assert text.read_text() == "caption 3"


def test_variants_get_copies_and_a_folder_of_their_own(tmp_path: Path) -> None:
    project = style(tmp_path, main=20, faces=6, full=0)
    keys = [item.key for item in style_sort.items(project, Sorting())]
    sorting = style_sort.together(style_sort.together(sorted_by_hand(project, 20, 6), keys[:2]), keys[2:6])
    written = style_sort.write(project, sorting)
    own = next(name for name, _ in written.folders if name.endswith("variants"))
    assert dict(written.folders)[own] == 8
    assert inside(project)[own] == sorted([*(f"p0{n}.png" for n in range(6)), "p00-2.png", "p01-2.png"])
    assert {p.read_text() for p in (project.image / own).glob("p00*.txt")} == {"caption 0"}
    less = style_sort.apart(sorting, keys[2:6])
    assert style_sort.write(project, less).aside == 2  # the copies of the pair
    assert not any(len(group) > 1 and keys[2] in group for group in less.groups)


def test_variants_are_found_among_the_sources_alone(tmp_path: Path) -> None:
    project = style(tmp_path, 10, 4, 0)
    alike = put(tmp_path / "loose" / "p00b.png", scene(0, SIDE, SIDE).resize((SIDE + 6, SIDE + 6)))
    twin = tmp_path / "loose" / "z.png"
    twin.write_bytes((tmp_path / "loose" / "p05.png").read_bytes())
    seen = []
    before = sorted_by_hand(project, 12, 4)
    sorting = style_sort.look_through(project, before, progress=lambda *n: seen.append(n)).onto(before)
    assert [[Path(key).name for key in group] for group in sorting.groups] == [["p00.png", alike.name]]
    assert sorting.suggested[style_sort.key_of(project, twin)].why == "twin"
    assert seen[-1] == (32, 32)
    style_sort.write(project, sorting)
    again = style_sort.look_through(project, sorting).onto(sorting)
    assert again.groups == sorting.groups  # copies of the plan's aren't variants of what they were copied from
    assert len(style_sort.items(project, again)) == 16
    style_sort.save(project, again)
    assert style_sort.load(project) == again


def test_what_the_user_left_out_is_not_sorted(tmp_path: Path) -> None:
    project = style(tmp_path, 4, 1, 0)
    put(project.image / "1_cut" / "c.png", scene(77, SIDE, SIDE))
    assert len(style_sort.items(project, Sorting())) == 6
    projects.use(project, tmp_path / "loose", False)
    assert [item.path.name for item in style_sort.items(project, Sorting())] == ["c.png"]
    sorting = Sorting(chosen={style_sort.key_of(project, project.image / "1_cut" / "c.png"): "main"})
    style_sort.write(project, sorting)
    assert [item.path.name for item in style_sort.items(project, sorting)] == ["c.png"]  # its own source stays
    project.journal.undo()
    assert [concept.folder.name for concept in project.concepts() if concept.used] == ["1_cut"]


def test_what_is_sorted_during_a_look_stays(tmp_path: Path) -> None:
    project = style(tmp_path, 10, 4, 0)
    put(tmp_path / "loose" / "p00b.png", scene(0, SIDE, SIDE).resize((SIDE + 6, SIDE + 6)))
    keys = [item.key for item in style_sort.items(project, Sorting())]
    looked = style_sort.look_through(project, Sorting())
    meanwhile = style_sort.together(style_sort.apart(Sorting(chosen={keys[0]: "full"}), keys[:1]), keys[5:8])
    sorting = looked.onto(meanwhile)
    assert sorting.chosen == {keys[0]: "full"} and len(sorting.suggested) == 15
    assert [group for group in sorting.groups if len(group) > 1] == [tuple(keys[5:8])]


def test_faces_decide_where_there_is_a_detector(tmp_path: Path) -> None:
    close = put(tmp_path / "loose" / "close.png", face(512, (256, 256), 300))
    project = projects.make(tmp_path / "loose").project
    assert project is not None

    def detect(picture: object) -> list[Face]:
        return [Face(Box(140, 110, 240, 300))]

    sorting = style_sort.look_through(project, Sorting(), detect).onto(Sorting())
    found = sorting.suggested[str(close)]
    assert (found.name, found.why, found.sure) == ("face", "face", True)


def test_what_was_put_into_a_folder_follows_it(tmp_path: Path) -> None:
    project = style(tmp_path)
    sorting = sorted_by_hand(project)
    style_sort.write(project, sorting)
    folder = next(path for path in project.image.iterdir() if path.name.endswith("face"))
    put(folder / "crop.png", scene(50, SIDE, SIDE), caption="mine")
    found = {item.path.name: item for item in style_sort.items(project, sorting)}
    assert len(found) == 18 and (found["crop.png"].name, found["crop.png"].by) == ("face", "hand")
    style_sort.write(project, replace(sorting, repeats={"main": 2, "face": 9, "full": 2}))
    assert (project.image / "9_face" / "crop.txt").read_text() == "mine"
    moved = replace(sorting, chosen={**sorting.chosen, found["crop.png"].key: "discard"})
    style_sort.write(project, moved)
    assert not list(project.image.rglob("crop*"))
    assert {item.path.name: item.name for item in style_sort.items(project, moved)}["crop.png"] == "discard"
    style_sort.write(project, replace(moved, chosen={**moved.chosen, found["crop.png"].key: "main"}))
    assert len(list(project.image.rglob("crop.*"))) == 2


def test_mirrored_copies_go_with_their_pictures(tmp_path: Path) -> None:
    """They are no pictures of their own: the plan counts each picture twice already."""
    project = style(tmp_path)
    put(tmp_path / "loose" / "p12_flipped.png", scene(0, SIDE, SIDE), caption="mirrored")
    sorting = sorted_by_hand(project)
    assert len(sorting.chosen) == 17
    style_sort.write(project, sorting)
    folder = next(path for path in project.image.iterdir() if path.name.endswith("face"))
    put(folder / "p13_flipped.png", scene(1, SIDE, SIDE), caption="mirrored too")
    keys = list(sorting.chosen)
    chosen = {**sorting.chosen, keys[12]: "full", keys[13]: "full"}
    written = style_sort.write(project, replace(sorting, chosen=chosen, repeats={"full": 3}))
    assert dict(written.folders)["3_full"] == 4
    assert {path.read_text() for path in (project.image / "3_full").glob("*_flipped.txt")} == {
        "mirrored",
        "mirrored too",
    }


def test_stopping_and_refusals_leave_nothing(tmp_path: Path) -> None:
    project = style(tmp_path)
    sorting = sorted_by_hand(project)
    stop = Event()
    written = style_sort.write(project, sorting, progress=lambda done, total: stop.set(), stop=stop)
    assert written.stopped
    assert not list(project.image.iterdir())
    own = put(project.image / "5_face" / "theirs.png")
    with pytest.raises(UserError, match="no plan has written"):
        style_sort.write(project, replace(sorting, repeats={"face": 5}))
    assert list(project.image.rglob("*.*")) == [own]
    with pytest.raises(UserError, match="name of"):
        style_sort.write(project, replace(sorting, names={"main": "Same", "face": "same"}))
    with pytest.raises(UserError, match="sort"):
        style_sort.write(project, Sorting())


def test_a_style_has_its_own_names_and_classes(tmp_path: Path) -> None:
    project = style(tmp_path)
    sorting = sorted_by_hand(project)
    key = list(sorting.chosen)[-1]
    sorting = replace(sorting, classes=("backs",), chosen={**sorting.chosen, key: "backs"})
    written = style_sort.write(project, replace(sorting, style="Ink / wash"))
    assert [name.partition("_")[2] for name, _ in written.folders] == [
        *("Ink wash main", "Ink wash face", "Ink wash full", "Ink wash backs"),
    ]
    assert json.loads((project.work / "planned.json").read_text())["folders"]["backs"].endswith("Ink wash backs")


@pytest.mark.parametrize("seed", range(3))
def test_any_changes_of_mind_end_in_the_folders_of_the_last_plan(tmp_path: Path, seed: int) -> None:
    """After each write the folders hold exactly what the plan says, and undoing all of them leaves nothing."""
    chance = random.Random(seed)
    project = style(tmp_path, 8, 4, 2)
    keys = [item.key for item in style_sort.items(project, Sorting())]
    before = tree(tmp_path / "loose")
    entries = 0
    for _ in range(5):
        names = chance.choices(("main", "face", "full", "discard"), (6, 3, 2, 1), k=len(keys))
        sorting = Sorting(chosen=dict(zip(keys, names, strict=True)))
        if chance.random() < 0.6:
            sorting = style_sort.together(sorting, chance.sample(keys, chance.randint(2, 4)))
        if chance.random() < 0.5:
            sorting = replace(sorting, repeats={name: chance.randint(1, 9) for name in ("main", "face", "variants")})
        found = style_sort.items(project, sorting)
        made = style_sort.planned(found, sorting)
        assert made is not None
        entries += style_sort.write(project, sorting).entry is not None
        assert {name: len(files) for name, files in inside(project).items()} == {
            one.folder: one.files for one in made.classes
        }
        for picture in project.image.rglob("*.png"):  # a picture is never without its own caption
            number = int(picture.stem[1:3])
            assert picture.with_suffix(".txt").read_text() == f"caption {number}"
            assert picture.read_bytes() == before[f"p{number:02}.png"]
        assert len(list(project.image.rglob("*.txt"))) == len(list(project.image.rglob("*.png")))
    for _ in range(entries):
        project.journal.undo()
    assert not list(project.image.iterdir())
    assert tree(tmp_path / "loose") == before


def test_another_process_that_sorts_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = style(tmp_path, 2, 1, 1)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom lora_train.studio import style_sort\n"
        "from lora_train.studio.project import Project\n"
        "with style_sort.changing(Project(Path(sys.argv[1]))):\n    print('has it', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(project.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"has it\n"
        monkeypatch.setattr(style_sort, "_PATIENCE", 0.2)
        with pytest.raises(UserError, match="another program is sorting"), style_sort.changing(project):
            pytest.fail("both have it")
        other.kill()
    with style_sort.changing(project):  # the lock is gone with its holder
        pass
