"""Jobs with a real child process that only pretends to train."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train.errors import UserError, UserErrors
from lora_train.grid.plan import Grid
from lora_train.host.base import Checkpoint, Sheet
from lora_train.jobs import record as records
from lora_train.jobs.child import Engine
from lora_train.jobs.manager import Manager

FAKE = Path(__file__).with_name("fake_engine.py")
posix = pytest.mark.skipif(os.name == "nt", reason="signals")


class FakeEngine(Engine):
    """Runs the stand-in."""

    def command(self, config: Path) -> list[str]:
        return [sys.executable, str(FAKE), str(config)]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)


class FakeHost:
    """A host that draws grey cells, and remembers what it was asked."""

    name = "fake"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.drawn: Grid | None = None
        self.cell_seconds = 0.0
        self.failure: Exception | None = None
        checkpoint = folder / "model.safetensors"
        checkpoint.write_bytes(b"x")

    def checkpoint(self) -> Checkpoint | None:
        return Checkpoint(self.folder / "model.safetensors", "model [1234]")

    def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(self.folder / "model.safetensors", "model [1234]")]

    def lora_dir(self) -> Path:
        return self.folder / "loras"

    def data_dir(self) -> Path:
        return self.folder / "data"

    def refresh_loras(self) -> None:
        self.calls.append("refresh")

    @contextlib.contextmanager
    def memory_for_training(self) -> Iterator[None]:
        self.calls.append("unload")
        yield
        self.calls.append("bring back")

    def draw(self, grid: Grid, on_cell: Callable[[int, int], None]) -> Sheet:
        self.calls.append("draw")
        if self.failure:
            raise self.failure
        self.drawn = grid
        total = len(grid.loras) * len(grid.weights)
        for done in range(total):
            time.sleep(self.cell_seconds)
            on_cell(done + 1, total)
        cell = Image.new("RGB", (8, 8))
        return Sheet(cell, tuple(tuple(cell for _ in grid.weights) for _ in grid.loras))


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    pictures = tmp_path / "pictures" / "1_cat"
    pictures.mkdir(parents=True)
    (pictures / "a.txt").write_text("a red cat\n", encoding="utf-8")
    return FakeHost(tmp_path)


@pytest.fixture
def manager(host: FakeHost) -> Iterator[Manager]:
    manager = Manager(host, FakeEngine(), grace=1.0)
    yield manager
    manager.stop()
    assert manager.wait(20)


def values(host: FakeHost, orders: str = "", **more: Any) -> dict[str, Any]:
    return {"train_data_dir": str(host.folder / "pictures"), "output_name": "cat", "training_comment": orders, **more}


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it didn't happen"
        time.sleep(0.02)


def test_a_job_trains_and_draws_the_epochs_in_order(manager: Manager, host: FakeHost) -> None:
    stale = host.lora_dir() / "cat" / "cat-000009.safetensors"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    job = manager.start(values(host), {"weights": "0.5, 1"})
    assert manager.wait(30)
    status = manager.status()
    assert status["error"] is None
    assert (status["state"], status["id"], status["step"], status["total"]) == ("done", job, 3, 3)
    assert status["warnings"] == ["a caption is empty"]
    assert status["losses"] == [[1, 1.0], [2, 0.5], [3, pytest.approx(1 / 3)]]
    assert host.calls == ["unload", "bring back", "refresh", "draw"]
    assert host.drawn is not None
    assert [Path(lora).name for lora in host.drawn.loras] == [f"cat-{epoch:06d}.safetensors" for epoch in (1, 2, 3)]
    assert (host.drawn.prompt, host.drawn.weights, host.drawn.width) == ("a red cat", (0.5, 1.0), 512)
    assert Path(status["grid"]["path"]).is_file()
    assert (status["grid"]["done"], status["grid"]["total"]) == (6, 6)
    json.dumps(status, allow_nan=False)


def test_the_folder_of_a_job_holds_everything(manager: Manager, host: FakeHost) -> None:
    job = manager.start(values(host, "steps=2"))
    assert manager.wait(30)
    folder = manager.folder(job)
    assert folder is not None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["pretrained_model_name_or_path"] == str(host.folder / "model.safetensors")
    assert config["output_dir"] == str(host.lora_dir() / "cat")
    events = [json.loads(line)["event"] for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert events == ["warning", "start", "progress", "saved", "progress", "saved", "done"]
    log = (folder / "log.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(log) == ["a library's own words", "loading |##########|"]
    assert "draw" not in host.calls
    assert manager.folder("../jobs") is None


def test_everything_wrong_is_named_before_anything_is_made(manager: Manager, host: FakeHost) -> None:
    wrong = {"network_dim": 0, "output_name": "cat", "train_data_dir": "x", "nonsense": 1}
    with pytest.raises(UserErrors) as caught:
        manager.start(wrong, {"weights": "a", "steps": 0, "height": 65})
    fields = {error.where for error in caught.value.errors}
    assert {"network_dim", "nonsense", "grid.weights", "grid.steps", "grid.height"} <= fields
    with pytest.raises(UserErrors) as caught:
        manager.start({"output_name": "a/b", "train_data_dir": "nowhere"})
    assert {error.where for error in caught.value.errors} == {"output_name", "train_data_dir"}
    assert not host.data_dir().exists()
    assert manager.status()["state"] == "idle"


def test_only_one_job_at_a_time(manager: Manager, host: FakeHost) -> None:
    manager.start(values(host, "steps=1000 pause=0.05"))
    with pytest.raises(UserError, match="a training is running"):
        manager.start(values(host))
    with pytest.raises(UserError, match="a training is running"):
        Manager(host, FakeEngine()).start(values(host))
    manager.stop()
    assert manager.wait(20)
    manager.start(values(host))
    assert manager.wait(30)
    assert manager.status()["state"] == "done"


def test_stop_ends_a_training_as_stopped(manager: Manager, host: FakeHost) -> None:
    manager.start(values(host, "steps=1000 pause=0.05"), {})
    until(lambda: manager.status()["step"] > 2)
    manager.stop()
    assert manager.wait(20)
    status = manager.status()
    assert (status["state"], status["error"]) == ("stopped", None)
    assert len(status["files"]) == status["step"] > 2
    assert host.calls == ["unload", "bring back"]


@posix
def test_a_child_that_does_not_listen_is_terminated(manager: Manager, host: FakeHost) -> None:
    manager.start(values(host, "steps=1000 pause=0.05 deaf"))
    until(lambda: manager.status()["step"] > 0)
    manager.stop()
    assert manager.wait(20)
    assert manager.status()["state"] == "stopped"


def test_stop_ends_a_grid_and_keeps_the_lora(manager: Manager, host: FakeHost) -> None:
    host.cell_seconds = 0.05
    manager.start(values(host), {"weights": [weight / 10 for weight in range(50)]})
    until(lambda: manager.status()["state"] == "grid")
    manager.stop()
    assert manager.wait(20)
    status = manager.status()
    assert status["state"] == "done"
    assert status["warnings"][-1] == "the grid was stopped"
    assert status["grid"]["done"] < 150


def test_a_failing_grid_is_a_warning(manager: Manager, host: FakeHost) -> None:
    host.failure = UserError("the WebUI has no X/Y/Z plot")
    manager.start(values(host), {})
    assert manager.wait(30)
    status = manager.status()
    assert (status["state"], status["error"]) == ("done", None)
    assert status["warnings"][-1] == "no grid was drawn: the WebUI has no X/Y/Z plot"


@pytest.mark.parametrize(
    ("orders", "words"),
    [
        ("bad", ["train_data_dir: no pictures. Add some"]),
        ("crash", ["ended unexpectedly (exit code 1)", "RuntimeError: the sky fell"]),
        pytest.param("killed", ["was killed (out of memory?)"], marks=posix),
    ],
)
def test_failures_say_why(manager: Manager, host: FakeHost, orders: str, words: list[str]) -> None:
    manager.start(values(host, orders), {})
    assert manager.wait(30)
    status = manager.status()
    assert status["state"] == "failed"
    assert all(word in status["error"] for word in words)
    assert host.calls == ["unload", "bring back"]


def test_the_record_survives_a_restart(manager: Manager, host: FakeHost) -> None:
    done = manager.start(values(host))
    assert manager.wait(30)
    lost = host.data_dir() / "jobs" / "99999999-000000-lost"
    lost.mkdir()
    records.Record(lost.name, "lost", "model", state="training", step=7).save(lost)
    (host.data_dir() / "jobs" / "rubbish").mkdir()
    afterwards = Manager(host, FakeEngine())
    assert afterwards.status()["state"] == "idle"
    history = afterwards.history()
    assert [(entry["id"], entry["state"], entry["step"]) for entry in history] == [
        (lost.name, "interrupted", 7),
        (done, "done", 3),
    ]


def test_a_job_of_another_process_is_not_interrupted(manager: Manager, host: FakeHost) -> None:
    manager.start(values(host, "steps=1000 pause=0.05"))
    until(lambda: manager.history()[0]["state"] == "training")
    assert Manager(host, FakeEngine()).history()[0]["state"] == "training"


PARENT = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.jobs.test_manager import FakeEngine, FakeHost, values
from lora_train.jobs.manager import Manager
host = FakeHost(Path({folder!r}))
Manager(host, FakeEngine()).start(values(host, "steps=100000 pause=0.05 pid={pid}"))
time.sleep(600)
"""


@posix
def test_the_child_ends_when_its_parent_is_killed(host: FakeHost, root: Path) -> None:
    pid_file = host.folder / "pid"
    code = PARENT.format(paths=[str(root)], folder=str(host.folder), pid=pid_file)
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(lambda: pid_file.is_file() and pid_file.read_text() != "", 60)
        child = int(pid_file.read_text())
        assert alive(child)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not alive(child), 10)
    assert Manager(host, FakeEngine()).history()[0]["state"] == "interrupted"


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has waited for doesn't."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return not sys.platform.startswith("linux")
