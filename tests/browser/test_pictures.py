"""The step Pictures in a browser: from a folder to cuts and masks, and back; a table that holds thousands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ..studio.drawn import face, put, scene, tree

WAIT = 30_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Kohya's folders: six pictures, of which one is there twice and one is long; two have captions."""
    root = tmp_path / "my set <b>"
    for n in range(4):
        put(root / "3_cat ü" / f"{n}.png", scene(n, 160, 120), "a cat" if n < 2 else None)
    put(root / "3_cat ü" / "copy.png", scene(0, 160, 120))
    put(root / "1_bird" / "long.png", scene(9, 200, 100))
    return root


def value(page: Any, name: str) -> str:
    return page.locator(f"#train_lora_{name}").locator("input, textarea").first.input_value()


def name_folder(page: Any, folder: Path) -> None:
    page.locator("#train_lora_train_data_dir").locator("input, textarea").first.fill(str(folder))


def project_of(page: Any, folder: Path) -> None:
    name_folder(page, folder)
    page.locator(".train-lora-offer .train-lora-primary").click(timeout=WAIT)
    page.locator(".train-lora-project-open").wait_for(timeout=WAIT)


def shown(page: Any) -> list[str]:
    """Names of the pictures of the table, in their order."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll(".train-lora-picture:not([hidden])")].map((one) => {
          const [left, top] = one.style.transform.match(/[\\d.]+/g).map(Number);
          return { left, top, name: one.querySelector(".train-lora-picture-name").textContent };
        }).sort((a, b) => a.top - b.top || a.left - b.left).map((one) => one.name)"""
    )
    return found


def wait_for(page: Any, *names: str) -> None:
    """Until the table shows these pictures."""
    page.wait_for_function(
        """(names) => {
          const cells = document.querySelectorAll(".train-lora-picture:not([hidden]) .train-lora-picture-name");
          const told = [...cells].map((one) => one.textContent).sort();
          return JSON.stringify(told) === JSON.stringify([...names].sort());
        }""",
        arg=list(names),
        timeout=WAIT,
    )


def test_from_a_folder_to_cuts_and_masks_and_back(new_page: Any, folder: Path) -> None:
    before = tree(folder)
    page = new_page(1280, 1000)
    heard = "window.trainLora.onProject((project) => { window.heard = project; })"
    page.evaluate(f"() => {{ {heard} }}")
    project_of(page, folder)
    page.locator(".train-lora-chip", has_text="There twice").wait_for(timeout=WAIT)
    assert page.evaluate("window.heard.name") == "my set <b> project"
    assert page.evaluate("window.trainLora.project.image") == str(folder.parent / "my set <b> project" / "image")
    assert value(page, "train_data_dir") == str(folder)
    assert shown(page) == ["long.png", "0.png", "1.png", "2.png", "3.png", "copy.png"]
    page.locator(".train-lora-chip", has_text="There twice").click()
    wait_for(page, "0.png", "copy.png")
    page.locator(".train-lora-chip", has_text="There twice").click()
    page.get_by_placeholder("Find by name").fill("LONG")
    wait_for(page, "long.png")

    page.locator(".train-lora-picture-open:visible").first.click()  # one picture: two parts, of which one is dragged
    page.locator(".train-lora-cutbox").wait_for(timeout=WAIT)
    page.get_by_role("button", name="Split").click()
    page.locator(".train-lora-cutbox").nth(2).wait_for(timeout=WAIT)
    page.locator(".train-lora-boxrow button").last.click()
    corner = page.locator('.train-lora-cutbox[data-active="true"] [data-where="se"]').bounding_box()
    size = page.locator(".train-lora-box-size").nth(1).inner_text()
    page.mouse.move(corner["x"] + 11, corner["y"] + 11)
    page.mouse.down()
    page.mouse.move(corner["x"] - 120, corner["y"] - 90, steps=4)
    page.mouse.up()
    now = page.locator(".train-lora-box-size").nth(1).inner_text()
    wide, high = (int(side) for side in now.split(" × "))
    assert now != size and abs(wide - high) <= 1
    page.get_by_role("button", name="Look at it").click()
    page.locator(".train-lora-preview img").first.wait_for(timeout=WAIT)
    page.get_by_role("button", name="Make 2 pictures").click()
    made = folder.parent / "my set <b> project" / "image" / "1_bird"
    page.get_by_text("2 pictures made").wait_for(timeout=WAIT, state="attached")
    assert len(list(made.glob("long*.png"))) == 2

    page.get_by_role("tab", name="Mask").click()  # its mask, drawn
    place = page.locator(".train-lora-brush").bounding_box()
    page.mouse.move(place["x"] + 20, place["y"] + place["height"] / 2)
    page.mouse.down()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Save the mask").click()
    page.get_by_text("The mask is saved.").wait_for(timeout=WAIT)
    page.keyboard.press("Escape")
    masks = folder.parent / "my set <b> project" / "masks"
    assert [path.name for path in masks.rglob("*.png")] == ["long.png"]
    page.get_by_placeholder("Find by name").fill("")
    page.get_by_label("Train with the masks").check()
    page.get_by_text("7 pictures had no mask").wait_for(timeout=WAIT)

    page.locator(".train-lora-changes summary").click()
    changes = ".train-lora-changes li:not([data-undone=true])"
    while count := page.locator(changes).count():
        page.locator(f"{changes} button").first.click()
        page.wait_for_function(f"document.querySelectorAll('{changes}').length < {count}", timeout=WAIT)
    assert not list(masks.rglob("*.png")) and not list(made.rglob("*.png"))
    assert tree(folder) == before

    page.reload()  # the project is there again
    page.locator(".train-lora-project-open", has_text="my set <b> project").wait_for(timeout=2 * WAIT)


def test_many_are_cut_at_once_and_the_originals_left_out(new_page: Any, folder: Path) -> None:
    page = new_page(420, 900, color_scheme="dark", path="?__theme=dark")
    project_of(page, folder)
    page.locator(".train-lora-chip", has_text="There twice").wait_for(timeout=WAIT)
    page.locator(".train-lora-folder button", has_text="cat ü").first.click()
    page.get_by_role("button", name="Choose all").click()
    page.get_by_role("button", name="Cut …").click()
    page.get_by_role("radio", name="The middle", exact=True).check()
    page.get_by_role("radio", name="As it is", exact=True).check()
    page.locator(".train-lora-into input[type=text]").fill("whole cat")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.get_by_role("button", name="Make the pictures").click()
    page.get_by_text("5 pictures made").wait_for(timeout=WAIT)
    root = folder.parent / "my set <b> project"
    assert sorted(path.name for path in (root / "image" / "3_whole cat").glob("*.txt")) == ["0.txt", "1.txt"]
    page.locator(".train-lora-outcome").get_by_role("button", name="Leave out").click()
    page.wait_for_function("document.querySelector('.train-lora-folder[data-used=false]')", timeout=WAIT)
    page.wait_for_function(
        "document.querySelector('#train_lora_dataset_config :is(input, textarea)').value.endsWith('dataset.json')",
        timeout=WAIT,
    )
    assert value(page, "train_data_dir") == ""


def test_heads_are_cut_without_opencv_and_the_page_says_by_what(new_page: Any, tmp_path: Path) -> None:
    """Our own detector finds them; what is off says why."""
    put(tmp_path / "people" / "a.png", face(400, (200, 180), 160))
    page = new_page(1280, 900)
    project_of(page, tmp_path / "people")
    wait_for(page, "a.png")
    page.get_by_role("button", name="Choose all").click()
    page.get_by_role("button", name="Cut …").click()
    page.get_by_role("radio", name="Head", exact=True).check()
    page.get_by_text("Own detector").first.wait_for(state="attached", timeout=WAIT)
    cutout = page.get_by_role("checkbox", name="Take the background away")
    if cutout.is_disabled():
        assert "rembg" in cutout.locator("xpath=..").get_attribute("title")
    page.locator(".train-lora-into input[type=text]").fill("5_head")
    page.get_by_role("button", name="Make the pictures").click()
    page.get_by_text("1 picture made").or_(page.get_by_text("1 pictures made")).first.wait_for(timeout=WAIT)
    assert (tmp_path / "people project" / "image" / "5_head" / "a.png").is_file()
    page.locator(".train-lora-picture-open:visible").first.click()
    page.locator(".train-lora-cutbox").wait_for(timeout=WAIT)
    whole = page.locator(".train-lora-box-size").inner_text()
    page.get_by_role("button", name="Head", exact=True).click()
    page.wait_for_function("(was) => document.querySelector('.train-lora-box-size')?.textContent !== was", arg=whole)
    page.get_by_text("Faces found by: Own detector").or_(page.get_by_label("Faces found by")).first.wait_for()


def test_a_picture_opens_while_the_table_is_read_anew(new_page: Any, folder: Path) -> None:
    page = new_page(1280, 900)
    project_of(page, folder)
    wait_for(page, "long.png", "0.png", "1.png", "2.png", "3.png", "copy.png")
    page.evaluate(
        """() => {
          const { get } = trainLora;
          const later = (path) => new Promise((go) => setTimeout(go, path.includes("/page") ? 1500 : 0));
          trainLora.get = (path) => later(path).then(() => get(path));
        }"""
    )
    page.locator(".train-lora-chip", has_text="There twice").click()
    page.locator(".train-lora-picture-open:visible").first.click()
    page.locator(".train-lora-cutbox").wait_for(timeout=WAIT)


def test_thousands_need_few_elements(new_page: Any, tmp_path: Path) -> None:
    inner = tmp_path / "many" / "1_x"
    inner.mkdir(parents=True)
    one = put(tmp_path / "one.jpg", scene(0, 32, 32))
    for n in range(3000):
        os.link(one, inner / f"{n:04d}.jpg")
    page = new_page(1280, 1000)
    project_of(page, inner.parent)
    page.wait_for_function("document.querySelectorAll('.train-lora-picture:not([hidden])').length > 10", timeout=WAIT)
    page.evaluate("document.querySelector('.train-lora-pictures-scroll').scrollTop = 1e9")
    page.get_by_text("2999.jpg", exact=True).wait_for(timeout=WAIT)
    assert page.locator(".train-lora-picture").count() < 120
