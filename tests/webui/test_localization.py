"""A WebUI with a Chinese localization file, which translates whatever is the same as one of its words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.webui.server import WebUI
from tests.webui.test_page import CHROMIUM, MINUTES, THEIRS, fill, open_step, open_tab

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or name it in the variable CHROMIUM"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FILE = {"Generate": "生成", "Training": "别人的训练", "Pictures": "别人的图片", "red": "别人的红色"}
"""Two of our titles and a tag of the captions among them."""


@pytest.fixture
def localized(start_webui: Callable[..., WebUI], tmp_path: Path) -> WebUI:
    places = tmp_path / "localizations"
    places.mkdir()
    (places / "zh_CN.json").write_text(json.dumps(FILE), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"localization": "zh_CN"}), encoding="utf-8")
    server = start_webui(tmp_path, "--localizations-dir", str(places))
    server.ready()
    return server


def test_our_own_chinese_comes_by_itself_and_what_users_wrote_stays(localized: WebUI, pictures: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    (pictures / "2_square" / "0.txt").write_text("red, square", encoding="utf-8")
    bad: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": 1280, "height": 1000}, locale="en-US").new_page()
        page.route(lambda url: any(name in url for name in THEIRS), lambda route: route.fulfill(body=""))
        page.on("pageerror", lambda error: bad.append(str(error)))
        page.goto(localized.address)
        open_tab(page)
        nav = page.locator("#train_lora_steps > .tab-nav button")
        nav.filter(has_text="图片").first.wait_for(timeout=MINUTES)
        assert [text.strip() for text in nav.all_inner_texts()] == ["图片", "标注", "训练", "对比图", "分层权重"]
        assert page.locator("#txt2img_generate").inner_text().strip() == "生成"

        fill(page, train_data_dir=str(pictures))
        nav.nth(1).click()
        tags = page.locator("#train_lora_step_captions .train-lora-cs-row").first
        tags.wait_for(timeout=2 * MINUTES)
        assert "别人的" not in page.locator("#train_lora").inner_text()

        page.locator("#train_lora [data-language=en]").first.click()  # this tab alone in English
        nav.filter(has_text="Pictures").first.wait_for(timeout=MINUTES)
        for title in ("Pictures", "Captions", "Training", "Grid", "Blocks"):
            open_step(page, title)
            assert "别人的" not in page.locator("#train_lora").inner_text()
        browser.close()
    assert not bad
