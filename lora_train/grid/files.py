"""A grid on disk: the sheet with its recipe inside, and every cell with the text that the WebUI's PNG Info reads."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..errors import UserError
from ..files import replace_file
from ..header import read_header
from .plan import Grid, epoch_file, grid_from
from .sheet import Cell, Page, Sheet

RECIPE_KEY = "train-lora-grid"
_NOT_A_GRID = "Choose a picture that Train LoRA's grid has written"


def save(
    sheet: Sheet, grid: Grid, out: str | Path, model_name: str = "", there: Container[tuple[int, int, int]] = ()
) -> list[Path]:
    """Write the sheets to `out` (NAME.png, then NAME-2.png …) and the cells into the folders of their names.

    model_name: the checkpoint's name for the cells' text, where it is known. there: cells (page, row, column) that are
    written already. Returns all paths, the sheets first.
    """
    sheets, cells = sheet_paths(grid, out), cell_paths(grid, out)
    written = []
    for number, page in enumerate(sheet.pages):
        save_sheet(page, number, grid, out, model_name)
        for row, pictures in enumerate(page.cells):
            for column, cell in enumerate(pictures):
                if cell is not None:
                    path = cells[number][row][column]
                    if (number, row, column) not in there:
                        text = page.texts[row][column] if page.texts else ""
                        _write_cell(Cell(number, row, column, cell, text), grid, path, model_name)
                    written.append(path)
    return sheets[: len(sheet.pages)] + written


def save_sheet(page: Page, number: int, grid: Grid, out: str | Path, model_name: str = "") -> Path:
    """Write one page's sheet where `save` would; its path."""
    path = sheet_paths(grid, out)[number]
    texts = {"parameters": shared_parameters(grid, number, model_name), RECIPE_KEY: grid.to_json()}
    _write_png(page.picture, path, texts, compress_level=1)
    return path


def save_cell(cell: Cell, grid: Grid, out: str | Path, model_name: str = "") -> Path:
    """Write one cell where `save` would; its path."""
    path = cell_paths(grid, out)[cell.page][cell.row][cell.column]
    _write_cell(cell, grid, path, model_name)
    return path


def sheet_paths(grid: Grid, out: str | Path) -> list[Path]:
    """Where the sheet of each page lies."""
    out = Path(out)
    return [out if page == 0 else out.with_stem(f"{out.stem}-{page + 1}") for page in range(len(grid.prompts))]


def cell_paths(grid: Grid, out: str | Path) -> list[list[list[Path]]]:
    """Where the cells lie, page by page and row by row."""
    names = cell_names(grid)
    return [[[sheet.with_suffix("") / name for name in row] for row in names] for sheet in sheet_paths(grid, out)]


def cell_names(grid: Grid) -> list[list[str]]:
    """File names of the cells, row by row, such as epoch-003_weight-0.80.png; no two are the same."""
    rows = [_row_name(Path(lora)) for lora in grid.loras]
    if len(set(rows)) < len(rows):
        rows = [f"{index + 1:02}-{row}" for index, row in enumerate(rows)]
    columns = [f"{weight:.2f}" for weight in grid.weights]
    if len(set(columns)) < len(columns):
        columns = [f"{index + 1:02}-{weight:g}" for index, weight in enumerate(grid.weights)]
    return [[f"{row}_weight-{column}.png" for column in columns] for row in rows]


def parameters(grid: Grid, lora: Path, weight: float, page: int = 0, model_name: str = "") -> str:
    """A cell's generation parameters in the WebUI's own form, the LoRA's hash among them while its file is there."""
    digest = _lora_hash(lora)
    hashes = {"Lora hashes": json.dumps(f"{lora.stem}: {digest}", ensure_ascii=False)} if digest else {}
    return _infotext(grid, f"{grid.prompts[page]} <lora:{lora.stem}:{weight:g}>".strip(), model_name, hashes)


def shared_parameters(grid: Grid, page: int = 0, model_name: str = "") -> str:
    """The same for a sheet: what its cells share, without a LoRA."""
    return _infotext(grid, grid.prompts[page], model_name)


def read_recipe(png: str | Path) -> Grid:
    """The grid that a sheet was drawn from; LoRA files are named without their folder. Raises UserError."""
    png = Path(png)
    try:
        with Image.open(png) as picture:
            text = picture.info.get(RECIPE_KEY)
    except FileNotFoundError:
        raise UserError("there is no such file", where=png, remedy=_NOT_A_GRID) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise UserError("this is not a picture", where=png, remedy=_NOT_A_GRID) from None
    if text is None:
        raise UserError("the picture holds no grid's recipe", where=png, remedy=_NOT_A_GRID)
    try:
        return grid_from(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError("the recipe in the picture is damaged", where=png, remedy=_NOT_A_GRID) from None


def _infotext(grid: Grid, prompt: str, model_name: str, more: Mapping[str, str] = MappingProxyType({})) -> str:
    values: dict[str, object] = {"Steps": grid.steps, "Sampler": grid.sampler}
    if grid.sampler == "DPM++ 2M":
        values["Schedule type"] = "Karras"
    values |= {"CFG scale": f"{grid.cfg_scale:g}", "Seed": grid.seed, "Size": f"{grid.width}x{grid.height}"}
    if model_name:
        values["Model"] = _quoted(model_name)
    if grid.clip_skip and grid.clip_skip > 1:
        values["Clip skip"] = grid.clip_skip
    values |= more
    negative = [f"Negative prompt: {grid.negative_prompt}"] if grid.negative_prompt else []
    return "\n".join([prompt, *negative, ", ".join(f"{name}: {value}" for name, value in values.items())])


def _lora_hash(lora: Path) -> str | None:
    """The first 12 digits of sshs_model_hash, by which the WebUI and model sites know the file."""
    try:
        return read_header(lora, "LoRA").metadata.get("sshs_model_hash", "")[:12] or None
    except (UserError, OSError):
        return None


def _quoted(value: str) -> str:
    """The WebUI's rule: JSON quotes around what holds its own separators."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ",:\n") else value


def _write_cell(cell: Cell, grid: Grid, path: Path, model_name: str) -> None:
    lora, weight = Path(grid.loras[cell.row]), grid.weights[cell.column]
    text = cell.text or parameters(grid, lora, weight, cell.page, model_name)
    _write_png(cell.picture, path, {"parameters": text})


def _row_name(lora: Path) -> str:
    """A later look at the files must give the same, so that only the name counts."""
    file = epoch_file(lora)
    return f"epoch-{file.epoch:03}" if file.epoch is not None and not file.last else lora.stem.replace(" ", "-")


def _write_png(picture: Image.Image, path: Path, texts: dict[str, str], compress_level: int = 6) -> None:
    chunks = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    with replace_file(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=chunks, compress_level=compress_level)
