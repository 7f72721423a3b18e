"""Measurements as jobs: what is checked, the child's task, what is kept of its result."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_train.blocks.presets import shared_store
from lora_train.errors import UserError, UserErrors
from lora_train.jobs import measures
from lora_train.jobs.manager import Manager
from tests.blocks import loras

from .fakes import FakeEngine, FakeHost, until

CHILD = """
import json, sys, threading, os, pathlib, time
task = json.loads(pathlib.Path(sys.argv[1]).read_text())
closed = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
def say(event, **values):
    print(json.dumps({"event": event, "time": 0, **values}), flush=True)
say("stage", text="loading")
total = 3 if task["shot"]["prompt"] != "long" else 1000
for done in range(1, total + 1):
    say("measuring", done=done, total=total, what="block IN01", eta=1.0)
    if closed.wait(0.01):
        say("stopped", path=None, steps=0, seconds=1.0)
        os._exit(3)
if task["shot"]["prompt"] == "bad":
    say("error", text="a LoRA: is damaged")
    os._exit(2)
out = pathlib.Path(sys.argv[1]).parent
found = {"kind": task["kind"]}
if task["kind"] == "tune":
    found["presets"] = [{"name": task["name"], "lora": "cat", "numbers": [n / 10 for n in range(17)]}]
(out / "measure.json").write_text(json.dumps(found))
say("done", path="", steps=0, seconds=1.0)
os._exit(0)
"""


class MeasuringEngine(FakeEngine):
    """Pretends to measure."""

    def measuring(self, kind: str, task: Path) -> list[str]:
        return [sys.executable, "-c", CHILD, str(task)]


@pytest.fixture
def manager(host: FakeHost) -> Iterator[Manager]:
    loras.write(host.lora_dir() / "cat.safetensors", loras.state(loras.modules(), rank=1))
    manager = Manager(host, MeasuringEngine(), grace=1.0, patience=5.0)
    yield manager
    while not manager.wait(0.1):
        manager.stop()


def asked(prompt: str = "a cat", **more: Any) -> dict[str, Any]:
    return {"mix": {"loras": [{"name": "cat", "preset": "GP1"}], "shot": {"prompt": prompt, "seeds": [3]}}, **more}


def test_an_effect_map_is_a_job_of_its_own(manager: Manager, host: FakeHost) -> None:
    job = manager.start_measure("effects", asked(each=True))
    assert manager.wait(30)
    status = manager.status()
    assert (status["state"], status["error"], status["kind"], status["name"]) == ("done", None, "effects", "cat")
    assert (status["step"], status["total"]) == (3, 3)
    assert host.calls == ["unload", "bring back"]
    folder = manager.folder(job)
    assert folder and measures.result(folder) == {"kind": "effects"}
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    assert task["checkpoint"] == str(host.folder / "model.safetensors")
    assert task["mix"][0]["path"] == str(host.lora_dir() / "cat.safetensors")
    assert (task["mix"][0]["weights"]["IN01"], task["mix"][0]["weights"]["OUT11"]) == (0.6, 1.1)
    assert (task["timesteps"], task["each"], task["shot"]["seeds"]) == ([800, 500, 200], True, [3])


def test_tuned_numbers_become_a_preset(manager: Manager, host: FakeHost) -> None:
    manager.start_measure("tune", asked(name="MINE", pictures=str(host.folder / "pictures"), prompts="one\n\n two"))
    assert manager.wait(30)
    assert manager.status()["state"] == "done"
    assert shared_store(host.data_dir()).file.presets["MINE"] == tuple(n / 10 for n in range(17))


def test_it_stops_and_begins_again(manager: Manager, host: FakeHost) -> None:
    job = manager.start_measure("effects", asked("long"))
    until(lambda: manager.status()["step"] > 1)
    manager.pause(job)
    assert manager.wait(20)
    status = manager.status(job)
    assert (status["state"], status["resumable"]) == ("paused", True)
    assert measures.result(manager.folder(job)) is None
    manager.resume(job)
    until(lambda: manager.status()["step"] > 1)
    manager.stop(job)
    assert manager.wait(20)
    assert manager.status(job)["state"] == "stopped"


def test_a_failure_says_why(manager: Manager) -> None:
    manager.start_measure("effects", asked("bad"))
    assert manager.wait(30)
    assert (manager.status()["state"], manager.status()["error"]) == ("failed", "a LoRA: is damaged")


@pytest.mark.parametrize(
    ("kind", "more", "wrong"),
    [
        ("draw", {}, {"kind"}),
        ("effects", {"timesteps": [1000]}, {"timesteps"}),
        ("effects", {"each": 1, "keep": 0.5}, {"each", "keep"}),
        ("effects", {"mix": {"loras": [{"name": "cat"}]}}, {"mix.shot.prompt"}),
        ("effects", {"mix": {"loras": [{"name": "cat", "hidden": True}], "shot": {"prompt": "x"}}}, {"mix.loras"}),
        ("tune", {}, {"name", "pictures"}),
        (
            "tune",
            {"name": "GP1", "pictures": "nowhere", "keep": 2, "steps": 1.5},
            {"name", "pictures", "keep", "steps"},
        ),
        ("tune", {"name": "a:b", "prompts": 3}, {"name", "pictures", "prompts"}),
    ],
)
def test_everything_wrong_is_named_and_nothing_is_made(
    manager: Manager, host: FakeHost, kind: str, more: dict[str, Any], wrong: set[str]
) -> None:
    with pytest.raises(UserError) as caught:
        manager.start_measure(kind, {**asked(), **more})
    errors = caught.value.errors if isinstance(caught.value, UserErrors) else [caught.value]
    assert {error.where for error in errors} == wrong
    assert not (host.data_dir() / "jobs").exists()


def test_the_pictures_of_a_lora_trained_here_are_known(manager: Manager, host: FakeHost) -> None:
    from .fakes import values

    manager.start(values(host, "steps=1"))
    assert manager.wait(30)
    lora = host.lora_dir() / "cat" / "cat.safetensors"
    assert measures.trained_on(host, lora) == str(host.folder / "pictures")
    assert measures.trained_on(host, host.lora_dir() / "cat.safetensors") == ""


def test_an_open_host_reads_its_own_pictures_only(manager: Manager, host: FakeHost, tmp_path: Path) -> None:
    host.open_to_others = True
    with pytest.raises(UserError, match="outside the WebUI's own folders"):
        manager.start_measure("tune", asked(name="MINE", pictures=str(tmp_path)))
    manager.start_measure("tune", asked(name="MINE", pictures=str(host.folder / "pictures")))
    assert manager.wait(30)
    assert manager.status()["state"] == "done"
