"""The routes of the planners and of the sets that a checkpoint draws."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train.host.base import Checkpoint, Shot
from lora_train.studio import project as projects
from lora_train.studio import style_sort
from lora_train.studio.look import picture_id
from lora_train.studio.project import Project
from lora_train.ui.routes import ROOT
from lora_train.ui.routes.tasks import TASKS
from tests.studio.drawn import put, scene

SETS = ROOT + "/sets"


@pytest.fixture(autouse=True)
def _no_task_is_left() -> Any:
    yield
    for task in TASKS.view():
        if task["state"] == "running":
            TASKS.find(task["id"]).stop.set()  # type: ignore[union-attr]
            ended(task["id"])


def ended(task: str) -> dict[str, Any]:
    for _ in range(400):
        found = TASKS.find(task)
        assert found is not None
        if found.state != "running":
            return found.view()
        time.sleep(0.02)
    pytest.fail("the task doesn't end")


@pytest.fixture
def project(tmp_path: Path, manager: Any) -> Project:
    for number in range(8):
        put(tmp_path / "ink" / f"p{number}.png", scene(number, 300, 450 if number < 6 else 300), caption="ink")
    made = projects.make(tmp_path / "ink").project
    assert made is not None
    projects.remember(manager.host.data_dir(), made)
    return made


def drawing(manager: Any, tmp_path: Path, seen: list[Shot]) -> None:
    """The host draws single pictures from now on."""

    def render(shot: Shot, cancelled: Any) -> Image.Image | None:
        seen.append(shot)
        return None if cancelled() else scene(shot.seed, shot.width, shot.height)

    manager.host.render = render
    manager.host.capabilities = lambda: frozenset({"render"})
    manager.host.checkpoint = lambda: Checkpoint(tmp_path / "models" / "any.v5.safetensors", "any.v5", None, None, 2)


def of(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_style_is_looked_at_sorted_planned_and_written(client: Any, project: Project, manager: Any) -> None:
    at = f"{SETS}/{project.id}/style"
    before = of(client.get(at))
    assert (before["unseen"], before["plan"], before["counts"][""]) == (8, None, 8)
    assert ended(of(client.post(at + "/look", json={"detector": ""}))["task"])["state"] == "done"
    now = of(client.get(at))
    assert (now["counts"]["main"], now["counts"]["face"], now["unseen"]) == (6, 2, 0)
    assert {rule["name"] for rule in now["plan"]["rules"]} == {"ratio", "sum", "grey"}
    face = of(client.get(at + "/ids?class=face"))["ids"][0]
    changed = of(client.post(at, json={"classes": {face: "full"}, "style": "ink", "flipped": False}))
    assert [(one["id"], one["by"]) for one in changed["pictures"]] == [(face, "hand")]
    assert (changed["different"], changed["before"]) == (1, {"classes": {face: None}})
    assert changed["counts"]["full"] == 1
    assert changed["plan"]["factor"] == 4
    assert all(name.partition("_")[2].startswith("ink ") for name in changed["plan"]["folders"])
    back = of(client.post(at, json={"classes": {face: None}}))
    assert back["counts"]["face"] == 2
    result = ended(of(client.post(at + "/write", json={}))["task"])["result"]
    assert result["copied"] == 8 and result["fields"]["train_data_dir"] == str(project.root)
    assert sorted(path.name for path in project.image.iterdir()) == sorted(back["plan"]["folders"])
    assert of(client.get(at))["written"]["main"] == back["plan"]["folders"][0]
    undone = of(client.post(f"{ROOT}/pictures/{project.id}/undo", json={"change": result["entry"]}))
    assert undone["changed"] == [] and not list(project.image.iterdir())


def test_classes_groups_and_repeats_of_ones_own(client: Any, project: Project) -> None:
    at = f"{SETS}/{project.id}/style"
    ids = of(client.get(at + "/ids"))["ids"]
    now = of(client.post(at, json={"add_class": "backs", "classes": dict.fromkeys(ids[:5], "main")}))
    assert now["classes"] == ["main", "face", "full", "backs", "discard"]
    now = of(client.post(at, json={"classes": {ids[5]: "backs", ids[6]: "face", ids[7]: "face"}, "join": ids[:2]}))
    assert (now["groups"], now["counts"]["variants"]) == ([2], 2)
    assert {one["id"]: one["group"] for one in now["pictures"]}[ids[0]] is not None
    page = of(client.get(at + "/pictures?class=main&offset=1&limit=2"))
    assert (page["total"], page["offset"], [one["id"] for one in page["pictures"]]) == (5, 1, ids[1:3])
    assert of(client.get(at + "/pictures?class=main"))["pictures"][0]["group"] is not None
    assert client.get(at + "/pictures?class=none").status_code == 422
    now = of(client.post(at, json={"repeats": {"main": 7}}))
    assert next(one["repeats"] for one in now["plan"]["classes"] if one["name"] == "main") == 7
    now = of(client.post(at, json={"split": ids[:2], "repeats": None, "drop_class": "backs"}))
    assert (now["groups"], now["counts"][""]) == ([], 1)
    for body, where in (
        ({"classes": {ids[0]: "no"}}, "classes"),
        ({"classes": {"no": "main"}}, "picture"),
        ({"add_class": "Face"}, "add_class"),
        ({"join": ids[:1]}, "variants"),
        ({"tolerance": 9}, "tolerance"),
        ({"what": 1}, "what"),
    ):
        answer = client.post(at, json=body)
        assert answer.status_code == 422 and answer.json()["detail"][0]["where"] == where, answer.text
    assert style_sort.load(project).classes == ()


def test_clicks_that_meet_are_all_kept(client: Any, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    at = f"{SETS}/{project.id}/style"
    ids = [item.key for item in style_sort.items(project, style_sort.Sorting())]
    ids = [picture_id(Path(key)) for key in ids]
    save = style_sort.save

    def slowly(*given: Any) -> None:
        time.sleep(0.05)
        save(*given)

    monkeypatch.setattr(style_sort, "save", slowly)
    with ThreadPoolExecutor(8) as several:
        answers = list(several.map(lambda one: client.post(at, json={"classes": {one: "full"}}), ids))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert sorted(style_sort.load(project).chosen.values()) == ["full"] * 8


def test_a_persons_plan_both_ways_and_its_folders(client: Any, project: Project) -> None:
    at = f"{SETS}/{project.id}/person"
    parts = of(client.get(at))["parts"]
    assert parts == [{"name": "ink", "pictures": 8, "repeats": 1, "reg": 0}]
    body = {"parts": parts, "steps": 1600, "epochs": 10, "find": "repeats"}
    assert of(client.post(at, json=body))["folders"][0]["repeats"] == 20
    body = {"parts": [{**parts[0], "repeats": 40}], "steps": 1600, "find": "epochs"}
    assert of(client.post(at, json=body))["epochs"] == 5
    answer = client.post(at, json={"parts": []})
    assert answer.status_code == 422
    written = of(client.post(at + "/write", json=body))
    assert written["copied"] == ["40_ink"]
    assert written["fields"]["max_train_epochs"] == 5
    assert len(list((project.image / "40_ink").glob("*.txt"))) == 8


def test_a_regularisation_set_is_drawn_stopped_and_gone_on_with(
    client: Any, project: Project, manager: Any, tmp_path: Path
) -> None:
    at = f"{SETS}/{project.id}"
    assert not of(client.get(at + "/made"))["can"]
    body = {"name": "ink", "prompts": ["a {cat|dog}"], "count": 6, "repeats": 2, "width": 64, "height": 64}
    assert "draws no single" in client.post(at + "/make", json=body).text
    seen: list[Shot] = []
    drawing(manager, tmp_path, seen)
    stopping = manager.host.render

    def render(shot: Shot, cancelled: Any) -> Any:
        if len(seen) == 2:
            next(task for task in TASKS._tasks if task.state == "running").stop.set()
        return stopping(shot, cancelled)

    manager.host.render = render
    task = of(client.post(at + "/make", json=body))
    done = ended(task["task"])
    assert (done["state"], done["result"]["made"]) == ("stopped", 2)
    manager.host.render = stopping
    (row,) = of(client.get(at + "/made"))["sets"]
    assert (row["id"], row["made"], row["whole"]) == (task["set"], 2, False)
    assert ended(of(client.post(at + "/go-on", json={"set": row["id"]}))["task"])["result"]["whole"]
    assert [shot.seed for shot in seen] == [1, 2, 3, 3, 4, 5, 6] and {shot.clip_skip for shot in seen} == {2}
    assert len(list((project.reg / "2_ink").glob("*.txt"))) == 6
    manager.host.checkpoint = lambda: Checkpoint(Path("other.safetensors"), "other")
    assert client.post(at + "/go-on", json={"set": row["id"]}).status_code == 422
    of(client.post(at + "/forget", json={"set": row["id"]}))
    assert of(client.get(at + "/made"))["sets"] == []


def test_the_checkpoints_own_style_is_drawn_and_its_training_queued(client: Any, manager: Any, tmp_path: Path) -> None:
    seen: list[Shot] = []
    drawing(manager, tmp_path, seen)
    known = of(client.get(SETS + "/base-style"))
    assert (known["name"], known["lora"], known["project"]) == ("any.v5_BASE", None, None)
    assert known["recipe"] == "LORA:1:GP1,any.v5_BASE/any.v5_BASE:-1:GP2"
    started = of(client.post(SETS + "/base-style", json={"count": 12, "side": 64, "settings": {"network_dim": 4}}))
    done = ended(started["task"])
    assert done["state"] == "done", done
    assert (done["result"]["job"], done["result"]["lora"]) == ("job-1", "any.v5_BASE/any.v5_BASE")
    (values, grid), *_ = manager.started
    assert (values["output_name"], values["resolution"], values["network_dim"]) == ("any.v5_BASE", 64, 4)
    assert values["pretrained_model_name_or_path"].endswith("any.v5.safetensors") and grid is None
    assert Path(values["train_data_dir"]).is_relative_to(manager.host.data_dir())
    assert len(list((Path(values["train_data_dir"]) / "image").rglob("*.png"))) == 12
    assert {word for shot in seen for word in ("face_focus", "cowboy_shot", "full_body") if word in shot.prompt} == {
        *("face_focus", "cowboy_shot", "full_body"),
    }
    assert ended(of(client.post(SETS + "/base-style", json={}))["task"])["state"] == "done"  # nothing drawn anew
    assert len(seen) == 12 and len(manager.started) == 2
    again = of(client.post(SETS + "/base-style", json={"count": 14, "side": 64, "again": True}))
    assert ended(again["task"])["result"]["made"] == 14
    project = projects.by_id(manager.host.data_dir(), again["project"])
    assert manager.started[-1][0]["train_data_dir"] == str(project.root)
    assert sum(len(c.pictures) for c in project.concepts() if c.used) == 14
    assert len(list((tmp_path / "data" / "base-styles").iterdir())) == 2


def test_strangers_get_at_nothing_outside(client: Any, project: Project, manager: Any, tmp_path: Path) -> None:
    manager.host.open_to_all = True
    manager.host.picture_folders = lambda: [tmp_path / "other"]
    assert client.get(f"{SETS}/{project.id}/style").status_code == 403
    assert client.post(f"{SETS}/{project.id}/person", json={"parts": []}).status_code == 403
    assert client.get(f"{SETS}/{'0' * 16}/style").status_code == 404
