"""A drawn grid's record: marks, the chosen cell, the WebUI's card, and files that are not where they were."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_train.errors import UserError
from lora_train.grid import files, record, sheet
from lora_train.grid.plan import OTHERS, Grid, series
from lora_train.grid.sheet import Cell, Sheet
from lora_train.network.kohya import write_lora


def lora(path: Path, value: float, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"lora_unet_x.lora_up.weight": torch.full((1, 1), value)}
    write_lora(path, state, {"ss_base_model_version": "sd_v1", **metadata}, torch.float16)
    return path


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """The LoRA folder with a run of three epochs, its last file, and another LoRA."""
    folder = tmp_path / "Lora"
    for epoch in (1, 2, 3):
        lora(folder / "猫, cat" / f"猫, cat-{epoch:06}.safetensors", epoch, ss_epoch=str(epoch))
    lora(folder / "猫, cat" / "猫, cat.safetensors", 3, ss_epoch="3")
    lora(folder / "猫, cat" / "猫, cat.v2.safetensors", 9)
    return folder


@pytest.fixture
def grid(loras: Path) -> Grid:
    return Grid(series(loras / "猫, cat", "猫, cat"), ("a cat", "a dog"), (0.0, 0.8), width=64, height=64)


@pytest.fixture
def job(grid: Grid, tmp_path: Path) -> Path:
    """A job's folder with the drawn grid; one cell has failed."""
    folder = tmp_path / "jobs" / "20260101-cat"
    folder.mkdir(parents=True)
    record.save(folder, grid, drawn(grid), name="猫, cat", checkpoint="model", band=[2, 3])
    return folder


def drawn(grid: Grid) -> Sheet:
    def cell(page: int, row: int, column: int) -> Image.Image | None:
        return None if (page, row, column) == (1, 2, 1) else Image.new("RGB", (64, 64), (80 * page, 80 * row, column))

    pages = []
    for number in range(len(grid.prompts)):
        cells = [[cell(number, row, column) for column in range(2)] for row in range(len(grid.loras))]
        pages.append(sheet.page(grid, number, cells))
    return Sheet(tuple(pages), ("one cell failed",))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_page_gets_rows_pages_and_what_is_missing(job: Path) -> None:
    told = record.describe(job)
    assert told is not None
    json.dumps(told)
    assert (told["id"], told["name"], told["checkpoint"], told["weights"]) == (job.name, "猫, cat", "model", (0.0, 0.8))
    assert [(row["label"], row["epoch"], row["in_band"], row["exists"]) for row in told["rows"]] == [
        ("epoch 1", 1, False, True),
        ("epoch 2", 2, True, True),
        ("epoch 3", 3, True, True),
    ]
    assert [page["prompt"] for page in told["pages"]] == ["a cat", "a dog"]
    assert told["pages"][1]["sheet"] == f"grids/{job.name}/pages/1/sheet.png"
    assert told["pages"][1]["cells"][2] == [f"grids/{job.name}/pages/1/cells/2/0.png", None]
    assert (told["errors"], told["marks"], told["choice"]) == (["one cell failed"], [], None)
    sheet_file, cell = record.sheet_path(job, 1), record.cell_path(job, 1, 0, 1)
    assert sheet_file and sheet_file.name == "grid-2.png"
    assert cell and cell.is_file()
    for place in ((1, 2, 1), (2, 0, 0), (0, -1, 0), (0, 0, 9)):
        assert record.cell_path(job, *place) is None
    assert record.sheet_path(job, -1) is None


def test_before_it_is_drawn_the_rows_are_known(grid: Grid, tmp_path: Path) -> None:
    assert record.describe(tmp_path) is None
    drawing = record.Drawing(tmp_path, grid)
    told = record.describe(tmp_path, "7")
    assert told is not None
    assert told["pages"][0] == {"prompt": "a cat", "sheet": None, "cells": [[None, None]] * 3}
    record.mark(tmp_path, 0, 1, True)
    drawing.finish(drawn(grid))
    kept = record.load(tmp_path)
    assert kept and kept.marks == [[0, 1]]


def test_cells_are_there_as_they_are_drawn(grid: Grid, tmp_path: Path) -> None:
    drawing = record.Drawing(tmp_path, grid, checkpoint="model")
    drawing.add(Cell(1, 2, 0, Image.new("RGB", (64, 64), (1, 2, 3)), "as the host writes it"))
    told = record.describe(tmp_path, "7")
    assert told is not None
    assert told["pages"][0]["cells"] == [[None, None]] * 3
    assert told["pages"][1]["cells"] == [[None, None]] * 2 + [["grids/7/pages/1/cells/2/0.png", None]]
    path = record.cell_path(tmp_path, 1, 2, 0)
    assert path
    with Image.open(path) as picture:
        assert picture.info["parameters"] == "as the host writes it"
    record.mark(tmp_path, 2, 0, True)
    drawing.add(Cell(1, 2, 1, Image.new("RGB", (64, 64))))
    written = path.stat().st_mtime_ns
    drawing.finish(drawn(grid))
    assert path.stat().st_mtime_ns == written  # not once more
    told = record.describe(tmp_path)
    assert told and told["marks"] == [[2, 0]]
    assert all(cell for page in told["pages"] for row in page["cells"] for cell in row)


def test_a_grid_that_is_broken_off_keeps_what_it_has(grid: Grid, tmp_path: Path) -> None:
    drawing = record.Drawing(tmp_path, grid, checkpoint="model")
    drawing.add(Cell(0, 0, 0, Image.new("RGB", (64, 64), (200, 0, 0))))
    drawing.add(Cell(0, 0, 1, Image.new("RGB", (64, 64), (0, 200, 0))))
    drawing.break_off()
    told = record.describe(tmp_path)
    assert told and [page["sheet"] is not None for page in told["pages"]] == [True, False]
    with Image.open(tmp_path / "grid.png") as sheet_:
        assert {(200, 0, 0), (0, 200, 0)} <= {colour for _, colour in sheet_.getcolors(1 << 20)}
    assert files.read_recipe(tmp_path / "grid.png").weights == grid.weights
    record.mark(tmp_path, 0, 0, True)
    record.use(tmp_path, 0, 1)

    again = record.Drawing(tmp_path, grid, checkpoint="model")
    told = record.describe(tmp_path)
    assert told and told["pages"][0]["cells"][0] == [f"grids/{tmp_path.name}/pages/0/cells/0/{n}.png" for n in (0, 1)]
    assert (told["marks"], told["choice"]["column"]) == ([[0, 0]], 1)
    nothing = [[None] * len(grid.weights)] * len(grid.loras)
    again.finish(Sheet(tuple(sheet.page(grid, number, nothing) for number in range(2)), ("interrupted",)))
    with Image.open(tmp_path / "grid.png") as sheet_:
        assert (0, 200, 0) in {colour for _, colour in sheet_.getcolors(1 << 20)}
    told = record.describe(tmp_path)
    assert told and told["pages"][0]["cells"][0][1] and told["errors"] == ["interrupted"]


def test_of_another_grid_in_the_same_folder_nothing_stays(job: Path, grid: Grid, loras: Path) -> None:
    record.mark(job, 0, 0, True)
    record.Drawing(job, replace(grid, seed=5))
    told = record.describe(job)
    assert told and (told["marks"], told["seed"]) == ([], 5)
    assert not any(cell for page in told["pages"] for row in page["cells"] for cell in row)
    assert told["pages"][0]["sheet"] is None
    record.save(job, replace(grid, seed=5), drawn(grid))
    lora(loras / "猫, cat" / "猫, cat-000001.safetensors", 50, ss_epoch="1")  # trained anew
    record.Drawing(job, replace(grid, seed=5))
    assert record.cell_path(job, 0, 0, 0) is None


def test_a_bare_grid_of_an_earlier_version_still_loads(job: Path, grid: Grid) -> None:
    old = json.loads(replace(grid, loras=(), prompts=()).to_json())
    old = {**{name: value for name, value in old.items() if name != "prompts"}, "prompt": "a cat"}
    (job / "grid.json").write_text(json.dumps(old), encoding="utf-8")
    found = record.load(job)
    assert found is not None
    assert [row.label for row in found.rows] == ["epoch 1", "epoch 2", "epoch 3"]
    assert found.cells[0][0] == ["grid/epoch-001_weight-0.00.png", "grid/epoch-001_weight-0.80.png"]
    (job / "grid.png").unlink()
    found = record.load(job)
    assert found and found.rows == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"grid": {}}', '{"grid": {"loras": [], "prompts": []}}'])
def test_a_damaged_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "grid.json").write_text(text)
    assert record.load(tmp_path) is None
    with pytest.raises(UserError, match="there is no grid"):
        record.mark(tmp_path, 0, 0, True)


def test_marks_come_and_go(job: Path) -> None:
    assert record.mark(job, 2, 1, True) == [[2, 1]]
    assert record.mark(job, 0, 1, True) == [[0, 1], [2, 1]]
    assert record.mark(job, 0, 1, True) == [[0, 1], [2, 1]]
    assert record.mark(job, 2, 1, False) == [[0, 1]]
    for row, column, where in ((3, 0, "row"), (-1, 0, "row"), (0, 2, "column"), (True, 0, "row"), ("0", 0, "row")):
        with pytest.raises(UserError) as caught:
            record.mark(job, row, column, True)
        assert caught.value.where == where


def test_marks_from_several_threads_are_all_kept(job: Path) -> None:
    places = [(row, column) for row in range(3) for column in range(2)]
    threads = [threading.Thread(target=record.mark, args=(job, *place, True)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = record.load(job)
    assert kept and kept.marks == [list(place) for place in places]


def test_using_a_cell_writes_what_the_webuis_card_reads(job: Path, loras: Path) -> None:
    """Keys and names: modules/ui_extra_networks_user_metadata.py, extensions-builtin/Lora/ui_edit_user_metadata.py."""
    card = loras / "猫, cat" / "猫, cat-000002.json"
    card.write_text('{"description": "mine", "notes": "n", "activation text": "old"}', encoding="utf-8")
    used = record.use(job, 1, 1, 1, activation_text=" 猫, red ", lora_dir=loras)
    assert json.loads(card.read_text(encoding="utf-8")) == {
        "description": "mine",
        "notes": "n",
        "activation text": "猫, red",
        "preferred weight": 0.8,
        "sd version": "SD1",
    }
    preview = card.with_suffix(".png")
    assert used == {
        "lora": str(card.with_suffix(".safetensors")),
        "weight": 0.8,
        "written": [str(card), str(preview)],
        "moved": [],
    }
    with Image.open(preview) as picture:
        assert picture.getpixel((0, 0)) == (80, 80, 1)
        assert "a dog <lora:猫, cat-000002:0.8>" in picture.info["parameters"]
    told = record.describe(job)
    assert told and told["choice"] == {"row": 1, "column": 1, "page": 1, "lora": used["lora"], "weight": 0.8}
    record.use(job, 1, 1)
    assert json.loads(card.read_text(encoding="utf-8"))["activation text"] == "猫, red"  # none was given


def test_the_others_go_into_a_folder_and_come_back(job: Path, loras: Path) -> None:
    run = loras / "猫, cat"
    (run / "猫, cat-000003.preview.png").touch()
    before = names(run)
    used = record.use(job, 1, 1, drop_others=True, lora_dir=loras, restricted=True)
    gone = {
        "猫, cat-000001.safetensors",
        "猫, cat-000003.safetensors",
        "猫, cat-000003.preview.png",
        "猫, cat.safetensors",
    }
    assert names(run / OTHERS) == gone == {Path(path).name for path in used["moved"]}
    assert "猫, cat.v2.safetensors" in names(run)
    told = record.describe(job)
    assert told and [row["exists"] for row in told["rows"]] == [True] * 3
    assert told["dropped"] == 4
    assert OTHERS in told["rows"][0]["lora"]

    assert len(record.undo_drop(job)) == 4
    assert names(run) == before | {"猫, cat-000002.json", "猫, cat-000002.png"}
    assert record.undo_drop(job) == []


def test_another_choice_brings_its_file_back_first(job: Path, loras: Path) -> None:
    run = loras / "猫, cat"
    record.use(job, 1, 1, drop_others=True)
    used = record.use(job, 2, 1, drop_others=True)
    assert used["lora"] == str(run / "猫, cat-000003.safetensors")
    assert {name for name in names(run) if name.endswith("safetensors")} == {
        "猫, cat-000003.safetensors",
        "猫, cat.v2.safetensors",
    }
    assert {"猫, cat-000002.safetensors", "猫, cat-000002.json", "猫, cat-000002.png"} < names(run / OTHERS)
    record.use(job, 2, 1)
    assert not (run / OTHERS).exists()


def test_a_new_training_of_that_name_is_not_overwritten_by_undoing(job: Path, loras: Path) -> None:
    run = loras / "猫, cat"
    record.use(job, 1, 1, drop_others=True)
    new = lora(run / "猫, cat-000001.safetensors", 50).read_bytes()
    with pytest.raises(UserError, match="there is a new file of this name"):
        record.undo_drop(job)
    assert (run / "猫, cat-000001.safetensors").read_bytes() == new
    assert names(run / OTHERS) == {"猫, cat-000001.safetensors"}  # the rest is back
    (run / "猫, cat-000001.safetensors").unlink()
    assert len(record.undo_drop(job)) == 1


def test_names_taken_in_the_folder_get_a_number(job: Path, loras: Path) -> None:
    run = loras / "猫, cat"
    lora(run / OTHERS / "猫, cat-000001.safetensors", 77)
    (run / "猫, cat-000001.json").write_text("{}")
    record.use(job, 1, 1, drop_others=True)
    assert {"猫, cat-000001.safetensors", "猫, cat-000001 (2).safetensors", "猫, cat-000001 (2).json"} < names(
        run / OTHERS
    )
    record.undo_drop(job)
    assert names(run / OTHERS) == {"猫, cat-000001.safetensors"}


def test_a_renamed_file_is_known_by_its_hash(job: Path, loras: Path) -> None:
    run = loras / "猫, cat"
    (run / "猫, cat-000002.safetensors").rename(run / "best.safetensors")
    told = record.describe(job)
    assert told and told["rows"][1]["lora"] == str(run / "best.safetensors")
    used = record.use(job, 1, 1)
    assert used["written"] == [str(run / "best.json"), str(run / "best.png")]


def test_a_file_that_is_gone_or_another_is_named(job: Path, loras: Path) -> None:
    path = loras / "猫, cat" / "猫, cat-000002.safetensors"
    path.unlink()
    told = record.describe(job)
    assert told and [row["exists"] for row in told["rows"]] == [True, False, True]
    with pytest.raises(UserError, match=r"cat-000002.*the file is gone"):
        record.use(job, 1, 1)
    lora(path, 5)  # trained anew under the same name
    with pytest.raises(UserError, match="not the one that was drawn"):
        record.use(job, 1, 1)
    assert not path.with_suffix(".json").exists()


def _no_weight(job: Path, loras: Path) -> None:
    record.use(job, 1, 0)


def _not_drawn(job: Path, loras: Path) -> None:
    record.use(job, 2, 1, 1)


def _no_page(job: Path, loras: Path) -> None:
    record.use(job, 1, 1, 2)


def _damaged_card(job: Path, loras: Path) -> None:
    (loras / "猫, cat" / "猫, cat-000002.json").write_text("{")
    record.use(job, 1, 1)


def _outside(job: Path, loras: Path) -> None:
    record.use(job, 1, 1, lora_dir=loras.parent / "elsewhere", restricted=True)


@pytest.mark.parametrize("attempt", [_no_weight, _not_drawn, _no_page, _damaged_card, _outside])
def test_what_cannot_be_used_changes_nothing(attempt: Callable[[Path, Path], None], job: Path, loras: Path) -> None:
    before = names(loras / "猫, cat")
    with pytest.raises(UserError):
        attempt(job, loras)
    assert names(loras / "猫, cat") - before <= {"猫, cat-000002.json"}
    told = record.describe(job)
    assert told and told["choice"] is None


def test_a_file_outside_of_the_lora_folder_is_copied_into_it(job: Path, loras: Path) -> None:
    home = loras.parent / "webui" / "Lora"
    used = record.use(job, 1, 1, lora_dir=home)
    assert names(home) == {"猫, cat-000002.safetensors", "猫, cat-000002.json", "猫, cat-000002.png"}
    assert used["lora"] == str(home / "猫, cat-000002.safetensors")
    assert record.use(job, 1, 1, lora_dir=home)["lora"] == used["lora"]
    lora(home / "猫, cat-000003.safetensors", 8)
    with pytest.raises(UserError, match="another file has this name"):
        record.use(job, 2, 1, lora_dir=home)


def test_a_move_that_fails_half_way_can_be_undone(job: Path, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, moved = loras / "猫, cat", []
    before = {name for name in names(run) if name.endswith("safetensors")}
    real = record._move

    def second_fails(source: Path, target: Path) -> None:
        if len(moved) == 1:
            raise PermissionError(13, "in use")
        moved.append(source)
        real(source, target)

    monkeypatch.setattr(record, "_move", second_fails)
    with pytest.raises(UserError, match="in use"):
        record.use(job, 1, 1, drop_others=True)
    monkeypatch.setattr(record, "_move", real)
    record.undo_drop(job)
    assert {name for name in names(run) if name.endswith("safetensors")} == before
