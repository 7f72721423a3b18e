"""Planted faults are found, all of them and nothing else; a second scan looks at nothing that didn't change."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lora_train import cli
from lora_train.errors import UserError
from lora_train.studio import project as projects
from lora_train.studio import scan as module
from lora_train.studio.scan import scan

from .drawn import put, scene, tree

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "dreambooth"


def bomb(path: Path, side: int) -> None:
    """A PNG whose header says side x side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def names(seen: list[module.Seen]) -> list[str]:
    return [p.name for p in seen]


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """A set with one fault of each kind among 12 sound pictures of 600 pixels."""
    root = tmp_path_factory.mktemp("set")
    a, b = root / "10_a", root / "5_b ü"
    for n in range(12):
        put((a if n < 8 else b) / f"{n:02d}.jpg", scene(n, 600, 600), "words", quality=92)
    (a / "copy.jpg").write_bytes((a / "00.jpg").read_bytes())
    put(b / "variant.png", scene(1, 600, 600).resize((560, 560)))
    put(a / "tiny.png", scene(30, 100, 90))
    put(a / "huge.jpg", scene(31, 4200, 700))
    put(a / "grey.jpg", scene(32, 600, 600).convert("L"))
    put(a / "grey in rgb.jpg", scene(33, 600, 600).convert("L").convert("RGB"), quality=60)
    put(a / "blurred.jpg", scene(34, 900, 900).filter(ImageFilter.GaussianBlur(14)))
    exif = Image.Exif()
    exif[0x0112] = 6
    put(a / "turned.jpg", scene(35, 800, 600), exif=exif)
    clear = scene(36, 600, 600).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((600, 600)))
    put(a / "clear.png", clear)
    put(a / "opaque.png", scene(37, 600, 600).convert("RGBA"))
    put(a / "deep.png", Image.fromarray(np.asarray(scene(38, 600, 600).convert("L")).astype(np.uint16) * 257))
    whole = (a / "01.jpg").read_bytes()
    (a / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (a / "empty.png").write_bytes(b"")
    (a / "text.jpg").write_text("not a picture")
    bomb(a / "bomb.png", 20_000)
    put(a / "strip.png", Image.new("RGB", (2000, 10)))
    for junk in ("Thumbs.db", "__MACOSX/._01.jpg", "10_a/._02.jpg", "10_a/.DS_Store"):
        (root / junk).parent.mkdir(exist_ok=True)
        (root / junk).write_bytes(b"junk")
    (a / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / ".hidden").mkdir()
    put(root / ".hidden" / "1.png")
    return root


def test_all_planted_faults_are_found_and_none_is_invented(planted):
    before = tree(planted)
    report = scan(planted)
    counts = report.counts()
    broken = ["bomb.png", "cut.jpg", "empty.png", "strip.png", "text.jpg"]
    assert names(report.broken()) == [f"10_a/{name}" for name in broken]
    problems = {p.name: p.problem for p in report.broken()}
    assert "million pixels" in problems["10_a/bomb.png"] and "empty" in problems["10_a/empty.png"]
    assert names(report.tiny()) == ["10_a/tiny.png"]
    assert names(report.huge()) == ["10_a/huge.jpg"]
    assert names(report.grey()) == ["10_a/deep.png", "10_a/grey in rgb.jpg", "10_a/grey.jpg"]
    assert names(report.blurred()) == ["10_a/blurred.jpg"]
    assert report.duplicates == (("10_a/00.jpg", "10_a/copy.jpg"),)
    assert report.similar == (("10_a/01.jpg", "5_b ü/variant.png"),)
    assert report.junk == ("10_a/.DS_Store", "10_a/._02.jpg", "Thumbs.db", "__MACOSX")
    assert report.unread == ("10_a/photo.heic",)
    assert (counts["turned"], counts["transparent"], counts["captions"]) == (1, 1, 12)
    assert (counts["pictures"], counts["usable"]) == (28, 23)
    turned = next(p for p in report.pictures if p.name.endswith("turned.jpg"))
    assert (turned.width, turned.height, turned.orientation) == (600, 800, 6)
    assert tree(planted) == before


def test_a_second_scan_is_the_same_and_looks_only_at_what_changed(planted, tmp_path):
    cache = tmp_path / "scan.json"
    first = scan(planted, cache)
    assert first.reused == 0
    again = scan(planted, cache)
    assert again.reused == len(again.pictures) and again.pictures == first.pictures and again.similar == first.similar
    cache.write_text("{")
    assert scan(planted, cache).pictures == first.pictures


def test_what_changed_is_looked_at_again(tmp_path):
    path = put(tmp_path / "set" / "1.png", scene(1))
    put(tmp_path / "set" / "2.png", scene(2))
    first = scan(tmp_path / "set", tmp_path / "c.json")
    put(path, scene(3, 200, 300))
    os.utime(path, ns=(1, 1))
    second = scan(tmp_path / "set", tmp_path / "c.json")
    assert second.reused == 1 and (second.pictures[0].width, second.pictures[0].height) == (200, 300)
    assert second.pictures[0].content != first.pictures[0].content
    path.unlink()
    assert names(list(scan(tmp_path / "set", tmp_path / "c.json").pictures)) == ["2.png"]


def test_too_much_grey_is_said(tmp_path):
    put(tmp_path / "a.png", scene(1))
    for n in range(2):
        put(tmp_path / f"g{n}.png", scene(n + 5).convert("L"))
    assert any("must not outnumber" in text for text in scan(tmp_path).warnings())
    put(tmp_path / "b.png", scene(9))
    assert not any("must not outnumber" in text for text in scan(tmp_path).warnings())


def test_the_measures_do_not_depend_on_orientation_or_size(tmp_path):
    t = Image.Transpose
    stored = [
        None,
        t.FLIP_LEFT_RIGHT,
        t.ROTATE_180,
        t.FLIP_TOP_BOTTOM,
        t.TRANSPOSE,
        t.ROTATE_90,
        t.TRANSVERSE,
        t.ROTATE_270,
    ]
    for orientation, turn in enumerate(stored, 1):
        exif, picture = Image.Exif(), scene(4, 400, 300)
        exif[0x0112] = orientation
        put(tmp_path / f"{orientation}.png", picture if turn is None else picture.transpose(turn), exif=exif)
    report = scan(tmp_path)
    assert {(p.width, p.height) for p in report.pictures} == {(400, 300)}
    assert len({p.alike for p in report.pictures}) == 1


def test_it_can_be_stopped_and_goes_on_where_it_was(tmp_path):
    for n in range(400):
        put(tmp_path / "set" / f"{n}.png", Image.new("RGB", (8, 8), (n % 256, n // 256, 0)))
    stop, seen = Event(), []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        stop.set()

    first = scan(tmp_path / "set", tmp_path / "c.json", progress, stop)
    assert first.stopped and 0 < len(first.pictures) < 400 and seen[0][1] == 400
    second = scan(tmp_path / "set", tmp_path / "c.json")
    assert not second.stopped and len(second.pictures) == 400 and second.reused == len(first.pictures)


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
def test_pipes_links_and_loops_do_not_hang_it(tmp_path):
    root = tmp_path / "set"
    put(root / "1.png")
    os.mkfifo(root / "pipe.png")
    (root / "loop").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    report = scan(root)
    assert names(list(report.pictures)) == ["1.png"]
    assert report.irregular == ("gone.png", "pipe.png", "self.png")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="can't be read"):
        scan(tmp_path / "none")
    assert scan(tmp_path).as_dict()["counts"]["pictures"] == 0


def test_the_command_line_reports_as_table_and_json(planted, tmp_path, capsys):
    assert cli.main(["scan", str(planted)]) == 0
    table = capsys.readouterr().out
    assert "28 pictures, 23 usable" in table and "cut.jpg" in table and "JPEG" in table
    assert cli.main(["scan", str(planted), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["broken"] == 5 and found["similar"] and found["folder_of"]["5_b ü"] == 5
    assert cli.main(["scan", str(planted), "--near", "99"]) == 2


def test_a_project_is_what_it_trains_on_and_remembers_what_was_seen(tmp_path, capsys):
    root, elsewhere = tmp_path / "p", tmp_path / "pics"
    put(root / "image" / "10_x" / "1.png")
    put(root / "models" / "sample.png")
    put(elsewhere / "2.png", scene(2))
    project = projects.make(root).project
    projects.add(project, elsewhere)
    for reused in (0, 2):
        assert cli.main(["scan", str(root / "image"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [p["name"] for p in found["pictures"]] == [(elsewhere / "2.png").as_posix(), "image/10_x/1.png"]
        assert found["reused"] == reused


@pytest.mark.skipif(not DATA.is_dir(), reason="the photographs aren't here")
def test_photographs_are_sharp_coloured_and_different():
    counts = scan(DATA).counts()
    assert counts["usable"] == counts["pictures"] >= 15
    assert (counts["blurred"], counts["grey"], counts["duplicates"]) == (0, 0, 0)


def test_findings_by_name_are_what_the_report_says(planted):
    report = scan(planted)
    findings = report.findings
    assert findings["10_a/tiny.png"][0] == "tiny" and "small" not in findings["10_a/tiny.png"]
    assert "twice" in findings["10_a/copy.jpg"] and "broken" in findings["10_a/cut.jpg"]
    assert "turned" in findings["10_a/turned.jpg"] and "transparent" in findings["10_a/clear.png"]
    for finding, found in (("huge", report.huge()), ("blurred", report.blurred()), ("grey", report.grey())):
        assert {name for name, given in findings.items() if finding in given} == set(names(found))
    assert set().union(*findings.values()) <= set(module.FINDINGS)
    first, second = (report.places[name] for name in ("10_a/00.jpg", "10_a/copy.jpg"))
    assert first[0] == second[0] and report.by_name["10_a/00.jpg"].width == 600


def test_processes_find_what_one_finds_and_their_death_costs_nothing(planted, monkeypatch):
    alone = scan(planted).as_dict()
    monkeypatch.setattr(module, "_MANY", 1)
    monkeypatch.setattr(module, "_BATCH", 4)
    monkeypatch.setattr(module, "_LARGE", 300_000)
    started = []
    real = module.subprocess.Popen
    monkeypatch.setattr(
        module.subprocess, "Popen", lambda *given, **more: started.append(real(*given, **more)) or started[-1]
    )
    assert scan(planted).as_dict() == alone
    assert started and all(process.wait(10) is not None for process in started)
    monkeypatch.setattr(module, "_START", "import sys; sys.stdin.readline(); sys.exit(1)")
    assert scan(planted).as_dict() == alone


def test_what_is_left_out_is_no_duplicate_of_its_copies(tmp_path: Path) -> None:
    made = projects.make(tmp_path / "hina").project
    assert made is not None
    for folder in ("1_hina", "20_hina main"):
        for number in range(3):
            put(made.image / folder / f"{number}.png", scene(number, 300, 300))
    both = scan(made.root, parts=made.parts())
    assert (both.counts()["duplicates"], both.counts()["pictures"]) == (3, 6)
    projects.use(made, made.image / "1_hina", False)
    one = scan(made.root, parts=made.parts(), left_out=made.left_out())
    assert (one.counts()["duplicates"], one.counts()["similar_groups"], one.counts()["pictures"]) == (0, 0, 6)
