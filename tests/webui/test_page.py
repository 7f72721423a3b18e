"""The tab in a browser, in a real WebUI: from a folder of pictures to a marked cell of the grid, across reloads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_train.paths import ASSETS
from tests.webui.conftest import PROMPT
from tests.webui.server import API, WebUI

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
STEPS = ("Pictures", "Captions", "Training", "Grid", "Blocks")
MINUTES = 60_000
THEIRS = ("cdnjs.cloudflare.com", "fonts.googleapis.com", "fonts.gstatic.com")
"""Machines that a WebUI's own page asks; its user's console shows when they can't be reached."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or name it in the variable CHROMIUM"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def new_page(webui: WebUI) -> Iterator[Callable[..., Any]]:
    """Opens the WebUI and goes to our tab. No page may leave an error of ours, or ask another machine for anything."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    bad: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])

        def new(path: str = "?__theme=light", **context: Any) -> Any:
            page = browser.new_context(viewport={"width": 1280, "height": 1000}, **context).new_page()
            page.route(lambda url: any(name in url for name in THEIRS), lambda route: route.fulfill(body=""))
            page.on("console", lambda told: bad.append(told.text) if told.type == "error" and mine(told) else None)
            page.on("pageerror", lambda error: bad.append(f"{error} {getattr(error, 'stack', '')}"))
            page.on("request", lambda request: None if known(request.url) else bad.append(request.url))
            page.goto(webui.address + path)
            open_tab(page)
            return page

        def known(url: str) -> bool:
            return url.startswith((webui.address, "data:", "blob:")) or any(name in url for name in THEIRS)

        yield new
        browser.close()
    assert not bad


def mine(told: Any) -> bool:
    """At a reload of the UI the server is away for a moment, then there without the extensions' routes."""
    away = ("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY_RESPONSE", "ERR_NETWORK")
    asked = str((told.location or {}).get("url")).partition("/lora-train/v1/")[2]
    early = "404" in told.text and asked in ("status", "jobs", "grids", "language/zh-CN")  # all asked again
    return not early and not any(name in told.text for name in away)


def open_tab(page: Any) -> None:
    page.wait_for_selector("#tabs", timeout=2 * MINUTES)
    page.locator("#tabs > .tab-nav button", has_text="Train LoRA").click()
    ready = "document.getElementById('train_lora')?.dataset.packages === 'ready'"
    page.wait_for_function(ready, timeout=3 * MINUTES)


def open_step(page: Any, title: str) -> None:
    page.locator("#train_lora_steps > .tab-nav button", has_text=title).click()
    page.locator(f"#train_lora_step_{title.lower()}").wait_for(state="visible", timeout=MINUTES)


def fill(page: Any, **values: str) -> None:
    for name, value in values.items():
        page.locator(f"#train_lora_{name}").locator("input, textarea").first.fill(value)


def wait_for_state(page: Any, *states: str) -> None:
    wanted = list(states)
    page.wait_for_function(
        "states => states.includes(document.getElementById('train_lora').dataset.state)",
        arg=wanted,
        timeout=12 * MINUTES,
    )


def step_shown(page: Any) -> int:
    """The step that the live view shows."""
    return int(page.evaluate("window.trainLora.status().step"))


def test_each_step_can_be_opened_and_left_on_both_themes(new_page: Callable[..., Any]) -> None:
    for theme in ("light", "dark"):
        page = new_page(f"?__theme={theme}")
        for title in (*STEPS, *reversed(STEPS)):
            open_step(page, title)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_from_the_pictures_to_a_marked_cell(new_page: Callable[..., Any], webui: WebUI, pictures: Path) -> None:
    page = new_page()
    before = webui.get("/sdapi/v1/options")
    fill(page, train_data_dir=str(pictures))
    open_step(page, "Grid")
    fill(page, grid_prompts=PROMPT, grid_weights="0, 1")
    page.locator("#train_lora_grid_more .label-wrap").first.click()
    fill(page, grid_steps="3", grid_width="64", grid_height="64")
    open_step(page, "Training")
    fill(page, output_name="webui-page", max_train_epochs="12", resolution="64", network_dim="4", network_alpha="4")
    page.locator("#train_lora_step_training", has_text="48").first.wait_for(timeout=MINUTES)
    page.click("#train_lora_start")
    wait_for_state(page, "training")
    page.wait_for_function("window.trainLora.status().step >= 2", timeout=5 * MINUTES)
    first, bar = step_shown(page), page.locator("#train_lora_live [role=progressbar]").get_attribute("aria-valuenow")
    page.wait_for_function(f"window.trainLora.status().step > {first}", timeout=2 * MINUTES)
    page.wait_for_timeout(300)
    assert page.locator("#train_lora_live [role=progressbar]").get_attribute("aria-valuenow") != bar
    assert page.locator("#train_lora_live svg").count()
    id = page.evaluate("window.trainLora.status().id")

    wait_for_state(page, "done")
    open_step(page, "Grid")
    page.locator(f"#train_lora_grid_view td img[src*='{id}']").first.wait_for(timeout=MINUTES)
    drawn = f"document.querySelector(`#train_lora_grid_view td img[src*='{id}']`).naturalWidth > 0"
    page.wait_for_function(drawn, timeout=MINUTES)
    grid = webui.get(f"{API}/grids/{id}")
    assert len(grid["rows"]) >= 12 and len(grid["weights"]) == 2
    assert grid["marks"] == []
    page.locator("#train_lora_grid_view .train-lora-grid-cell").last.hover()
    page.locator("#train_lora_grid_view .train-lora-grid-check").last.click()
    page.locator("#train_lora_grid_view td[data-accepted=true]").first.wait_for(timeout=MINUTES)
    page.wait_for_timeout(1000)
    assert len(webui.get(f"{API}/grids/{id}")["marks"]) == 1
    assert webui.get("/sdapi/v1/options") == before
    webui.post(f"{API}/jobs/{id}/remove", {})


def test_the_tab_finds_its_job_again_after_a_reload_of_the_ui(
    new_page: Callable[..., Any],
    webui: WebUI,
    settings: Callable[..., dict[str, Any]],
    forget: Callable[[str], str],
) -> None:
    page = new_page()
    open_step(page, "Training")
    id = forget(webui.start(settings("webui-attach", max_train_epochs=60)))
    wait_for_state(page, "training")
    for _ in range(2):
        page.evaluate("gradioApp().getElementById('settings_restart_gradio').click()")
        page.wait_for_selector("#tabs", state="detached", timeout=MINUTES)
        open_tab(page)
        open_step(page, "Training")
        page.wait_for_function(f"window.trainLora.status()?.id === '{id}'", timeout=MINUTES)
        first = step_shown(page)
        page.wait_for_function(f"window.trainLora.status().step > {first}", timeout=2 * MINUTES)
        assert "webui-attach" in page.locator("#train_lora_live").inner_text()
    assert webui.job(id)["state"] == "training"


def test_the_report_is_shown_to_be_copied(new_page: Callable[..., Any]) -> None:
    page = new_page()
    page.locator("#train_lora_help .label-wrap").first.click()
    page.click("#train_lora_check")
    page.locator("#train_lora_help", has_text="torch 2.1.2").wait_for(timeout=MINUTES)


def test_the_demo_fills_the_fields_in(new_page: Callable[..., Any]) -> None:
    if not (ASSETS / "demo" / "config.toml").is_file():
        pytest.skip("the demo isn't here")
    page = new_page()
    page.locator("#train_lora button", has_text="demo").first.click()
    field = page.locator("#train_lora_train_data_dir").locator("input, textarea").first
    page.wait_for_function("element => element.value.includes('demo')", arg=field.element_handle(), timeout=MINUTES)
