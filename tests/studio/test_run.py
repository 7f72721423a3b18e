"""From a folder of pictures to a LoRA and its grid by the tab's routes, with `dog` and `red_cartoon` where they are.

Each step is what a click of the page sends; nothing is written beside the pictures.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from lora_train.host.standalone import StandaloneHost
from lora_train.jobs.manager import Manager
from lora_train.paths import MINI_CHECKPOINT, ROOT
from tests.studio.drawn import put, scene, tree

pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")
pytest.importorskip("gradio")

REAL = Path(os.environ.get("TRAIN_LORA_DREAMBOOTH") or ROOT.parent / "shared" / "data" / "dreambooth")
SECONDS = 900
TRAINING = {
    "resolution": 64,
    "network_dim": 4,
    "learning_rate": 1e-3,
    "max_train_steps": 30,
    "save_every_n_steps": 15,
    "keep_tokens": 1,
    "shuffle_caption": True,
}
GRID = {"prompts": ["1girl"], "weights": [0, 1], "steps": 4, "width": 64, "height": 64}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # gradio leaves event loops behind
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def pictures(folder: Path, name: str, count: int) -> Path:
    """A copy of the real ones, or as many that are drawn."""
    target = folder / name
    target.mkdir()
    if (REAL / name).is_dir():
        for path in sorted((REAL / name).glob("*.jpg")):
            shutil.copy(path, target)
    else:
        for number in range(count):
            put(target / f"{number:02}.jpg", scene(number, 600, 600))
    return target


class Page:
    """What the tab asks for."""

    def __init__(self, folder: Path) -> None:
        from tests.ui.web import V1, client_of

        self.manager = Manager(StandaloneHost(MINI_CHECKPOINT, folder / "loras", folder / "host"))
        self._client, self._at = client_of(self.manager), V1
        self.project = ""

    def get(self, path: str) -> Any:
        return self._answer(self._client.get(self._path(path)))

    def post(self, path: str, **body: Any) -> Any:
        return self._answer(self._client.post(self._path(path), json=body))

    def task(self, path: str, **body: Any) -> Any:
        """Start one, and its result."""
        task = self.post(path, **body)["task"]
        for _ in range(10 * SECONDS):
            found = next(one for one in self.get("/status")["tasks"] if one["id"] == task)
            if found["state"] != "running":
                assert found["state"] == "done" and not found["warnings"], found
                return found["result"]
            time.sleep(0.1)
        pytest.fail(f"{path} doesn't end")

    def train(self, fields: dict[str, Any], name: str) -> Path:
        """Train on the fields that a planner gave, with a grid; the job's folder."""
        held = {name: value for name, value in fields.items() if value not in ("", None)}
        settings = {"pretrained_model_name_or_path": str(MINI_CHECKPOINT), "output_name": name, **held, **TRAINING}
        settings.pop("max_train_epochs", None)
        job = self.post("/jobs", settings=settings, grid=GRID)["id"]
        assert self.manager.wait(SECONDS)
        found = self.get(f"/jobs/{job}")
        assert found["state"] == "done", found
        folder = self.manager.folder(job)
        assert folder is not None
        return folder

    def _path(self, path: str) -> str:
        return self._at + path.format(project=self.project)

    @staticmethod
    def _answer(answer: Any) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()


def begin(page: Page, folder: Path) -> list[str]:
    """A project beside the pictures, looked at; the ids of the pictures."""
    assert page.post("/pictures/understand", folder=str(folder))["kind"] == "loose"
    made = page.post("/pictures/make", folder=str(folder))
    page.project = made["id"]
    assert made["said"][0] == f"A project is made beside {folder.name}: {folder.name} project"
    count = page.task("/pictures/{project}/scan")["pictures"]
    report = page.get("/pictures/{project}/report")
    assert report["counts"]["pictures"] == count == made["pictures"]
    assert report["findings"]["broken"] == 0
    return list(page.get("/pictures/{project}/ids")["ids"])


def cut(page: Page, into: str, **more: Any) -> None:
    """Cut, and leave out what was cut from, as the page proposes."""
    done = page.task("/pictures/{project}/cut", **{"into": into, "options": {"side": 128}, **more})
    assert done["made"] and not done["problems"]
    for source in done["from"]:
        page.post("/pictures/{project}/use", concept=source, used=False)


def captions(page: Page, folder: str, trigger: str) -> None:
    """The trigger word into every caption, by a preview; the check finds nothing."""
    edit = {"folder": folder, "edits": [{"edit": "add", "tags": [trigger], "place": "first"}]}
    shown = page.post("/caption-studio/preview", **edit)
    assert page.post("/caption-studio/apply", **edit, token=shown["token"])["written"] == shown["total"] > 0
    assert page.post("/caption-studio/audit", folder=folder, trigger=trigger)["findings"] == []


def seen(folder: Path) -> None:
    """The LoRA and its grid are there."""
    assert list(folder.rglob("*.png"))


def test_a_style_from_its_folder_to_its_grid(tmp_path: Path) -> None:
    page, folder = Page(tmp_path), pictures(tmp_path, "red_cartoon", 4)
    before = tree(folder)
    ids = begin(page, folder)
    cut(page, "1_red", pictures=ids, way={"name": "centre", "shape": "2:3"})
    boxes = [{"picture": one, "box": [100, 100, 300, 300], "into": "1_red face"} for one in ids]
    cut(page, "", cuts=boxes)
    root = page.get("/pictures/{project}")["folder"]
    captions(page, root, "red cartoon")

    at = "/sets/{project}/style"
    page.task(at + "/look", detector="")
    every = [page.get(f"{at}/pictures?class={name}")["pictures"] for name in ("", *page.get(at)["classes"])]
    names = {"1_red": "main", "1_red face": "face"}
    classes = {one["id"]: names[one["concept"]] for lane in every for one in lane}
    assert len(classes) == 2 * len(ids)  # the originals are left out, so they aren't sorted
    planned = page.post(at, classes=classes, style="red cartoon", variants=False)
    assert planned["plan"]["solved"] and planned["problem"] is None, planned["plan"]
    written = page.task(at + "/write")
    assert written["copied"] == 2 * len(ids) and sorted(written["left_out"]) == ["1_red", "1_red face"]
    table = page.post("/caption-studio/table", folder=root)
    assert table["total"] == 2 * len(ids) and table["missing"] == 0
    flipped = page.task("/caption-studio/flip", folder=root)
    assert flipped["written"] == 2 * len(ids) and not flipped["problems"]
    seen(page.train(written["fields"], "red"))
    assert tree(folder) == before


def test_a_subject_with_a_class_set_from_its_folder_to_its_grid(tmp_path: Path) -> None:
    page, folder = Page(tmp_path), pictures(tmp_path, "dog", 5)
    before = tree(folder)
    ids = begin(page, folder)
    cut(page, "1_miro dog", pictures=ids, way={"name": "whole"})
    root = page.get("/pictures/{project}")["folder"]
    captions(page, root, "miro dog")

    sets = "/sets/{project}"
    drawn = {"name": "miro dog", "prompts": ["1girl, {smile|hat}"], "count": 3, "width": 64, "height": 64, "steps": 2}
    assert page.task(sets + "/make", **drawn)["whole"]
    parts = page.get(sets + "/person")["parts"]
    assert [(part["name"], part["pictures"], part["reg"]) for part in parts] == [("miro dog", len(ids), 3)]
    asked = {"parts": parts, "steps": 300, "epochs": 3, "find": "repeats"}
    plan = page.post(sets + "/person", **asked)
    (made,) = plan["folders"]
    assert 200 <= plan["steps"] <= 400
    written = page.post(sets + "/person/write", **asked)
    assert [new for _, new in written["renamed"]] == [f"image/{made['folder']}", f"reg/{made['reg_folder']}"]
    seen(page.train(written["fields"], "miro"))
    assert tree(folder) == before

    changes = [one for one in page.get("/pictures/{project}")["changes"] if not one["undone"]]
    for change in changes:  # all the way back
        page.post("/pictures/{project}/undo", change=change["id"])
    assert page.get("/pictures/{project}")["pictures"] == len(ids)
