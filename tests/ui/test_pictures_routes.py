"""The step Pictures over HTTP: from a folder to a project, its pages, cuts and masks, and back again."""

from __future__ import annotations

import base64
import io
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

pytest.importorskip("gradio")
pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")

from PIL import Image, ImageDraw

from lora_train.dataset.source import open_dataset
from lora_train.settings import from_dict
from lora_train.ui.routes.tasks import TASKS

from ..studio.drawn import put, scene, tree
from .web import V1, problems

AT = f"{V1}/pictures"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures in a kohya folder, one of them twice, one transparent."""
    inner = tmp_path / "set" / "3_cat"
    put(inner / "a.png", scene(1, 96, 64), "a cat")
    put(inner / "b.png", scene(1, 96, 64))
    clear = scene(2, 64, 64).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((64, 64)))
    put(inner / "c.png", clear)
    return inner.parent


@pytest.fixture
def project(client: Any, folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = client.post(f"{AT}/make", json={"folder": str(folder)}).json()
    return made


def done(answer: Any) -> dict[str, Any]:
    """The task that was begun, when it has ended."""
    assert answer.status_code == 200, answer.text
    task = TASKS.find(answer.json()["task"])
    assert task is not None
    for _ in range(400):
        if task.state != "running":
            return task.view()
        time.sleep(0.025)
    raise AssertionError("it doesn't end")


def names(client: Any, project: dict[str, Any], **query: Any) -> list[str]:
    page = client.get(f"{AT}/{project['id']}/page", params=query).json()
    return [one["name"] for one in page["pictures"]]


def id_of(client: Any, project: dict[str, Any], name: str) -> str:
    page = client.get(f"{AT}/{project['id']}/page").json()
    return next(one["id"] for one in page["pictures"] if one["name"] == name)


def test_kohya_s_folders_become_a_project_and_stay_where_they_are(client, folder) -> None:
    before = tree(folder)
    told = client.post(f"{AT}/understand", json={"folder": str(folder)}).json()
    assert (told["kind"], told["project"]) == ("kohya", None)
    made = client.post(f"{AT}/make", json={"folder": str(folder)}).json()
    assert [(c["folder"], c["repeats"], c["pictures"], c["elsewhere"]) for c in made["concepts"]] == [
        ("3_cat", 3, 3, True)
    ]
    assert tree(folder) == before
    assert (folder.parent / "set project" / "models").is_dir()
    assert any("nothing is copied" in text for text in made["said"])
    assert [one["name"] for one in client.get(f"{AT}/projects").json()] == ["set project"]
    fields = client.post(f"{AT}/{made['id']}/fields", json={}).json()["fields"]
    assert fields["train_data_dir"] == str(folder)
    assert client.post(f"{AT}/open", json={"folder": str(folder.parent / "set project")}).json()["id"] == made["id"]
    again = client.post(f"{AT}/understand", json={"folder": str(folder)}).json()
    assert again["project"]["id"] == made["id"] and again["said"] == [
        "The project set project uses these pictures already"
    ]


def test_one_button_makes_the_four_folders(client, tmp_path) -> None:
    made = client.post(f"{AT}/make", json={"folder": str(tmp_path), "name": "hina ü"}).json()
    assert made["name"] == "hina ü"
    assert {one.name for one in (tmp_path / "hina ü").iterdir()} >= {"image", "models", "log", "reg"}
    wrong = client.post(f"{AT}/make", json={"folder": str(tmp_path), "name": "../x"})
    assert problems(wrong)
    assert client.post(f"{AT}/open", json={"folder": str(tmp_path / "nothing")}).status_code == 422


def test_a_scan_fills_the_page_and_its_filters(client, project) -> None:
    assert client.get(f"{AT}/{project['id']}/report").json() == {}
    assert names(client, project) == ["a.png", "b.png", "c.png"]
    assert done(client.post(f"{AT}/{project['id']}/scan", json={}))["result"]["pictures"] == 3
    report = client.get(f"{AT}/{project['id']}/report").json()
    assert report["findings"]["twice"] == 2 and report["findings"]["transparent"] == 1
    assert report["findings"]["tiny"] == 3 and report["findings"]["small"] == 0
    assert names(client, project, finding="twice") == ["a.png", "b.png"]
    assert names(client, project, finding="transparent") == ["c.png"]
    assert names(client, project, finding="uncaptioned") == ["b.png", "c.png"]
    assert names(client, project, search="C.P") == ["c.png"]
    assert names(client, project, offset=1, limit=1) == ["b.png"]
    assert len(client.get(f"{AT}/{project['id']}/ids", params={"finding": "twice"}).json()["ids"]) == 2
    assert client.get(f"{AT}/{project['id']}/page", params={"finding": "x"}).status_code == 422
    row = client.get(f"{AT}/{project['id']}/page").json()["pictures"][0]
    assert (row["width"], row["height"], row["captioned"]) == (96, 64, True)
    assert row["findings"][0] == "twice"


def test_thumbnails_are_small_kept_and_only_the_project_s(client, project, tmp_path) -> None:
    picture = id_of(client, project, "a.png")
    answer = client.get(f"{AT}/{project['id']}/thumbnails/{picture}/128.jpg")
    assert answer.headers["content-type"] == "image/jpeg" and "max-age" in answer.headers["cache-control"]
    assert Image.open(io.BytesIO(answer.content)).size == (96, 64)
    for wrong in (f"{picture}/129.jpg", f"{'0' * 16}/128.jpg", "..%2Fa/128.jpg", f"{picture}/x.jpg"):
        assert client.get(f"{AT}/{project['id']}/thumbnails/{wrong}").status_code in (404, 422)
    blank = client.get(f"{AT}/{project['id']}/thumbnails/{'0' * 16}/128.jpg?blank=1")  # no line in a console
    assert (blank.status_code, blank.headers["content-type"]) == (200, "image/gif")
    assert "no-store" in blank.headers["cache-control"]
    assert client.get(f"{AT}/{'0' * 16}/page").status_code == 404


def test_cuts_go_into_folders_of_the_project_and_are_taken_back(client, project, folder) -> None:
    before, root = tree(folder), folder.parent / "set project"
    picture, at = id_of(client, project, "a.png"), f"{AT}/{project['id']}"
    proposed = client.post(f"{at}/boxes", json={"picture": picture, "way": {"name": "centre", "shape": "1:1"}}).json()
    assert (proposed["width"], proposed["height"], proposed["boxes"]) == (
        96,
        64,
        [{"box": [16, 0, 64, 64], "suffix": ""}],
    )
    options = {"side": 64, "upscaler": "Lanczos"}
    seen = client.post(f"{at}/preview", json={"picture": picture, "box": [0, 0, 32, 32], "options": options}).json()
    assert (seen["width"], seen["height"], seen["factor"]) == (64, 64, 2.0)
    assert seen["after"].startswith("data:image/png;base64,")
    cuts = [
        {"picture": picture, "box": [0, 0, 32, 32], "into": "10_face", "suffix": "face"},
        {"picture": picture, "box": [32, 0, 64, 64], "into": "5_body", "suffix": "body"},
    ]
    made = done(client.post(f"{at}/cut", json={"cuts": cuts, "options": options}))
    assert made["result"]["made"] == 2
    assert Image.open(root / "image" / "10_face" / "a-face.png").size == (64, 64)
    assert (root / "image" / "5_body" / "a-body.txt").read_text() == "a cat"
    told = client.get(at).json()
    assert {c["folder"] for c in told["concepts"]} == {"3_cat", "10_face", "5_body"}
    undone = client.post(f"{at}/undo", json={"change": told["changes"][0]["id"]}).json()
    assert undone["restored"] == 4 and not list((root / "image").rglob("*.png"))
    assert tree(folder) == before


def test_many_are_cut_the_same_way_and_what_fails_is_told(client, project, folder) -> None:
    (folder / "3_cat" / "d.png").write_bytes(b"broken")
    at = f"{AT}/{project['id']}"
    ids = client.get(f"{at}/ids").json()["ids"]
    body = {"pictures": ids, "way": {"name": "focal", "shape": "2:3"}, "into": "8_x", "options": {"side": 96}}
    made = done(client.post(f"{at}/cut", json=body))
    assert (made["result"]["made"], made["result"]["problems"]) == (3, 1)
    assert "d.png" in made["warnings"][0]
    for wrong in (
        {"into": "../x"},
        {"way": {"name": "x"}},
        {"way": {"name": "focal", "shape": "0:1"}},
        {"pictures": []},
    ):
        assert client.post(f"{at}/cut", json={**body, **wrong}).status_code == 422
    assert client.post(f"{at}/cut", json={**body, "pictures": ["0" * 16]}).status_code == 404
    for wrong in ({"side": 1}, {"background": "no"}, {"alpha": "x"}, {"upscaler": "x"}, {"more": 1}):
        assert client.post(f"{at}/cut", json={**body, "options": wrong}).status_code == 422


def test_masks_are_made_drawn_and_trained_with(client, project, folder) -> None:
    at = f"{AT}/{project['id']}"
    clear, plain = id_of(client, project, "c.png"), id_of(client, project, "a.png")
    made = done(client.post(f"{at}/masks", json={"pictures": [clear, plain], "way": "alpha"}))
    assert (made["result"]["made"], made["result"]["problems"]) == (1, 1)
    drawn = Image.new("L", (48, 32), 0)
    ImageDraw.Draw(drawn).rectangle((0, 0, 23, 31), fill=255)
    held = io.BytesIO()
    drawn.save(held, "PNG")
    text = "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
    told = client.post(f"{at}/masks/{plain}", json={"png": text}).json()
    assert told["concepts"][0]["masks"] == 2
    got = Image.open(io.BytesIO(client.get(f"{at}/masks/{plain}.png").content))
    assert got.size == (96, 64) and got.getpixel((10, 10)) == 255 and got.getpixel((80, 10)) == 0
    assert names(client, project, finding="masked") == ["a.png", "c.png"]
    trained = client.post(f"{at}/fields", json={"masks": True}).json()
    assert trained["added"] == 1  # b.png's is white
    dataset = open_dataset(from_dict({**trained["fields"], "resolution": 64})[0])
    assert [p.mask is not None for p in dataset.samples()] == [True] * 9
    undone = client.post(f"{at}/undo", json={}).json()  # of the white one
    assert (undone["restored"], undone["unmasked"]) == (1, True)
    assert client.post(f"{at}/fields", json={}).json() == {"fields": ANY, "masks": False, "added": 0}
    assert client.post(f"{at}/fields", json={"masks": True}).json()["added"] == 1
    assert not client.post(f"{at}/fields", json={"masks": False}).json()["fields"]["conditioning_data_dir"]
    assert client.post(f"{at}/unmask", json={"pictures": [plain]}).json()["concepts"][0]["masks"] == 2
    assert client.get(f"{at}/masks/{plain}.png").status_code == 404
    assert client.post(f"{at}/undo", json={}).json()["restored"] == 1
    assert client.get(f"{at}/masks/{plain}.png").status_code == 200
    for wrong in ("", "x", "data:image/png;base64,AAAA"):
        assert client.post(f"{at}/masks/{plain}", json={"png": wrong}).status_code == 422


def test_an_open_host_shows_its_own_folders_only(client, manager, project, folder, tmp_path) -> None:
    manager.host.open_to_all = True
    assert client.get(f"{AT}/{project['id']}").status_code == 200
    mine = [folder.parent / "set project"]
    manager.host.picture_folders = lambda: mine
    assert names(client, project) == []
    told = client.get(f"{AT}/{project['id']}").json()
    assert told["concepts"] == []
    mine[0] = tmp_path / "elsewhere"
    mine[0].mkdir()
    assert client.get(f"{AT}/{project['id']}").status_code in (403, 404)
    for route in ("understand", "make", "open", "folders"):
        assert problems(client.post(f"{AT}/{route}", json={"folder": str(folder)})).keys() == {"folder"}
    (mine[0] / "link").symlink_to(folder)
    assert client.post(f"{AT}/make", json={"folder": str(mine[0] / "link")}).status_code == 422


def test_ten_thousand_pictures_are_paged_at_once(client, tmp_path) -> None:
    inner = tmp_path / "many" / "1_x"
    inner.mkdir(parents=True)
    one = put(tmp_path / "one.jpg", scene(0, 32, 32))
    for n in range(10_000):
        os.link(one, inner / f"{n:05d}.jpg")
    made = client.post(f"{AT}/make", json={"folder": str(inner.parent)}).json()
    for place in (inner, *(tmp_path / "many project").rglob("*")):
        os.utime(place, (1, 1))  # what has just changed proves nothing: its time may be coarse
    client.get(f"{AT}/{made['id']}/page")
    seconds = []
    for offset in (0, 5000, 9900):
        began = time.process_time()
        assert len(names(client, made, offset=offset, limit=100)) == 100
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.3  # a busy machine makes single ones slow
