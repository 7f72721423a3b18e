"""Grids drawn for real on a narrow checkpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from PIL import Image

from lora_train.errors import UserError
from lora_train.grid import cli
from lora_train.grid.files import read_recipe
from lora_train.grid.plan import Grid, series
from lora_train.grid.run import make, pictures
from lora_train.grid.sheet import Cell
from lora_train.model.load import StableDiffusion, load_model
from lora_train.network.kohya import read_lora
from lora_train.network.lora import LoraNetwork
from tests.support import Widths, checkpoint

from .conftest import write


@pytest.fixture
def grid(run_folder: Path) -> Grid:
    return Grid(series(run_folder, "hina"), ("a thing",), (0.0, 0.5, 1.0), seed=7, steps=2, width=64, height=64)


def test_every_cell_is_its_own_and_weight_0_is_the_checkpoints_picture(
    model: StableDiffusion, narrow: Path, grid: Grid
) -> None:
    told: list[tuple[int, int]] = []
    cells: list[Cell] = []

    def on_cell(done: int, total: int, cell: Cell | None) -> None:
        told.append((done, total))
        cells.extend([cell] if cell else [])

    sheet = make(model, grid, on_cell)
    [base] = [drawn.tobytes() for drawn in pictures(load_model(narrow), grid)]  # a model that never saw a LoRA

    [page] = sheet.pages
    assert [len(row) for row in page.cells] == [3, 3, 3]
    assert all(row[0].tobytes() == base for row in page.cells)
    assert len({cell.tobytes() for row in page.cells for cell in row}) == 1 + 3 * 2
    assert sheet.errors == ()
    assert told == [(done, 9) for done in range(1, 10)]
    assert [(cell.row, cell.column) for cell in cells] == [(row, column) for row in range(3) for column in range(3)]
    assert all(cell.picture is page.cells[cell.row][cell.column] for cell in cells)
    assert pictures(model, grid)[0].tobytes() == base  # nothing stays behind


def test_adapters_at_weight_0_change_nothing_either(model: StableDiffusion, grid: Grid) -> None:
    [base] = pictures(model, grid)
    network = LoraNetwork.from_state(model, read_lora(grid.loras[0])[0])
    network.set_weight(0, 0)
    [attached] = pictures(model, grid)
    network.remove()
    assert attached.tobytes() == base.tobytes()


def test_a_cell_does_not_depend_on_its_neighbours(model: StableDiffusion, grid: Grid) -> None:
    """Shared layers (epoch 2 after 1) and layers attached anew (3 after 2) give what each file gives alone."""
    together = make(model, replace(grid, weights=(0.8,)))
    for row, lora in enumerate(grid.loras):
        alone = make(model, replace(grid, loras=(lora,), weights=(0.8,)))
        assert alone.pages[0].cells[0][0].tobytes() == together.pages[0].cells[row][0].tobytes()


def _html(path: Path) -> None:
    path.write_text("<html>not found</html>")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _other_width(path: Path) -> None:
    other = checkpoint(path.with_name("other"), Widths(text=32, text_layers=2)).rename(path.with_name("o.safetensors"))
    write(path, load_model(other), rank=4, seed=1)


@pytest.mark.parametrize("damage", [_html, _cut, Path.unlink, _other_width])
def test_a_bad_lora_is_named_before_anything_is_drawn(
    damage: Callable[[Path], None], narrow: Path, grid: Grid, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(Path(grid.loras[0]).read_bytes())
    damage(bad)
    told: list[int] = []
    with pytest.raises(UserError, match=r"bad\.safetensors"):
        make(
            load_model(narrow),
            replace(grid, loras=(*grid.loras, str(bad))),
            lambda done, total, cell: told.append(done),
        )
    assert not told


@pytest.mark.parametrize(
    "change",
    [
        {"sampler": "Nonesuch"},
        {"width": 65},
        {"height": 0},
        {"steps": 0},
        {"weights": ()},
        {"loras": ()},
        {"prompts": ()},
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(model: StableDiffusion, grid: Grid, change: dict) -> None:
    with pytest.raises(UserError):
        make(model, replace(grid, **change))


def test_the_command_writes_the_sheet_and_its_cells(
    narrow: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser.add_subparsers())
    words = ["--name=hina", "--weights=0.5,1", "--steps=1", "--width=64", "--height=64"]
    places = ["--checkpoint", str(narrow), "--lora-dir", str(run_folder), "--out", str(tmp_path / "sheet.png")]
    args = parser.parse_args(["grid", *words, *places, "--prompt", "a thing"])

    assert cli.run(args) == 0
    assert str(tmp_path / "sheet.png") in capsys.readouterr().out
    assert len(list((tmp_path / "sheet").glob("epoch-00[123]_weight-*.png"))) == 6
    assert read_recipe(tmp_path / "sheet.png").weights == (0.5, 1.0)
    with Image.open(tmp_path / "sheet" / "epoch-003_weight-0.50.png") as cell:
        assert cell.size == (64, 64)
        assert "<lora:hina-000003:0.5>" in cell.info["parameters"]


def test_a_page_for_each_prompt_drawn_together_or_alone(model: StableDiffusion, grid: Grid) -> None:
    prompts = ("a thing", "another", "word " * 90 + "cat")
    grid = replace(grid, prompts=prompts, loras=grid.loras[:1], weights=(0.0, 1.0))
    told: list[tuple[int, int]] = []
    sheet = make(model, grid, lambda done, total, cell: told.append((done, total)))
    assert told == [(done, 6) for done in range(1, 7)]
    assert len({cell.tobytes() for page in sheet.pages for row in page.cells for cell in row}) == 6
    for prompt, page in zip(prompts, sheet.pages, strict=True):
        alone = make(model, replace(grid, prompts=(prompt,))).pages[0]
        for one, other in zip(alone.cells[0], page.cells[0], strict=True):
            assert numpy.abs(numpy.asarray(one, int) - numpy.asarray(other, int)).max() <= 1


def test_no_word_of_a_long_prompt_is_lost(model: StableDiffusion, grid: Grid) -> None:
    words = "word " * 90
    short, longer = (pictures(model, replace(grid, prompts=(words + end,)))[0].tobytes() for end in ("", "cat"))
    assert short != longer


def test_a_file_that_goes_away_leaves_its_row_empty(model: StableDiffusion, grid: Grid, tmp_path: Path) -> None:
    bad = tmp_path / "hina-000009.safetensors"
    bad.write_bytes(Path(grid.loras[0]).read_bytes())
    files = (grid.loras[0], str(bad), grid.loras[2])
    sheet = make(model, replace(grid, loras=files), lambda done, total, cell: bad.unlink(missing_ok=True))
    drawn = [[cell is not None for cell in row] for row in sheet.pages[0].cells]
    assert drawn == [[True] * 3, [True, False, False], [True] * 3]
    assert len(sheet.errors) == 1
    assert "hina-000009" in sheet.errors[0]


def test_stopping_leaves_the_model_bare(model: StableDiffusion, grid: Grid) -> None:
    def stop(done: int, total: int, cell: object) -> None:
        if done == 4:
            raise KeyboardInterrupt

    base = pictures(model, grid)[0].tobytes()
    with pytest.raises(KeyboardInterrupt):
        make(model, grid, stop)
    assert pictures(model, grid)[0].tobytes() == base


def test_the_command_draws_the_epochs_and_prompts_asked_for(narrow: Path, run_folder: Path, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser.add_subparsers())
    common = ["grid", "--checkpoint", str(narrow), "--lora-dir", str(run_folder), "--name=hina", "--weights=1"]
    common += ["--steps=1", "--width=64", "--height=64", "--prompt", "a thing", "--prompt", "another"]
    common += ["--out", str(tmp_path / "s.png")]
    events = tmp_path / "events.jsonl"
    bands = [None, [1, 3], [2, 3]]
    events.write_text("\n".join(json.dumps({"event": "validation", "band": band}) for band in bands))

    assert cli.run(parser.parse_args([*common, "--epochs", "band", "--events", str(events)])) == 0
    assert [Path(lora).stem for lora in read_recipe(tmp_path / "s-2.png").loras] == ["hina-000002", "hina-000003"]
    assert {path.name for path in (tmp_path / "s-2").iterdir()} == {
        "epoch-002_weight-1.00.png",
        "epoch-003_weight-1.00.png",
    }
    with Image.open(tmp_path / "s-2" / "epoch-002_weight-1.00.png") as cell:
        assert cell.info["parameters"].startswith("another <lora:hina-000002:1>")
    for words in (["--epochs", "band"], ["--epochs", "7"], ["--epochs=band", "--events", str(tmp_path)]):
        with pytest.raises(UserError):
            cli.run(parser.parse_args([*common, *words]))


def test_the_command_wants_a_png_and_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.png"):
        cli.run(argparse.Namespace(out=tmp_path / "sheet.jpg"))
    assert cli.weights("0.2, 1，2") == (0.2, 1.0, 2.0)
    with pytest.raises(argparse.ArgumentTypeError):
        cli.weights("0.2;1")
