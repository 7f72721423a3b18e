import contextlib
import os
from pathlib import Path

import pytest
from PIL import Image

from lora_train.dataset import folders
from lora_train.dataset.folders import scan
from lora_train.errors import UserError

from .pictures import encoded, noise, place


def paths(dataset: folders.Dataset) -> list[str]:
    return [picture.path.relative_to(dataset.root).as_posix() for picture in dataset.samples()]


def test_parent_of_numbered_folders(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG"):
        place(tmp_path / "2_hina wife" / name, caption="tag")
    place(tmp_path / "10_two_words" / "c.webp", noise(40, 20), "x, y\nsecond")
    dataset = scan(tmp_path)
    assert [(c.name, c.repeats, c.folder.name) for c in dataset.concepts] == [
        ("two_words", 10, "10_two_words"),
        ("hina wife", 2, "2_hina wife"),
    ]
    assert paths(dataset) == ["10_two_words/c.webp"] * 10 + ["2_hina wife/a.JPG"] * 2 + ["2_hina wife/b.png"] * 2
    assert (dataset.picture_count, dataset.images_with_repeats) == (3, 14)
    first = dataset.concepts[0].pictures[0]
    assert (first.caption, first.width, first.height) == ("x, y", 40, 20)
    assert dataset.warnings == ("10_two_words: only the first line counts: 1 of 1 pictures: c.webp",)
    assert scan(str(tmp_path)) == dataset


@pytest.mark.parametrize("inner", ["image", "img"])
def test_project_folder(tmp_path: Path, inner: str) -> None:
    place(tmp_path / inner / "3_cat" / "a.png", caption="cat")
    for empty in ("models", "log", "reg"):
        (tmp_path / empty).mkdir()
    dataset = scan(tmp_path)
    assert paths(dataset) == [f"{inner}/3_cat/a.png"] * 3
    assert dataset.warnings == ()
    place(tmp_path / "reg" / "1_cat" / "a.png")
    dataset = scan(tmp_path)
    assert dataset.warnings == ("reg: its pictures are used for regularisation",)
    assert paths(dataset) == [f"{inner}/3_cat/a.png"] * 3 + ["reg/1_cat/a.png"] * 3
    assert (dataset.picture_count, dataset.images_with_repeats, dataset.reg_with_repeats) == (1, 3, 1)
    assert dataset.concepts[1].pictures[0].caption == "cat"
    assert len(scan(tmp_path / inner).concepts) == 1
    (tmp_path / "reg" / "1_cat" / "a.png").unlink()
    assert "reg: not used" in scan(tmp_path).warnings[0] or "1_cat: no usable" in scan(tmp_path).warnings[-1]


def test_a_single_concept_folder_works_and_says_so(tmp_path: Path) -> None:
    place(tmp_path / "25_name" / "a.png", caption="x")
    dataset = scan(tmp_path / "25_name")
    assert dataset.images_with_repeats == 25
    assert dataset.concepts[0].name == "name"
    assert "25 repeats" in dataset.warnings[0]


def test_loose_pictures_count_once_and_the_warning_says_how_to_name_the_folder(tmp_path: Path) -> None:
    place(tmp_path / "my cats" / "a.png", caption="x")
    dataset = scan(tmp_path / "my cats")
    assert (dataset.concepts[0].name, dataset.images_with_repeats) == ("my cats", 1)
    assert "10_my cats" in dataset.warnings[0]


def test_the_folders_words_serve_as_missing_captions(tmp_path: Path) -> None:
    for n in range(7):
        place(tmp_path / "1_hina wife_x" / f"{n}.png")
    place(tmp_path / "1_hina wife_x" / "full.png", caption="own")
    place(tmp_path / "1_hina wife_x" / "zero.png", caption="")
    dataset = scan(tmp_path)
    assert [p.caption for p in dataset.concepts[0].pictures] == ["hina wife_x"] * 7 + ["own", ""]
    assert dataset.warnings == (
        '1_hina wife_x: no .txt caption, the folder\'s name, "hina wife_x", serves: '
        "7 of 9 pictures: 0.png, 1.png, 2.png, 3.png, 4.png and 2 more",
        "1_hina wife_x: empty caption: 1 of 9 pictures: zero.png",
    )


def test_caption_extension_and_file(tmp_path: Path) -> None:
    place(tmp_path / "1_a" / "x.png", caption="txt")
    (tmp_path / "1_a" / "x.caption").write_text("other")
    assert [scan(tmp_path, end).samples()[0].caption for end in (".txt", "caption", ".caption")] == [
        "txt",
        "other",
        "other",
    ]
    with pytest.raises(UserError, match="caption_extension"):
        scan(tmp_path, "")
    (tmp_path / "1_a" / "x.txt").write_bytes(b"\xff\xff\x81\x8d")
    dataset = scan(tmp_path)
    assert dataset.samples()[0].caption == "a"
    assert "encoding" in dataset.warnings[0]


def test_kohyas_name_without_its_last_four_parts(tmp_path: Path) -> None:
    place(tmp_path / "1_a" / "cat_1_2_3_4.png")
    (tmp_path / "1_a" / "cat.txt").write_text("found")
    assert scan(tmp_path).samples()[0].caption == "found"


def test_accents_written_in_two_ways_are_one_name(tmp_path: Path) -> None:
    place(tmp_path / "1_a" / "e\u0301.png")
    (tmp_path / "1_a" / "\u00e9.txt").write_text("found")
    assert scan(tmp_path).samples()[0].caption == "found"


@pytest.mark.parametrize("name", ["日本 語", "[glob]*", "it's 100%", "emoji 🐈", "e\u0301", "a=b;$(x)"])
def test_names_of_any_kind(tmp_path: Path, name: str) -> None:
    if os.name == "nt" and "*" in name:
        pytest.skip("no such name on Windows")
    place(tmp_path / name / f"2_{name}" / f"{name}.png", caption=name)
    dataset = scan(tmp_path / name)
    assert dataset.samples()[0].caption == name
    assert dataset.warnings == ()


@pytest.mark.skipif(os.name == "nt", reason="no such names on Windows")
def test_line_ends_and_undecodable_bytes_in_names_can_be_printed(tmp_path: Path) -> None:
    place(tmp_path / "1_a\nb" / "x\ny.png")
    with contextlib.suppress(OSError):  # macOS refuses the name
        place(tmp_path / "1_a\nb" / os.fsdecode(b"\xff.png"))
    (warning,) = scan(tmp_path).warnings
    warning.encode()
    assert "\n" not in warning


def test_what_systems_leave_behind_is_ignored(tmp_path: Path) -> None:
    place(tmp_path / "1_a" / "x.png", caption="x")
    for junk in ("._x.png", ".DS_Store", "Thumbs.db", ".hidden.jpg", "x.npz", "notes.json"):
        (tmp_path / "1_a" / junk).write_bytes(b"junk")
    for folder in ("__MACOSX", ".git", "1_a/__MACOSX", "1_a/.thumbs"):
        place(tmp_path / folder / "y.png")
    dataset = scan(tmp_path)
    assert paths(dataset) == ["1_a/x.png"]
    assert dataset.warnings == ()


def test_what_lies_beside_numbered_folders_is_named(tmp_path: Path) -> None:
    place(tmp_path / "1_a" / "x.png", caption="x")
    place(tmp_path / "1_a" / "deeper" / "x.png")
    place(tmp_path / "plain" / "x.png")
    place(tmp_path / "loose.png")
    place(tmp_path / "0_off" / "x.png")
    (tmp_path / "4_empty").mkdir()
    (tmp_path / "1_a" / "y.heic").write_bytes(b"x")
    warnings = "\n".join(scan(tmp_path).warnings)
    for part in ("plain", "loose.png", "0_off", "4_empty", "deeper", "y.heic"):
        assert part in warnings
    assert paths(scan(tmp_path)) == ["1_a/x.png"]


def test_broken_pictures_are_left_out_by_name(tmp_path: Path) -> None:
    place(tmp_path / "2_a" / "good.png", caption="x")
    for name, data in {
        "cut.jpg": encoded(noise(200, 200), "JPEG")[:4000],
        "cut.bmp": encoded(noise(200, 200), "BMP")[:4000],
        "none.png": b"",
        "text.jpg": b"hello",
    }.items():
        (tmp_path / "2_a" / name).write_bytes(data)
    dataset = scan(tmp_path)
    assert paths(dataset) == ["2_a/good.png"] * 2
    (warning,) = dataset.warnings
    assert warning.startswith("2_a: left out: 4 of 5 pictures: cut.bmp (")
    for part in ("cut.jpg (it is broken", "none.png (the file is empty)", "text.jpg (it is no JPEG"):
        assert part in warning


def test_orientation_decides_the_size_and_animations_are_noted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = tmp_path / "1_a"
    place(folder / "x.png", caption="x")
    (folder / "x.png").write_bytes(encoded(noise(40, 20), "JPEG", exif=exif))
    (folder / "y.gif").write_bytes(encoded(noise(1), "GIF", save_all=True, append_images=[noise(1, 32, 2)]))
    (folder / "y.txt").write_text("y")
    dataset = scan(tmp_path)
    assert (dataset.samples()[0].width, dataset.samples()[0].height) == (20, 40)
    assert "1_a: left out: 1 of 2 pictures: y.gif" in dataset.warnings[0]  # 1 x 32 is too thin
    (folder / "y.gif").write_bytes(encoded(noise(8, 8), "GIF", save_all=True, append_images=[noise(8, 8, 2)]))
    assert scan(tmp_path).warnings == ("1_a: animated or of several pages, the first is used: 1 of 2 pictures: y.gif",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
@pytest.mark.timeout(20)
def test_pipes_and_loops_of_links_do_no_harm(tmp_path: Path) -> None:
    place(tmp_path / "1_a" / "x.png", caption="x")
    os.mkfifo(tmp_path / "1_a" / "pipe.png")
    os.mkfifo(tmp_path / "1_a" / "x.caption")
    (tmp_path / "1_a" / "self.png").symlink_to("self.png")
    (tmp_path / "1_a" / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "1_a" / "up").symlink_to("..")
    (tmp_path / "5_loop").symlink_to(".")
    (tmp_path / "image").symlink_to(".")
    dataset = scan(tmp_path, ".caption")
    assert paths(dataset) == ["1_a/x.png"]
    assert "gone.jpg, pipe.png, self.png" in "\n".join(dataset.warnings)
    only_loop = tmp_path / "other"
    only_loop.mkdir()
    (only_loop / "image").symlink_to(".")
    with pytest.raises(UserError):
        scan(only_loop)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_to_folders_and_pictures_elsewhere_are_followed(tmp_path: Path) -> None:
    place(tmp_path / "store" / "x.png", caption="x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "3_a").symlink_to(tmp_path / "store")
    assert scan(tmp_path / "set").images_with_repeats == 3


def refused(folder: Path | str) -> str:
    with pytest.raises(UserError) as error:
        scan(folder)
    assert error.value.remedy
    return str(error.value)


def test_folders_without_a_use_are_refused(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "none")
    assert "no such folder" in refused(place(tmp_path / "loose" / "a.png") / "b")
    assert "a file" in refused(tmp_path / "loose" / "a.png")
    assert "no folder is given" in refused("  ")
    assert "opened" in refused("a\0b")
    assert "can't be opened" in refused("~nobody-of-this-name/x")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(tmp_path / "empty")


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("caption")
    assert "a.txt" in refused(tmp_path)
    place(tmp_path / "cats" / "x.png")
    assert "10_cats" in refused(tmp_path)
    (tmp_path / "3_dogs").mkdir()
    (tmp_path / "3_dogs" / "x.heic").write_bytes(b"x")
    message = refused(tmp_path)
    assert "x.heic" in message
    assert "cats" in message
    (tmp_path / "3_dogs" / "y.jpg").write_bytes(b"")
    assert "y.jpg (the file is empty)" in refused(tmp_path)


def test_a_date_is_no_number_of_repeats(tmp_path: Path) -> None:
    place(tmp_path / "20230101_trip" / "x.png")
    assert "20230101" in refused(tmp_path)
    place(tmp_path / "two" / "0_trip" / "x.png")
    assert "0 repeats" in refused(tmp_path / "two" / "0_trip")
    assert "0 repeats" in refused(tmp_path / "two")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permissions of this kind")
def test_unreadable_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path / "1_a" / "x.png", caption="x")
    place(tmp_path / "1_b" / "locked.png", caption="x")
    place(tmp_path / "1_c" / "x.png", caption="x")
    real_open, real_scandir = Path.open, os.scandir

    def deny_open(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == "locked.png":
            raise PermissionError(13, "Permission denied")
        return real_open(self, *args, **kwargs)  # type: ignore[call-overload]

    def deny_scandir(path: Path) -> object:
        if Path(path).name == "1_c":
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    monkeypatch.setattr(Path, "open", deny_open)
    monkeypatch.setattr(os, "scandir", deny_scandir)
    dataset = scan(tmp_path)
    assert paths(dataset) == ["1_a/x.png"]
    warnings = "\n".join(dataset.warnings)
    assert "locked.png (it can't be opened (Permission denied))" in warnings
    assert "1_c" in warnings
    assert "can't be read" in refused(tmp_path / "1_c")


def test_progress_counts_and_may_break_off(tmp_path: Path) -> None:
    for n in range(12):
        place(tmp_path / "1_a" / f"{n}.png", caption="x")
    calls: list[tuple[int, int]] = []
    scan(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 12) for n in range(1, 13)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(tmp_path, progress=stop)


def test_a_large_folder_is_looked_at_anew_each_time(tmp_path: Path) -> None:
    for number in range(folders._MANY):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / "a.png").touch()
    first = folders.list_folder(tmp_path)
    first.others.clear()  # whoever has it may change it
    second = folders.list_folder(tmp_path)
    assert (len(second.others), [path.name for path in second.pictures]) == (folders._MANY, ["a.png"])
    (tmp_path / "b.png").touch()
    (tmp_path / "0.txt").unlink()
    (tmp_path / "1.txt").unlink()
    (tmp_path / "1.txt").mkdir()
    third = folders.list_folder(tmp_path)
    assert len(third.others) == folders._MANY - 2
    assert [path.name for path in third.pictures] == ["a.png", "b.png"]
    assert [path.name for path in third.folders] == ["1.txt"]


def test_large_folders_that_are_remembered_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_MANY", 1)
    for number in range(2 * folders._KEPT):
        (tmp_path / str(number) / "inner").mkdir(parents=True)
        folders.list_folder(tmp_path / str(number))
    assert len(folders._listings) <= folders._KEPT
