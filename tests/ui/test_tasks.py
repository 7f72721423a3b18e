"""What may be under way at once: one task that needs the model, and one in each place that is written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_train.errors import UserError
from lora_train.host.base import Checkpoint
from lora_train.studio import project as projects
from lora_train.ui.routes import ROOT
from lora_train.ui.routes.tasks import TASKS, Tasks
from tests.studio.drawn import put, scene

Work = Callable[[Any], dict[str, Any]]


@pytest.fixture
def held() -> Iterator[tuple[Tasks, Work, threading.Event]]:
    """Tasks, work that waits, and what lets it end."""
    end = threading.Event()

    def work(task: Any) -> dict[str, Any]:
        end.wait(10)
        return {}

    yield Tasks(), work, end
    end.set()


def finish(tasks: Tasks) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("task "):
            thread.join(10)
    assert all(one["state"] != "running" for one in tasks.view())


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({"model": True}, {"model": True}, "the model is in use: a set"),
        ({"model": True, "writes": ["reg/1_a"]}, {"writes": ["image/1_a"]}, ""),  # a cut beside a set
        ({"model": True, "writes": ["reg/1_a"]}, {"writes": [".studio/scan.json"]}, ""),  # a scan
        ({"model": True, "writes": ["reg/1_a"]}, {}, ""),
        (
            {"writes": [".studio/scan.json"]},
            {"writes": [".studio/scan.json"]},
            "the same files are being written: a set",
        ),
        ({"writes": ["image/1_a"]}, {"writes": ["image/1_a"]}, "the same files"),
        ({"writes": ["image"]}, {"writes": ["image/1_a"]}, "the same files"),  # a plan renames folders
        ({"writes": ["image/1_a"]}, {"writes": ["reg", "image"]}, "the same files"),
        ({"writes": ["image/1_a"]}, {"writes": ["image/1_ab"]}, ""),
        ({"writes": ["image/1_a"]}, {"writes": ["image/../image/1_a"]}, "the same files"),
        (
            {"writes": ["image/1_a"]},
            {"model": True, "writes": ["image/1_a"]},
            "the same files",
        ),  # captions
        ({}, {}, ""),
    ],
)
def test_two_at_once(held: Any, tmp_path: Path, first: Any, second: Any, reason: str) -> None:
    tasks, work, end = held
    given = [{**one, "writes": [tmp_path / name for name in one.get("writes", ())]} for one in (first, second)]
    tasks.start("set", "a set", work, **given[0])
    if reason:
        with pytest.raises(UserError, match=f"^under way: {reason}.*Wait until it ends, or stop it"):
            tasks.start("other", "another", work, **given[1])
        with pytest.raises(UserError, match=f"^under way: {reason}"):
            tasks.check(*given[1]["writes"], model=second.get("model", False))
    else:
        tasks.start("other", "another", work, **given[1])
        tasks.check(tmp_path / "elsewhere")
    end.set()
    finish(tasks)
    tasks.start("other", "another", work, **given[1])
    finish(tasks)


def test_a_running_task_is_not_forgotten_for_others_that_ended(held: Any) -> None:
    tasks, work, end = held
    first = tasks.start("set", "a set", work, model=True)
    for _ in range(20):
        other = tasks.start("scan", "a scan", lambda task: {})
        while tasks.find(other).state == "running":  # type: ignore[union-attr]
            end.wait(0.005)
    assert tasks.find(first) is not None
    assert len(tasks.view()) <= 10


def of(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_files_are_worked_on_while_a_set_is_drawn_for_hours(client: Any, manager: Any, tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / "ink" / f"p{number}.png", scene(number, 96, 96), caption="ink")
    project = projects.make(tmp_path / "ink").project
    assert project is not None
    projects.remember(manager.host.data_dir(), project)
    drawing, end = threading.Event(), threading.Event()

    def render(shot: Any, cancelled: Any) -> Any:
        drawing.set()
        end.wait(20)
        return None if cancelled() else scene(shot.seed, shot.width, shot.height)

    manager.host.render = render
    manager.host.capabilities = lambda: frozenset({"render"})
    manager.host.checkpoint = lambda: Checkpoint(tmp_path / "any.safetensors", "any")
    at, sets = f"{ROOT}/pictures/{project.id}", f"{ROOT}/sets/{project.id}"
    body = {"name": "ink", "prompts": ["a cat"], "count": 2, "width": 64, "height": 64}
    try:
        drawn = of(client.post(sets + "/make", json=body))["task"]
        assert drawing.wait(10)
        scanned = of(client.post(at + "/scan", json={}))["task"]
        ids = of(client.get(at + "/ids"))["ids"]
        way = {"name": "centre", "shape": "1:1"}
        cut = {"pictures": ids, "way": way, "into": "1_ink", "options": {"side": 64}}
        made = of(client.post(at + "/cut", json=cut))["task"]
        masks = of(client.post(at + "/masks", json={"pictures": ids, "way": "white"}))["task"]
        for one in (scanned, made, masks):
            for _ in range(600):
                if TASKS.find(one).state != "running":  # type: ignore[union-attr]
                    break
                drawing.wait(0.01) and end.wait(0.02)
            assert TASKS.find(one).state == "done", TASKS.find(one)  # type: ignore[union-attr]
        refused = client.post(sets + "/make", json={**body, "name": "other"})
        assert refused.status_code == 422 and "the model is in use: drawing 2 pictures of any" in refused.text
        assert len(of(client.get(sets + "/made"))["sets"]) == 1
        parts = of(client.get(sets + "/person"))["parts"]
        refused = client.post(sets + "/person/write", json={"parts": parts})  # it would rename folders of reg/
        assert refused.status_code == 422 and "the same files are being written" in refused.text
        text = {"folder": str(project.root), "name": "1_ink/p0.png", "caption": "ink, cat"}
        table = of(client.post(f"{ROOT}/caption-studio/table", json={"folder": str(project.root)}))
        digest = next(row["digest"] for row in table["rows"] if row["name"] == "1_ink/p0.png")
        assert of(client.post(f"{ROOT}/caption-studio/edit", json={**text, "digest": digest}))["caption"] == "ink, cat"
    finally:
        end.set()
        finish(TASKS)
    assert TASKS.find(drawn).state == "done"  # type: ignore[union-attr]
    assert len(list((project.reg / "1_ink").glob("*.png"))) == 2
