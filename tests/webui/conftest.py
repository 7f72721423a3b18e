"""A running WebUI with the embedded checkpoint, settings and folders of its own, for the tests of the tab."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from lora_train.model import mini
from lora_train.paths import MINI_CHECKPOINT
from tests.support import checkpoint as narrow
from tests.webui.server import API, WebUI

FOLDER = os.environ.get("TRAIN_LORA_WEBUI", "")
PYTHON = os.environ.get("TRAIN_LORA_WEBUI_PYTHON", "")
PROMPT = "1girl, black hair, smile"
STEM = "train-lora-test-a1111"
"""A name that the WebUI's own folder hasn't got: of two alike it loads its own, whatever --ckpt says."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What every test here needs."""
    reason = "TRAIN_LORA_WEBUI and TRAIN_LORA_WEBUI_PYTHON name no WebUI"
    marks = [
        pytest.mark.webui,
        pytest.mark.timeout(1800),
        pytest.mark.skipif(not (FOLDER and PYTHON), reason=reason),
    ]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for mark in marks:
                item.add_marker(mark)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint, or a narrow one of random weights, with what a WebUI has to be told of it."""
    folder = tmp_path_factory.mktemp("models")
    given = MINI_CHECKPOINT if MINI_CHECKPOINT.is_file() else narrow(folder / "narrow.safetensors")
    installed = mini.install(folder, given)
    for file in (installed.with_suffix(".yaml"), installed):
        file = file.rename(file.with_stem(STEM))
    return file


@pytest.fixture(scope="session")
def start_webui(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., WebUI]]:
    """Starts a WebUI: start_webui(work, *flags, login=""). Its folder `work` has loras/, config.json, webui.log."""
    running: list[WebUI] = []

    def start(work: Path, *flags: str, login: str = "") -> WebUI:
        (work / "loras").mkdir(exist_ok=True)
        own = ("--ckpt-dir", str(model.parent), "--lora-dir", str(work / "loras"), "--loglevel", "DEBUG")
        own += ("--ui-settings-file", str(work / "config.json"), "--ui-config-file", str(work / "ui-config.json"))
        number = len(list(work.glob("webui*.log")))
        server = WebUI(Path(FOLDER), PYTHON, work / f"webui{number}.log", model, (*own, *flags), login)
        running.append(server)
        return server

    yield start
    for server in running:
        server.close()


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `webui`."""
    return tmp_path_factory.mktemp("webui")


@pytest.fixture(scope="session")
def webui(start_webui: Callable[..., WebUI], work: Path) -> WebUI:
    """The one that most tests share."""
    server = start_webui(work)
    server.ready()
    return server


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures, each twice an epoch."""
    folder = tmp_path_factory.mktemp("data")
    concept = folder / "2_square"
    concept.mkdir()
    for number in range(2):
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).rectangle((8 + 8 * number, 8, 40, 40), fill="red")
        picture.save(concept / f"{number}.png")
        (concept / f"{number}.txt").write_text(PROMPT, encoding="utf-8")
    return folder


@pytest.fixture
def settings(pictures: Path) -> Callable[..., dict[str, Any]]:
    """A short training's: settings(name, **more). Two epochs of four steps."""

    def made(name: str, **more: Any) -> dict[str, Any]:
        given = {"train_data_dir": str(pictures), "output_name": name, "network_dim": 4, "network_alpha": 4}
        return {**given, "learning_rate": 0.01, "resolution": 64, "max_train_epochs": 2, **more}

    return made


@pytest.fixture
def forget(webui: WebUI) -> Iterator[Callable[[str], str]]:
    """forget(id): that job is stopped and its record goes when the test is over; gives the id back."""
    ids: list[str] = []

    def remember(id: str) -> str:
        ids.append(id)
        return id

    yield remember
    for id in ids:
        webui.post(f"{API}/jobs/{id}/stop", {})
        webui.ended(id)
        webui.post(f"{API}/jobs/{id}/remove", {})
