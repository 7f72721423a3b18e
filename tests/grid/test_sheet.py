"""The sheet's layout, and what is written with it. No model is needed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from lora_train.errors import UserError
from lora_train.grid import sheet as sheets
from lora_train.grid.files import RECIPE_KEY, cell_names, parameters, read_recipe, save
from lora_train.grid.plan import Grid, grid_from
from lora_train.grid.sheet import Sheet, wrap

LORAS = ("/runs/hina-000001.safetensors", "/runs/hina-000012.safetensors", "/runs/hina.safetensors")
GRID = Grid(LORAS, ("a girl, 花园",), (0.25, 1.0), negative_prompt="lowres", seed=3, width=64, height=64)
WEBUI_PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # infotext_utils.re_param


def drawn(grid: Grid) -> Sheet:
    cells = tuple(
        tuple(
            Image.new("RGB", (grid.width, grid.height), (90 * row, 60 * column, 200))
            for column, _ in enumerate(grid.weights)
        )
        for row, _ in enumerate(grid.loras)
    )
    return Sheet(tuple(sheets.page(grid, number, cells, "mini") for number in range(len(grid.prompts))))


def dark_below(picture: Image.Image, box: tuple[int, int, int, int]) -> bool:
    return picture.crop(box).convert("L").getextrema()[0] < 128


def test_small_cells_are_enlarged_by_a_whole_factor_and_all_are_there() -> None:
    sheet = drawn(GRID)
    colours = sheet.pages[0].picture.getcolors(1 << 20) or []
    assert sorted(count for count, _ in colours)[-7:-1] == [192 * 192] * 6


def test_rows_and_columns_are_labelled() -> None:
    layout = sheets._layout(GRID, GRID.prompt)
    picture = drawn(GRID).pages[0].picture
    for column in range(2):
        x, y = layout.corner(0, column)
        assert dark_below(picture, (x, y - 2 * layout.text, x + layout.cell[0], y - 2))
    for row in range(3):
        x, y = layout.corner(row, 0)
        assert dark_below(picture, (0, y, x - 2, y + layout.cell[1]))
    assert GRID.labels == ("epoch 1", "epoch 12", "hina")


def test_a_long_prompt_makes_the_sheet_higher_and_never_wider() -> None:
    short, long = drawn(GRID).pages[0].picture, drawn(replace(GRID, prompts=("masterpiece, " * 20,))).pages[0].picture
    assert long.width == short.width
    assert long.height > short.height
    endless = drawn(replace(GRID, prompts=("masterpiece, " * 2000,))).pages[0].picture
    assert endless.height < short.height + 500


@given(st.text(max_size=60), st.integers(60, 400))
@settings(max_examples=60, deadline=None)
def test_wrapping_loses_no_letter_and_keeps_to_the_width(text: str, width: int) -> None:
    lines = wrap(text, 18, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(sheets._width(line, 18) <= width for line in lines if len(line) > 1)


@pytest.mark.parametrize("prompt", ["", "一个女孩在花园里" * 20, "красный кот", "кот 😀 \t\n قط", "\x00"])
def test_any_script_can_be_drawn(prompt: str) -> None:
    assert drawn(replace(GRID, prompts=(prompt,))).pages[0].picture.width > 192


def test_without_a_scalable_font_the_sheet_is_still_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow before 10.1 on a system without fonts."""
    bitmap = (
        ImageFont.load_default_imagefont() if hasattr(ImageFont, "load_default_imagefont") else ImageFont.load_default()
    )
    monkeypatch.setattr(sheets, "_font", lambda size, script: bitmap)
    assert drawn(GRID).pages[0].picture.width > 2 * 192


def test_a_huge_grid_is_shrunk() -> None:
    grid = Grid(
        tuple(f"x-{n:06}.safetensors" for n in range(100)),
        ("p",),
        tuple(n / 10 for n in range(20)),
        width=1024,
        height=1024,
    )
    width, height = sheets._layout(grid, grid.prompt).size
    assert width * height < 1.3 * sheets._MAX_PIXELS


def test_the_recipe_comes_back_from_the_picture(tmp_path: Path) -> None:
    grid = replace(GRID, clip_skip=2, sampler="DPM++ 2M", cfg_scale=6.5)
    save(drawn(grid), grid, tmp_path / "sheet.png")
    assert read_recipe(tmp_path / "sheet.png") == replace(grid, loras=tuple(Path(lora).name for lora in LORAS))
    with Image.open(tmp_path / "sheet.png") as picture:
        assert "/runs" not in picture.info[RECIPE_KEY]
        assert picture.info["parameters"].startswith(
            "a girl, 花园\nNegative prompt: lowres\nSteps: 20, Sampler: DPM++ 2M"
        )


def test_files_lie_beside_the_sheet(tmp_path: Path) -> None:
    written = save(drawn(GRID), GRID, tmp_path / "sheet.png")
    folder = tmp_path / "sheet"
    assert written[0] == tmp_path / "sheet.png"
    assert (
        {path.name for path in folder.iterdir()}
        == {path.name for path in written[1:]}
        == {f"{row}_weight-{weight}.png" for row in ("epoch-001", "epoch-012", "hina") for weight in ("0.25", "1.00")}
    )


def test_each_prompt_has_its_sheet_and_its_folder(tmp_path: Path) -> None:
    grid = replace(GRID, prompts=("a girl", "a boy"))
    written = save(drawn(grid), grid, tmp_path / "sheet.png")
    assert written[:2] == [tmp_path / "sheet.png", tmp_path / "sheet-2.png"]
    assert len(list((tmp_path / "sheet").iterdir())) == len(list((tmp_path / "sheet-2").iterdir())) == 6
    for path, prompt in zip(written[:2], grid.prompts, strict=True):
        with Image.open(path) as picture:
            assert picture.info["parameters"].startswith(f"{prompt}\n")


def test_a_cell_that_was_not_drawn_says_so_and_has_no_file(tmp_path: Path) -> None:
    full = drawn(GRID).pages[0]
    cells = [list(row) for row in full.cells]
    cells[1][1] = None
    page = sheets.page(GRID, 0, cells, "mini", tuple(("a text",) * 2 for _ in cells))
    assert page.picture.size == full.picture.size
    layout = sheets._layout(GRID, GRID.prompt)
    x, y = layout.corner(1, 1)
    low, high = page.picture.crop((x, y, x + layout.cell[0], y + layout.cell[1])).convert("L").getextrema()
    assert low < 150 < 240 < high
    written = save(Sheet((page,)), GRID, tmp_path / "sheet.png")
    assert len(written) == 1 + 5
    with Image.open(written[1]) as cell:
        assert cell.info["parameters"] == "a text"  # what the host has written, where it has


def test_labels_are_as_high_as_a_tenth_of_a_small_cell() -> None:
    """A sheet of seven cells is about 1500 pixels wide, and seen on half as many."""
    assert sheets._layout(GRID, "x").text >= 192 / 10


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=6), st.lists(st.sampled_from(LORAS), min_size=1, max_size=4))
@settings(max_examples=50)
def test_cells_never_share_a_file(weights: list[float], loras: list[str]) -> None:
    names = [name for row in cell_names(replace(GRID, weights=tuple(weights), loras=tuple(loras))) for name in row]
    assert len(set(names)) == len(weights) * len(loras)


def test_the_webui_reads_a_cells_parameters() -> None:
    text = parameters(replace(GRID, clip_skip=2), Path(LORAS[1]), 0.8, 0, "any, thing")
    prompt, negative, last = text.split("\n")
    read = {
        name: json.loads(value) if value.startswith('"') else value for name, value in WEBUI_PARAMETER.findall(last)
    }
    assert prompt == "a girl, 花园 <lora:hina-000012:0.8>"
    assert negative == "Negative prompt: lowres"
    assert read == {
        "Steps": "20",
        "Sampler": "Euler",
        "CFG scale": "7",
        "Seed": "3",
        "Size": "64x64",
        "Model": "any, thing",
        "Clip skip": "2",
    }


@pytest.mark.parametrize(
    "recipe", [None, "{", "[]", "{}", '{"loras": 3, "prompt": "x"}', '{"loras": [], "weights": ["x"]}']
)
def test_a_picture_without_a_good_recipe_is_refused(tmp_path: Path, recipe: str | None) -> None:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    if recipe:
        chunks.add_text(RECIPE_KEY, recipe)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=chunks)
    with pytest.raises(UserError, match=r"x\.png"):
        read_recipe(tmp_path / "x.png")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no")
    for name in ("x.png", "missing.png"):
        with pytest.raises(UserError, match=name):
            read_recipe(tmp_path / name)


def test_a_later_versions_recipe_is_read(tmp_path: Path) -> None:
    assert grid_from({**json.loads(GRID.to_json()), "hires": True}).prompts == GRID.prompts


def test_an_earlier_versions_recipe_is_read() -> None:
    assert grid_from({"loras": ["a"], "prompt": "a cat", "weights": [1]}) == Grid(("a",), ("a cat",), (1.0,))
