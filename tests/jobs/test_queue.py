"""Several jobs: in order, one at a time on a GPU, also between processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lora_train.errors import UserError
from lora_train.jobs.lock import ProcessLock, device_lock, device_name
from lora_train.jobs.manager import GPU_IS_TAKEN, Manager

from .fakes import FakeEngine, FakeHost, posix, until, values

LONG = "steps=1000 pause=0.05"


def states(manager: Manager) -> dict[str, str]:
    return {job["name"]: job["state"] for job in manager.history()}


def test_of_two_starts_at_once_one_runs_and_one_waits(manager: Manager, host: FakeHost) -> None:
    both = [threading.Thread(target=manager.start, args=(values(host, LONG, output_name=name),)) for name in ("a", "b")]
    for one in both:
        one.start()
    for one in both:
        one.join()
    until(lambda: sorted(states(manager).values()) == ["queued", "training"])
    queue = manager.status()["queue"]
    assert [(entry["state"], entry["position"]) for entry in queue] == [("training", 0), ("queued", 1)]
    assert queue[1]["stage"] == "waiting in the queue" and not queue[1]["resumable"]
    assert host.calls == ["unload"]


def test_jobs_run_in_the_order_of_their_starts(manager: Manager, host: FakeHost) -> None:
    for name in ("c", "a", "b"):
        manager.start(values(host, "steps=1", output_name=name))
    assert manager.wait(30)
    assert states(manager) == {"a": "done", "b": "done", "c": "done"}
    began = {job["name"]: job["began"] for job in manager.history()}
    assert began["c"] < began["a"] < began["b"]
    assert host.calls == ["unload", "bring back", "refresh"] * 3
    assert manager.status()["name"] == "b" and manager.status()["queue"] == []


@posix
def test_a_job_that_fails_lets_the_next_one_run(manager: Manager, host: FakeHost) -> None:
    killed = manager.start(values(host, "killed=2", output_name="killed"))
    gone = host.folder / "gone"
    shutil.copytree(host.folder / "pictures", gone)
    removed = manager.start(values(host, output_name="removed", train_data_dir=str(gone)))
    manager.start(values(host, output_name="last"))
    shutil.rmtree(gone)
    assert manager.wait(30)
    assert states(manager) == {"killed": "failed", "removed": "failed", "last": "done"}
    assert "was killed (out of memory?)" in manager.status(killed)["error"]
    assert "there is no folder" in manager.status(removed)["error"]
    assert not manager.status(killed)["resumable"]
    shutil.copytree(host.folder / "pictures", gone)
    manager.resume(removed)
    assert manager.wait(30)
    assert (manager.status(removed)["state"], manager.status(removed)["error"]) == ("done", None)


def test_one_that_waits_can_be_stopped_paused_and_removed(manager: Manager, host: FakeHost) -> None:
    running = manager.start(values(host, LONG))
    until(lambda: manager.status()["state"] == "training")
    stopped, paused, removed = (manager.start(values(host, output_name=name)) for name in ("x", "y", "z"))
    manager.stop(stopped)
    manager.pause(paused)
    manager.remove(removed)
    assert states(manager) == {"cat": "training", "x": "stopped", "y": "paused"}
    assert manager.folder(removed) is None and manager.record(removed) is None
    with pytest.raises(UserError, match="no such job"):
        manager.resume(removed)
    with pytest.raises(UserError, match="it is running"):
        manager.remove(running)
    manager.resume(paused)
    assert [job["name"] for job in manager.status()["queue"]] == ["cat", "y"]
    manager.stop(running)
    assert manager.wait(30)
    assert states(manager) == {"cat": "stopped", "x": "stopped", "y": "done"}


def test_removing_a_job_leaves_its_loras(manager: Manager, host: FakeHost) -> None:
    job = manager.start(values(host))
    assert manager.wait(30)
    manager.remove(job)
    assert manager.history() == [] and manager.status()["state"] == "idle"
    assert (host.lora_dir() / "cat" / "cat.safetensors").is_file()
    assert [path.name for path in (host.data_dir() / "jobs").iterdir() if path.is_dir()] == []


def test_another_process_has_the_gpu(manager: Manager, host: FakeHost, tmp_path: Path) -> None:
    """Two WebUIs with folders of their own, on one GPU."""
    other_host = FakeHost(tmp_path)
    other_host.data_dir = lambda: tmp_path / "other data"  # type: ignore[method-assign]
    device = f"test-{os.getpid()}"

    class OnGpu(FakeEngine):
        def environment(self) -> dict[str, str]:
            return {**os.environ, "DEVICE": device}

    first, second = Manager(host, OnGpu(), grace=1.0), Manager(other_host, OnGpu(), grace=1.0)
    first.start(values(host, LONG))
    until(lambda: first.status()["state"] == "training")
    second.start(values(other_host, "steps=1", output_name="second"))
    until(lambda: second.status()["stage"] == GPU_IS_TAKEN)
    assert second.status()["state"] == "queued"
    first.stop()
    assert first.wait(20) and second.wait(20)
    assert second.status()["state"] == "done"


def test_a_job_of_another_process_is_left_alone(manager: Manager, host: FakeHost) -> None:
    running = manager.start(values(host, LONG))
    waiting = manager.start(values(host, output_name="waits"))
    until(lambda: Manager(host, FakeEngine()).record(running)["state"] == "training")  # type: ignore[index]
    other = Manager(host, FakeEngine())
    assert {job["state"] for job in other.history()} == {"training", "queued"}
    for action in (other.stop, other.remove, other.resume):
        for job in (running, waiting):
            with pytest.raises(UserError):
                action(job)
    assert manager.status()["state"] == "training"


def test_what_waited_when_its_process_ended_waits_to_be_continued(host: FakeHost) -> None:
    start = "for name in ('runs', 'waits'):\n    manager.start(values(host, {!r}, output_name=name))\n"
    code = f"import os\n{start}os._exit(0)"
    in_another_process(host, code.format("steps=3 pause=0.2")).wait(60)
    afterwards = Manager(host, FakeEngine(), grace=1.0)
    waits = next(job for job in afterwards.status()["queue"] if job["name"] == "waits")
    assert (waits["state"], waits["resumable"], waits["position"]) == ("queued", True, None)
    assert afterwards.wait(0) and waits["stage"] == "waiting until you continue it"
    afterwards.resume(waits["id"])
    assert afterwards.wait(30)
    assert afterwards.status(waits["id"])["state"] == "done"


def in_another_process(host: FakeHost, code: str) -> subprocess.Popen:
    """A process that has a manager of the same folders."""
    root = Path(__file__).resolve().parents[2]
    begin = (
        f"import sys, time\nfrom pathlib import Path\nsys.path[:0] = [{str(root)!r}]\n"
        "from tests.jobs.fakes import *\nfrom lora_train.jobs.manager import Manager\n"
        f"host = FakeHost(Path({str(host.folder)!r}))\nmanager = Manager(host, FakeEngine())\n"
    )
    return subprocess.Popen([sys.executable, "-c", begin + code])


@posix
def test_a_lock_ends_with_its_last_holder(tmp_path: Path) -> None:
    """Also with a child that outlives who took it."""
    lock = ProcessLock(tmp_path / "lock")
    assert lock.take() and not lock.held_elsewhere() and lock.held()
    assert not ProcessLock(tmp_path / "lock").take() and ProcessLock(tmp_path / "lock").held_elsewhere()
    lock.release()
    code = (
        "import subprocess, sys\nfrom pathlib import Path\nfrom lora_train.jobs.lock import ProcessLock\n"
        f"lock = ProcessLock(Path({str(tmp_path / 'inherited')!r}))\nassert lock.take()\n"
        "reads = [sys.executable, '-c', 'import sys; sys.stdin.read()']\n"
        "child = subprocess.Popen(reads, stdin=0, pass_fds=lock.shared())\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    holder.wait(30)
    inherited = ProcessLock(tmp_path / "inherited")
    assert inherited.held_elsewhere()
    assert holder.stdin
    holder.stdin.close()
    assert inherited.take(patience=10)
    inherited.release()


def test_the_lock_of_a_device(tmp_path: Path) -> None:
    here = device_lock(tmp_path, "cuda-1")._path
    assert tmp_path not in here.parents and here == device_lock(tmp_path / "other", "cuda-1")._path
    assert device_lock(tmp_path, "")._path == tmp_path / "jobs" / "lock"
    assert device_name({"CUDA_VISIBLE_DEVICES": ""}) == device_name({"CUDA_VISIBLE_DEVICES": "-1"}) == ""


def test_a_full_disk_ends_no_training(manager: Manager, host: FakeHost) -> None:
    """The real thing: events and log on a device that is always full, and a record that can't be replaced."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    first = manager.start(values(host, LONG))
    until(lambda: manager.status()["state"] == "training")
    second = manager.start(values(host, output_name="full"))
    folder = manager.folder(second)
    assert folder
    for name in ("events.jsonl", "log.txt"):
        (folder / name).symlink_to("/dev/full")
    (folder / "record.json").unlink()
    (folder / "record.json" / "in the way").mkdir(parents=True)
    manager.stop(first)
    assert manager.wait(30)
    status = manager.status()
    assert (status["name"], status["state"], status["step"]) == ("full", "done", 3)
    assert any("record can't be written" in text for text in status["warnings"])
    assert any("events can't be written" in text for text in status["warnings"])
    json.dumps(status)
