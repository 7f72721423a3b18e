"""Jobs with a real child process that only pretends to train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_train.errors import UserError, UserErrors
from lora_train.jobs.manager import Manager

from .fakes import FakeHost, posix, until, values


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
    each = ["progress", "saved", "validation", "preview"]
    assert events == ["warning", "start", *each, *each, "saved", "done"]
    log = (folder / "log.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(log) == ["a library's own words", "loading |##########|"]
    assert "draw" not in host.calls
    assert manager.folder("../jobs") is None


def test_everything_wrong_is_named_before_anything_is_made(manager: Manager, host: FakeHost) -> None:
    wrong = {"network_dim": 0, "output_name": "a/b", "train_data_dir": "nowhere", "nonsense": 1}
    with pytest.raises(UserErrors) as caught:
        manager.start(wrong, {"weights": "a", "steps": 0, "height": 65})
    fields = {error.where for error in caught.value.errors}
    assert fields == {
        *("network_dim", "nonsense", "output_name", "train_data_dir", "grid.weights", "grid.steps", "grid.height")
    }
    with pytest.raises(UserErrors) as caught:
        manager.start({"output_name": "a/b", "train_data_dir": "nowhere"})
    assert {error.where for error in caught.value.errors} == {"output_name", "train_data_dir"}
    assert not host.data_dir().exists()
    assert manager.status()["state"] == "idle"


def test_stop_ends_a_training_as_stopped(manager: Manager, host: FakeHost) -> None:
    manager.start(values(host, "steps=1000 pause=0.05"), {})
    until(lambda: manager.status()["step"] > 2)
    manager.stop()
    assert manager.wait(20)
    status = manager.status()
    assert (status["state"], status["error"]) == ("stopped", None)
    assert len(status["files"]) == status["step"] > 2
    assert status["resumable"]
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
        pytest.param("killed=1", ["was killed (out of memory?)"], marks=posix),
    ],
)
def test_failures_say_why(manager: Manager, host: FakeHost, orders: str, words: list[str]) -> None:
    manager.start(values(host, orders), {})
    assert manager.wait(30)
    status = manager.status()
    assert status["state"] == "failed"
    assert all(word in status["error"] for word in words)
    assert host.calls == ["unload", "bring back"]
