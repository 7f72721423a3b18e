"""The real page in a real browser: errors that can be read, and a training whose grid appears."""

from __future__ import annotations

import re
from typing import Any

from .conftest import SECONDS, open_step


def fill(page: Any, **values: str) -> None:
    for name, value in values.items():
        page.locator(f"#train_lora_{name}").locator("input, textarea").first.fill(value)


def state(page: Any) -> str:
    return page.evaluate("document.getElementById('train_lora').dataset.state")


def test_all_problems_are_told_at_once_and_marked(page, tmp_path) -> None:
    fill(page, train_data_dir=str(tmp_path))
    open_step(page, "Training")
    fill(page, output_name="a/b", unet_lr="much", resolution="100")
    page.wait_for_timeout(1000)
    page.click("#train_lora_start")
    errors = page.locator("#train_lora_errors").first
    errors.locator("li").first.wait_for(timeout=30_000)
    text = errors.inner_text()
    assert "Learning rate, UNet" in text
    assert "Traceback" not in text
    page.locator("#train_lora_unet_lr.train-lora-wrong").first.wait_for(timeout=15_000)
    assert state(page) == "idle"


def test_an_empty_folder_is_told(page, tmp_path) -> None:
    fill(page, train_data_dir=str(tmp_path))
    page.locator("#train_lora_step_pictures", has_text="The folder is empty").wait_for(timeout=30_000)


def test_a_training_from_the_first_field_to_the_grid(page, few_pictures, work) -> None:
    fill(page, train_data_dir=str(few_pictures))
    open_step(page, "Grid")
    fill(page, grid_weights="0, 1")
    page.locator("#train_lora_grid_more").locator("button, .label-wrap").first.click()
    fill(page, grid_steps="2")
    open_step(page, "Training")
    fill(page, output_name="first", max_train_epochs="2", resolution="64", network_dim="4", network_alpha="4")
    page.locator("#train_lora_step_training", has_text=re.compile(r"= 4\b")).wait_for(timeout=30_000)
    page.click("#train_lora_start")
    page.wait_for_function("document.getElementById('train_lora').dataset.running === 'true'", timeout=60_000)
    page.locator("#train_lora_live svg").first.wait_for(timeout=SECONDS * 1000)
    for width, below in ((1280, "arithmetic"), (420, "recipe")):  # what is under way comes first
        page.set_viewport_size({"width": width, "height": 1000})
        first, second = (page.locator(f"#train_lora_{name}").first.bounding_box() for name in ("live", below))
        assert first["y"] < second["y"]
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.wait_for_function("document.getElementById('train_lora').dataset.state === 'done'", timeout=SECONDS * 1000)
    assert "first-000002" in page.locator("#train_lora_live").inner_text()
    assert sorted(path.name for path in (work / "loras" / "first").glob("*.safetensors"))
    open_step(page, "Grid")
    picture = page.locator("#train_lora_grid_view img").first
    picture.wait_for(timeout=30_000)
    page.wait_for_function("document.querySelector('#train_lora_grid_view img').naturalWidth > 0", timeout=30_000)


def test_it_fits_a_narrow_window(page) -> None:
    for step in ("Pictures", "Captions", "Training", "Grid", "Blocks"):
        page.set_viewport_size({"width": 1000, "height": 900})
        open_step(page, step)
        page.set_viewport_size({"width": 420, "height": 900})
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 420, step


def test_the_checkpoint_is_chosen_by_its_name(page) -> None:
    """gradio 3 shows a choice's value, not its words."""
    shown = page.locator("#train_lora_checkpoint_choice input").first.input_value()
    assert shown
    assert "/" not in shown and "\\" not in shown
