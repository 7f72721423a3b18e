"""Boards on disk, and the thread that draws tries: newest state only."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train.blocks.board import Boards, Try
from lora_train.blocks.mix import Mix, Part, Scene
from lora_train.blocks.trying import Trying
from lora_train.errors import UserError
from lora_train.paths import ROOT
from lora_train.process_lock import ProcessLock

MIX = Mix((Part("a"),), Scene("cat", seeds=(1, 2), width=64, height=64))


@pytest.fixture
def boards(tmp_path: Path) -> Boards:
    return Boards(tmp_path / "boards")


@pytest.fixture
def board(boards: Boards) -> str:
    return boards.create("my board!", MIX)


def opened(path: Path | None) -> Image.Image:
    assert path
    with Image.open(path) as picture:
        picture.load()
    return picture


WORKER = """
import sys
from pathlib import Path
from lora_train.blocks.board import Boards
from lora_train.blocks.mix import Mix
boards, board = Boards(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for n in range(15):
    one = boards.begin(board, Mix(), [], None)
    one.state, one.note = "done", "theirs"
    boards.keep(board, one)
print("done", flush=True)
"""


def test_two_processes_lose_nothing_of_each_other(boards: Boards, board: str) -> None:
    command = [sys.executable, "-c", WORKER, str(boards.folder), board]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        for _ in range(15):
            one = boards.begin(board, MIX, [], None)
            one.state, one.note = "done", "ours"
            boards.keep(board, one)
        assert other.stdout.readline() == "done\n"
    tries = boards.view(board)["tries"]
    assert [one["id"] for one in tries] == list(range(1, 31))
    assert sorted(one["note"] for one in tries) == ["ours"] * 15 + ["theirs"] * 15
    assert boards.open(board).revision == 60


def test_a_change_waits_for_another_program_and_says_so(boards: Boards, board: str, monkeypatch) -> None:
    other = ProcessLock(boards.folder / ".lock")
    assert other.take()
    monkeypatch.setattr("lora_train.blocks.board._PATIENCE", 0.1)
    with pytest.raises(UserError, match="another program"):
        boards.rename(board, "x")
    other.release()
    boards.rename(board, "x")
    assert boards.open(board).name == "x"


class Easel:
    """Draws a picture of one colour when it is let. `asked`: (prompt, seed, width, steps) of each."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int, int]] = []
        self.let, self.begun = threading.Event(), threading.Semaphore(0)
        self.fails: Exception | None = None

    def __call__(self, scene: Scene, prompt: str, seed: int, cancelled: Any) -> Image.Image | None:
        self.asked.append((prompt, seed, scene.width, scene.steps))
        self.begun.release()
        while not self.let.wait(0.01):
            if cancelled():
                return None
        if self.fails:
            raise self.fails
        return Image.new("RGB", (scene.width, scene.height), (seed, 0, 0))


@pytest.fixture
def easel() -> Iterator[Easel]:
    the = Easel()
    yield the
    the.let.set()


def asked(boards: Boards, trying: Trying, board: str, easel: Any, keys: list[str], mix: Mix = MIX, **more: Any) -> Try:
    one = boards.begin(board, mix, keys, None, ["one", "two"])
    trying.ask(board, one, easel, **more)
    return one


def test_a_try_is_kept_with_its_pictures_across_a_restart(boards: Boards, board: str, easel: Easel) -> None:
    easel.let.set()
    trying = Trying(boards)
    one = asked(boards, trying, board, easel, ["k1", "k2"])
    assert trying.wait(20)
    boards.say(board, one.id, note="good", star=True)
    again = Boards(boards.folder)
    told = again.view(board)
    [kept] = told["tries"]
    assert (kept["state"], kept["note"], kept["star"], kept["mix"]) == ("done", "good", True, MIX.as_dict())
    assert kept["pictures"] == [f"blocks/boards/{board}/pictures/1/{n}.png" for n in (0, 1)]
    for n, seed in enumerate((1, 2)):
        picture = opened(again.picture(board, 1, f"{n}.png"))
        assert (picture.size, picture.getpixel((0, 0))) == ((64, 64), (seed, 0, 0))
        assert picture.info["parameters"] == ["one", "two"][n]
        assert opened(again.picture(board, 1, f"{n}-small.jpg")).format == "JPEG"
    assert again.overview()[0]["stars"] == 1
    assert easel.asked == [("cat", 1, 64, 20), ("cat", 2, 64, 20)]


def test_drafts_of_all_come_first(boards: Boards, board: str, easel: Easel) -> None:
    easel.let.set()
    trying = Trying(boards)
    mix = Mix((), Scene("cat", seeds=(1, 2), width=128, height=128, steps=12))
    asked(boards, trying, board, easel, ["", ""], mix, drafts=True)
    assert trying.wait(20)
    assert easel.asked == [("cat", 1, 64, 8), ("cat", 2, 64, 8), ("cat", 1, 128, 12), ("cat", 2, 128, 12)]
    assert opened(boards.picture(board, 1, "0-draft.png")).size == (64, 64)


def test_only_the_newest_is_drawn(boards: Boards, board: str, easel: Easel) -> None:
    trying = Trying(boards)
    tries = [asked(boards, trying, board, easel, [f"a{n}", f"b{n}"]) for n in range(1)]
    assert easel.begun.acquire(timeout=20)
    tries += [asked(boards, trying, board, easel, [f"a{n}", f"b{n}"]) for n in (1, 2, 3)]
    for _ in range(2000):
        now = trying.now(board)
        if now["running"] and now["running"]["id"] == tries[3].id:
            break
        time.sleep(0.01)
    assert (now["running"]["id"], now["waiting"]) == (tries[3].id, None), "the others were given up"
    easel.let.set()
    assert trying.wait(20)
    assert [one.state for one in tries] == ["superseded", "superseded", "superseded", "done"]
    assert [one["id"] for one in boards.view(board)["tries"]] == [tries[3].id]
    left = {path.name.partition("-")[0] for path in (boards.folder / board / "pictures").iterdir()}
    assert left == {str(tries[3].id)}, "nothing is left of what was given up"


def test_one_that_is_to_be_kept_is_drawn_to_its_end(boards: Boards, board: str, easel: Easel) -> None:
    trying = Trying(boards)
    first = asked(boards, trying, board, easel, ["a", "b"])
    assert easel.begun.acquire(timeout=20)
    assert trying.keep(board, first.id)
    second = asked(boards, trying, board, easel, ["c", "d"])
    assert (trying.now(board)["running"]["id"], trying.now(board)["waiting"]["id"]) == (first.id, second.id)
    easel.let.set()
    assert trying.wait(20)
    assert (first.state, second.state) == ("done", "done")


def test_a_failure_is_told_and_not_kept(boards: Boards, board: str, easel: Easel) -> None:
    easel.let.set()
    trying = Trying(boards)
    for problem, said in (
        (UserError("no model", remedy="Load one"), "no model. Load one"),
        (ValueError("x"), "unexpected"),
    ):
        easel.fails = problem
        asked(boards, trying, board, easel, ["a", "b"])
        assert trying.wait(20)
        last = trying.now(board)["last"]
        assert last["state"] == "failed"
        assert said in last["error"]
    assert boards.view(board)["tries"] == []
    easel.fails = None
    assert asked(boards, trying, board, easel, ["a", "b"]).id == 3
    assert trying.wait(20)
    assert trying.now(board)["last"]["state"] == "done"


def test_a_picture_that_was_drawn_is_not_drawn_again(boards: Boards, board: str, easel: Easel) -> None:
    easel.let.set()
    trying = Trying(boards)
    asked(boards, trying, board, easel, ["k1", "k2"])
    assert trying.wait(20)
    easel.asked.clear()
    assert boards.known(board, ["k1", "k2"])
    assert boards.known(board, ["k2", "k1"]) is None
    assert boards.known(board, ["", ""]) is None
    more = Mix((), Scene("cat", seeds=(2, 3), width=64, height=64))
    two = asked(boards, trying, board, easel, ["k2", "k3"], more)
    assert trying.wait(20)
    assert easel.asked == [("cat", 3, 64, 20)]
    assert opened(boards.picture(board, two.id, "0.png")).getpixel((0, 0)) == (2, 0, 0)


def test_removing_a_board_while_it_draws(boards: Boards, board: str, easel: Easel) -> None:
    trying = Trying(boards)
    one = asked(boards, trying, board, easel, ["a", "b"])
    assert easel.begun.acquire(timeout=20)
    boards.remove(board)
    easel.let.set()
    assert trying.wait(20)
    assert one.state == "failed"
    assert not (boards.folder / board).exists(), "the thread doesn't make it anew"
    boards.restore(board)
    assert boards.view(board)["name"] == "my board!"


def test_tries_are_removed_and_brought_back(boards: Boards, board: str, easel: Easel) -> None:
    easel.let.set()
    trying = Trying(boards)
    first = asked(boards, trying, board, easel, ["a", "b"])
    trying.wait(20)
    second = boards.begin(board, MIX, ["c"], first.id)
    boards.keep(board, second)
    third = boards.begin(board, MIX, ["d"], second.id)
    boards.keep(board, third)
    boards.remove_try(board, second.id)
    boards.remove_try(board, first.id)
    [left] = boards.view(board)["tries"]
    assert (left["id"], left["parent"]) == (third.id, None)
    assert boards.picture(board, first.id, "0.png") is None
    assert boards.known(board, ["a", "b"]) is None
    boards = Boards(boards.folder)
    boards.restore(board)
    assert boards.picture(board, first.id, "0.png")
    assert [(one["id"], one["parent"]) for one in boards.view(board)["tries"]] == [
        (first.id, None),
        (third.id, first.id),
    ]
    boards.restore(board)
    assert [one["parent"] for one in boards.view(board)["tries"]] == [None, first.id, second.id]
    with pytest.raises(UserError, match="nothing was removed"):
        boards.restore(board)


def test_what_changed_since_the_parent_is_its_label(boards: Boards, board: str) -> None:
    first = boards.begin(board, MIX, ["a"], None)
    boards.keep(board, first)
    louder = Mix((Part("a", 1.5, 1.5),), MIX.scene)
    assert boards.begin(board, louder, ["b"], first.id).label == "a 1→1.5"
    assert boards.view(board)["mix"] == louder.as_dict()
    with pytest.raises(UserError, match="there is no try 99"):
        boards.begin(board, louder, ["b"], 99)


@pytest.mark.parametrize("name", ["../x", "0.png/..", "0.jpg", "board.json", "x.png", "-small.jpg", "0-small.png"])
def test_only_pictures_are_given_out(boards: Boards, board: str, name: str) -> None:
    assert boards.picture(board, 1, name) is None
    assert boards.picture("..", 1, "0.png") is None


@pytest.mark.parametrize("id", ["..", "", ".removed", "a/b", "x" * 200])
def test_no_id_leads_out_of_the_folder(boards: Boards, board: str, id: str) -> None:
    assert not boards.exists(id)
    for act in (boards.view, boards.remove, boards.restore):
        with pytest.raises(UserError):
            act(id)


def test_a_damaged_board_is_passed_over(boards: Boards, board: str) -> None:
    other = boards.create("other", MIX)
    (boards.folder / other / "board.json").write_text("{", encoding="utf-8")
    assert [one["id"] for one in boards.overview()] == [board]
    assert not boards.exists(other)


def test_another_process_change_is_seen(boards: Boards, board: str) -> None:
    path = boards.folder / board / "board.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "name": "from elsewhere"}), encoding="utf-8")
    assert boards.view(board)["name"] == "from elsewhere"


def test_what_could_not_be_written_is_not_shown(boards: Boards, board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be gone after a restart."""

    def full(*_: Any) -> None:
        raise UserError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("lora_train.blocks.board.write_text", full)
        with pytest.raises(UserError, match="full"):
            boards.rename(board, "new")
    assert boards.view(board)["name"] == "my board!"


def test_the_thread_goes_on_after_any_failure(
    boards: Boards, board: str, easel: Easel, monkeypatch: pytest.MonkeyPatch
) -> None:
    easel.let.set()
    trying = Trying(boards)

    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(boards, "keep", broken)
        failed = asked(boards, trying, board, easel, ["a", "b"])
        assert trying.wait(20)
    assert failed.state == "failed"
    assert boards.picture(board, failed.id, "0.png") is None
    assert asked(boards, trying, board, easel, ["a", "b"]).id == 2
    assert trying.wait(20)
    assert trying.now(board)["last"]["state"] == "done"
