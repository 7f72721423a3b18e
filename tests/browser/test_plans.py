"""The planners in a real browser: sorting by click, key and drag, the folders on disk, and a set that is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..studio.drawn import put, scene

WAIT = 30_000


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """Twelve tall pictures and three square ones, with captions."""
    for number in range(15):
        size = (300, 450) if number < 12 else (300, 300)
        put(tmp_path / "ink" / f"p{number:02}.png", scene(number, *size), caption=f"ink {number}")
    return tmp_path / "ink"


@pytest.fixture
def plan_page(_shared: Any) -> Iterator[Any]:
    """The shared page."""
    pages, page = _shared
    yield page
    bad, pages.bad = pages.bad, []
    assert not bad


def open_plan(page: Any, folder: Path, name: str) -> None:
    """The planner of that name for the pictures of a folder, which becomes a project."""
    page.evaluate("trainLora.step('pictures')")
    frame, tab = page.locator(".train-lora-pl-frame"), page.locator(f".train-lora-pl-tabs [data-plan={name}]")
    make = frame.get_by_role("button", name="Make a project of this folder")
    for _ in range(6):  # what was under way before may still put another folder into the field
        page.locator("#train_lora_train_data_dir").locator("input, textarea").first.fill(str(folder))
        if tab.get_attribute("aria-pressed") != "true":
            tab.click()
        page.wait_for_timeout(3000)
        if make.is_visible():
            break
    make.click(timeout=WAIT)
    frame.locator(f".train-lora-pl-pane[data-plan={name}]").wait_for(timeout=WAIT)


def lane(page: Any, name: str) -> Any:
    return page.locator(f".train-lora-pl-lane[data-class={name}] [data-picture]")


def drag(page: Any, what: Any, where: Any) -> None:
    where.scroll_into_view_if_needed()
    start, end = what.bounding_box(), where.bounding_box()
    page.mouse.move(start["x"] + 20, start["y"] + 30)
    page.mouse.down()
    page.mouse.move(start["x"] + 32, start["y"] + 40, steps=3)
    page.mouse.move(end["x"] + 60, end["y"] + 50, steps=6)
    page.mouse.up()


def images(folder: Path) -> dict[str, int]:
    return {path.name: len(list(path.glob("*.png"))) for path in folder.iterdir()}


def test_a_persons_steps_both_ways(plan_page: Any, style: Path) -> None:
    page = plan_page
    open_plan(page, style, "person")
    side = page.locator(".train-lora-pl-person .train-lora-pl-side")
    side.locator("strong", has_text="150 steps").wait_for(timeout=WAIT)  # 15 pictures, once, ten epochs
    side.get_by_label("Steps in all").fill("4500")
    side.locator("strong", has_text="4,500 steps").wait_for(timeout=WAIT)
    repeats = page.get_by_label("Repeats, ink", exact=True)
    assert repeats.input_value() == "30"
    repeats.fill("20")
    side.locator("strong", has_text="3,000 steps").wait_for(timeout=WAIT)
    side.get_by_role("button", name="Give the folders these repeats").click()
    side.locator(".train-lora-box[data-kind=ok]:visible").wait_for(timeout=WAIT)
    assert images(style.parent / "ink project" / "image") == {"20_ink": 15}


def test_a_style_is_sorted_written_and_taken_back(plan_page: Any, style: Path) -> None:
    page = plan_page
    open_plan(page, style, "style")
    page.locator("[data-picture]").nth(14).wait_for(timeout=WAIT)
    page.get_by_label("How faces are found").select_option("")  # these pictures have none
    page.get_by_role("button", name="Suggest classes and find variants").click()
    lane(page, "face").nth(2).wait_for(timeout=WAIT)
    assert (lane(page, "main").count(), lane(page, "face").count()) == (12, 3)
    rules = page.locator(".train-lora-pl-rules li[data-kept='true']")
    rules.nth(2).wait_for(timeout=WAIT)

    lane(page, "main").first.click()  # by click and button
    page.locator(".train-lora-pl-choose [data-class=full]").click()
    lane(page, "full").first.wait_for(timeout=WAIT)
    lane(page, "main").first.focus()  # by key
    page.keyboard.press("3")
    lane(page, "full").nth(1).wait_for(timeout=WAIT)
    assert page.evaluate("document.activeElement.closest('[data-class]').dataset.class") == "main"
    page.wait_for_timeout(1500)  # what else is loading may push the lanes about
    drag(page, lane(page, "main").first, page.locator(".train-lora-pl-lane[data-class=discard]"))
    lane(page, "discard").first.wait_for(timeout=WAIT)
    assert [lane(page, name).count() for name in ("main", "face", "full", "discard")] == [9, 3, 2, 1]
    page.keyboard.press("Escape")
    lane(page, "main").first.click()  # several at once, and variants
    lane(page, "main").nth(1).click(modifiers=["Shift"])
    page.get_by_role("button", name="Variants of one another").click()
    page.locator(".train-lora-pl-table tr[data-name=variants]").wait_for(timeout=WAIT)

    page.get_by_role("button", name="Write the folders").click()
    page.locator(".train-lora-pl-side .train-lora-box[data-kind=ok]:visible").wait_for(timeout=WAIT)
    image = style.parent / "ink project" / "image"
    written = images(image)
    assert sorted(name.partition("_")[2] for name in written) == ["face", "full", "main", "variants"]
    assert sorted(written.values()) == [2, 2, 3, 7]
    field = page.locator("#train_lora_train_data_dir").locator("input, textarea").first
    page.wait_for_function("field => field.value.endsWith('ink project')", arg=field.element_handle(), timeout=WAIT)
    epochs = page.locator("#train_lora_max_train_epochs").locator("input, textarea").first
    page.wait_for_function("field => field.value === '8'", arg=epochs.element_handle(), timeout=WAIT)

    lane(page, "discard").first.click()  # a change, not a duplicate
    page.locator(".train-lora-pl-choose [data-class=main]").click()
    page.get_by_role("button", name="Change the folders to this plan").click()
    page.locator(".train-lora-pl-side li", has_text="8 pictures").wait_for(timeout=WAIT)
    assert sum(images(image).values()) == 15
    page.locator(".train-lora-pl-side .train-lora-box").get_by_role("button", name="Undo").click()
    page.locator(".train-lora-box", has_text="as they were before").wait_for(timeout=WAIT)
    assert sum(images(image).values()) == 14
    assert len(list(style.glob("*.png"))) == 15


def test_a_regularisation_set_is_drawn(plan_page: Any, style: Path) -> None:
    page = plan_page
    open_plan(page, style, "sets")
    box = page.locator(".train-lora-pl-card-box").first
    page.wait_for_function("document.querySelector('.train-lora-pl-card-box .train-lora-primary').disabled === false")
    box.get_by_label("Pictures", exact=True).fill("2")
    box.locator("textarea").first.fill("1girl, {smile|hat}")
    box.locator("summary").click()
    box.get_by_label("Steps", exact=True).fill("1")
    box.get_by_role("button", name="Draw the set").click()
    page.locator(".train-lora-pl-set", has_text="2 of 2 pictures").wait_for(timeout=180_000)
    page.locator(".train-lora-pl-strip img").nth(1).wait_for(timeout=WAIT)
    folder = style.parent / "ink project" / "reg" / "1_ink"
    assert len(list(folder.glob("*.png"))) == len(list(folder.glob("*.txt"))) == 2


def test_an_answer_about_another_project_comes_too_late(plan_page: Any, style: Path, tmp_path: Path) -> None:
    page = plan_page
    open_plan(page, style, "sets")
    page.locator(".train-lora-pl-card-box").first.wait_for(timeout=WAIT)
    put(tmp_path / "loose" / "a.png", scene(1))
    page.evaluate(
        """() => {
            const get = (window.formerGet = trainLora.get);
            trainLora.get = async (...asked) => {
                const found = await get(...asked);
                if (String(asked[0]).endsWith("/made")) await new Promise((done) => setTimeout(done, 4000));
                return found;
            };
        }"""
    )
    page.evaluate("() => { trainLora.plans.refresh(); }")
    for _ in range(6):  # what was under way before may still put another folder into the field
        page.locator("#train_lora_train_data_dir").locator("input, textarea").first.fill(str(tmp_path / "loose"))
        page.wait_for_timeout(3000)
        if page.locator(".train-lora-pl-frame").get_by_text("loose holds pictures").first.is_visible():
            break
    page.locator(".train-lora-pl-frame").get_by_text("A plan needs a project").first.wait_for(timeout=WAIT)
    page.wait_for_timeout(4500)
    assert page.locator(".train-lora-pl-card-box .train-lora-primary").first.is_disabled()
    page.evaluate("() => { trainLora.get = formerGet; }")


def test_the_panels_fit_a_narrow_dark_window(new_page: Any, style: Path) -> None:
    page = new_page(width=420, path="?__theme=dark")
    open_plan(page, style, "style")
    for name in ("style", "person", "sets"):
        if name != "style":
            page.locator(f".train-lora-pl-tabs [data-plan={name}]").click()
        page.locator(
            f".train-lora-pl-pane[data-plan={name}] :is(.train-lora-pl-side, .train-lora-pl-card-box)"
        ).first.wait_for(timeout=WAIT)
        page.wait_for_timeout(400)
        assert page.evaluate("document.documentElement.scrollWidth") <= 420, name


def test_a_class_of_many_is_a_window_on_them(plan_page: Any, tmp_path: Path) -> None:
    """No more cards for 1,500 pictures than for 200; what is far down comes when one scrolls; all can be moved."""
    page, folder = plan_page, tmp_path / "many"
    folder.mkdir()
    for number in range(1500):
        (folder / f"p{number:04}.png").symlink_to(put(tmp_path / f"{number % 5}.png", scene(number % 5, 96, 96)))
    open_plan(page, folder, "style")
    cards, unsorted = page.locator("[data-picture]"), page.locator(".train-lora-pl-lane[data-class='']")
    unsorted.locator(".train-lora-count", has_text="1,500").wait_for(timeout=WAIT)
    cards.nth(20).wait_for(timeout=WAIT)
    assert cards.count() < 250
    rows = unsorted.locator(".train-lora-pl-cards")
    rows.evaluate("rows => { rows.scrollTop = rows.scrollHeight; }")
    last = page.locator("[data-picture][title^='p1499.png']")
    last.wait_for(timeout=WAIT)
    assert cards.count() < 250
    last.click()
    page.keyboard.press("Control+a")
    page.locator(".train-lora-pl-choose b", has_text="1,500 chosen").wait_for(timeout=WAIT)
    page.keyboard.press("1")
    page.locator(".train-lora-pl-lane[data-class=main] .train-lora-count", has_text="1,500").wait_for(timeout=WAIT)
    unsorted.wait_for(state="detached", timeout=WAIT)
    page.get_by_role("button", name="Undo").first.click()
    unsorted.locator(".train-lora-count", has_text="1,500").wait_for(timeout=WAIT)
    assert not list((tmp_path / "many project" / "image").iterdir())
