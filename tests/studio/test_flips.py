"""Mirrored copies: the pixels, the captions, and the way back."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image

from lora_train import cli
from lora_train.studio import captions, edits, flips
from lora_train.studio import project as projects
from lora_train.studio.captions import open_table

from .drawn import loaded, put, scene, tree


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("looking to the left", "looking to the right"),
        ("left-handed", "right-handed"),
        ("Left_arm up", "Right_arm up"),
        ("holding a sword in her RIGHT hand", "holding a sword in her LEFT hand"),
        ("from left to right", "from right to left"),
        ("left-to-right manga", "right-to-left manga"),
        ("leftmost girl", "rightmost girl"),
        ("(left hand:1.2)", "(right hand:1.2)"),
        ("a man on the left looks to the right", "a man on the right looks to the left"),
    ],
)
def test_sides_become_each_other(before: str, after: str) -> None:
    assert edits.mirrored(before) == after
    assert edits.mirrored(after) == before


@pytest.mark.parametrize(
    "tag",
    [
        *("bright", "upright", "copyright name", "leftovers", "lefty", "alright", "rightful", "night", "hina"),
        *("right angle", "all right", "left behind", "left_4_dead", "right-angled", "he is right here", "nothing left"),
    ],
)
def test_words_that_are_no_sides_stay(tag: str) -> None:
    assert edits.mirrored(tag) == tag


def test_tags_that_are_protected_stay() -> None:
    swap = edits.from_dict({"edit": "swap", "protect": "left hina"})
    assert edits.done([swap], "left hina, left arm", captions.Counter()) == "left hina, right arm"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "hina"
    folder = root / "image" / "10_hina"
    (root / "models").mkdir(parents=True)
    put(folder / "a.png", scene(1), "hina, looking to the left")
    put(folder / "b.jpg", scene(2), "hina, english text")
    put(folder / "c.png", scene(3))
    put(folder / "d.webp", scene(4), "hina", lossless=True)
    put(root / "masks" / "10_hina" / "a.png", scene(5).convert("L"))
    return root


def test_copies_are_mirrored_in_pixels_caption_and_mask(project: Path) -> None:
    before = tree(project / "image")
    table = open_table(project)
    wanted = flips.plan(table)
    assert [copy.target.name for copy in wanted.copies] == ["a_flipped.png", "c_flipped.png", "d_flipped.webp"]
    assert wanted.writing == 1
    made = flips.make(table, wanted)
    assert (len(made.pictures), made.problems, made.stopped) == (3, (), False)
    folder = project / "image" / "10_hina"
    for name in ("a.png", "c.png", "d.webp"):
        path = folder / name
        copy = loaded(path.with_name(f"{path.stem}_flipped{path.suffix}"))
        assert np.array_equal(np.asarray(copy.convert("RGB")), np.asarray(loaded(path).convert("RGB"))[:, ::-1])
    assert (folder / "a_flipped.txt").read_text(encoding="utf-8") == "hina, looking to the right"
    assert not (folder / "c_flipped.txt").exists()
    mask = np.asarray(loaded(project / "masks" / "10_hina" / "a.png"))
    assert np.array_equal(np.asarray(loaded(project / "masks" / "10_hina" / "a_flipped.png")), mask[:, ::-1])
    assert {name: held for name, held in tree(project / "image").items() if "_flipped" not in name} == before
    assert flips.plan(open_table(project)).copies == ()
    captions.undo(project, made.entry)
    assert tree(project / "image") == before
    assert len(tree(project / "masks")) == 1


def test_writing_and_transparency_and_a_picture_that_is_turned(project: Path) -> None:
    folder = project / "image" / "10_hina"
    clear = scene(6).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").rotate(90).resize(clear.size))
    put(folder / "e.png", clear)
    turned = Image.Exif()
    turned[0x0112] = 6
    put(folder / "f.jpg", scene(7, 64, 32), exif=turned)
    table = open_table(project)
    rows = [row for row in table.rows if row.picture.stem in "bef"]
    made = flips.make(table, flips.plan(table, rows, keep_writing=True))
    assert {path.name for path in made.pictures} == {"b_flipped.jpg", "e_flipped.png", "f_flipped.jpg"}
    assert np.array_equal(np.asarray(loaded(folder / "e_flipped.png")), np.asarray(clear)[:, ::-1])
    assert loaded(folder / "f_flipped.jpg").size == (32, 64)


def test_a_broken_picture_is_named_and_stopping_keeps_what_is_done(project: Path) -> None:
    (project / "image" / "10_hina" / "a.png").write_bytes(b"no picture")
    table = open_table(project)
    made = flips.make(table, flips.plan(table))
    assert len(made.pictures) == 2
    assert "a.png" in str(made.problems[0])
    captions.undo(project)
    stop = Event()
    table = open_table(project)
    made = flips.make(table, flips.plan(table), lambda done, total: stop.set(), stop)
    assert made.stopped
    assert len(made.pictures) <= 1


def test_the_command_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(project / "image")
    assert cli.main(["captions", str(project), "flip"]) == 0
    assert "3 mirrored pictures would be made" in capsys.readouterr().out
    assert tree(project / "image") == before
    assert cli.main(["captions", str(project), "flip", "--write", "--with", "looking to the left"]) == 0
    assert "1 mirrored picture made" in capsys.readouterr().out
    assert cli.main(["captions", str(project), "undo"]) == 0
    assert cli.main(["captions", str(project), "swap", "--write"]) == 0
    assert (project / "image" / "10_hina" / "a.txt").read_text(encoding="utf-8") == "hina, looking to the right"


def test_pictures_elsewhere_are_named_before_anything_is_made(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / "loose" / f"{number}.png", scene(number, 32, 32), caption="left arm")
    before = tree(tmp_path / "loose")
    made = projects.make(tmp_path / "loose").project
    assert made is not None
    put(made.image / "1_x" / "own.png", scene(9, 32, 32), caption="left arm")
    wanted = flips.plan(open_table(made.root))
    assert [copy.target.name for copy in wanted.copies] == ["own_flipped.png"]
    assert wanted.skipped == (
        "loose: 3 pictures lie outside of the project, and nothing is written there; cut them first",
    )
    done = flips.make(open_table(made.root), wanted)
    assert len(done.pictures) == 1 and not done.problems
    assert tree(tmp_path / "loose") == before
    alone = flips.plan(open_table(tmp_path / "loose"))  # by itself it is a set of its own
    assert len(alone.copies) == 3 and not alone.skipped
