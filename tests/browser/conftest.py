"""The standalone app on the current gradio and on the WebUI's, each in a process of its own, and a browser for it.

The WebUI's gradio, 3.41.2, is looked for in TRAIN_LORA_GRADIO3 or cache/gradio-3 (see requirements/gradio-3.txt). Where
it isn't there its tests are skipped, but fail under CI=true.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_train.paths import DEMO_PICTURES, MINI_CHECKPOINT, ROOT

SECONDS = 600
"""What a training with its grid may take here."""

GRADIO_3 = Path(os.environ.get("TRAIN_LORA_GRADIO3") or ROOT / "cache" / "gradio-3")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
_GRADIO_3_ASKS = ("https://cdnjs.cloudflare.com/", "https://fonts.googleapis.com/", "https://fonts.gstatic.com/")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What every test here needs, and what gradio and playwright leave behind."""
    marks = [
        pytest.mark.browser,
        pytest.mark.timeout(SECONDS + 120),
        pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or name it in the variable CHROMIUM"),
        pytest.mark.filterwarnings("ignore::ResourceWarning"),
        pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    ]
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in ours:
        for mark in marks:
            item.add_marker(mark)
    items[:] = [item for item in items if not (item.get_closest_marker("one_gradio") and "gradio-3" in item.name)]


@pytest.fixture(scope="session", params=["gradio-6", "gradio-3"])
def gradio(request: pytest.FixtureRequest) -> str:
    """Which gradio the page is made with: the current one or the WebUI's."""
    name: str = request.param
    if name == "gradio-3" and not (GRADIO_3 / "gradio").is_dir():
        how = f"gradio 3.41.2 is not in {GRADIO_3}: see requirements/gradio-3.txt"
        pytest.fail(how) if os.environ.get("CI") == "true" else pytest.skip(how)
    return name


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint, or a narrow one of random weights."""
    if MINI_CHECKPOINT.is_file():
        return MINI_CHECKPOINT
    from ..support import checkpoint as narrow

    return narrow(tmp_path_factory.mktemp("models") / "narrow.safetensors")


@pytest.fixture(scope="session")
def few_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
def work(tmp_path_factory: pytest.TempPathFactory, gradio: str) -> Path:
    """The running app's folder: loras/, data/ and log.txt."""
    return tmp_path_factory.mktemp(f"work-{gradio}")


@pytest.fixture(scope="module")
def address(work: Path, gradio: str, checkpoint: Path) -> Iterator[str]:
    """A running standalone app's address, with a slash at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lora_train", "ui", "--no-browser", "--port", str(port)]
    command += ["--checkpoint", str(checkpoint), "--lora-dir", str(work / "loras"), "--data-dir", str(work / "data")]
    path = [*([str(GRADIO_3)] if gradio == "gradio-3" else []), str(ROOT)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(path)}
    with open(work / "log.txt", "w") as log:
        app = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        try:
            url = f"http://127.0.0.1:{port}/"
            _wait_for(url, app, work / "log.txt")
            yield url
        finally:
            app.terminate()
            try:
                app.wait(30)
            except subprocess.TimeoutExpired:
                app.kill()
                app.wait()


def _wait_for(url: str, app: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert app.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url + "lora-train/v1/status", timeout=30).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail("the app doesn't answer:\n" + log.read_text())


# A task that the page asks for again until none is in its way; the browser's console tells each refusal
_WAITS_FOR_OTHERS = "/style/look"


class Pages:
    """Opens the page in a browser; `bad` are errors in a console, and requests to other machines."""

    def __init__(self, browser: Any, address: str, gradio: str) -> None:
        self._browser, self._address, self._gradio = browser, address, gradio
        self._contexts: list[Any] = []
        self.bad: list[str] = []

    def open(self, width: int = 1280, height: int = 1000, path: str = "", **context: Any) -> Any:
        """Such as open(width=420, color_scheme="dark", locale="zh-CN", path="?__theme=dark")."""
        self._contexts.append(self._browser.new_context(viewport={"width": width, "height": height}, **context))
        page = self._contexts[-1].new_page()
        if self._gradio == "gradio-3":  # its own page asks for these; a WebUI's does too
            page.route(lambda url: url.startswith(_GRADIO_3_ASKS), lambda route: route.fulfill(body=""))
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.bad.append(str(error)))
        page.on("request", lambda request: None if self._ours(request.url) else self.bad.append(request.url))
        page.goto(self._address + path)
        page.wait_for_selector("#train_lora", state="attached", timeout=60_000)
        ready = "document.getElementById('train_lora').dataset.packages === 'ready'"
        page.wait_for_function(ready, timeout=180_000)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def _heard(self, message: Any) -> None:
        url = message.location.get("url", "")
        waits = " 422 " in message.text and url.endswith(_WAITS_FOR_OTHERS)
        if message.type == "error" and not waits:
            self.bad.append(f"{message.text} ({url})")

    def _ours(self, url: str) -> bool:
        theirs = _GRADIO_3_ASKS if self._gradio == "gradio-3" else ()
        return url.startswith((self._address, "data:", "blob:", *theirs))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Chromium, for a module's tests on one gradio."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        yield started
        started.close()


@pytest.fixture
def new_page(chromium: Any, address: str, gradio: str) -> Iterator[Callable[..., Any]]:
    """Opens the page as `Pages.open` does. No page may leave an error or ask another machine for anything."""
    pages = Pages(chromium, address, gradio)
    yield pages.open
    pages.close()
    assert not pages.bad


@pytest.fixture(scope="module")
def _shared(chromium: Any, address: str, gradio: str) -> Iterator[tuple[Pages, Any]]:
    pages = Pages(chromium, address, gradio)
    yield pages, pages.open()
    pages.close()


@pytest.fixture
def shared_page(_shared: tuple[Pages, Any]) -> Iterator[Any]:
    """One open page for all tests of a module, for those that leave it as they found it."""
    pages, page = _shared
    yield page
    bad, pages.bad = pages.bad, []
    assert not bad


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Any:
    """The open page."""
    return new_page()


def open_step(page: Any, title: str) -> None:
    """Go to a step of the tab by its title, such as "Training"."""
    buttons = page.locator("#train_lora_steps .tab-nav button, #train_lora_steps [role=tab]")
    buttons.filter(has_text=title, visible=True).first.click()
    page.locator(f"#train_lora_step_{title.lower()}").wait_for(state="visible", timeout=10_000)
