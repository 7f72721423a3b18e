"""Boxes are where they should be, results are what was asked for, and no original is touched."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from lora_train import cli, paths
from lora_train.dataset.source import open_dataset
from lora_train.errors import UserError
from lora_train.settings import from_dict
from lora_train.studio import crops, faces
from lora_train.studio import project as projects
from lora_train.studio.crops import Box, Cut, Face, Options

from .drawn import face, loaded, put, scene, tree

PHOTOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "dreambooth" / "dog"
SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
RATIOS = st.sampled_from(list(crops.SHAPES.values()))


def lies_in(box: Box, size: tuple[int, int]) -> bool:
    return (
        box.left >= 0
        and box.top >= 0
        and box.right <= size[0]
        and box.bottom <= size[1]
        and min(box.width, box.height) > 0
    )


@pytest.fixture
def project(tmp_path) -> projects.Project:
    made = projects.make(tmp_path / "p").project
    assert made is not None
    return made


# Boxes


@settings(deadline=None)
@given(SIZES, st.data(), st.floats(0, 2))
def test_a_head_s_box_is_a_square_in_the_picture_around_the_face(size, data, shoulder):
    left, top = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    found = Box(left, top, data.draw(st.integers(1, size[0] - left)), data.draw(st.integers(1, size[1] - top)))
    box = crops.head(found, size, shoulder)
    assert lies_in(box, size) and box.width == box.height
    if box.width > 1.5 * max(found.width, found.height) + 2:
        assert (
            box.left <= found.left and box.right >= found.right and box.top <= found.top and box.bottom >= found.bottom
        )


def test_a_head_has_shoulder_below_and_hair_above():
    box = crops.head(Box(400, 300, 100, 120), (1000, 1000), 0.6)
    assert box == Box(321, 234, 258, 258)
    assert crops.head(Box(400, 300, 100, 120), (1000, 1000), 1.0).bottom > box.bottom
    assert crops.head(Box(0, 0, 100, 120), (1000, 1000)).left == 0
    assert crops.head(Box(10, 10, 80, 80), (100, 90)) == Box(5, 0, 90, 90)


@settings(deadline=None)
@given(SIZES, RATIOS)
def test_a_centred_box_has_its_shape_and_touches_two_borders(size, aspect):
    box = crops.centred(size, aspect)
    assert lies_in(box, size) and (box.width == size[0] or box.height == size[1])
    assert abs(box.width - box.height * aspect) <= max(1, aspect) + 1


@settings(deadline=None)
@given(st.tuples(st.integers(20, 5000), st.integers(20, 5000)), RATIOS, st.floats(0, 0.9))
def test_splitting_covers_everything_with_the_overlap(size, aspect, overlap):
    boxes = crops.split(size, aspect, overlap)
    assert all(lies_in(box, size) for box in boxes) and len({(b.width, b.height) for b in boxes}) == 1
    if len(boxes) == 1:
        return
    along = "left" if boxes[0].left != boxes[1].left else "top"
    end, length = ("right", "width") if along == "left" else ("bottom", "height")
    assert getattr(boxes[0], along) == 0 and getattr(boxes[-1], end) == size[along == "top"]
    for one, other in pairwise(boxes):
        assert getattr(one, end) - getattr(other, along) >= overlap * getattr(one, length) - 1


def test_tiles_cover_a_large_picture_in_rows():
    boxes = crops.tiles((2000, 1500), (1024, 1024), 0.1)
    assert [(b.left, b.top) for b in boxes] == [(0, 0), (488, 0), (976, 0), (0, 476), (488, 476), (976, 476)]
    covered = np.zeros((1500, 2000), bool)
    for box in boxes:
        covered[box.top : box.bottom, box.left : box.right] = True
    assert covered.all()
    for overlap in (-0.1, 1):
        with pytest.raises(UserError, match="overlap"):
            crops.tiles((100, 100), (50, 50), overlap)


@pytest.mark.parametrize("at", [(60, 100), (300, 100), (520, 100)])
def test_a_focal_box_holds_what_is_to_be_seen(at):
    picture = Image.new("RGB", (600, 200), "grey")
    picture.paste(scene(3, 60, 60), (at[0] - 30, at[1] - 30))
    box = crops.focal(picture, (1200, 400), 1.0)
    assert (box.width, box.height) == (400, 400)
    assert box.left <= 2 * (at[0] - 30) + 20 and box.right >= 2 * (at[0] + 30) - 20


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), RATIOS, st.floats(1, 6))
def test_a_focal_box_lies_in_any_picture(width, height, aspect, zoom):
    box = crops.focal(Image.new("RGB", (width, height), "grey"), (width * 3, height * 3), aspect, zoom)
    assert lies_in(box, (width * 3, height * 3))


def test_a_focal_box_of_an_even_picture_is_in_the_middle_and_a_face_draws_it():
    plain = Image.new("RGB", (600, 200), "grey")
    assert abs(crops.focal(plain, (600, 200), 1.0).left - 200) <= 20
    assert crops.focal(plain, (600, 200), 1.0, faces=[Box(500, 50, 60, 60)]).right >= 550


def test_parts_of_a_person_lie_below_each_other():
    found = crops.parts(Box(460, 60, 80, 100), (1000, 1200))
    assert list(found) == ["face", "clothes", "shoes", "body"]
    assert all(lies_in(box, (1000, 1200)) for box in found.values())
    assert (
        found["face"].bottom < found["shoes"].top
        and found["body"].top >= 150
        and found["clothes"].bottom < found["shoes"].bottom
    )
    assert list(crops.parts(Box(30, 30, 80, 100), (150, 180))) == ["face"]


def test_shapes_are_read():
    assert crops.ratio("2:3") == pytest.approx(2 / 3)
    for wrong in ("", "2", "a:b", "1:0", "-1:2", "1:100", "nan:1", "2:3:4"):
        with pytest.raises(UserError, match="aspect ratio"):
            crops.ratio(wrong)


# Results


def test_a_cut_is_the_box_at_its_size_with_its_caption(project, tmp_path):
    source = put(tmp_path / "pics" / "a.jpg", scene(1, 800, 600), "one, two")
    before = tree(tmp_path / "pics")
    made = crops.make(project, [Cut(source, "10_x", Box(100, 50, 300, 200))], Options(side=100))
    (path,) = made.pictures
    assert path == project.image / "10_x" / "a.png" and path.with_suffix(".txt").read_text() == "one, two"
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (150, 100))
        expected = loaded(source).crop((100, 50, 400, 250)).resize((150, 100), Image.Resampling.LANCZOS)
        assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert tree(tmp_path / "pics") == before


def test_undo_takes_all_of_it_away(project, tmp_path):
    source = put(tmp_path / "a.png", scene(1), "words")
    before = {name for name in tree(project.root) if not name.startswith(".studio")}
    crops.make(project, [Cut(source, "10_x"), Cut(source, "20_y", suffix="part")])
    assert len(project.journal.entries()[0:1]) == 1 and project.journal.entries()[0].files == 4
    project.journal.undo()
    assert {name for name in tree(project.root) if not name.startswith(".studio")} == before
    assert not (project.image / "10_x").exists() and source.is_file()


def test_no_name_is_taken_twice(project, tmp_path):
    one, other = put(tmp_path / "1" / "a.png", scene(1)), put(tmp_path / "2" / "a.jpg", scene(2))
    (project.image / "10_x").mkdir()
    (project.image / "10_x" / "a.txt").write_text("mine")
    made = crops.make(project, [Cut(one, "10_x"), Cut(other, "10_x"), Cut(other, "10_x")])
    assert [p.name for p in made.pictures] == ["a-2.png", "a-3.png", "a-4.png"]
    assert (project.image / "10_x" / "a.txt").read_text() == "mine"


def test_boxes_count_in_the_upright_picture(project, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = scene(5, 300, 500)
    source = put(tmp_path / "a.png", upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    (path,) = crops.make(project, [Cut(source, "10_x", Box(200, 400, 100, 100))]).pictures
    assert np.array_equal(np.asarray(loaded(path)), np.asarray(upright.crop((200, 400, 300, 500))))


def test_a_smaller_picture_is_enlarged_by_the_host_and_a_larger_one_is_not(project, tmp_path):
    asked = []

    def enlarge(picture: Image.Image, width: int, height: int) -> Image.Image:
        asked.append((picture.size, (width, height)))
        return Image.new("RGB", (width, height), "red")

    small, large = put(tmp_path / "s.png", scene(1, 100, 200)), put(tmp_path / "l.png", scene(2, 900, 900))
    made = crops.make(project, [Cut(small, "10_x"), Cut(large, "10_x")], Options(side=512), enlarge)
    assert asked == [((100, 200), (512, 1024))]
    assert [loaded(p).size for p in made.pictures] == [(512, 1024), (512, 512)]
    assert loaded(made.pictures[0]).getpixel((0, 0)) == (255, 0, 0)
    assert len(made.notes) == 1 and "s.png" in made.notes[0] and "5.1 times" in made.notes[0]


def test_an_upscaler_that_fails_leaves_only_its_picture_out(project, tmp_path):
    def enlarge(picture: Image.Image, width: int, height: int) -> Image.Image:
        if picture.width == 100:
            raise UserError("no model", where="ESRGAN", remedy="Choose another")
        return picture

    pictures = [put(tmp_path / f"{w}.png", scene(1, w, w)) for w in (100, 101, 600)]
    made = crops.make(project, [Cut(p, "10_x") for p in pictures], Options(side=512), enlarge)
    assert [p.name for p in made.pictures] == ["600.png"]
    assert ["no model" in str(made.problems[0]), "101 x 101, not 512" in str(made.problems[1])] == [True, True]


@pytest.mark.parametrize("alpha", crops.ALPHA)
def test_transparency_goes_on_a_colour_into_a_mask_or_stays(project, tmp_path, alpha):
    clear = Image.new("RGBA", (100, 100), (255, 0, 0, 0))
    ImageDraw.Draw(clear).rectangle((50, 0, 99, 99), fill=(0, 0, 255, 255))
    source = put(tmp_path / "a.png", clear)
    (path,) = crops.make(project, [Cut(source, "10_x")], Options(alpha=alpha, background="#00ff00")).pictures
    mask = project.root / "masks" / "10_x" / "a.png"
    with Image.open(path) as image:
        assert image.mode == ("RGBA" if alpha == "keep" else "RGB")
        assert image.convert("RGB").getpixel((80, 50)) == (0, 0, 255)
        left = image.getpixel((10, 50))
    assert left == ((255, 0, 0, 0) if alpha == "keep" else (0, 255, 0))
    assert mask.is_file() == (alpha == "mask")
    if alpha == "mask":
        assert [loaded(mask).getpixel((x, 50)) for x in (10, 80)] == [0, 255]
        values = {**projects.training(project), "resolution": 64, "conditioning_data_dir": str(project.root / "masks")}
        dataset = open_dataset(from_dict(values)[0])
        assert dataset.concepts[0].pictures[0].mask == mask


def test_what_is_wrong_is_said_before_or_left_out(project, tmp_path):
    good = put(tmp_path / "a.png", scene(1, 100, 100))
    (tmp_path / "b.png").write_text("no picture")
    cuts = [
        Cut(good, "10_x", Box(50, 50, 60, 10)),
        Cut(tmp_path / "b.png", "10_x"),
        Cut(tmp_path / "none.png", "10_x"),
        Cut(good, "10_x"),
    ]
    made = crops.make(project, cuts)
    assert len(made.pictures) == 1 and len(made.problems) == 3
    assert "isn't in a picture of 100 x 100" in str(made.problems[0])
    before = tree(project.root)
    for options in (Options(side=1), Options(alpha="x"), Options(background="bluish")):
        with pytest.raises(UserError):
            crops.make(project, [Cut(good, "10_x")], options)
    for folder in ("../x", "a/b", "", "CON", ".hidden"):
        with pytest.raises(UserError):
            crops.make(project, [Cut(good, folder)])
    assert tree(project.root) == before


def test_a_bulk_can_be_stopped(project, tmp_path):
    pictures, stop = [put(tmp_path / f"{n}.png") for n in range(3)], Event()
    made = crops.make(project, [Cut(p, "10_x") for p in pictures], progress=lambda done, total: stop.set(), stop=stop)
    assert made.stopped and len(made.pictures) == 1
    assert len(project.journal.undo().restored) == 1


# Many pictures


def drawn_detector(picture: Image.Image) -> list[Face]:
    """Stands for a detector: where the picture is pure red."""
    red = (np.asarray(picture) == (255, 0, 0)).all(axis=2)
    if not red.any():
        return []
    y, x = np.where(red)
    return [Face(Box(int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1))]


def test_heads_are_cut_at_full_size_and_pictures_without_one_are_named(project, tmp_path):
    large = Image.new("RGB", (4000, 3000), "white")
    ImageDraw.Draw(large).rectangle((2000, 1000, 2399, 1399), fill="red")
    with_face, without = put(tmp_path / "a.png", large), put(tmp_path / "b.png", Image.new("RGB", (99, 99), "white"))
    cuts, problems = crops.heads([with_face, without], drawn_detector, "10_face")
    assert len(cuts) == 1 and [p.where for p in problems] == ["b.png"]
    box = cuts[0].box
    assert box.width == box.height and abs(box.left + box.width / 2 - 2200) < 12 and 800 < box.width < 900
    people, _ = crops.persons([with_face], drawn_detector, {"face": "100_hina", "clothes": "20_hina clothes"})
    assert [cut.suffix for cut in people] == ["face", "clothes"][: len(people)] and people[0].folder == "100_hina"


def test_shaped_cuts(tmp_path):
    long = put(tmp_path / "long.png", scene(1, 900, 300))
    assert [cut.suffix for cut in crops.shaped([long], "10_x", 1.0, "split")[0]] == ["1", "2", "3", "4"]
    assert crops.shaped([long], "10_x", 1.0, "centre")[0][0].box == Box(300, 0, 300, 300)
    assert crops.shaped([long], "10_x", 2 / 3)[0][0].box.height == 300
    (tmp_path / "x.png").write_text("no picture")
    assert "x.png" in str(crops.shaped([tmp_path / "x.png"], "10_x", 1.0)[1][0])
    with pytest.raises(UserError):
        crops.shaped([long], "10_x", 1.0, "sideways")


def test_our_own_detector_is_always_there(tmp_path, monkeypatch):
    monkeypatch.setattr(faces.importlib.util, "find_spec", lambda name: None)
    assert faces.available([tmp_path]) == ["bundled"]
    assert faces.detector("", [tmp_path]).name == "bundled"
    with pytest.raises(UserError, match="'yunet'") as wrong:
        faces.detector("yunet")
    assert "bundled" in wrong.value.remedy


def test_the_cascade_finds_a_face():
    pytest.importorskip("cv2")
    found = faces.detector("haar").detect(face())
    assert len(found) == 1
    middle = found[0].box.left + found[0].box.width / 2, found[0].box.top + found[0].box.height / 2
    assert abs(middle[0] - 200) < 30 and abs(middle[1] - 150) < 40
    assert faces.detector("haar").detect(Image.new("RGB", (300, 300), "grey")) == []


def test_the_command_line_cuts(tmp_path, capsys):
    put(tmp_path / "pics" / "a.png", scene(1, 900, 300), "words")
    assert cli.main(["project", "make", str(tmp_path / "p"), "--data-dir", str(tmp_path / "d")]) == 0
    common = ["crop", str(tmp_path / "pics"), "--project", str(tmp_path / "p"), "--into"]
    assert cli.main([*common, "10_a", "--way", "split", "--side", "256"]) == 0
    assert sorted(p.name for p in (tmp_path / "p" / "image" / "10_a").glob("*.png")) == [
        f"a-{n}.png" for n in range(1, 5)
    ]
    assert cli.main([*common, "5_b", "--way", "box", "--box", "10,10,50,40"]) == 0
    assert loaded(tmp_path / "p" / "image" / "5_b" / "a.png").size == (50, 40)
    capsys.readouterr()
    assert cli.main(["project", "undo", str(tmp_path / "p"), "--data-dir", str(tmp_path / "d")]) == 0
    assert "undone" in capsys.readouterr().out and not (tmp_path / "p" / "image" / "5_b").exists()
    assert cli.main([*common, "5_b", "--way", "box", "--box", "1,2"]) == 2
    assert cli.main([*common, "5_b", "--shape", "x"]) == 2


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the photographs aren't here")
def test_photographs_become_a_set_that_can_be_trained_on(tmp_path):
    before = tree(PHOTOGRAPHS)
    opened = projects.make(tmp_path / "dog")
    pictures = sorted(PHOTOGRAPHS.glob("*.jpg"))
    cuts, problems = crops.shaped(pictures, "10_dog", 2 / 3)
    made = crops.make(opened.project, cuts, Options(side=512))
    assert not problems and not made.problems and len(made.pictures) == len(pictures)
    dataset = open_dataset(from_dict({**projects.training(opened.project), "resolution": 512})[0])
    assert {(p.width, p.height) for p in dataset.concepts[0].pictures} == {(512, 768)}
    assert dataset.images_with_repeats == 10 * len(pictures) and tree(PHOTOGRAPHS) == before


def test_a_background_that_is_removed_becomes_transparent(project, tmp_path):
    def left_half(picture: Image.Image) -> Image.Image:
        kept = Image.new("L", picture.size, 0)
        kept.paste(255, (0, 0, picture.width // 2, picture.height))
        return kept

    cut = Cut(put(tmp_path / "a.png", Image.new("RGB", (80, 40), "red")), "1_x")
    rendered = crops.render(cut, Options(background="#0000ff", alpha="mask", remove=left_half))
    assert rendered.picture.getpixel((5, 5)) == (255, 0, 0) and rendered.picture.getpixel((75, 5)) == (0, 0, 255)
    assert rendered.mask is not None and [rendered.mask.getpixel((x, 5)) for x in (5, 75)] == [255, 0]
    assert crops.render(cut, Options(alpha="keep", remove=left_half)).picture.getpixel((75, 5))[3] == 0


def test_a_wrong_folder_is_named_where_it_was_given(project, tmp_path):
    cut = Cut(put(tmp_path / "a.png"), "../x")
    with pytest.raises(UserError) as wrong:
        crops.make(project, [cut])
    assert wrong.value.where == "into" and "10_hina" in wrong.value.remedy


def test_a_cascade_of_drawn_faces_is_found_among_the_models(tmp_path, monkeypatch):
    """Also without OpenCV."""
    monkeypatch.setattr(faces.importlib.util, "find_spec", lambda name: None)
    file = tmp_path / "faces" / "lbpcascade_animeface.xml"
    file.parent.mkdir()
    file.write_bytes(gzip.decompress((paths.FACES / "haarcascade_frontalface_alt2.xml.gz").read_bytes()))
    assert faces.available([tmp_path])[0] == "anime"
    assert len(faces.detector("", [tmp_path]).detect(face())) == 1
    file.write_text("<opencv_storage/>")
    with pytest.raises(UserError, match="holds no cascade"):
        faces.detector("", [tmp_path])
