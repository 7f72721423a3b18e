"""The form covers the schema, and says its problems in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio")

from PIL import Image

from lora_train import settings
from lora_train.errors import UserError, UserErrors
from lora_train.settings.presets import PRESETS
from lora_train.ui import fields, labels, tab, texts

from .conftest import EVIL, FakeManager

ROWS = settings.schema()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return tab.build(FakeManager(tmp_path_factory.mktemp("job")))


def ids(page) -> list[str]:
    return [block.elem_id for block in page.blocks.values() if getattr(block, "elem_id", None)]


def test_every_setting_has_one_field_with_its_own_id(page) -> None:
    found = ids(page)
    for row in ROWS:
        assert found.count(labels.element(row["name"])) == 1
    assert len(found) == len(set(found))
    assert all(identifier.startswith("train_lora") for identifier in found)


def test_every_field_of_the_grid_has_one(page) -> None:
    found = ids(page)
    assert all(found.count(labels.element(f"grid.{name}")) == 1 for name in fields.GRID)


def test_no_two_fields_have_the_same_label(page) -> None:
    shown = [block.label for block in page.blocks.values() if getattr(block, "label", None) and block.elem_id]
    assert len(shown) == len(set(shown))


def test_a_webui_does_not_freeze_the_defaults(page) -> None:
    kept = [
        b for b in page.blocks.values() if type(b).__name__ in ("Textbox", "Number", "Checkbox", "Dropdown", "Button")
    ]
    assert all(getattr(block, "do_not_save_to_config", False) for block in kept)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_what_a_field_shows_is_read_back_as_it_was(row) -> None:
    first = labels.FIRST.get(row["name"], row["default"])
    held = fields.setting(row).value
    read, _ = settings.from_dict({row["name"]: fields.value_of(row, held)})
    value = getattr(read, row["name"])
    assert value == (float(first) if isinstance(value, float) else first)


def test_labels_and_hints_name_only_settings_that_exist() -> None:
    names = {row["name"] for row in ROWS}
    assert {name for name in labels.LABELS if not name.startswith("grid.")} | set(labels.HINTS) <= names


def test_every_setting_stands_in_one_group() -> None:
    grouped = labels.groups([row["name"] for row in ROWS])
    assert sorted(name for names in grouped.values() for name in names) == sorted(row["name"] for row in ROWS)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_recipe_fills_in_its_fields_and_no_others(preset) -> None:
    names = [row["name"] for row in ROWS]
    shown = dict(zip(names, tab.recipe_values(preset.name, names), strict=True))
    filled = {name: value for name, value in shown.items() if not isinstance(value, dict)}
    assert filled.keys() == preset.values.keys()
    known = fields.rows()
    read, _ = settings.from_dict({name: fields.value_of(known[name], value) for name, value in filled.items()})
    assert {name: getattr(read, name) for name in filled} == dict(preset.values)


def test_without_the_tick_there_is_no_grid() -> None:
    held = dict(zip(fields.GRID, [True, "", "", "1", 1, 20, 7, "Euler", "", ""], strict=True))
    assert fields.grid_values(held.values()) == {
        "weights": "1",
        "seed": 1,
        "steps": 20,
        "cfg_scale": 7,
        "sampler": "Euler",
    }
    assert fields.grid_values({**held, "enabled": False}.values()) is None


def test_start_hands_over_what_the_fields_hold(manager) -> None:
    form = build_form(manager)
    assert tab._start(manager, form, [component.value for component in form.inputs()]) == ""
    values, grid = manager.started[0]
    assert values["output_name"] == "my-lora"
    assert grid["sampler"] == "Euler"
    assert len(values) == len(ROWS)


def test_problems_are_all_there_and_escaped(manager) -> None:
    manager.problems = [UserError(f"bad {EVIL}", where="train_data_dir", remedy="Mend it"), UserError("x", where=EVIL)]
    form = build_form(manager)
    html = tab._start(manager, form, [component.value for component in form.inputs()])
    assert "2 things have to be mended first" in html
    assert 'data-field="train_lora_train_data_dir"' in html
    assert "<img" not in html


def test_a_bug_is_told_without_a_traceback(manager, monkeypatch) -> None:
    monkeypatch.setattr(manager, "start", lambda *given: 1 / 0)
    form = build_form(manager)
    html = tab._start(manager, form, [component.value for component in form.inputs()])
    assert "ZeroDivisionError" in html
    assert "Traceback" not in html


def build_form(manager) -> tab.Form:
    import gradio as gr

    form = tab.Form()
    with gr.Blocks():
        tab._pictures(form)
        tab._training(form)
        tab._grid(form)
        tab._more(form)
    return form


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for folder, count in (("10_one", 3), (f"2_<b>{EVIL[5:8]}", 2)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            Image.new("RGB", (64, 64)).save(tmp_path / folder / f"{number}.png")
    return tmp_path


def test_the_sum(pictures: Path) -> None:
    values = {"train_data_dir": str(pictures), "train_batch_size": 3, "max_train_epochs": 10, "resolution": "64"}
    html = texts.arithmetic(values)
    assert (
        "(3 × 10 + 2 × 2) × 10 epochs ÷ 3 = <b>120 steps</b>" in html
    )  # 12 steps an epoch, the last one of one picture
    assert "5 pictures in 2 folders" in html
    assert "<b>1,600 steps</b>" in texts.arithmetic({**values, "max_train_epochs": ""})
    assert "<b>src" not in html


def test_the_sum_knows_regularisation_and_buckets(pictures: Path, tmp_path_factory) -> None:
    reg = tmp_path_factory.mktemp("reg") / "1_thing"
    reg.mkdir()
    Image.new("RGB", (64, 128)).save(reg / "0.png")
    values = {"train_data_dir": str(pictures), "reg_data_dir": str(reg.parent), "max_train_epochs": 1}
    html = texts.arithmetic({**values, "enable_bucket": True, "resolution": "64", "min_bucket_reso": 64})
    assert "34 regularisation" in html  # 3 × 10 + 2 × 2, balanced
    assert "<b>68 steps</b>" in html


@pytest.mark.parametrize("folder", ["", "  ", None, "/nowhere/at all", "\0", __file__])
def test_the_sum_without_pictures_says_so(folder) -> None:
    html = texts.arithmetic({"train_data_dir": folder, "max_train_epochs": "x"})
    assert "steps</b>" not in html
    assert html


def test_errors_of_one_and_of_many() -> None:
    assert "This has to be mended first" in texts.errors(UserError("it is wrong", where="a/b.png"))
    assert "2 things" in texts.errors(UserErrors([UserError("a"), UserError("b")]))


def test_the_demo_fills_in_as_many_values_as_fields() -> None:
    names = [row["name"] for row in ROWS]
    assert len(tab.demo_values(names)) == len(names) + 3
