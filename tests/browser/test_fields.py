"""What the page does with the fields by itself: marks, ways back, errors in their places, the search, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

from .conftest import open_step

WAIT = 15_000


def typed(page: Any, name: str, text: str) -> None:
    page.locator(f"#train_lora_{name}").first.locator("input, textarea").first.fill(text)


def wait(page: Any, condition: str) -> None:
    page.wait_for_function(condition, timeout=WAIT)


def value(name: str) -> str:
    return f"document.querySelector('#train_lora_{name} input, #train_lora_{name} textarea').value"


def test_a_changed_field_is_marked_and_goes_back(page: Any) -> None:
    open_step(page, "Training")
    typed(page, "network_dim", "64")
    page.locator("#train_lora_network_dim .train-lora-reset").click(timeout=WAIT)
    wait(page, f"{value('network_dim')} === '16'")
    wait(page, "!document.querySelector('#train_lora_network_dim.train-lora-changed')")


def test_a_recipe_fills_in_and_its_fold_counts_it(page: Any) -> None:
    open_step(page, "Training")
    page.get_by_text("Style", exact=True).first.click()
    wait(page, f"{value('optimizer_type')} === 'AdamW8bit'")
    wait(page, "document.querySelector('#train_lora_group_noise .train-lora-count').textContent.startsWith('1')")
    assert "drawing style" in page.locator("#train_lora_recipe_note").first.inner_text()
    page.locator("#train_lora_optimizer_type .train-lora-reset").click(timeout=WAIT)
    wait(page, f"{value('optimizer_type')} === 'AdamW'")


def test_an_error_stands_at_its_field_in_whatever_step(page: Any) -> None:
    open_step(page, "Training")
    page.click("#train_lora_start")
    error = page.locator("#train_lora_errors li[data-field='train_lora_train_data_dir']").first
    error.click(timeout=WAIT)
    page.locator("#train_lora_train_data_dir .train-lora-error").wait_for(timeout=WAIT)
    typed(page, "train_data_dir", "/somewhere")
    page.locator("#train_lora_train_data_dir .train-lora-error").wait_for(state="detached", timeout=WAIT)


def test_a_setting_is_found_wherever_it_stands(page: Any) -> None:
    open_step(page, "Training")
    typed(page, "find", "huber threshold")
    page.locator("#train_lora_huber_c").wait_for(timeout=WAIT)
    assert not page.locator("#train_lora_noise_offset").is_visible()
    assert not page.locator("#train_lora_group_validation").is_visible()
    typed(page, "find", "regularisation pictures folder")
    page.locator("#train_lora_found button").first.click(timeout=WAIT)
    page.locator("#train_lora_reg_data_dir").wait_for(timeout=WAIT)
    open_step(page, "Training")
    typed(page, "find", "")
    page.locator("#train_lora_group_validation").wait_for(timeout=WAIT)
    page.locator("#train_lora_huber_c").wait_for(state="hidden", timeout=WAIT)


def test_a_file_of_settings_fills_the_fields(page: Any, tmp_path: Path) -> None:
    file = tmp_path / "kohya.toml"
    file.write_text("network_dim = 32\nnonsense = 3\n")
    open_step(page, "Training")
    page.locator("#train_lora_settings_file .label-wrap").first.click()
    page.locator("#train_lora_load_settings input[type=file]").set_input_files(file)
    wait(page, f"{value('network_dim')} === '32'")
    assert "nonsense" in page.locator("#train_lora_loaded_settings").first.inner_text()


def test_the_installation_report_can_be_read(page: Any) -> None:
    page.locator("#train_lora_help .label-wrap").first.click()
    page.click("#train_lora_check")
    page.locator("#train_lora_report pre").wait_for(timeout=60_000)
    assert "Train LoRA" in page.locator("#train_lora_report pre").inner_text()


def test_a_step_that_is_opened_while_the_page_is_built_stays(new_page: Any) -> None:
    page = new_page()
    page.reload(wait_until="commit")
    page.locator(
        "#train_lora_steps button[role=tab], #train_lora_steps .tab-nav button", has_text="Grid"
    ).first.wait_for(state="attached", timeout=60_000)
    open_step(page, "Grid")
    wait(page, "document.querySelector('#train_lora_vae') !== null")
    page.wait_for_timeout(1000)
    assert page.locator("#train_lora_step_grid").is_visible()


def test_the_fields_in_front_need_no_scrolling(new_page: Any) -> None:
    page = new_page(height=900)
    open_step(page, "Training")
    for name in ("lr_scheduler", "unet_lr"):
        box = page.locator(f"#train_lora_{name}").first.bounding_box()
        assert box["y"] + box["height"] <= 900


def test_there_is_a_way_to_the_next_step(page: Any) -> None:
    for step in ("captions", "training"):
        page.locator(f".train-lora-next [data-step={step}]").click(timeout=WAIT)
        page.locator(f"#train_lora_step_{step}").wait_for(state="visible", timeout=WAIT)
    page.locator("#train_lora_arithmetic [data-step=pictures]").first.click(timeout=WAIT)
    page.locator("#train_lora_step_pictures").wait_for(state="visible", timeout=WAIT)
