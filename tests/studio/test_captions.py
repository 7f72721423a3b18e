"""Edits of many captions: the preview is what happens, undo brings back every byte, nothing else is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_train import cli
from lora_train.dataset import encodings
from lora_train.errors import UserError
from lora_train.paths import ROOT
from lora_train.studio import captions, edits
from lora_train.studio import project as projects
from lora_train.studio.captions import Table, apply, open_table, preview

NONE: Counter[str] = Counter()


def edited(text: str, known: Counter[str] = NONE, **values: Any) -> str:
    return edits.from_dict(values).text(text, known)


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        ({"edit": "add", "tags": "hina"}, "a, b", "hina, a, b"),
        ({"edit": "add", "tags": "hina, c", "place": "last"}, "a, b", "a, b, hina, c"),
        ({"edit": "add", "tags": ["hina"]}, "a,Hina", "a,Hina"),
        ({"edit": "add", "tags": "long hair"}, "a, long_hair", "a, long_hair"),
        ({"edit": "add", "tags": "x", "place": "after", "after": "hina"}, "a, Hina, b", "a, Hina, x, b"),
        ({"edit": "add", "tags": "x", "place": "after", "after": "hina"}, "a, b", "x, a, b"),
        ({"edit": "add", "tags": "x", "place": "last"}, "h ||| a ||| z", "h ||| a ||| z, x"),
        ({"edit": "add", "tags": "hina"}, "", "hina"),
        ({"edit": "add", "tags": "hina"}, "a\n\nb", "hina, a\n\nhina, b"),
        ({"edit": "remove", "tags": "long hair"}, "a, Long_Hair,b", "a, b"),
        ({"edit": "remove", "tags": "long hair", "exact": True}, "a, Long_Hair,b", "a, Long_Hair,b"),
        ({"edit": "remove", "tags": "a"}, "a ||| a, b", "||| b"),
        ({"edit": "remove", "tags": "a"}, "a", ""),
        ({"edit": "replace", "find": "hat", "by": "cap"}, "red hat, hat", "red hat, cap"),
        ({"edit": "replace", "find": "hat", "by": "cap, red"}, "hat, a", "cap, red, a"),
        ({"edit": "replace", "find": "hat"}, "hat, a", "a"),
        ({"edit": "replace", "find": "hat", "by": "cap", "scope": "text"}, "red hat,  x", "red cap,  x"),
        ({"edit": "replace", "find": "(red|blue) hat", "by": r"\1 cap", "regex": True}, "red hat, a", "red cap, a"),
        ({"edit": "replace", "find": "^a.*$", "by": "", "regex": True}, "ab, b, a", "b"),
        ({"edit": "replace", "find": ", *b", "by": "", "regex": True, "scope": "text"}, "a, b, c", "a, c"),
        ({"edit": "replace", "find": "$", "by": r"\n", "regex": True, "scope": "text"}, "a", "a "),
        ({"edit": "reorder", "first": "hina, 1girl", "last": "sky"}, "sky, 1girl, a, hina", "hina, 1girl, a, sky"),
        ({"edit": "reorder", "sort": "alphabet", "keep": 1}, "z, c, B, a", "z, a, B, c"),
        ({"edit": "reorder", "sort": "alphabet"}, "t ||| c, a ||| z, y", "t ||| a, c ||| z, y"),
        ({"edit": "reorder", "first": "b"}, "a ||| b, c", "b, a ||| c"),
        ({"edit": "reorder", "first": "a"}, "a,b", "a,b"),
        ({"edit": "deduplicate"}, "a, long hair, A, long_hair, b", "a, long hair, b"),
        ({"edit": "deduplicate"}, "a,, b,", "a, b"),
        ({"edit": "deduplicate"}, "a,b", "a,b"),
        ({"edit": "underscores"}, "long_hair, ^_^, hina_v2", "long hair, ^_^, hina v2"),
        ({"edit": "underscores", "protect": "hina_v2"}, "long_hair, hina_v2", "long hair, hina_v2"),
        ({"edit": "underscores", "to": "underscores"}, "long hair, a", "long_hair, a"),
        ({"edit": "brackets"}, r"x (y), \(z\), (w:1.2)", r"x \(y\), \(z\), (w:1.2)"),
        ({"edit": "brackets", "to": "plain"}, r"x \(y\)", "x (y)"),
        ({"edit": "set", "caption": "new\r\nlines"}, "old", "new\nlines"),
        ({"edit": "save"}, "as it  is,", "as it  is,"),
        ({"edit": "remove", "tags": "b"}, "a, {x, y|z}, b", "a, {x, y|z}"),
    ],
)
def test_what_an_edit_makes_of_a_caption(edit: dict[str, Any], before: str, after: str) -> None:
    assert edited(before, **edit) == after


def test_sorting_by_frequency() -> None:
    assert edited("a, b, c", Counter(b=3, c=2, a=1), edit="reorder", sort="frequency") == "b, c, a"


TAGS = st.lists(st.text(alphabet="abAB_ (){}|^,", max_size=6), max_size=6)
EDITS = st.sampled_from(
    [
        {"edit": "add", "tags": "zz"},
        {"edit": "remove", "tags": "a"},
        {"edit": "reorder", "sort": "alphabet"},
        {"edit": "deduplicate"},
        {"edit": "underscores"},
        {"edit": "brackets"},
        {"edit": "brackets", "to": "plain"},
    ]
)


@given(TAGS, EDITS)
def test_an_edit_done_twice_does_nothing_more(tags: list[str], edit: dict[str, Any]) -> None:
    once = edited(", ".join(tags), **edit)
    assert edited(once, **edit) == once


@given(st.lists(st.text(alphabet="abAB_ ()|^,", max_size=6), max_size=6))
def test_reordering_loses_no_tag(tags: list[str]) -> None:
    text = ", ".join(tags)
    made = edited(text, edit="reorder", first="b", last="a", sort="alphabet")
    assert Counter(edits.tags_of(made)) == Counter(edits.tags_of(text))


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        ({"edit": "burn"}, "edit"),
        ({}, "edit"),
        ({"edit": ["add"]}, "edit"),
        ({"edit": "add"}, "tags"),
        ({"edit": "add", "tags": " ,"}, "tags"),
        ({"edit": "add", "tags": ["a\nb"]}, "tags"),
        ({"edit": "add", "tags": [1]}, "tags"),
        ({"edit": "add", "tags": "a", "place": "middle"}, "place"),
        ({"edit": "add", "tags": "a", "place": "after"}, "after"),
        ({"edit": "replace", "find": ""}, "find"),
        ({"edit": "replace", "find": "(", "regex": True}, "find"),
        ({"edit": "replace", "find": "x" * 501, "regex": True}, "find"),
        ({"edit": "replace", "find": "a", "by": "b\nc"}, "by"),
        ({"edit": "reorder", "keep": -1}, "keep"),
        ({"edit": "reorder", "keep": True}, "keep"),
        ({"edit": "underscores", "to": 1}, "to"),
        ({"edit": "save", "read_as": "latin-1"}, "read_as"),
        ({"edit": "set"}, "caption"),
        ({"edit": "deduplicate", "tags": "a"}, "tags"),
    ],
)
def test_wrong_edits_are_named(edit: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError) as caught:
        edits.from_dict(edit)
    assert caught.value.where == where
    assert caught.value.remedy


def test_a_replacement_that_names_no_group_is_an_error_of_the_user() -> None:
    with pytest.raises(UserError, match="can't be used"):
        edited("a", edit="replace", find="a", by=r"\7", regex=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of two classes and regularisation; one picture without a caption, one caption in GBK."""
    texts = {
        "image/10_hina face/a": b"hina, 1girl, long_hair",
        "image/10_hina face/b": b"hina, 1girl, smile\r\n",
        "image/10_hina face/c": None,
        "image/5_hina body/d": "hina, 微笑, 蓝色的天空".encode("gbk"),
        "image/5_hina body/e": b"",
        "reg/2_hina face/r": b"woman",
    }
    for name, data in texts.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path.with_suffix(".png"))
        if data is not None:
            path.with_suffix(".txt").write_bytes(data)
    return tmp_path / "set"


def files(root: Path) -> dict[str, bytes]:
    """All but the journal."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".studio" not in path.parts
    }


def add(table: Table, tags: str = "new", **more: Any) -> captions.Preview:
    return preview(table, edits.from_dict({"edit": "add", "tags": tags, **more}))


def test_the_table_is_the_same_from_wherever_it_is_opened(project: Path) -> None:
    table = open_table(project)
    assert [row.as_dict()["name"] for row in table.own] == [
        *("10_hina face/a.png", "10_hina face/b.png", "10_hina face/c.png", "5_hina body/d.png", "5_hina body/e.png")
    ]
    assert [row.picture.name for row in table.rows if row.is_reg] == ["r.png"]
    assert open_table(project / "image").rows == table.rows
    leaf = open_table(project / "image" / "10_hina face")
    assert [row.picture.stem for row in leaf.rows] == ["a", "b", "c"]
    assert leaf.root == table.root == project
    assert table.row("5_hina body/d.png").encoding == "GBK"
    assert table.row("d.png").text == "hina, 微笑, 蓝色的天空"
    assert table.row("c.png").missing
    with pytest.raises(UserError):
        table.row("z.png")


def test_loose_pictures_and_kohyas_layout(project: Path, tmp_path: Path) -> None:
    """S1's: concept folders and reg/ beside each other."""
    for inner in (project / "image").iterdir():
        inner.rename(project / inner.name)
    (project / "image").rmdir()
    table = open_table(project)
    assert len(table.own) == 5
    assert len(table.rows) == 6
    assert [row.picture.stem for row in open_table(project / "10_hina face").own] == ["a", "b", "c"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        open_table(tmp_path / "empty")


def test_opening_again_reads_what_has_changed_alone(project: Path) -> None:
    table = open_table(project)
    mine = project / "image" / "10_hina face" / "a.txt"
    mine.write_text("my own caption", encoding="utf-8")
    (project / "image" / "10_hina face" / "c.txt").write_text("now there", encoding="utf-8")
    (project / "image" / "5_hina body" / "e.txt").unlink()
    again = open_table(project, known=table)
    assert again == open_table(project)
    assert [row.caption for row in again.own[:3]] == ["my own caption", "hina, 1girl, smile", "now there"]
    assert again.row("b.png") is table.row("b.png")
    assert again.row("a.png") is not table.row("a.png")
    mine.write_text("once more", encoding="utf-8")  # no file came or went this time
    third = open_table(project, known=again)
    assert third == open_table(project)
    assert third.row("a.png").caption == "once more"
    assert third.row("b.png") is table.row("b.png")
    third = third.reread(mine)
    assert open_table(project, known=third) == third


def test_another_ending_is_read_as_such(project: Path) -> None:
    (project / "image" / "10_hina face" / "a.caption").write_text("another", encoding="utf-8")
    table = open_table(project)
    other = open_table(project, ".caption", table)
    assert other == open_table(project, ".caption")
    assert [row.caption for row in other.own] == ["another", "", "", "", ""]


def test_frequencies_filters_and_completion(project: Path) -> None:
    table = open_table(project)
    assert table.frequency()[:3] == [("hina", 3), ("1girl", 2), ("long_hair", 1)]

    def stems(**chosen: Any) -> list[str]:
        return [row.picture.stem for row in table.select(**chosen)]

    assert stems(tags=["1GIRL"], without=["smile"]) == ["a"]
    assert stems(tags=["long hair"]) == ["a"]
    assert stems(missing=True) == ["c", "e"]
    assert stems(missing=False) == ["a", "b", "d"]
    assert stems(folder="5_hina body") == stems(folder="hina body") == ["d", "e"]
    assert stems(text="天空") == ["d"]
    assert stems(reg=True, text="woman") == ["r"]
    assert table.complete("h") == ["hina", "long_hair"]
    assert table.complete("Long ") == ["long_hair"]


def test_a_preview_writes_nothing_and_applying_does_what_it_says(project: Path) -> None:
    before = files(project)
    table = open_table(project)
    wanted = add(table)
    assert files(project) == before
    assert not (project / ".studio" / "journal").exists()
    done = apply(table, wanted)
    assert {path.stem for path in done.written} == {"a", "b", "c", "d", "e"}
    now = files(project)
    for change in wanted.changes:
        name = change.file.relative_to(project).as_posix()
        assert now.pop(name).decode("utf-8") == change.after
        before.pop(name, None)
    assert now == before  # pictures and regularisation
    assert next(c for c in wanted.changes if c.file.stem == "c").before is None
    assert "was GBK" in next(c for c in wanted.changes if c.file.stem == "d").note


def test_undo_after_a_restart_brings_back_every_byte_in_turn(project: Path) -> None:
    states = [files(project)]
    for tags in ("one", "two"):
        table = open_table(project)
        apply(table, add(table, tags))
        states.append(files(project))
    code = f"from lora_train.studio import captions; print(len(captions.undo({str(project / 'image')!r}).restored))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.split() == ["5"]
    assert files(project) == states[1]
    captions.undo(project / "image" / "10_hina face")
    assert files(project) == states[0]
    with pytest.raises(UserError, match="nothing to undo"):
        captions.undo(project)


def test_undo_leaves_what_was_edited_since(project: Path) -> None:
    table = open_table(project)
    apply(table, add(table))
    mine = project / "image" / "10_hina face" / "a.txt"
    mine.write_text("my own", encoding="utf-8")
    gone = project / "image" / "10_hina face" / "b.txt"
    gone.unlink()
    undone = captions.undo(project)
    assert {path.name for path in undone.changed} == {"a.txt", "b.txt"}
    assert mine.read_text(encoding="utf-8") == "my own"
    assert not gone.exists()
    assert not (project / "image" / "10_hina face" / "c.txt").exists()


def test_applying_leaves_what_was_changed_after_the_preview(project: Path) -> None:
    table = open_table(project)
    wanted = add(table)
    mine = project / "image" / "10_hina face" / "a.txt"
    mine.write_text("my own", encoding="utf-8")
    (project / "image" / "10_hina face" / "c.txt").write_text("just made", encoding="utf-8")
    done = apply(table, wanted)
    assert {path.stem for path in done.changed} == {"a", "c"}
    assert mine.read_text(encoding="utf-8") == "my own"
    assert len(done.written) == 3


def test_the_token_tells_whether_a_preview_still_holds(project: Path) -> None:
    token = add(open_table(project)).token
    assert add(open_table(project)).token == token
    assert add(open_table(project), "other").token != token
    (project / "image" / "10_hina face" / "a.txt").write_text("my own", encoding="utf-8")
    assert add(open_table(project)).token != token


def test_only_chosen_rows_and_several_edits_in_turn(project: Path) -> None:
    table = open_table(project)
    chain = [edits.from_dict({"edit": "add", "tags": "1girl"}), edits.from_dict({"edit": "deduplicate"})]
    wanted = preview(table, chain, table.select(folder="hina body"))
    assert {change.file.stem: change.after for change in wanted.changes} == {
        "d": "1girl, hina, 微笑, 蓝色的天空",
        "e": "1girl",
    }


def test_a_caption_that_two_pictures_share_is_changed_once_and_said(project: Path) -> None:
    folder = project / "image" / "10_hina face"
    (folder / "a.jpg").write_bytes((folder / "a.png").read_bytes())
    table = open_table(project)
    wanted = preview(table, edits.from_dict({"edit": "add", "tags": "x"}), [table.row("a.jpg")])
    assert len(wanted.changes) == 1
    assert len(wanted.changes[0].pictures) == 2
    assert "shared by 2 pictures" in wanted.changes[0].note


def test_saving_as_utf8_changes_the_encoding_alone(project: Path) -> None:
    table = open_table(project)
    wanted = preview(table, edits.from_dict({"edit": "save"}))
    assert [(change.file.stem, change.before, change.after) for change in wanted.changes] == [
        ("d", "hina, 微笑, 蓝色的天空", "hina, 微笑, 蓝色的天空")
    ]
    apply(table, wanted)
    assert (project / "image" / "5_hina body" / "d.txt").read_bytes().decode("utf-8") == "hina, 微笑, 蓝色的天空"
    assert not preview(open_table(project), edits.from_dict({"edit": "save"})).changes


def test_an_encoding_that_the_user_names(project: Path) -> None:
    odd = project / "image" / "10_hina face" / "a.txt"
    odd.write_bytes("写真".encode("cp932"))
    table = open_table(project)
    wanted = preview(table, edits.from_dict({"edit": "save", "read_as": "Shift-JIS"}), [table.row("a.png")])
    assert [change.after for change in wanted.changes] == ["写真"]
    with pytest.raises(UserError, match="isn't UTF-16"):
        odd.write_bytes(b"abc")
        preview(open_table(project), edits.from_dict({"edit": "save", "read_as": "UTF-16"}), [table.row("a.png")])


@pytest.mark.parametrize(
    ("usual", "alone", "codec", "name", "taken_for"),
    [
        (["スカート", "笑顔, リボン", "青い空", "セーラー服"], "猫", "cp932", "Shift-JIS", "cp1252"),
        (["天空, 蓝色", "学校制服", "白色背景", "看着观众"], "微笑", "gbk", "GBK", ""),
    ],
)
def test_a_guessed_encoding_follows_most_files(
    tmp_path: Path, usual: list[str], alone: str, codec: str, name: str, taken_for: str
) -> None:
    for index, text in enumerate([*usual, alone]):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.txt").write_bytes(text.encode(codec))
    assert encodings.decode(alone.encode(codec))[1] == taken_for
    row = open_table(tmp_path).row("4.png")
    assert (row.text, row.encoding) == (alone, name)
    assert "like the others" in row.note
    (tmp_path / "4.txt").write_text("日本語", encoding="utf-8")
    if codec == "gbk":
        assert open_table(tmp_path).row("4.png").text == "日本語"


def test_what_cannot_be_read_is_left_out_and_named(project: Path) -> None:
    (project / "image" / "10_hina face" / "a.txt").write_bytes(b"\xff\xfea")
    wanted = add(open_table(project))
    assert "a" not in {change.file.stem for change in wanted.changes}
    assert len(wanted.skipped) == 1
    assert "a.txt" in wanted.skipped[0]


def test_the_command_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(project)

    def run(*arguments: str) -> str:
        assert cli.main(["captions", str(project), *arguments]) == 0
        return capsys.readouterr().out

    assert "10_hina face/c.png  [no caption]" in run("list")
    assert json.loads(run("tags", "--json"))["hina"] == 3
    said = run("remove", "1girl", "--with", "smile")
    assert "+ hina, smile" in said
    assert "1 caption would change; --write" in said
    assert files(project) == before
    assert "1 caption written" in run("remove", "1girl", "--with", "smile", "--write")
    assert files(project) != before
    assert "remove 1girl" in run("history")
    assert "taken back" in run("undo")
    assert files(project) == before
    assert "(taken back)" in run("history")
    for arguments in (["reorder", "--sort", "alphabet"], ["underscores", "--protect", "hina"], ["brackets"], ["save"]):
        assert "would change" in run(*arguments)
    assert "1 caption written" in run("set", "c.png", "hina, hat", "--write")
    assert json.loads(run("replace", "hat", "cap", "--json"))["changes"][0]["after"] == "hina, cap"
    assert isinstance(json.loads(run("audit", "--json")), list)
    assert cli.main(["captions", str(project), "undo"]) == 0
    assert cli.main(["captions", str(project), "undo"]) == 2


def test_those_that_are_not_utf8_are_read_anew_and_no_others(project: Path) -> None:
    (project / "image" / "10_hina face" / "b.txt").write_text("微笑", encoding="utf-8")
    table = open_table(project)
    foreign = table.select(foreign=True)
    assert [row.file.name for row in foreign] == ["d.txt"]
    shown = preview(table, edits.from_dict({"edit": "save", "read_as": "cp1252"}), foreign)
    assert [change.file.name for change in shown.changes] == ["d.txt"]
    assert shown.changes[0].before == "hina, 微笑, 蓝色的天空"
    assert "微笑" not in shown.changes[0].after


def test_one_file_is_read_anew_alone(project: Path) -> None:
    table = open_table(project)
    row = table.row("c.png")
    row.file.write_text("hina", encoding="utf-8")
    (row.file.with_name("a.txt")).write_text("other", encoding="utf-8")
    new = table.reread(row.file)
    assert new.row("c.png").text == "hina"
    assert [one for one in new.rows if one.file != row.file] == [one for one in table.rows if one.file != row.file]
    row.file.unlink()
    assert new.reread(row.file).row("c.png").missing
    assert new.known["hina"] == table.known["hina"] + 1


@pytest.mark.parametrize("ending", [".png", "JPEG", ".txt.webp", "/../x", ".a/b", "."])
def test_endings_that_no_caption_has(tmp_path: Path, ending: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="ending"):
        open_table(tmp_path, ending)


def test_folders_that_are_left_out_of_training_are_left_alone(tmp_path: Path) -> None:
    made = projects.make(tmp_path / "p").project
    assert made is not None
    for folder in ("1_a", "2_b"):
        path = made.image / folder / "x.png"
        path.parent.mkdir()
        Image.new("RGB", (8, 8)).save(path)
    projects.use(made, made.image / "1_a", False)
    table = open_table(made.root)
    assert [row.folder for row in table.rows] == ["2_b"]
    assert table.said == ("Left out of training, so not among these: 1_a",)
    assert [row.folder for row in open_table(made.image / "1_a").rows] == ["1_a"]  # where it is named itself
