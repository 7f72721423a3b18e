"""The extension in a real AUTOMATIC1111 WebUI on a CPU: its tab, a training, the LoRA in a picture, the grid."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from lora_train.header import read_header
from tests.support import checkpoint
from tests.webui.server import WebUI, digest

FOLDER = os.environ.get("TRAIN_LORA_WEBUI", "")
PYTHON = os.environ.get("TRAIN_LORA_WEBUI_PYTHON", "")
API = "/lora-train/v1"
NAME = "webui-test"
PROMPT = "a red square on white"

pytestmark = [
    pytest.mark.webui,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not (FOLDER and PYTHON), reason="TRAIN_LORA_WEBUI and TRAIN_LORA_WEBUI_PYTHON name no WebUI"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    concept = folder / "2_square"
    concept.mkdir()
    for number in range(2):
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).rectangle((8 + 8 * number, 8, 40, 40), fill="red")
        picture.save(concept / f"{number}.png")
        (concept / f"{number}.txt").write_text(PROMPT, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """Started with a narrow checkpoint, installed as `python -m lora_train mini` does it."""
    from lora_train.model import mini

    narrow = checkpoint(tmp_path_factory.mktemp("narrow") / "narrow.safetensors")
    models = tmp_path_factory.mktemp("models")
    installed = mini.install(models, narrow)
    # Under a name that the WebUI's own folder hasn't got: of two alike it loads its own, whatever --ckpt says.
    for file in (installed, installed.with_suffix(".yaml")):
        file.rename(file.with_stem("train-lora-test-a1111"))
    installed = installed.with_stem("train-lora-test-a1111")
    server = WebUI(
        Path(FOLDER), PYTHON, models / "webui.log", installed, ("--ckpt-dir", str(models), "--loglevel", "DEBUG")
    )
    yield server
    server.close()
    shutil.rmtree(Path(FOLDER) / "models" / "Lora" / NAME, ignore_errors=True)


def ready(webui: WebUI) -> None:
    """The engine's packages: installed once, then remembered on disk."""
    packages: dict[str, Any] = {}
    for _ in range(900):
        packages = webui.get(f"{API}/status")["packages"]
        if packages["state"] == "ready":
            return
        assert packages["state"] != "failed", packages
        if packages["state"] == "missing":
            webui.post(f"{API}/install", {})
        time.sleep(1)
    raise AssertionError(packages)


def settings(pictures: Path, **more: Any) -> dict[str, Any]:
    given = {"train_data_dir": str(pictures), "output_name": NAME, "network_dim": 4, "network_alpha": 4}
    return {**given, "learning_rate": 0.01, "resolution": 64, "max_train_epochs": 2, **more}


def test_the_tab_is_there(webui: WebUI) -> None:
    assert "Train LoRA" in webui.read("/config").decode()
    assert webui.get(f"{API}/status")["state"] == "idle"
    assert "Traceback" not in webui.log.read_text(encoding="utf-8", errors="replace").partition("lora_train")[2]


def test_wrong_fields_are_named(webui: WebUI, pictures: Path) -> None:
    answer = webui.post(f"{API}/start", {"settings": settings(pictures, network_dim=0), "grid": None})
    assert [problem["where"] for problem in answer["detail"]] == ["network_dim"]


def test_train_draw_and_leave_everything_else_alone(webui: WebUI, pictures: Path) -> None:
    ready(webui)
    packages, plain = webui.freeze(), digest(webui.draw(PROMPT))
    grid = {"prompt": PROMPT, "weights": "0, 1", "steps": 3, "cfg_scale": 5, "seed": 1}
    started = webui.post(f"{API}/start", {"settings": settings(pictures), "grid": grid})
    assert "id" in started, started
    refused = webui.post(f"{API}/start", {"settings": settings(pictures), "grid": None})
    assert "a training is running" in refused["detail"][0]["what"]

    status, states = followed(webui)
    assert (status["state"], status["error"]) == ("done", None), status
    assert {"training", "grid"} <= states
    assert status["step"] == status["total"] == 8
    assert [Path(file).stem for file in status["files"]] == [f"{NAME}-000001", f"{NAME}-000002", NAME]

    sheet = Image.open(io.BytesIO(webui.read(f"{API}/jobs/{started['id']}/grid.png")))
    assert sheet.width > 2 * 64
    assert sheet.height > 2 * 64
    cells = sorted(Path(status["grid"]["path"]).with_suffix("").glob("*.png"))
    pixels = {cell.stem: digest(Image.open(cell).convert("RGB")) for cell in cells}
    weightless = {value for name, value in pixels.items() if name.endswith("weight-0.00")}
    assert len(pixels) == 4
    assert len(weightless) == 1
    assert len(set(pixels.values())) == 3

    assert len({name.partition(".")[0] for name in read_header(Path(status["files"][-1]), "LoRA").entries}) == 264
    assert digest(webui.draw(f"{PROMPT} <lora:{NAME}:1>")) != plain
    assert "didn't match keys" not in webui.log.read_text(encoding="utf-8", errors="replace")
    assert digest(webui.draw(f"{PROMPT} <lora:{NAME}-000001:1>")) in pixels.values()
    assert digest(webui.draw(PROMPT)) == plain
    assert webui.freeze() == packages


def test_a_file_replaced_under_its_name_is_drawn_anew(webui: WebUI, pictures: Path) -> None:
    """The WebUI itself would go on drawing with the old one."""
    prompt = f"{PROMPT} <lora:{NAME}:1>"
    before = digest(webui.draw(prompt))
    webui.post(f"{API}/start", {"settings": settings(pictures, seed=7), "grid": None})
    status, _ = followed(webui)
    assert status["state"] == "done", status
    assert digest(webui.draw(prompt)) != before


def test_stop(webui: WebUI, pictures: Path) -> None:
    started = webui.post(f"{API}/start", {"settings": settings(pictures, max_train_epochs=1000), "grid": None})
    assert "id" in started, started
    while webui.get(f"{API}/status")["step"] < 2:
        time.sleep(0.2)
    webui.post(f"{API}/stop", {})
    status, _ = followed(webui)
    assert (status["state"], status["error"]) == ("stopped", None)


def followed(webui: WebUI) -> tuple[dict[str, Any], set[str]]:
    """The status at the job's end, and the states on the way."""
    states = set()
    for _ in range(9000):
        status = webui.get(f"{API}/status")
        states.add(status["state"])
        if status["state"] not in ("starting", "training", "grid"):
            return status, states
        time.sleep(0.1)
    raise AssertionError(status)
