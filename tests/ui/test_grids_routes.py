"""The routes of grids, on a grid that is really there."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from io import BytesIO

import pytest

pytest.importorskip("gradio")
pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")

from PIL import Image

from lora_train.grid import record
from lora_train.grid.plan import Grid
from lora_train.grid.sheet import Page, Sheet

from .web import V1, problems


@pytest.fixture
def grid(manager) -> str:
    """Two epochs at two weights, two prompts; the last cell wasn't drawn."""
    manager.now |= {"id": "job-1", "created": 1.5}
    folder = manager.host.lora_dir() / "run"
    folder.mkdir()
    files = [folder / f"run-00000{n}.safetensors" for n in (1, 2)]
    for file in files:
        file.write_bytes(b"lora")
    plan = Grid(tuple(map(str, files)), ("a cat", "a dog"), (0.5, 1.0), width=8, height=8)

    def cells(colour: str) -> tuple:
        tile = Image.new("RGB", (8, 8), colour)
        return ((tile, tile), (tile, None))

    pages = tuple(Page(Image.new("RGB", (32, 32), colour), cells(colour)) for colour in ("red", "blue"))
    record.save(manager.job, plan, Sheet(pages), name="run", checkpoint="m")
    return f"{V1}/grids/job-1"


def test_grids_are_listed_and_told(client, grid) -> None:
    (short,) = client.get(f"{V1}/grids").json()
    told = client.get(grid).json()
    assert [short[name] for name in ("rows", "columns", "pages", "marks")] == [2, 2, 2, 0]
    assert (short["id"], short["sheet"], short["created"]) == ("job-1", told["pages"][0]["sheet"], 1.5)
    assert [row["epoch"] for row in told["rows"]] == [1, 2]
    assert [page["prompt"] for page in told["pages"]] == ["a cat", "a dog"]
    assert client.get(f"{V1}/grids/other").status_code == 404


def test_a_grid_without_a_picture_is_listed_only_while_it_is_drawn(client, manager, grid) -> None:
    plan = record.load(manager.job).grid
    record.Drawing(manager.job, replace(plan, seed=8))
    for state, listed in (("grid", 1), ("paused", 0), ("failed", 0)):
        manager.now["state"] = state
        assert len(client.get(f"{V1}/grids").json()) == listed


def test_nothing_is_used_of_a_grid_that_is_being_drawn(client, manager, grid) -> None:
    """Its other epochs are still needed."""
    manager.now["state"] = "grid"
    answer = client.post(f"{grid}/use", json={"row": 0, "column": 0, "drop_others": True})
    assert answer.status_code == 422
    assert "still being drawn" in answer.text
    assert client.post(f"{grid}/mark", json={"row": 0, "column": 0, "accepted": True}).status_code == 200


def test_a_busy_host_does_not_keep_the_page_waiting(client, manager, grid, monkeypatch) -> None:
    done = threading.Event()
    monkeypatch.setattr("lora_train.ui.routes.base._PATIENCE", 0.01)
    monkeypatch.setattr(manager.host, "refresh_loras", lambda: done.wait(20))
    assert client.post(f"{grid}/use", json={"row": 0, "column": 0}).status_code == 200
    done.set()


def test_every_address_that_a_grid_tells_is_a_picture(client, grid) -> None:
    told = client.get(grid).json()
    for page, colour in zip(told["pages"], ((255, 0, 0), (0, 0, 255)), strict=True):
        assert page["cells"][1][1] is None
        for address in (page["sheet"], page["cells"][0][0], page["cells"][1][0]):
            answer = client.get(f"{V1}/{address}")
            assert answer.headers["content-type"].startswith("image/")
            assert Image.open(BytesIO(answer.content)).convert("RGB").getpixel((4, 4)) == colour


@pytest.mark.parametrize(
    "path", ["pages/2/sheet.png", "pages/0/cells/1/1.png", "pages/0/cells/2/0.png", "pages/-1/sheet.png"]
)
def test_what_was_not_drawn_is_not_there(client, grid, path) -> None:
    assert client.get(f"{grid}/pages/{path}").status_code == 404


def test_a_mark_stays_until_it_is_taken_away(client, grid) -> None:
    mark = {"row": 1, "column": 0, "accepted": True}
    assert client.post(f"{grid}/mark", json=mark).json()["marks"] == [[1, 0]]
    assert client.get(grid).json()["marks"] == [[1, 0]]
    assert client.post(f"{grid}/mark", json={**mark, "accepted": False}).json()["marks"] == []
    assert problems(client.post(f"{grid}/mark", json={"row": -1, "column": "0"})).keys() == {"row", "column"}
    assert problems(client.post(f"{grid}/mark", json={**mark, "row": 7})).keys() == {"row"}


def test_using_a_cell_and_taking_it_back(client, manager, grid) -> None:
    used = client.post(
        f"{grid}/use", json={"row": 1, "column": 0, "drop_others": True, "activation_text": "cat"}
    ).json()
    folder = manager.host.lora_dir() / "run"
    card = json.loads((folder / "run-000002.json").read_text(encoding="utf-8"))
    assert (used["weight"], card["preferred weight"], card["activation text"]) == (0.5, 0.5, "cat")
    assert not (folder / "run-000001.safetensors").exists()
    assert used["grid"]["choice"]["row"] == 1
    assert manager.host.refreshed == 1
    undone = client.post(f"{grid}/undo", json={}).json()
    assert (folder / "run-000001.safetensors").exists()
    assert len(undone["moved"]) >= 1
    assert manager.host.refreshed == 2


def test_nothing_is_written_outside_the_lora_folder_of_an_open_host(client, manager, grid, tmp_path) -> None:
    outside = tmp_path / "elsewhere" / "x-000001.safetensors"
    outside.parent.mkdir()
    outside.write_bytes(b"lora")
    tile = Image.new("RGB", (8, 8))
    plan = Grid((str(outside),), ("a",), (1.0,), width=8, height=8)
    record.save(manager.job, plan, Sheet((Page(tile, ((tile,),)),)), name="x")
    manager.host.open_to_all = True
    assert client.post(f"{grid}/use", json={"row": 0, "column": 0}).status_code == 422
    assert [path.name for path in outside.parent.iterdir()] == [outside.name]


def test_a_grid_of_files_that_are_there(client, manager, grid) -> None:
    (series,) = client.get(f"{V1}/series").json()
    assert (series["name"], len(series["epochs"])) == ("run", 2)
    body = {"folder": series["folder"], "name": "run", "weights": [1]}
    assert client.post(f"{V1}/grids", json=body).json() == {"id": "job-1"}
    assert manager.told == [("start_grid", body)]
