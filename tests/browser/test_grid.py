"""The grid viewer in a real browser, on a grid that is there: marks, large pictures, comparing, and keeping one."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lora_train.grid import record
from lora_train.grid.plan import OTHERS, Grid, series
from lora_train.grid.sheet import Cell, Sheet
from lora_train.grid.sheet import page as sheet_page
from lora_train.jobs.record import Record
from lora_train.network.kohya import write_lora

from .conftest import open_step

pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

EPOCHS, WEIGHTS = 4, (0.0, 0.5, 1.0)
PROMPTS = ("hina, 1girl, smile", "hina, from behind <b>")
CELL = "#train_lora_grid_view [data-at='{}/{}/{}']"
DIALOG = "dialog[open]"


class Drawn:
    """A job's folder with its grid, and the run's folder of LoRA files."""

    def __init__(self, work: Path) -> None:
        self.id = f"grid-{time.time_ns()}"
        self.job, self.loras = work / "data" / "jobs" / self.id, work / "loras" / self.id
        self.job.mkdir(parents=True)
        self.loras.mkdir(parents=True)
        for epoch in range(1, EPOCHS + 1):
            state = {"lora_unet_x.lora_up.weight": torch.full((1, 1), float(epoch))}
            metadata = {"ss_base_model_version": "sd_v1", "ss_epoch": str(epoch)}
            write_lora(self.loras / f"hina-{epoch:06}.safetensors", state, metadata, torch.float16)
        grid = Grid(series(self.loras, "hina"), PROMPTS, WEIGHTS, seed=7, width=64, height=64)
        cells = [[[_cell(p, r, c) for c in range(len(WEIGHTS))] for r in range(EPOCHS)] for p in range(len(PROMPTS))]
        pages = tuple(sheet_page(grid, number, drawn) for number, drawn in enumerate(cells))
        record.save(self.job, grid, Sheet(pages), name="hina", checkpoint="mini", band=[2, 3])
        (self.loras / "hina-000004.safetensors").unlink()
        job = Record(self.id, "hina", "mini", state="done", created=time.time())
        (self.job / "record.json").write_text(json.dumps(asdict(job)))

    def marks(self) -> list[list[int]]:
        found = record.load(self.job)
        assert found
        return found.marks

    def files(self) -> set[str]:
        return {path.relative_to(self.loras).as_posix() for path in self.loras.rglob("*") if path.is_file()}


def _cell(page: int, row: int, column: int) -> Image.Image | None:
    """One colour each; one isn't drawn."""
    if (page, row, column) == (0, 0, 1):
        return None
    return Image.new("RGB", (64, 64), (60 + 60 * row, 80 + 80 * column, 200 * page))


@pytest.fixture
def grid(work: Path) -> Drawn:
    """A new one, the newest; the former ones stay, as the page may still be loading their pictures."""
    return Drawn(work)


@pytest.fixture
def view(grid: Drawn, shared_page: Any) -> Any:
    """The open page at the step Grid, its table there."""
    return opened(shared_page, grid)


@pytest.fixture
def fresh(grid: Drawn, new_page: Any) -> Any:
    """The same, in a page of its own."""
    return opened(new_page(), grid)


def opened(page: Any, grid: Drawn) -> Any:
    page.wait_for_function("document.getElementById('train_lora')?.dataset.packages === 'ready'", timeout=60_000)
    while page.locator(DIALOG).count():  # of the test before
        page.keyboard.press("Escape")
    open_step(page, "Grid")
    page.evaluate("trainLora.look()")
    page.locator(f"{CELL.format(0, 1, 1)} img[src*='{grid.id}']").wait_for(timeout=20_000)
    page.mouse.move(0, 0)
    return page


def cell(page: Any, row: int, column: int, prompt: int = 0) -> Any:
    return page.locator(CELL.format(prompt, row, column))


def accept(page: Any, row: int, column: int) -> None:
    cell(page, row, column).hover()
    page.locator(f"{CELL.format(0, row, column)} + button").click()


def accepted(page: Any) -> list[str]:
    return page.locator("#train_lora_grid_view td[data-accepted=true] > [data-at]").evaluate_all(
        "all => all.map(one => one.dataset.at)"
    )


def until(page: Any, condition: str, argument: Any = None) -> None:
    page.wait_for_function(condition, arg=argument, timeout=15_000)


def wait_for_marks(page: Any, grid: Drawn, expected: list[list[int]]) -> None:
    end = time.monotonic() + 10
    while grid.marks() != expected and time.monotonic() < end:
        page.wait_for_timeout(50)  # a sleep would hold back the requests that playwright routes
    assert grid.marks() == expected


def test_without_a_grid_it_says_what_to_do(shared_page) -> None:
    open_step(shared_page, "Grid")
    view = shared_page.locator("#train_lora_grid_view")
    view.get_by_text("There is no grid yet.").wait_for(timeout=30_000)
    view.get_by_role("button", name="Go to Training").click()
    shared_page.locator("#train_lora_step_training").wait_for(state="visible", timeout=10_000)


@pytest.mark.one_gradio
def test_a_grid_that_comes_later_is_shown_without_reloading(shared_page, work) -> None:
    open_step(shared_page, "Grid")
    shared_page.get_by_text("There is no grid yet.").wait_for(timeout=30_000)
    Drawn(work)
    cell(shared_page, 1, 1).locator("img").wait_for(timeout=30_000)


@pytest.mark.one_gradio
def test_cells_appear_one_by_one(grid, new_page) -> None:
    """While the job draws: here its status says so, and its cells are written by the test."""
    known = record.load(grid.job)
    assert known
    cells = record.Drawing(grid.job, replace(known.grid, seed=8), name="hina", checkpoint="mini")
    places = [(1, 1), (1, 2), (2, 0)]
    done = 0

    def draw() -> tuple[int, int]:
        nonlocal done
        row, column = places[done]
        cells.add(Cell(0, row, column, Image.new("RGB", (64, 64), "red")))
        done += 1
        return row, column

    def drawing(route: Any) -> None:
        status = route.fetch().json()
        route.fulfill(json={**status, "id": grid.id, "state": "grid", "grid": {"done": done, "total": 24}})

    draw()
    page = opened(new_page(), grid)
    page.route("**/status*", drawing)
    page.get_by_text("Drawing the grid of hina: 1 of 24 pictures.").wait_for(timeout=15_000)
    until(page, "() => document.querySelector('#train_lora_grid_view [data-at=\"0/2/0\"]').innerText === '…'")
    for _ in places[1:]:
        cell(page, *draw()).locator("img").wait_for(timeout=15_000)
        assert page.locator("#train_lora_grid_view td img").count() == done
    cell(page, 1, 1).click()
    assert page.locator(DIALOG).get_by_role("button", name="Use this").is_disabled()
    page.keyboard.press("Escape")
    page.unroute("**/status*")


@pytest.mark.one_gradio
def test_the_table_tells_weights_epochs_candidates_and_what_is_missing(view) -> None:
    table = view.locator("#train_lora_grid_view table")
    assert [text.split()[0] for text in table.locator("thead th").all_inner_texts()] == ["0", "0.5", "1"]
    assert [text.split() for text in table.locator("tbody th").all_inner_texts()] == [
        ["1"],
        ["2", "candidate"],
        ["3", "candidate"],
        ["4", "gone"],
    ]
    assert cell(view, 0, 1).inner_text() == "not drawn"
    text = view.locator("#train_lora_grid_view").inner_text()
    assert "Epochs 2 to 3 are the candidates" in text
    assert "Grey rows" in text
    assert PROMPTS[0] in text
    assert "seed 7" in text


def test_marks_are_red_frames_that_stay(view, grid) -> None:
    accept(view, 1, 2)
    accept(view, 2, 1)
    accept(view, 2, 2)
    assert accepted(view) == ["0/1/2", "0/2/1", "0/2/2"]
    red = "e => getComputedStyle(e).outlineColor"
    assert cell(view, 1, 2).evaluate(red) == "rgb(239, 31, 31)"
    wait_for_marks(view, grid, [[1, 2], [2, 1], [2, 2]])

    view.reload()
    opened(view, grid)
    until(view, "() => document.querySelectorAll('#train_lora_grid_view td[data-accepted=true]').length === 3")
    chips = view.locator(".train-lora-grid-chip")
    assert chips.all_inner_texts()[0].split("\n")[0] == "Epoch 2, weight 1"
    chips.first.get_by_role("button", name="No longer accept").click()
    assert accepted(view) == ["0/2/1", "0/2/2"]
    wait_for_marks(view, grid, [[2, 1], [2, 2]])

    view.get_by_role("button", name="Prompt 2").click()
    until(view, "() => document.querySelector('#train_lora_grid_view [data-at=\"1/2/1\"]')")
    assert accepted(view) == ["1/2/1", "1/2/2"]


@pytest.mark.one_gradio
def test_a_mark_that_cannot_be_kept_goes_away_again(view, grid) -> None:
    view.route("**/mark", lambda route: route.fulfill(body="no JSON"))
    accept(view, 1, 1)
    view.locator("#train_lora_grid_view [role=alert]").wait_for(timeout=10_000)
    assert accepted(view) == []
    assert grid.marks() == []
    view.unroute("**/mark")


def test_the_keyboard_alone(view, grid) -> None:
    cell(view, 0, 0).focus()
    for key in ("ArrowDown", "ArrowRight", "m", "ArrowRight", "Enter"):
        view.keyboard.press(key)
    dialog = view.locator(DIALOG)
    assert "Epoch 2, weight 1" in dialog.inner_text()
    assert "prompt 1 of 2" in dialog.inner_text()
    assert PROMPTS[0] in dialog.inner_text()
    wait_for_marks(view, grid, [[1, 1]])
    for key in ("ArrowDown", "ArrowLeft", "m", "PageDown"):
        view.keyboard.press(key)
    assert "Epoch 3, weight 0.5" in dialog.inner_text()
    assert PROMPTS[1] in dialog.inner_text()
    assert dialog.locator("img").first.get_attribute("src").endswith(f"grids/{grid.id}/pages/1/cells/2/1.png")
    assert dialog.get_by_role("link").get_attribute("href").endswith("/pages/1/cells/2/1.png")
    for _ in range(12):  # the focus stays inside
        view.keyboard.press("Tab")
        assert view.evaluate(
            "() => document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    view.keyboard.press("Escape")
    assert not dialog.count()
    until(view, "() => document.activeElement.dataset.at === '1/2/1'")
    wait_for_marks(view, grid, [[1, 1], [2, 1]])


@pytest.mark.one_gradio
def test_escape_does_not_reach_the_page(view) -> None:
    """The WebUI interrupts what it draws at Escape."""
    view.evaluate("() => { window.heard = []; document.addEventListener('keydown', event => heard.push(event.key)); }")
    cell(view, 1, 1).click()
    view.keyboard.press("ArrowDown")
    view.keyboard.press("Escape")
    assert not view.locator(DIALOG).count()
    assert view.evaluate("() => heard") == []


@pytest.mark.one_gradio
def test_two_are_compared(view, grid) -> None:
    cell(view, 1, 1).click(modifiers=["Shift"])
    view.get_by_text("is picked for comparing").wait_for()
    cell(view, 2, 2).click(modifiers=["Shift"])
    dialog = view.locator(DIALOG)
    pictures = dialog.locator(".train-lora-grid-frame img")
    assert dialog.locator(".train-lora-grid-name").all_inner_texts()[0].endswith("Epoch 2, weight 0.5, prompt 1")
    until(view, "() => [...document.querySelectorAll('dialog img')].every(one => one.naturalWidth)")
    left, right = pictures.nth(0).bounding_box(), pictures.nth(1).bounding_box()
    assert left["x"] + left["width"] <= right["x"]
    assert (left["width"], left["height"]) == pytest.approx((right["width"], right["height"]))
    assert left["width"] == pytest.approx(left["height"])

    view.keyboard.press("b")
    assert pictures.nth(0).bounding_box() == pictures.nth(1).bounding_box()
    visible = "() => [...document.querySelectorAll('dialog img')].map(one => getComputedStyle(one).visibility)"
    assert view.evaluate(visible) == ["visible", "hidden"]
    view.keyboard.press("b")
    assert view.evaluate(visible) == ["hidden", "visible"]

    view.keyboard.press("w")
    stage = dialog.locator(".train-lora-grid-stage").bounding_box()
    view.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + 100)
    view.mouse.down()
    view.mouse.move(stage["x"] + stage["width"] / 4, stage["y"] + 100)
    view.mouse.up()
    assert float(dialog.get_by_role("slider").input_value()) == pytest.approx(25, abs=1)

    view.keyboard.press("1")
    view.keyboard.press("ArrowUp")
    view.keyboard.press("m")
    assert dialog.locator(".train-lora-grid-name").all_inner_texts()[0].endswith("Epoch 1, weight 0.5, prompt 1")
    wait_for_marks(view, grid, [[0, 1]])
    view.keyboard.press("Escape")
    assert not view.locator(DIALOG).count()
    assert not view.get_by_text("is picked for comparing").is_visible()


@pytest.mark.one_gradio
def test_two_large_pictures_are_compared_by_keys(view) -> None:
    cell(view, 1, 1).click()
    for key in ("c", "ArrowRight", "c"):
        view.keyboard.press(key)
    assert view.locator(DIALOG).count() == 1
    names = view.locator(f"{DIALOG} .train-lora-grid-name").all_inner_texts()
    assert [name.split("Epoch")[1] for name in names] == [" 2, weight 0.5, prompt 1", " 2, weight 1, prompt 1"]


@pytest.mark.one_gradio
def test_one_is_kept_the_others_moved_and_brought_back(view, grid) -> None:
    before = grid.files()
    cell(view, 2, 2).click()
    view.keyboard.press("u")
    dialog = view.locator(".train-lora-use")
    assert "hina-000003" in dialog.inner_text()
    text = dialog.get_by_role("textbox")
    assert text.input_value() == "hina"
    text.fill("hina, 1girl")
    dialog.get_by_role("checkbox").check()
    dialog.get_by_role("button", name="Use this").click()
    choice = view.locator(".train-lora-grid-choice")
    choice.get_by_text("hina-000003 at weight 1 is kept.").wait_for(timeout=10_000)
    assert not view.locator(DIALOG).count()
    assert "Written beside it: hina-000003.json, hina-000003.png." in choice.inner_text()
    assert "hina-000001.safetensors, hina-000002.safetensors" in choice.inner_text()
    card = json.loads((grid.loras / "hina-000003.json").read_text())
    assert (card["preferred weight"], card["activation text"]) == (1, "hina, 1girl")
    with Image.open(grid.loras / "hina-000003.png") as preview:
        assert preview.convert("RGB").getpixel((9, 9)) == (180, 240, 0)
    kept = {"hina-000003.safetensors", "hina-000003.json", "hina-000003.png"}
    assert grid.files() == kept | {f"{OTHERS}/hina-00000{epoch}.safetensors" for epoch in (1, 2)}

    view.reload()
    opened(view, grid)
    choice.get_by_role("button", name="Undo the moving").click()
    choice.get_by_text("Back in their folder: hina-000001.safetensors, hina-000002.safetensors.").wait_for()
    assert grid.files() == before | kept
    assert not choice.get_by_role("button", name="Undo the moving").count()


@pytest.mark.one_gradio
def test_what_is_kept_goes_on_to_the_prompt_and_the_blocks(view, grid) -> None:
    record.use(grid.job, 1, 1, 1)
    view.context.grant_permissions(["clipboard-read", "clipboard-write"])
    view.reload()
    opened(view, grid)
    view.evaluate(
        """() => document.addEventListener('train-lora:open-blocks', event => {
            window.blocks = event.detail;
            event.stopImmediatePropagation();  // the files of this grid are no real ones
        }, true)"""
    )
    choice = view.locator(".train-lora-grid-choice")
    choice.get_by_role("button", name="Copy prompt").click()
    choice.get_by_text("Copied:").wait_for()
    assert view.evaluate("() => navigator.clipboard.readText()") == f"{PROMPTS[1]} <lora:hina-000002:0.5>"
    assert not choice.get_by_role("button", name="Send to txt2img").count()
    choice.get_by_role("button", name="Tune blocks").click()
    assert view.evaluate("() => window.blocks") == {"job": grid.id, "row": 1, "column": 1, "page": 1}
    view.locator("#train_lora_step_blocks").wait_for(state="visible", timeout=10_000)


@pytest.mark.one_gradio
@pytest.mark.parametrize(("row", "column"), [(1, 0), (0, 1), (3, 1)], ids=["without the LoRA", "not drawn", "gone"])
def test_what_cannot_be_kept_is_not_offered(view, row, column) -> None:
    cell(view, row, column).click()
    button = view.locator(DIALOG).get_by_role("button", name="Use this")
    assert button.is_disabled()
    assert button.get_attribute("title")
    view.keyboard.press("u")
    assert view.locator(DIALOG).count() == 1


@pytest.mark.one_gradio
def test_prompts_side_by_side_scroll_together(fresh, grid) -> None:
    fresh.get_by_role("button", name="Side by side").click()
    slider = fresh.get_by_role("slider", name="Size of the pictures")
    slider.fill("600")
    scrolls = fresh.locator(".train-lora-grid-scroll")
    assert scrolls.count() == 2
    left, right = scrolls.nth(0).bounding_box(), scrolls.nth(1).bounding_box()
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    scrolls.nth(0).evaluate("e => e.scrollTo(120, 90)")
    until(fresh, "() => document.querySelectorAll('.train-lora-grid-scroll')[1].scrollLeft === 120")
    assert scrolls.nth(1).evaluate("e => e.scrollTop") == 90
    header = fresh.locator("#train_lora_grid_view thead th").first.bounding_box()
    assert header["y"] == pytest.approx(left["y"], abs=2)


@pytest.mark.one_gradio
def test_a_size_that_was_chosen_stays(fresh, grid) -> None:
    fresh.get_by_role("slider", name="Size of the pictures").fill("200")
    assert cell(fresh, 1, 1).bounding_box()["width"] == pytest.approx(200, abs=1)
    fresh.reload()
    opened(fresh, grid)
    assert cell(fresh, 1, 1).bounding_box()["width"] == pytest.approx(200, abs=1)


def test_a_finger_in_a_narrow_window(grid, new_page) -> None:
    page = opened(new_page(width=420, height=900, has_touch=True, is_mobile=True), grid)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 420
    cell(page, 1, 1).tap()
    dialog = page.locator(DIALOG)
    frame = dialog.locator(".train-lora-grid-frame")
    swipe = """(element, [from, to]) => {
      const finger = { pointerType: "touch", clientY: 300, bubbles: true };
      const send = (type, clientX) => element.dispatchEvent(new PointerEvent(type, { ...finger, clientX }));
      send("pointerdown", from);
      send("pointerup", to);
    }"""
    frame.evaluate(swipe, [300, 100])
    assert "Epoch 2, weight 1" in dialog.inner_text()
    for button in dialog.get_by_role("button").all():
        box = button.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 420
        assert box["y"] >= 0 and box["y"] + box["height"] <= 900
    dialog.get_by_role("button", name="Accept").tap()
    wait_for_marks(page, grid, [[1, 2]])
