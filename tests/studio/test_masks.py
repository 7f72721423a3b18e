"""Masks from transparency, by hand and by a remover: written where the training reads them, and taken back."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lora_train import cli
from lora_train.dataset import images
from lora_train.dataset.buckets import fit
from lora_train.dataset.source import open_dataset
from lora_train.errors import UserError
from lora_train.settings import from_dict
from lora_train.studio import masks
from lora_train.studio import project as projects

from .drawn import loaded, put, scene, tree


@pytest.fixture
def project(tmp_path) -> projects.Project:
    """Of two own pictures, one transparent on its left half."""
    made = projects.make(tmp_path / "p").project
    assert made is not None
    clear = scene(1, 80, 64).convert("RGBA")
    alpha = Image.new("L", (80, 64), 255)
    alpha.paste(0, (0, 0, 40, 64))
    clear.putalpha(alpha)
    put(made.image / "2_x" / "clear.png", clear)
    put(made.image / "2_x" / "plain.jpg", scene(2, 64, 96))
    return made


def paths(project: projects.Project) -> list[Path]:
    return [picture for concept in project.concepts() for picture in concept.pictures]


def test_transparency_becomes_a_mask_and_the_training_reads_it(project):
    done = masks.make(project, paths(project), "alpha")
    assert done.written == 1 and "transparent nowhere" in done.problems[0].what
    masks.use(project, True)
    assert masks.complete(project) == 1
    settings = from_dict({**projects.training(project), "resolution": 64})[0]
    concept = open_dataset(settings).concepts[0]
    assert [p.mask.name for p in concept.pictures] == ["clear.png", "plain.png"]
    seen = concept.pictures[0]
    crop = images.crop(seen.path, fit((seen.width, seen.height), concept.frame), mask=seen.mask)
    assert crop.mask is not None and crop.mask.shape == crop.pixels.shape[:2]
    assert not crop.mask[:, :20].any() and (crop.mask[:, -20:] == 255).all()
    masks.use(project, False)
    assert projects.training(project)["conditioning_data_dir"] == ""


def test_a_mask_is_made_again_inverted_taken_away_and_all_of_it_undone(project):
    originals = tree(project.image)
    picture = paths(project)[0]
    masks.make(project, [picture], "alpha")
    first = np.asarray(loaded(masks.find(project, picture)))
    masks.make(project, [picture], "invert")
    assert (np.asarray(loaded(masks.find(project, picture))) == 255 - first).all()
    assert masks.take_away(project, [picture]) == 1 and masks.find(project, picture) is None
    for title in ("mask taken away: clear.png", "mask of clear.png", "mask of clear.png"):
        assert projects.Project(project.root).journal.undo().entry.title == title
        found = masks.find(project, picture)
        assert (found is None) == (len(project.journal.entries()) == sum(e.undone for e in project.journal.entries()))
    assert tree(project.image) == originals


def test_masks_of_pictures_elsewhere_lie_in_the_project(tmp_path):
    put(tmp_path / "set" / "3_a" / "1.png", scene(1, 64, 64))
    put(tmp_path / "set" / "3_b" / "1.png", scene(2, 64, 64))
    before = tree(tmp_path / "set")
    project = projects.make(tmp_path / "set").project
    masks.use(project, True)
    assert masks.complete(project) == 2
    values = projects.training(project)
    assert values["train_data_dir"] == str(tmp_path / "set")
    dataset = open_dataset(from_dict({**values, "resolution": 64})[0])
    assert [p.mask.parent.name for c in dataset.concepts for p in c.pictures] == ["3_a", "3_b"]
    assert tree(tmp_path / "set") == before


def test_folders_of_one_name_keep_their_masks_apart(project, tmp_path):
    put(tmp_path / "set" / "2_x" / "clear.png", scene(5, 50, 50))
    projects.add(project, tmp_path / "set")
    masks.use(project, True)
    masks.make(project, [project.image / "2_x" / "clear.png"], "alpha")
    masks.complete(project)
    dataset = open_dataset(from_dict({**projects.training(project), "resolution": 64})[0])
    own, other = dataset.concepts
    assert own.pictures[0].mask.parent != other.pictures[0].mask.parent
    assert loaded(other.pictures[0].mask).size == (50, 50)
    put(project.reg / "1_x" / "r.png")
    with pytest.raises(UserError, match="no masks"):
        masks.folder(project, project.reg / "1_x")


def test_the_command_line_makes_masks_and_takes_them_away(project, capsys):
    def run(*words: str) -> tuple[int, str]:
        code = cli.main(["mask", str(project.root), *words])
        return code, capsys.readouterr().out

    clear = str(project.image / "2_x" / "clear.png")
    assert run(clear, "--way", "alpha") == (0, "1 masks written\n")
    assert run("--train", "with")[1].startswith("1 white masks added; train with --conditioning_data_dir")
    assert run("--way", "remove", "--train", "without") == (0, "2 masks taken away\n")
    assert run(str(project.root / "x.png"), "--way", "alpha")[0] == 2


def test_without_rembg_its_absence_is_told(project, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rembg", None)
    monkeypatch.setattr(masks.importlib.util, "find_spec", lambda name: None)
    assert masks.removers() == []
    with pytest.raises(UserError, match="isn't installed"):
        masks.make(project, paths(project), "background")


def test_rembg_is_used_with_models_that_are_there(project, monkeypatch, tmp_path):
    """A stand-in for rembg's two functions: its models can't be had here."""
    asked = []
    stand_in = SimpleNamespace(
        new_session=lambda name: asked.append(name) or name,
        remove=lambda picture, session, only_mask: Image.new("L", picture.size, 9),
    )
    monkeypatch.setitem(sys.modules, "rembg", stand_in)
    monkeypatch.setattr(masks.importlib.util, "find_spec", lambda name: stand_in)
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "models"))
    assert masks.removers() == []
    with pytest.raises(UserError, match="no model"):
        masks.remover()
    (tmp_path / "models").mkdir()
    for name in ("u2netp", "isnet-anime"):
        (tmp_path / "models" / f"{name}.onnx").touch()
    assert masks.removers() == ["isnet-anime", "u2netp"]
    assert masks.make(project, paths(project), "background").written == 2
    assert asked == ["isnet-anime"] and loaded(masks.find(project, paths(project)[0])).getpixel((0, 0)) == 9
