"""The caption studio in a real browser: editing in place, filters, edits with a preview, the way back, the check."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .conftest import open_step

expect = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright").expect

STUDIO = "#train_lora_caption_studio"
CAPTIONS = {
    "10_hina/a": "hina, 1girl, red hat, looking to the left",
    "10_hina/b": "1girl, blue_sky, hina",
    "10_hina/c": None,
    "10_hina/d": "hina, 1girl, smile, smile",
    "5_dress/e": "hina, 微笑的女孩在海边看天空, dress".encode("gbk"),
}


class Studio:
    """The open step with a set of its own."""

    def __init__(self, page: Any, root: Path) -> None:
        self.page, self.root = page, root
        self.here = page.locator(STUDIO)
        for name, caption in CAPTIONS.items():
            path = root / "image" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (200, 30 * len(path.stem), 90)).save(path)
            if caption is not None:
                path.with_suffix(".txt").write_bytes(caption if isinstance(caption, bytes) else caption.encode())
        open_step(page, "Pictures")
        page.locator("#train_lora_train_data_dir").locator("input, textarea").first.fill(str(root))
        open_step(page, "Captions")
        expect(self.here.locator(".train-lora-cs-name")).to_have_text(root.name, timeout=15_000)

    def texts(self) -> dict[str, str]:
        found = {}
        for path in sorted(self.root.rglob("*.txt")):
            data = path.read_bytes()
            found[path.stem] = data.decode("gbk" if data == CAPTIONS["5_dress/e"] else "utf-8")
        return found

    def written(self, **texts: str) -> None:
        """Wait until these captions are on disk."""
        for _ in range(400):
            if texts.items() <= self.texts().items():
                return
            self.page.wait_for_timeout(100)  # a sleep would hold back the requests that playwright routes
        pytest.fail(f"not {texts}, but {self.texts()}; the page says:\n{self.here.inner_text()}")

    def row(self, name: str) -> Any:
        return self.here.locator(".train-lora-cs-row", has_text=f"{name}.png")

    def tool(self, name: str) -> Any:
        self.here.locator(f"[data-tool={name}]").click()
        return self.here.locator(".train-lora-cs-form")

    def press(self, text: str, inside: str = "") -> None:
        self.page.locator(inside or STUDIO).get_by_role("button", name=text, exact=True).first.click()


@pytest.fixture
def studio(shared_page: Any, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(shared_page, tmp_path_factory.mktemp("studio"))


def test_a_caption_is_edited_in_place_by_keyboard_with_the_sets_own_tags(studio: Studio) -> None:
    studio.row("c").locator("button.train-lora-cs-caption").click()
    keyboard = studio.page.keyboard
    keyboard.type("hina, 1girl, red")
    expect(studio.here.locator(".train-lora-cs-words[role=listbox] > div")).to_have_text(re.compile("red hat"))
    keyboard.press("Tab")
    keyboard.type(", s")
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    expect(studio.here.locator("textarea")).to_have_value("hina, 1girl, red hat, smile")
    expect(studio.here.locator(".train-lora-cs-live ins")).to_have_count(4)
    assert "c" not in studio.texts()
    keyboard.press("Enter")
    studio.written(c="hina, 1girl, red hat, smile")
    expect(studio.here.locator("textarea")).to_have_count(0)
    studio.row("a").locator("button.train-lora-cs-caption").click()
    keyboard.type(", x")
    keyboard.press("Escape")
    expect(studio.row("a")).to_contain_text("looking to the left")
    assert studio.texts()["a"] == CAPTIONS["10_hina/a"]


def test_typing_goes_on_where_gradio_draws_the_step_anew(studio: Studio) -> None:
    studio.row("a").locator("button.train-lora-cs-caption").click()
    keyboard = studio.page.keyboard
    keyboard.type(", z")
    studio.page.evaluate(f"document.querySelector('{STUDIO}').replaceChildren()")
    expect(studio.here.locator("textarea")).to_be_focused()
    keyboard.type("oo")
    keyboard.press("Enter")
    studio.written(a="hina, 1girl, red hat, looking to the left, zoo")


def test_what_is_not_written_yet_is_there_again_after_another_folder(studio: Studio, tmp_path: Path) -> None:
    other = tmp_path / "1_other"
    other.mkdir()
    Image.new("RGB", (64, 64), (9, 90, 200)).save(other / "x.png")
    studio.row("a").locator("button.train-lora-cs-caption").click()
    studio.page.keyboard.type(", unsaved words")
    folder = studio.page.locator("#train_lora_train_data_dir").locator("input, textarea").first
    open_step(studio.page, "Pictures")
    folder.fill(str(other))
    open_step(studio.page, "Captions")
    expect(studio.row("x")).to_be_visible(timeout=15_000)
    expect(studio.here).to_contain_text(f"1 caption of {studio.root} isn't written yet")
    open_step(studio.page, "Pictures")
    folder.fill(str(studio.root))
    open_step(studio.page, "Captions")
    field = studio.row("a").locator("textarea")
    expect(field).to_have_value(re.compile("unsaved words$"), timeout=15_000)
    field.press("Enter")
    studio.written(a=f"{CAPTIONS['10_hina/a']}, unsaved words")


def test_filters_and_a_preview_that_is_written_and_taken_back(studio: Studio) -> None:
    before = studio.texts()
    chip = studio.here.locator(".train-lora-cs-chips .train-lora-cs-chip", has_text=re.compile("^smile"))
    chip.click()
    expect(studio.here.locator(".train-lora-cs-row")).to_have_count(1)
    chip.click()
    expect(studio.here.locator(".train-lora-cs-row")).to_have_count(4)
    form = studio.tool("replace")
    form.locator("input[type=text]").first.fill("(red|blue)[_ ](\\w+)")
    form.locator("input[type=text]").nth(1).fill("\\2")
    form.get_by_text("regular expression").click()
    studio.press("Preview")
    preview = studio.here.locator(".train-lora-cs-preview")
    expect(preview.locator("del")).to_have_text(["red hat", "blue_sky"])
    expect(preview.locator("ins")).to_have_text(["hat", "sky"])
    assert studio.texts() == before
    studio.press("Write these changes")
    studio.written(a="hina, 1girl, hat, looking to the left", b="1girl, sky, hina")
    told = studio.here.locator(".train-lora-cs-told")
    expect(told).to_contain_text("2 captions are written.")
    told.get_by_text("Undo").click()
    studio.written(**before)
    studio.press("History")
    expect(studio.here.locator(".train-lora-cs-entry")).to_contain_text("taken back")
    studio.tool("replace")


def test_the_trigger_comes_first_and_stays_there(studio: Studio) -> None:
    studio.page.locator("#train_lora_caption_trigger").locator("input, textarea").first.fill("hina")
    studio.page.locator("#train_lora_trigger_place button").click()
    expect(studio.here.locator(".train-lora-cs-preview")).to_contain_text("2 captions would change")
    keep = studio.page.locator("#train_lora_keep_tokens").locator("input, textarea").first
    expect(keep).to_have_value("0")
    studio.press("Write these changes")
    studio.written(b="hina, 1girl, blue_sky", c="hina")
    expect(keep).to_have_value("1")
    keep.fill("0")


def test_the_check_shows_pictures_and_mends(studio: Studio) -> None:
    expect(studio.here.locator(".train-lora-cs-notes")).to_contain_text("Not in UTF-8: 1 caption, in GBK")
    studio.press("Check captions")
    findings = studio.here.locator(".train-lora-cs-finding")
    twice = findings.filter(has_text="a tag twice for ").filter(has_text=": smile")
    twice.get_by_text("Show 1 picture").click()
    expect(studio.here.locator(".train-lora-cs-row")).to_have_count(1)
    twice.get_by_text("Mend …").click()
    studio.press("Write these changes")
    studio.written(d="hina, 1girl, smile")
    expect(twice).to_have_count(0)
    findings.filter(has_text="GBK, not UTF-8").get_by_text("Mend …").click()
    studio.press("Write these changes")
    expect(studio.here.locator(".train-lora-cs-notes")).to_be_empty()
    assert "海边" in (studio.root / "image" / "5_dress" / "e.txt").read_text(encoding="utf-8")
    studio.press("Check captions")


def test_mirrored_copies_of_those_that_are_selected(studio: Studio) -> None:
    studio.row("a").get_by_role("checkbox").check()
    studio.tool("mirror")
    studio.press("Preview")
    expect(studio.here.locator(".train-lora-cs-preview")).to_contain_text("1 mirrored copy would be made")
    studio.press("Make the copies")
    studio.written(a_flipped="hina, 1girl, red hat, looking to the right")
    expect(studio.row("a_flipped")).to_have_count(1, timeout=10_000)
    studio.tool("mirror")


def test_another_language_chosen_in_another_step(studio: Studio) -> None:
    """The studio is built anew out of sight, and filled when it is seen again."""
    for code, step in (("zh-CN", "training"), ("en", "grid")):
        studio.page.evaluate(f"trainLora.step('{step}')")
        studio.page.locator(f'#train_lora_language button[data-language="{code}"]').click()
        studio.page.wait_for_selector(f"#train_lora[lang={code}]", state="attached", timeout=15_000)
        studio.page.evaluate("trainLora.step('captions')")
        expect(studio.here.locator(".train-lora-cs-name")).to_have_text(studio.root.name, timeout=15_000)
        expect(studio.here.locator(".train-lora-cs-row")).to_have_count(len(CAPTIONS))


def test_it_fits_a_narrow_window(studio: Studio) -> None:
    studio.page.set_viewport_size({"width": 400, "height": 900})
    studio.press("Check captions")
    expect(studio.here.locator(".train-lora-cs-finding").first).to_be_visible()
    assert studio.page.evaluate("document.documentElement.scrollWidth") <= 400
    studio.page.set_viewport_size({"width": 1280, "height": 1000})
    studio.press("Check captions")
