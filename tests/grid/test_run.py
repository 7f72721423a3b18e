"""Grids drawn for real on a narrow checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lora_train.errors import UserError
from lora_train.grid import cli
from lora_train.grid.files import read_recipe
from lora_train.grid.plan import Grid, series
from lora_train.grid.run import make, picture
from lora_train.model.load import StableDiffusion, load_model
from lora_train.network.kohya import read_lora
from lora_train.network.lora import LoraNetwork
from tests.support import Widths, checkpoint

from .conftest import write


@pytest.fixture
def grid(run_folder: Path) -> Grid:
    return Grid(series(run_folder, "hina"), "a thing", (0.0, 0.5, 1.0), seed=7, steps=2, width=64, height=64)


def test_every_cell_is_its_own_and_weight_0_is_the_checkpoints_picture(
    model: StableDiffusion, narrow: Path, grid: Grid
) -> None:
    told: list[tuple[int, int]] = []
    sheet = make(model, grid, lambda done, total: told.append((done, total)))
    base = picture(load_model(narrow), grid).tobytes()  # a model that never saw a LoRA

    assert [len(row) for row in sheet.cells] == [3, 3, 3]
    assert all(row[0].tobytes() == base for row in sheet.cells)
    assert len({cell.tobytes() for row in sheet.cells for cell in row}) == 1 + 3 * 2
    assert told == [(done, 9) for done in range(1, 10)]
    assert picture(model, grid).tobytes() == base  # nothing stays behind


def test_adapters_at_weight_0_change_nothing_either(model: StableDiffusion, grid: Grid) -> None:
    base = picture(model, grid)
    network = LoraNetwork.from_state(model, read_lora(grid.loras[0])[0])
    network.set_weight(0, 0)
    attached = picture(model, grid)
    network.remove()
    assert attached.tobytes() == base.tobytes()


def test_a_cell_does_not_depend_on_its_neighbours(model: StableDiffusion, grid: Grid) -> None:
    """Shared layers (epoch 2 after 1) and layers attached anew (3 after 2) give what each file gives alone."""
    together = make(model, replace(grid, weights=(0.8,)))
    for row, lora in enumerate(grid.loras):
        alone = make(model, replace(grid, loras=(lora,), weights=(0.8,)))
        assert alone.cells[0][0].tobytes() == together.cells[row][0].tobytes()


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
        make(load_model(narrow), replace(grid, loras=(*grid.loras, str(bad))), lambda done, total: told.append(done))
    assert not told


@pytest.mark.parametrize(
    "change",
    [{"sampler": "Nonesuch"}, {"width": 65}, {"height": 0}, {"steps": 0}, {"weights": ()}, {"loras": ()}],
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


def test_the_command_wants_a_png_and_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.png"):
        cli.run(argparse.Namespace(out=tmp_path / "sheet.jpg"))
    assert cli.weights("0.2, 1，2") == (0.2, 1.0, 2.0)
    with pytest.raises(argparse.ArgumentTypeError):
        cli.weights("0.2;1")
