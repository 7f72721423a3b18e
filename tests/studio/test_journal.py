"""What was changed can be taken back, after a restart and after a kill too."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_train.errors import UserError
from lora_train.studio.journal import Journal

from .drawn import tree


def contents(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(root).items() if not name.startswith(".studio")}


def test_a_change_is_listed_and_taken_back_by_another_journal(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "b.txt").write_text("stays")
    before = contents(tmp_path)
    with Journal(tmp_path).change("edit") as change:
        change.write(tmp_path / "a.txt", b"new")
        change.write(tmp_path / "new" / "deep" / "c.txt", b"c")
        change.create(tmp_path / "d.png", lambda path: path.write_bytes(b"d"))
        change.copy(tmp_path / "b.txt", tmp_path / "e.txt")
        change.move(tmp_path / "b.txt", tmp_path / "kept" / "b.txt")
    assert contents(tmp_path) == {
        "a.txt": b"new", "new/deep/c.txt": b"c", "d.png": b"d", "e.txt": b"stays", "kept/b.txt": b"stays",
    }  # fmt: skip
    (entry,) = Journal(tmp_path).entries()
    assert (entry.title, entry.files, entry.undone, entry.whole) == ("edit", 5, False, True)
    undone = Journal(tmp_path).undo()
    assert contents(tmp_path) == before and not undone.changed and len(undone.restored) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == [".studio", "a.txt", "b.txt"]
    assert Journal(tmp_path).entries()[0].undone
    with pytest.raises(UserError, match="nothing to undo"):
        Journal(tmp_path).undo()


def test_changes_are_undone_one_after_another(tmp_path):
    journal = Journal(tmp_path)
    for text in ("one", "two", "three"):
        with journal.change(text) as change:
            change.write(tmp_path / "a.txt", text.encode())
    assert [entry.title for entry in journal.entries()] == ["three", "two", "one"]
    with pytest.raises(UserError, match='"three"'):
        journal.undo(2)
    for left in ("two", "one"):
        journal.undo()
        assert (tmp_path / "a.txt").read_text() == left
    journal.undo()
    assert not (tmp_path / "a.txt").exists()


def test_a_change_that_fails_before_its_first_step_is_no_entry(tmp_path):
    journal = Journal(tmp_path)
    with pytest.raises(UserError, match="no model"), journal.change("tagging"):
        raise UserError("no model")
    with journal.change("nothing"):
        pass
    assert journal.entries() == []


def test_an_earlier_change_of_other_files_can_be_undone_alone(tmp_path):
    journal = Journal(tmp_path)
    for name in ("a", "b"):
        with journal.change(name) as change:
            change.write(tmp_path / name, b"x")
    journal.undo(1)
    assert contents(tmp_path) == {"b": b"x"}


def test_what_was_edited_since_stays(tmp_path):
    with Journal(tmp_path).change("edit") as change:
        change.write(tmp_path / "a.txt", b"ours")
        change.write(tmp_path / "b.txt", b"ours")
    (tmp_path / "a.txt").write_text("theirs")
    undone = Journal(tmp_path).undo()
    assert undone.changed == (tmp_path / "a.txt",) and contents(tmp_path) == {"a.txt": b"theirs"}


def test_nothing_is_put_in_the_place_of_another_file(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    before = contents(tmp_path)
    with Journal(tmp_path).change("wrong") as change:
        with pytest.raises(UserError, match="file of that name"):
            change.create(tmp_path / "a", lambda path: path.write_text("x"))
        with pytest.raises(UserError, match="file of that name"):
            change.move(tmp_path / "a", tmp_path / "b")
        with pytest.raises(UserError, match="outside"):
            change.move(tmp_path / "a", tmp_path.parent / "elsewhere")
    assert contents(tmp_path) == before and not Journal(tmp_path).entries()


def test_a_killed_change_is_undone_as_far_as_it_came(tmp_path):
    (tmp_path / "0.txt").write_text("old")
    code = """
import os, signal, sys
from pathlib import Path
from lora_train.studio.journal import Journal
root = Path(sys.argv[1])
with Journal(root).change("long") as change:
    for n in range(100):
        change.write(root / f"{n}.txt", b"new")
        if n == 7:
            os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    with open(tmp_path / ".studio" / "journal" / "000001.jsonl", "a") as handle:
        handle.write('{"op": "write", "pa')  # a line cut off
    (entry,) = Journal(tmp_path).entries()
    assert (entry.files, entry.whole) == (8, False)
    Journal(tmp_path).undo()
    assert contents(tmp_path) == {"0.txt": b"old"}
    assert Journal(tmp_path).entries()[0].undone


THEIRS = hashlib.sha256(b"theirs").hexdigest()


@pytest.mark.parametrize(
    "step",
    [
        {"op": "move", "path": "mine", "to": "../victim"},
        {"op": "folder", "path": "../x"},
        {"op": "write", "path": "../victim", "before": None, "after": THEIRS},
    ],
)
def test_a_stranger_s_journal_reaches_nothing_outside(tmp_path, step):
    root, victim = tmp_path / "project", tmp_path / "victim"
    journal = root / ".studio" / "journal"
    journal.mkdir(parents=True)
    victim.write_text("theirs")
    (tmp_path / "x").mkdir()
    lines = [{"title": "gift", "time": 0}, step]
    (journal / "000001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="outside"):
        Journal(root).undo()
    assert victim.read_text() == "theirs" and (tmp_path / "x").is_dir()


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="POSIX permissions")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="journal"), Journal(tmp_path).change("x"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_a_moved_project_can_still_be_undone(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    with Journal(old).change("edit") as change:
        change.write(old / "a.txt", b"x")
    new = old.rename(tmp_path / "new")
    Journal(new).undo()
    assert contents(new) == {}


def test_what_lies_in_a_folder_that_was_renamed_since_waits_for_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.change("write") as change:
        change.write(tmp_path / "image" / "1_a" / "a.txt", b"first")
    with journal.change("rename") as change:
        change.move(tmp_path / "image" / "1_a", tmp_path / "image" / "5_a")
    with pytest.raises(UserError, match="later change"):
        journal.undo(1)
    journal.undo()
    journal.undo()
    assert not (tmp_path / "image").exists()


def test_entries_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page asks for the list again and again, and the files hold what was there before."""
    journal = Journal(tmp_path)
    with journal.change("one") as change:
        change.write(tmp_path / "a.txt", b"a")
    before = journal.entries()
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_lines", None)
        assert Journal(tmp_path).entries() == before
    journal.undo()
    assert journal.entries()[0].undone


def test_a_change_is_not_taken_back_while_it_is_made(tmp_path: Path) -> None:
    """What came after would stay, with no way back."""
    with Journal(tmp_path).change("drawing") as change:
        change.write(tmp_path / "a.txt", b"a")
        with pytest.raises(UserError, match="under way"):
            Journal(tmp_path).undo()
        change.write(tmp_path / "b.txt", b"b")
    Journal(tmp_path).undo()
    assert contents(tmp_path) == {}
