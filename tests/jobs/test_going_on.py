"""Pausing, restarts and going on: the record continues, and nothing is in it twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_train.errors import UserError
from lora_train.events import event
from lora_train.grid.record import describe
from lora_train.jobs import record as records
from lora_train.jobs.job import SAVING
from lora_train.jobs.manager import Manager

from .fakes import FakeEngine, FakeHost, alive, posix, until, values
from .test_queue import in_another_process


def uninterrupted(status: dict, steps: int) -> None:
    """The curves of a run of so many steps, each step in them once."""
    assert [step for step, _ in status["losses"]] == list(range(1, steps + 1))
    assert [step for step, _ in status["rates"]["unet"]] == list(range(1, steps + 1))
    assert [measured["step"] for measured in status["validation"]] == list(range(1, steps + 1))
    assert [preview["step"] for preview in status["previews"]] == list(range(1, steps + 1))
    assert [saved["epoch"] for saved in status["epochs_saved"]] == list(range(1, steps + 1))
    assert len(status["files"]) == len(set(status["files"])) == steps + 1
    assert status["warnings"] == ["a caption is empty"]


def test_a_paused_job_goes_on_where_it_was(manager: Manager, host: FakeHost) -> None:
    job = manager.start(values(host, "steps=30 pause=0.03"), {"weights": "1"})
    until(lambda: manager.status()["step"] > 2)
    manager.pause(job)
    assert manager.status()["state"] == "pausing"
    assert manager.wait(20)
    paused = manager.status()
    assert (paused["state"], paused["resumable"], paused["error"]) == ("paused", True, None)
    assert Path(paused["resume"]).name == f"cat-step{paused['step']:08d}-state"
    assert host.calls == ["unload", "bring back"]
    manager.resume(job)
    assert manager.wait(30)
    done = manager.status()
    assert (done["id"], done["state"], done["step"]) == (job, "done", 30)
    uninterrupted(done, 30)
    assert host.drawn and len(host.drawn.loras) == 30
    assert done["seconds"] >= paused["seconds"] and done["began"] == paused["began"]
    folder = manager.folder(job)
    assert folder and json.loads((folder / "config.json").read_text(encoding="utf-8"))["resume"] == ""


def test_a_job_paused_before_its_first_step_begins(manager: Manager, host: FakeHost) -> None:
    first = manager.start(values(host, "steps=1000 pause=0.05"))
    until(lambda: manager.status()["state"] == "training")
    waiting = manager.start(values(host, output_name="second"))
    manager.pause(waiting)
    assert manager.status(waiting)["resumable"]
    manager.resume(waiting)
    manager.stop(first)
    assert manager.wait(30)
    assert manager.status(waiting)["state"] == "done"


def test_a_pause_that_cannot_save_says_so(manager: Manager, host: FakeHost) -> None:
    job = manager.start(values(host, "steps=1000 pause=0.05 unwritable"))
    until(lambda: manager.status()["step"] > 0)
    manager.pause(job)
    assert manager.wait(20)
    status = manager.status()
    assert (status["state"], status["error"]) == ("failed", "the state can't be written")
    assert not status["resumable"]
    with pytest.raises(UserError, match="nothing to go on from"):
        manager.resume(job)


def test_a_grid_is_paused_too_and_drawn_again(manager: Manager, host: FakeHost) -> None:
    host.cell_seconds = 0.05
    job = manager.start(values(host), {"weights": [weight / 10 for weight in range(10)]})
    until(lambda: (manager.status()["grid"] or {"done": 0})["done"] > 1)
    manager.pause(job)
    assert manager.wait(20)
    assert (manager.status()["state"], manager.status()["resumable"]) == ("paused", True)
    grid = describe(manager.folder(job))
    drawn = [cell for cell in grid["pages"][0]["cells"][0] if cell]
    assert 0 < len(drawn) < 30 and grid["pages"][0]["sheet"]
    host.cell_seconds = 0
    host.calls.clear()
    manager.resume(job)
    assert manager.wait(30)
    assert manager.status()["state"] == "done" and host.calls == ["refresh", "draw"]
    assert manager.status()["grid"]["done"] == 30


@posix
def test_after_a_crash_the_newest_whole_state_counts(manager: Manager, host: FakeHost) -> None:
    job = manager.start(values(host, "steps=6 state=2 killed=5"))
    assert manager.wait(30)
    failed = manager.status()
    assert (failed["state"], failed["step"], failed["resumable"]) == ("failed", 4, True)
    out = Path(failed["output_dir"])
    other = out / "cat-step00000005-state"  # of another run in the same folder
    other.mkdir()
    for file in (out / "cat-step00000002-state").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    settings = json.loads((other / "settings.json").read_text(encoding="utf-8"))
    (other / "settings.json").write_text(json.dumps({**settings, "seed": 7}), encoding="utf-8")
    half = out / "cat-step00000006-state"
    half.mkdir()
    (half / "settings.json").write_bytes((out / "cat-step00000002-state" / "settings.json").read_bytes())
    manager.resume(job)
    assert manager.wait(30)
    resumed = [e for e in events(manager, job) if e["event"] == "resumed"]
    assert [e["step"] for e in resumed] == [2]
    assert [step for step, _ in manager.status()["losses"]] == [1, 2, 3, 4]


@posix
def test_a_damaged_state_is_passed_over(manager: Manager, host: FakeHost) -> None:
    job = manager.start(values(host, "steps=20 pause=0.05 state=1"))
    until(lambda: manager.status()["step"] > 3)
    manager.pause(job)
    assert manager.wait(20)
    newest = Path(manager.status()["resume"])
    (newest / "network.tensors").write_text("wEights", encoding="utf-8")
    manager.resume(job)
    assert manager.wait(30)
    done = manager.status()
    assert done["state"] == "done"
    assert done["warnings"][-1].startswith(newest.name + " is damaged")
    assert [step for step, _ in done["losses"]] == list(range(1, 21))


def events(manager: Manager, job: str) -> list[dict]:
    folder = manager.folder(job)
    assert folder
    return [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]


@posix
def test_when_the_webui_is_killed_the_child_saves_and_the_job_can_go_on(host: FakeHost) -> None:
    pid_file = host.folder / "pid"
    orders = f"steps=40 pause=0.05 saving=1.5 pid={pid_file}"
    parent = in_another_process(host, f"manager.start(values(host, {orders!r}), {{'weights': '1'}})\ntime.sleep(600)")
    afterwards = Manager(host, FakeEngine(), grace=1.0)
    try:
        until(lambda: afterwards.status()["state"] == "training" and afterwards.status()["step"] > 0, 60)
        child = int(pid_file.read_text())
        assert alive(child)
    finally:
        parent.kill()
        parent.wait()
    status = afterwards.status()
    assert (status["state"], status["stage"], status["resumable"]) == ("interrupted", SAVING, False)
    with pytest.raises(UserError, match="still saving"):
        afterwards.resume(status["id"])
    with pytest.raises(UserError, match="running"):
        afterwards.remove(status["id"])
    until(lambda: not alive(child), 10)
    status = afterwards.status()
    assert (status["state"], status["stage"], status["resumable"]) == ("interrupted", "", True)
    afterwards.resume(status["id"])
    assert afterwards.wait(30)
    done = afterwards.status()
    assert (done["state"], done["step"]) == ("done", 40)
    saved = json.loads((Path(done["resume"]) / "train_state.json").read_text(encoding="utf-8"))["current_step"]
    steps = [step for step, _ in done["losses"]]
    assert steps == sorted(set(steps)) and set(range(saved + 1, 41)) <= set(steps) and len(steps) >= 38
    assert done["grid"]["pages"]


def test_the_record_survives_a_restart(manager: Manager, host: FakeHost) -> None:
    done = manager.start(values(host))
    assert manager.wait(30)
    lost = host.data_dir() / "jobs" / "99999999-000000-lost"
    lost.mkdir()
    records.Record(lost.name, "lost", "model", state="training", step=7).save(lost)
    (host.data_dir() / "jobs" / "rubbish").mkdir()
    (lost / "child.json").write_text('{"pid": 1, "started": 0}', encoding="utf-8")  # its number was given again
    afterwards = Manager(host, FakeEngine())
    history = afterwards.history()
    assert [(entry["id"], entry["state"], entry["step"]) for entry in history] == [
        (lost.name, "interrupted", 7),
        (done, "done", 3),
    ]
    assert afterwards.status()["id"] == lost.name and not afterwards.status()["resumable"]
    assert "loading |##########|" in afterwards.status(done)["log"]
    afterwards.stop(lost.name)
    assert afterwards.status(lost.name)["state"] == "stopped"


def test_a_restart_knows_the_steps_that_the_record_missed(host: FakeHost) -> None:
    """The record is written every few seconds only; the events are all there."""
    lost = host.data_dir() / "jobs" / "99999999-000000-lost"
    lost.mkdir(parents=True)
    records.Record(lost.name, "lost", "model", state="training", losses=[(1, 0.5)], step=1).save(lost)
    lines = [json.dumps(event("progress", step=n, total=40, epoch=1, loss=1 / n)) for n in range(1, 6)]
    (lost / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    status = Manager(host, FakeEngine()).status()
    assert (status["state"], status["step"], len(status["losses"])) == ("interrupted", 5, 5)
