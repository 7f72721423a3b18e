"""Plan, merge, captions, presets, languages and the report."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("gradio")
pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")

from PIL import Image

from lora_train.dataset.tagging import Tagged
from lora_train.network.kohya import write_lora
from lora_train.settings import schema
from lora_train.ui import sums
from lora_train.ui.routes import files
from lora_train.ui.routes.tasks import Tasks

from .web import V1, problems


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "images" / "3_cat"
    folder.mkdir(parents=True)
    for n in range(4):
        Image.new("RGB", (64, 64), (n, 0, 0)).save(folder / f"{n}.png")
    return folder.parent


@pytest.fixture
def loras(manager) -> Path:
    """Two small LoRAs, A and B."""
    torch.manual_seed(0)
    name = "lora_unet_down_blocks_1_attentions_0_proj_in"
    for stem in ("A", "B"):
        up, down = torch.randn(8, 2, 1, 1), torch.randn(2, 8, 1, 1)
        state = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(2.0)}
        write_lora(manager.host.lora_dir() / f"{stem}.safetensors", state, {}, torch.float16)
    return manager.host.lora_dir()


def test_a_plan_in_numbers(client, pictures) -> None:
    settings = {"train_data_dir": str(pictures), "max_train_epochs": 2, "train_batch_size": 2, "resolution": 64}
    plan = client.post(f"{V1}/plan", json={"settings": settings, "steps": 60}).json()
    assert (plan["pictures"], plan["steps_per_epoch"], plan["steps"]) == (4, 6, 12)
    assert plan["folders"][0] == {"name": "3_cat", "pictures": 4, "repeats": 3, "images": 12, "is_reg": False}
    assert plan["buckets"][0]["width"] == 64
    assert (plan["aim"]["wanted"], plan["aim"]["epochs"]) == (60, 10)
    assert plan["estimate"]["memory"][0] > 0
    assert client.post(f"{V1}/plan", json={"settings": settings}).json()["aim"] is None


def test_a_plan_of_nothing_says_what_is_wrong(client, tmp_path) -> None:
    wrong = {"train_data_dir": str(tmp_path), "network_dim": 0, "seeed": 1}
    assert {"network_dim", "seeed"} <= problems(client.post(f"{V1}/plan", json={"settings": wrong})).keys()
    assert client.post(f"{V1}/plan", json={"settings": {"train_data_dir": str(tmp_path)}}).status_code == 422
    assert problems(client.post(f"{V1}/plan", json={"settings": {}, "steps": 0})).keys() == {"steps"}


def test_an_open_host_plans_with_pictures_of_its_own_folders_only(client, manager, pictures) -> None:
    settings = {"train_data_dir": str(pictures)}
    manager.host.root = pictures / "elsewhere"
    manager.host.root.mkdir()
    assert client.post(f"{V1}/plan", json={"settings": settings}).status_code == 200
    manager.host.open_to_all = True
    assert problems(client.post(f"{V1}/plan", json={"settings": settings})).keys() == {"train_data_dir"}
    assert "train_data_dir" in str(sums.reckon(settings, manager.host))


def test_a_merge_lands_in_the_lora_folder(client, manager, loras) -> None:
    body = {"recipe": "A:1:MINE,B:-0.5", "name": "baked/sum", "presets": {"MINE": [0.5] * 17}, "precision": "float"}
    merged = client.post(f"{V1}/merge", json=body).json()
    assert Path(merged["path"]) == loras / "baked" / "sum.safetensors"
    assert Path(merged["path"]).is_file()
    assert merged["report"]["total"]["modules"] == 1
    assert merged["report"]["total"]["relative_error"] < 1e-5
    assert manager.host.refreshed == 1


def test_a_merge_overwrites_only_if_told(client, loras) -> None:
    body = {"recipe": "A:1", "name": "B"}
    before = (loras / "B.safetensors").read_bytes()
    assert problems(client.post(f"{V1}/merge", json=body)).keys() == {"name"}
    assert (loras / "B.safetensors").read_bytes() == before
    assert client.post(f"{V1}/merge", json={**body, "overwrite": True}).status_code == 200
    assert (loras / "B.safetensors").read_bytes() != before
    assert client.post(f"{V1}/merge", json={**body, "name": "A", "overwrite": True}).status_code == 422


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "/tmp/x", "a/../../x", "C:\\x", "a\\b", "link/x", "x,y", ".x", "a//b"]
)
def test_a_merge_never_leaves_the_lora_folder(client, loras, tmp_path, name) -> None:
    (loras / "link").symlink_to(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert problems(client.post(f"{V1}/merge", json={"recipe": "A:1", "name": name})).keys() == {"name"}
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": 1, "target_error": 0.1}, "rank"),
        ({"precision": "int"}, "precision"),
        ({"target_error": "x"}, "target_error"),
        ({"presets": [1]}, "presets"),
        ({"presets": {"X": 3}}, "presets"),
        ({"overwrite": 1}, "overwrite"),
        ({"recipe": None}, "recipe"),
    ],
)
def test_a_wrong_merge_says_where(client, loras, more, place) -> None:
    assert place in problems(client.post(f"{V1}/merge", json={"recipe": "A:1", "name": "x", **more}))


class Tagger:
    """Says "cat" of each picture, and waits where it is told to."""

    name, title, kind = "fake", "Fake (tags)", "tags"

    def __init__(self, waits: bool = False) -> None:
        self.waits = waits

    def note(self) -> str:
        return ""

    def tag(self, pictures, options, on_done, stop) -> Tagged:
        for n, picture in enumerate(pictures, 1):
            on_done(n, len(pictures), picture, f"cat, {options.threshold:g}")
            if self.waits:
                stop.wait(20)
            if stop.is_set():
                return Tagged({}, stopped=True)
        return Tagged({})


def finished(client, task: str) -> dict:
    for _ in range(200):
        found = next(one for one in client.get(f"{V1}/status").json()["tasks"] if one["id"] == task)
        if found["state"] != "running":
            return found
        time.sleep(0.05)
    pytest.fail("the task doesn't end")


def test_captions_are_written_and_taken_back(client, manager, pictures) -> None:
    manager.host.known_captioners = [Tagger()]
    assert client.get(f"{V1}/captioners").json() == [
        {"name": "fake", "title": "Fake (tags)", "kind": "tags", "note": ""}
    ]
    (pictures / "3_cat" / "0.txt").write_text("mine", encoding="utf-8")
    body = {
        "folder": str(pictures),
        "captioner": "fake",
        "options": {"threshold": 0.25},
        "writing": {"existing": "append", "trigger": "hina"},
    }
    task = finished(client, client.post(f"{V1}/captions", json=body).json()["task"])
    assert (task["state"], task["done"], task["total"]) == ("done", 4, 4)
    assert (task["result"]["written"], task["result"]["trigger"]) == (4, "hina")
    assert (pictures / "3_cat" / "0.txt").read_text(encoding="utf-8") == "hina, mine, cat, 0.25"
    asked = {"folder": str(pictures), "change": task["result"]["entry"]}
    assert (
        client.post(f"{V1}/caption-studio/history", json={"folder": str(pictures)}).json()["changes"][0]["files"] == 4
    )
    undone = client.post(f"{V1}/caption-studio/undo", json=asked).json()
    assert (undone["restored"], undone["title"]) == (4, "written by Fake (tags)")
    assert (pictures / "3_cat" / "0.txt").read_text(encoding="utf-8") == "mine"
    assert not (pictures / "3_cat" / "1.txt").exists()


def test_one_task_at_a_time_and_it_can_be_stopped(client, manager, pictures) -> None:
    manager.host.known_captioners = [Tagger(waits=True)]
    body = {"folder": str(pictures), "captioner": "fake"}
    task = client.post(f"{V1}/captions", json=body).json()["task"]
    assert client.post(f"{V1}/captions", json=body).status_code == 422
    assert client.post(f"{V1}/tasks/{task}/stop", json={}).json()["id"] == task
    ended = finished(client, task)
    assert (ended["state"], ended["done"]) == ("stopped", 1)
    assert client.post(f"{V1}/tasks/other/stop", json={}).status_code == 404


def test_a_failing_captioner_is_told(client, manager, pictures) -> None:
    broken = Tagger()
    broken.tag = None  # type: ignore[method-assign,assignment]
    manager.host.known_captioners = [broken]
    task = client.post(f"{V1}/captions", json={"folder": str(pictures), "captioner": "fake"}).json()["task"]
    ended = finished(client, task)
    assert ended["state"] == "failed"
    assert "TypeError" in ended["error"]


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"folder": "/nowhere"}, "folder"),
        ({"options": {"threshold": 7}}, "threshold"),
        ({"writing": {"existing": "eat"}}, "existing"),
        ({"captioner": 3}, "captioner"),
    ],
)
def test_wrong_captions_say_where(client, manager, pictures, more, place) -> None:
    manager.host.known_captioners = [Tagger()]
    body = {"folder": str(pictures), "captioner": "fake", **more}
    assert place in problems(client.post(f"{V1}/captions", json=body))


def test_a_host_without_captioners_says_so(client, pictures) -> None:
    assert client.get(f"{V1}/captioners").json() == []
    assert client.post(f"{V1}/captions", json={"folder": str(pictures), "captioner": "fake"}).status_code == 422


def test_an_open_host_installs_nothing_and_captions_nothing(client, manager, pictures) -> None:
    manager.host.open_to_all = True
    manager.host.known_captioners = [Tagger()]
    assert client.post(f"{V1}/install", json={}).status_code == 403
    assert client.post(f"{V1}/captions", json={"folder": str(pictures), "captioner": "fake"}).status_code == 403
    assert not list(pictures.rglob("*.txt"))


def test_presets_of_both_kinds(client) -> None:
    presets = client.get(f"{V1}/presets").json()
    assert presets["training"][0]["title"].keys() == {"en", "zh-CN"}
    assert len(presets["blocks"]["GP1"]) == 17


def test_the_schema_is_the_settings(client) -> None:
    assert [row["name"] for row in client.get(f"{V1}/schema").json()] == [row["name"] for row in schema()]


def test_languages(client, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "LANGUAGES", tmp_path / "languages")
    (tmp_path / "languages").mkdir()
    (tmp_path / "languages" / "zh-CN.json").write_text('{"texts": {"Start": "开始"}}', encoding="utf-8")
    (tmp_path / "secret.json").write_text('{"secret": 1}', encoding="utf-8")
    assert client.get(f"{V1}/language/zh-CN").json() == {"texts": {"Start": "开始"}}
    for code in ("de", "..%2fsecret", "../secret", "zh-CN.json", "%2e%2e"):
        answer = client.get(f"{V1}/language/{code}")
        assert answer.status_code == 404
        assert b"secret" not in answer.content


def test_the_report_can_be_pasted(client, manager, monkeypatch, api_auth) -> None:
    manager.now |= {"id": "job-1", "error": "something broke\nbadly"}
    text = client.get(f"{V1}/report").text
    assert "Train LoRA" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "badly" in text
    assert "training packages" in text


def test_the_last_few_tasks_are_kept() -> None:
    tasks = Tasks()
    for n in range(12):
        id = tasks.start("test", f"number {n}", lambda task: {})
        while tasks.find(id).state == "running":  # type: ignore[union-attr]
            time.sleep(0.01)
    assert [task["text"] for task in tasks.view()] == [f"number {n}" for n in range(11, 3, -1)]
