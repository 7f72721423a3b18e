"""The real page in a real browser: errors that can be read, and a training whose grid appears."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page needs gradio")
pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

from playwright import sync_api as playwright

from lora_train.paths import DEMO_PICTURES, MINI_CHECKPOINT, ROOT

CHROMIUM = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 600

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(SECONDS + 120),
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or name it in the variable CHROMIUM"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    if MINI_CHECKPOINT.is_file():
        return MINI_CHECKPOINT
    from ..support import checkpoint as narrow

    return narrow(tmp_path_factory.mktemp("models") / "narrow.safetensors")


@pytest.fixture(scope="module")
def few_pictures(tmp_path_factory) -> Path:
    """Two pictures: of the demo where it is there, drawn ones otherwise."""
    folder = tmp_path_factory.mktemp("set <b>") / "1_thing"
    if not DEMO_PICTURES.is_dir():
        from ..support import pictures

        return pictures(folder, 2).parent
    folder.mkdir()
    for path in sorted(DEMO_PICTURES.rglob("*.png"))[:2]:
        shutil.copy(path, folder)
        shutil.copy(path.with_suffix(".txt"), folder)
    return folder.parent


@pytest.fixture(scope="module")
def address(tmp_path_factory, checkpoint) -> Iterator[str]:
    """A running standalone app."""
    work = tmp_path_factory.mktemp("work")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "lora_train",
        "ui",
        "--no-browser",
        "--port",
        str(port),
        "--checkpoint",
        str(checkpoint),
    ]
    command += ["--lora-dir", str(work / "loras"), "--data-dir", str(work / "data")]
    with open(work / "log.txt", "w") as log:
        app = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_for(url, app, work / "log.txt")
            yield url
        finally:
            app.terminate()
            try:
                app.wait(30)
            except subprocess.TimeoutExpired:
                app.kill()
                app.wait()


def wait_for(url: str, app: subprocess.Popen, log: Path) -> None:
    for _ in range(240):
        assert app.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url + "lora-train/v1/status", timeout=30).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail("the app doesn't answer:\n" + log.read_text())


@pytest.fixture
def page(address) -> Iterator[playwright.Page]:
    """The open page; no test may leave an error in its console or ask another machine for anything."""
    bad: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.on("console", lambda message: bad.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: bad.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else bad.append(r.url))
        page.goto(address)
        page.wait_for_selector("#train_lora_start", timeout=60_000)
        page.wait_for_function("document.getElementById('train_lora').dataset.packages === 'ready'", timeout=180_000)
        yield page
        browser.close()
    assert not bad


def fill(page: playwright.Page, **values: str) -> None:
    for name, value in values.items():
        page.locator(f"#train_lora_{name}").locator("input, textarea").first.fill(value)


def state(page: playwright.Page) -> str:
    return page.evaluate("document.getElementById('train_lora').dataset.state")


def test_all_problems_are_told_at_once_and_marked(page, tmp_path) -> None:
    fill(page, train_data_dir=str(tmp_path), output_name="a/b", unet_lr="much", resolution="100")
    page.wait_for_timeout(1000)
    page.click("#train_lora_start")
    errors = page.locator("#train_lora_errors")
    errors.locator("li").first.wait_for(timeout=30_000)
    text = errors.inner_text()
    assert "Learning rate, UNet" in text
    assert "Traceback" not in text
    assert "train_lora_unet_lr" in page.eval_on_selector_all(".train-lora-wrong", "all => all.map(e => e.id)")
    assert state(page) == "idle"


def test_an_empty_folder_is_told_beside_the_sum(page, tmp_path) -> None:
    fill(page, train_data_dir=str(tmp_path))
    page.locator("#train_lora_arithmetic", has_text="The folder is empty").wait_for(timeout=30_000)


def test_a_training_from_the_first_field_to_the_grid(page, few_pictures) -> None:
    fill(page, train_data_dir=str(few_pictures), output_name="first", max_train_epochs="2", resolution="64")
    fill(page, network_dim="4", network_alpha="4", grid_weights="0, 1")
    page.locator("#train_lora_grid_more").locator("button, .label-wrap").first.click()
    fill(page, grid_steps="2")
    page.locator("#train_lora_arithmetic", has_text="4 steps").wait_for(timeout=30_000)
    page.click("#train_lora_start")
    page.wait_for_function("document.getElementById('train_lora').dataset.running === 'true'", timeout=60_000)
    assert page.locator("#train_lora_stop").is_visible()
    page.locator("#train_lora_live svg").wait_for(timeout=SECONDS * 1000)
    picture = page.locator(".train-lora-grid img")
    picture.wait_for(timeout=SECONDS * 1000)
    page.wait_for_function("document.querySelector('.train-lora-grid img').naturalWidth > 0", timeout=30_000)
    assert state(page) in ("grid", "done")
    page.wait_for_function("document.getElementById('train_lora').dataset.state === 'done'", timeout=60_000)
    live = page.locator("#train_lora_live").inner_text()
    assert "4 of 4" in live
    assert "first-000002.safetensors" in live
    assert page.locator("#train_lora_start").is_visible()


def test_it_fits_a_narrow_window(page) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
