"""The form covers the schema, and says its problems in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio")

import json
from html import unescape
from types import SimpleNamespace
from typing import Any

import gradio as gr
from PIL import Image

from lora_train import settings
from lora_train.errors import UserError, UserErrors
from lora_train.settings.presets import PRESETS
from lora_train.ui import fields, labels, tab, texts
from lora_train.ui.panels import blocks, captions, files, grid, pictures, training
from lora_train.ui.sums import INPUTS, reckon

from ..blocks import loras
from .conftest import EVIL, FakeManager

ROWS = settings.schema()
KEPT = ("Textbox", "Number", "Checkbox", "Dropdown", "Button", "Radio", "Slider")


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
    shown = [block.label for block in page.blocks.values() if type(block).__name__ in KEPT and block.label]
    assert sorted(shown) == sorted(set(shown))


def test_a_webui_does_not_freeze_the_defaults(page) -> None:
    kept = [b for b in page.blocks.values() if type(b).__name__ in KEPT]
    assert all(getattr(block, "do_not_save_to_config", False) for block in kept)


def test_what_a_field_shows_is_read_back_as_it_was() -> None:
    with gr.Blocks():
        for row in ROWS:
            first = labels.FIRST.get(row["name"], row["default"])
            held = fields.setting(row).value
            read, _ = settings.from_dict({row["name"]: fields.value_of(row, held)})
            value = getattr(read, row["name"])
            assert value == (float(first) if isinstance(value, float) else first), row["name"]


def test_labels_and_hints_name_only_settings_that_exist() -> None:
    names = {row["name"] for row in ROWS}
    assert {name for name in labels.LABELS if not name.startswith("grid.")} | set(labels.HINTS) <= names


def test_every_setting_stands_in_one_group() -> None:
    grouped = labels.groups([row["name"] for row in ROWS])
    assert sorted(name for names in grouped.values() for name in names) == sorted(row["name"] for row in ROWS)


def test_every_step_and_every_place_of_the_scripts_is_there(page) -> None:
    found = ids(page)
    assert [one for one in found if one.startswith("train_lora_step_")] == [
        f"train_lora_step_{title.lower()}" for title in tab.STEPS
    ]
    markup = " ".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.HTML))
    for place in ("checkpoint", "language", "packages_text", "live", "queue", "grid_view", "blocks_view"):
        assert f'<div id="train_lora_{place}"></div>' in markup
    assert '<div id="train_lora_pictures_view"></div>' in markup
    assert '<div id="train_lora_captions_view"></div>' in markup
    assert '<div id="train_lora_caption_studio"></div>' in markup


def test_the_page_knows_range_default_and_first_value_of_every_field() -> None:
    known = json.loads(unescape(fields.data().split('data-fields="')[1].split('"')[0]))
    assert known.keys() == {labels.element(row["name"]) for row in ROWS}
    assert known["train_lora_network_dim"]["low"] == 1
    assert known["train_lora_network_dim"]["default"] == known["train_lora_network_dim"]["first"] == 16
    assert known["train_lora_unet_lr"]["default"] == ""
    assert known["train_lora_unet_lr"]["first"] == "1e-4"
    assert known["train_lora_max_token_length"]["first"] == fields.AS_THE_MODEL


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_recipe_fills_in_its_fields_and_no_others(preset) -> None:
    names = [row["name"] for row in ROWS]
    shown = dict(zip(names, training.recipe_values(preset.name, names), strict=True))
    filled = {name: value for name, value in shown.items() if not isinstance(value, dict)}
    assert filled.keys() == preset.values.keys()
    known = fields.rows()
    read, _ = settings.from_dict({name: fields.value_of(known[name], value) for name, value in filled.items()})
    assert {name: getattr(read, name) for name in filled} == dict(preset.values)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_recipe_says_what_it_is_for(preset) -> None:
    assert labels.RECIPES[preset.name] in unescape(training.recipe_text(preset.name))
    assert len(labels.RECIPES[preset.name]) < 120


def test_one_field_goes_back_to_its_first_value_and_no_other() -> None:
    names = [row["name"] for row in ROWS]
    answers = dict(zip(names, training.reset_values("unet_lr", names), strict=True))
    assert answers.pop("unet_lr") == "1e-4"
    assert all(isinstance(answer, dict) for answer in answers.values())


HELD = dict(zip(fields.GRID, [True, " a \n\nb", "", "1", "band", 1, 20, 7, "Euler", "", ""], strict=True))


def test_without_the_tick_there_is_no_grid() -> None:
    assert fields.grid_values(HELD.values()) == {
        "prompts": ["a", "b"],
        "weights": "1",
        "epochs": "band",
        "seed": 1,
        "steps": 20,
        "cfg_scale": 7,
        "sampler": "Euler",
    }
    assert fields.grid_values({**HELD, "enabled": False}.values()) is None


def build_form(manager) -> tab.Form:
    with gr.Blocks():
        return tab.fill(manager)


def held_by(form: tab.Form) -> list:
    return [False, *(component.value for component in form.inputs())]


def test_start_hands_over_what_the_fields_hold(manager) -> None:
    form = build_form(manager)
    assert training._start(manager, form, held_by(form)) == ""
    values, drawn = manager.started[0][:2]
    assert values["output_name"] == "my-lora"
    assert drawn["sampler"] == "Euler"
    assert len(values) == len(ROWS)


def test_problems_are_all_there_and_escaped(manager) -> None:
    manager.problems = [UserError(f"bad {EVIL}", where="train_data_dir", remedy="Mend it"), UserError("x", where=EVIL)]
    form = build_form(manager)
    html = training._start(manager, form, held_by(form))
    assert "2 things have to be mended first" in html
    assert 'data-field="train_lora_train_data_dir"' in html
    assert "<img" not in html


def test_a_bug_is_told_without_a_traceback(manager, monkeypatch) -> None:
    monkeypatch.setattr(manager, "start", lambda *given, **more: 1 / 0)
    form = build_form(manager)
    html = training._start(manager, form, held_by(form))
    assert "ZeroDivisionError" in html
    assert "Traceback" not in html


# The sum


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for name, count in (("10_one", 3), (f"2_<b>{EVIL[5:8]}", 2)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (64, 64)).save(root / name / f"{number}.png")
            (root / name / f"{number}.txt").write_text("1girl, <i>hat</i>")
    return root


def summed(manager, wanted: int | None = None, **values):
    given = {**dict.fromkeys(INPUTS, ""), "cache_latents": True, **values}
    return reckon({name: value for name, value in given.items() if name in INPUTS}, manager.host, wanted)


def test_the_sum(folder: Path, manager) -> None:
    values = {"train_data_dir": str(folder), "train_batch_size": 3, "max_train_epochs": 10, "resolution": "64"}
    html = texts.arithmetic(summed(manager, **values))
    assert "(3 × 10 + 2 × 2) × 10 ÷ 3 = 120" in html  # 12 steps an epoch, the last one of one picture
    assert "<dt>Steps</dt><dd>120</dd>" in html
    assert "GiB" in html
    assert "<dd>1,600</dd>" in texts.arithmetic(summed(manager, **{**values, "max_train_epochs": ""}))


def test_the_sum_goes_backwards_too(folder: Path, manager) -> None:
    found = summed(manager, 680, train_data_dir=str(folder), max_train_epochs=10, resolution="64")
    html = texts.aimed(found, 680)
    assert "20 epochs make 680 steps" in html
    assert "<td>10</td><td><b>20</b></td>" in html
    assert texts.aimed(None, None) == ""
    assert "no pictures" in texts.aimed(None, 100)


def test_what_was_understood_of_the_pictures(folder: Path, manager) -> None:
    found = summed(manager, train_data_dir=str(folder), resolution="64")
    html = texts.pictures(found)
    assert "<td><span data-as-it-is>10_one</span></td><td>3</td><td>10</td><td>30</td>" in html
    assert "<td>64 × 64</td><td>34</td><td>34</td>" in html
    assert "<b>src" not in html


def test_the_sum_knows_regularisation_and_buckets(folder: Path, manager, tmp_path: Path) -> None:
    reg = tmp_path / "reg" / "1_thing"
    reg.mkdir(parents=True)
    Image.new("RGB", (64, 128)).save(reg / "0.png")
    values = {"train_data_dir": str(folder), "reg_data_dir": str(reg.parent), "max_train_epochs": 1}
    found = summed(manager, **values, enable_bucket=True, resolution="64", min_bucket_reso=64)
    assert "(3 × 10 + 2 × 2 + 34) × 1 ÷ 1 = 68" in texts.arithmetic(found)  # 34 regularisation pictures: balanced
    assert "train-lora-bars" not in texts.pictures(found)
    several = summed(manager, **values, enable_bucket=True, resolution="128", min_bucket_reso=64)
    assert "train-lora-bars" in texts.pictures(several)


@pytest.mark.parametrize("folder", ["", "  ", None, "/nowhere/at all", "\0", __file__])
def test_the_sum_without_pictures_says_so(folder, manager) -> None:
    found = summed(manager, train_data_dir=folder, max_train_epochs="x")
    for view in (texts.arithmetic, texts.pictures):
        assert "<dd>" not in view(found)
        assert view(found)


def test_new_pictures_are_seen(folder: Path, manager) -> None:
    values = {"train_data_dir": str(folder), "resolution": "64"}
    assert summed(manager, **values).plan.pictures == 5
    Image.new("RGB", (64, 64)).save(folder / "10_one" / "new.png")
    assert summed(manager, **values).plan.pictures == 6


def test_a_sentence_begins_with_a_capital_but_a_name_stays_as_it_is() -> None:
    assert texts.sentence("no captions") == "No captions"
    assert texts.sentence("portraits of mira: no captions") == "portraits of mira: no captions"


def test_errors_of_one_and_of_many() -> None:
    assert "This has to be mended first" in texts.errors(UserError("it is wrong", where="a/b.png"))
    assert "2 things" in texts.errors(UserErrors([UserError("a"), UserError("b")]))


def test_the_demo_fills_in_as_many_values_as_fields() -> None:
    names = [row["name"] for row in ROWS]
    assert len(pictures.demo_values(names)) == len(names) + 3


# Files of settings


NAMES = [row["name"] for row in ROWS]


def test_a_kohya_file_is_taken_over_and_says_what_is_not(tmp_path: Path) -> None:
    file = tmp_path / "kohya.toml"
    file.write_text(
        'pretrained_model_name_or_path = "/nowhere.safetensors"\nnetwork_dim = 32\nsdpa = true\n'
        'use_8bit_adam = true\nclip_skip = "two"\nnetwork_args = ["conv_dim=4"]\nnonsense = 3\n'
    )
    html, *shown = files.load(str(file), NAMES)
    values = dict(zip(NAMES, shown, strict=True))
    assert (values["network_dim"], values["optimizer_type"], values["conv_dim"]) == (32, "AdamW8bit", 4)
    assert values["network_alpha"] == "8"  # what the file doesn't name is at its default
    assert isinstance(values["train_data_dir"], dict)  # no change: it is this machine's
    for name in ("nonsense", "clip_skip", "sdpa", "pretrained_model_name_or_path"):
        assert f"<li><b>{name}</b>" in html
    assert "<code>network_dim</code>" in html


@pytest.mark.parametrize("text", ["", "not = [toml", '{"a": 1}', "nonsense = 1", 'network_args = ["x=1"]'])
def test_a_file_of_nothing_changes_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    html, *shown = files.load(str(file), NAMES)
    assert "train-lora-box" in html
    assert all(isinstance(one, dict) for one in shown)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    given = {
        "output_name": "ü x",
        "resolution": (512, 768),
        "unet_lr": 3e-5,
        "optimizer_args": ["a=1"],
        "flip_aug": True,
    }
    rows = fields.rows()
    held = [fields.shown(rows[name], given.get(name, rows[name]["default"])) for name in NAMES]
    problems, update = files.save(NAMES, held)
    assert problems == ""
    read, warnings = settings.load(update["value"])
    assert {name: getattr(read, name) for name in given} == given
    assert not warnings
    wrong = ["0" if name == "network_dim" else one for name, one in zip(NAMES, held, strict=True)]
    assert "train_lora_network_dim" in files.save(NAMES, wrong)[0]


# Captions, grid, blocks


def test_without_a_captioner_the_step_says_what_there_is(page) -> None:
    markup = " ".join(str(block.value) for block in page.blocks.values() if isinstance(block, gr.HTML))
    assert "This program has no captioner of its own." in markup
    assert {"train_lora_caption_trigger", "train_lora_caption_tagger", "train_lora_write_captions"} <= set(ids(page))


def test_captions_need_a_folder(manager) -> None:
    html = captions.told(lambda: captions._write(None, ["", "", ".txt", "deepbooru", "keep", "", ""], {}))
    assert 'data-field="train_lora_train_data_dir"' in html


def test_captions_of_a_project_of_several_folders_are_its_own(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    routes = SimpleNamespace(start=asked.append)
    file = tmp_path / "hina" / ".studio" / "dataset.json"
    captions._write(routes, ["", str(file), ".txt", "deepbooru", "keep", "", ""], {})  # type: ignore[arg-type]
    captions._write(routes, ["images", str(file), ".txt", "deepbooru", "keep", "", ""], {})  # type: ignore[arg-type]
    assert [one["folder"] for one in asked] == [str(tmp_path / "hina"), "images"]
    with pytest.raises(UserError, match="no folder is given"):
        captions._write(routes, ["", "mine.toml", ".txt", "deepbooru", "keep", "", ""], {})  # type: ignore[arg-type]


def test_a_grid_of_a_series_that_is_there(manager) -> None:
    lora_dir = manager.host.lora_dir()
    for number in (1, 2):
        (lora_dir / f"other-{number:06}.safetensors").touch()
    choices = grid._choices(manager)
    assert choices == ["other (2)"]
    drawing = list(HELD.values())[1:]
    assert grid._draw(manager, [choices[0], *drawing]) == ""
    (values,) = [given for what, given in manager.told if what == "start_grid"]
    assert [Path(lora).name for lora in values["loras"]] == ["other-000001.safetensors", "other-000002.safetensors"]
    assert values["prompts"] == ["a", "b"]
    assert "no series of loras is chosen" in grid._draw(manager, [None, *drawing]).lower()


def test_a_bake_writes_the_file_and_tells_its_error(manager) -> None:
    merges = blocks.Merges(manager)
    some = dict(list(loras.modules().items())[:4])
    loras.write(manager.host.lora_dir() / "one.safetensors", loras.state(some, rank=4))
    given = {"recipe": "one:0.5", "name": "half", "precision": "fp16", "limit": "exact", "most": "", "overwrite": False}
    html = blocks._bake(merges, *given.values(), "MINE:" + ",".join(["1"] * 17))
    assert (manager.host.lora_dir() / "half.safetensors").is_file()
    assert "Relative error" in html
    assert manager.host.refreshed
    again = blocks.told(lambda: blocks._bake(merges, *given.values(), ""))
    assert "there is a file of this name" in again.lower()
    wrong = {**given, "limit": "rank", "most": "many"}
    assert "is not a number" in blocks.told(lambda: blocks._bake(merges, *wrong.values(), ""))
    assert "no recipe is given" in blocks.told(lambda: blocks._bake(merges, "", *list(given.values())[1:], "")).lower()
