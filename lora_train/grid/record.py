"""What is known of a drawn grid: its plan, its pictures, marks and choice. grid.json in a job's folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ..card import copy_file, guarded, write_card, write_preview
from ..errors import UserError
from ..files import write_text
from ..header import read_header
from . import files
from .plan import OTHERS, Grid, epoch_file, grid_from, run_of
from .sheet import Cell, Sheet
from .sheet import page as labelled

T = TypeVar("T")

_FILE, _SHEET = "grid.json", "grid.png"
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_BESIDE = (".json", ".txt", ".civitai.info", *_IMAGES, *(f".preview{image}" for image in _IMAGES))
"""Endings of what belongs to a LoRA file: a card's text and its preview, as WebUIs and their helpers name them."""
_LOCK = threading.Lock()


@dataclass
class Row:
    """One LoRA file as it was when the grid was drawn. hash: its sshs_model_hash, where it has one."""

    lora: str
    label: str
    epoch: int | None = None
    hash: str = ""


@dataclass
class Record:
    """A grid, drawn or about to be. Pictures lie in its folder and are named relative to it; None: not drawn.

    band: first and last candidate epoch; marks: accepted cells as [row, column]; choice: row, column, page, lora and
    weight of the cell in use; dropped: [from, to] of each file that was moved out of the way.
    """

    grid: Grid
    rows: list[Row]
    name: str = ""
    checkpoint: str = ""
    band: list[int] | None = None
    sheets: list[str | None] = field(default_factory=list)
    cells: list[list[list[str | None]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    marks: list[list[int]] = field(default_factory=list)
    choice: dict[str, Any] | None = None
    dropped: list[list[str]] = field(default_factory=list)


class Drawing:
    """A grid while it is drawn: its cells are kept as they come, its sheets are written at the end.

    Drawn again in the same folder, the same grid of the same files keeps its pictures, marks and choice; of another one
    they go.
    """

    def __init__(
        self, folder: Path, grid: Grid, *, name: str = "", checkpoint: str = "", band: Sequence[int] | None = None
    ) -> None:
        """Write down what will be drawn. name, checkpoint: for people; band: first and last candidate epoch."""
        self._folder, self._grid, self._checkpoint = folder, grid, checkpoint
        self._there: set[tuple[int, int, int]] = set()
        with _LOCK:
            record, before = _new(grid, name, checkpoint, band), load(folder)
            if before and (before.grid, before.rows) == (grid, record.rows):
                record.marks, record.choice, record.dropped = before.marks, before.choice, before.dropped
            elif before:
                _remove_pictures(folder, before)
            _write(folder, record)

    def add(self, cell: Cell) -> None:
        """Keep a cell; it can be looked at from now on."""
        files.save_cell(cell, self._grid, self._folder / _SHEET, self._checkpoint)
        self._there.add((cell.page, cell.row, cell.column))

    def finish(self, sheet: Sheet) -> list[Path]:
        """Write the sheets (grid.png, grid-2.png …), what isn't there of the cells, and the record.

        Returns all pictures' paths, the sheets first.
        """
        written = files.save(sheet, self._grid, self._folder / _SHEET, self._checkpoint, self._there)
        if self._knows_more(sheet):
            self._draw_sheets()
        self._close(sheet.errors)
        return written

    def break_off(self) -> None:
        """It ends before its time: write the sheets of what is there, and the record."""
        self._draw_sheets()
        self._close(())

    def _knows_more(self, sheet: Sheet) -> bool:
        """Whether an earlier drawing came further."""
        paths = files.cell_paths(self._grid, self._folder / _SHEET)
        missing = (
            paths[number][row][column]
            for number, page in enumerate(sheet.pages)
            for row, cells in enumerate(page.cells)
            for column, cell in enumerate(cells)
            if cell is None
        )
        return any(path.is_file() for path in missing)

    def _draw_sheets(self) -> None:
        out = self._folder / _SHEET
        for number, rows in enumerate(files.cell_paths(self._grid, out)):
            cells = [[_opened(path) for path in row] for row in rows]
            if any(cell for row in cells for cell in row):
                sheet = labelled(self._grid, number, cells, self._checkpoint)
                files.save_sheet(sheet, number, self._grid, out, self._checkpoint)

    def _close(self, errors: Sequence[str]) -> None:
        with _LOCK:
            record = _existing(self._folder)
            record.errors = list(errors)
            _find_pictures(self._folder, record)
            _write(self._folder, record)


def save(
    folder: Path, grid: Grid, sheet: Sheet, *, name: str = "", checkpoint: str = "", band: Sequence[int] | None = None
) -> list[Path]:
    """Keep a grid that is drawn already; all pictures' paths, the sheets first."""
    return Drawing(folder, grid, name=name, checkpoint=checkpoint, band=band).finish(sheet)


def load(folder: Path) -> Record | None:
    """The record in a folder; None where there is none that can be read. A bare grid, as once written, is one too."""
    try:
        values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        if "grid" not in values:
            return _bare(folder, grid_from(values))
        record = Record(grid_from(values["grid"]), [Row(**row) for row in values["rows"]])
        for name in asdict(record).keys() - {"grid", "rows"}:
            setattr(record, name, values.get(name, getattr(record, name)))
        if not record.cells:  # it is being drawn, or was broken off
            _find_pictures(folder, record)
        return record
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def describe(folder: Path, job: str = "") -> dict[str, Any] | None:
    """The grid as the page wants it, ready for JSON; None where there is none. URLs are relative to the API's."""
    record = load(folder)
    if record is None:
        return None
    job = job or folder.name
    grid = asdict(record.grid)
    return {
        "id": job,
        "name": record.name,
        "checkpoint": record.checkpoint,
        **{name: value for name, value in grid.items() if name not in ("loras", "prompts")},
        "rows": [_row(row, record) for row in record.rows],
        "pages": [
            _page(folder, record, number, f"grids/{job}/pages/{number}") for number in range(len(grid["prompts"]))
        ],
        "errors": record.errors,
        "marks": record.marks,
        "choice": record.choice,
        "dropped": sum(Path(moved).is_file() for _, moved in record.dropped),
    }


def sheet_path(folder: Path, page: int) -> Path | None:
    """A page's sheet; None where there is none."""
    record = load(folder)
    return _there(folder, _at(record.sheets, page)) if record else None


def cell_path(folder: Path, page: int, row: int, column: int) -> Path | None:
    """A cell's picture; None where there is none."""
    record = load(folder)
    return _there(folder, _at(_at(_at(record.cells, page) or [], row) or [], column)) if record else None


def mark(folder: Path, row: int, column: int, accepted: bool) -> list[list[int]]:
    """Mark a LoRA at a weight as accepted, on all pages, or take the mark away; all marks. Raises UserError."""
    with _LOCK:
        record = _existing(folder)
        _check_place(record, row, column)
        others = [place for place in record.marks if place != [row, column]]
        record.marks = sorted([*others, [row, column]] if accepted else others)
        _write(folder, record)
        return record.marks


def use(
    folder: Path,
    row: int,
    column: int,
    page: int = 0,
    *,
    drop_others: bool = False,
    activation_text: str | None = None,
    lora_dir: Path | None = None,
    restricted: bool = False,
) -> dict[str, Any]:
    """Keep the LoRA of a cell: write its weight, activation text and the cell's picture where the WebUI's cards look.

    What else the card holds stays. A file outside of `lora_dir` is copied into it; restricted: it is refused.
    drop_others: the other files of its run go into a folder beside it, until undo_drop or the next use.
    Returns lora, weight, written and moved (paths). Raises UserError.
    """
    with _LOCK:
        record = _existing(folder)
        _check_place(record, row, column, page)
        weight = record.grid.weights[column]
        if weight == 0:
            raise UserError("this cell is drawn without the LoRA", where="column", remedy="Choose another weight")
        preview = _there(folder, _at(record.cells[page][row], column)) if record.cells else None
        if preview is None:
            raise UserError(
                "this cell's picture is missing", where="page", remedy="Choose another, or draw the grid again"
            )
        _require_inside(_located_or_raise(record, row), lora_dir if restricted else None)
        _bring_back(folder, record)
        lora = _into(_located_or_raise(record, row), lora_dir)
        written = [write_card(lora, weight, activation_text), write_preview(lora, preview)]
        moved = _drop(folder, record, lora) if drop_others else []
        record.choice = {"row": row, "column": column, "page": page, "lora": str(lora), "weight": weight}
        _write(folder, record)
        return {"lora": str(lora), "weight": weight, "written": [str(path) for path in written], "moved": moved}


def undo_drop(folder: Path, *, lora_dir: Path | None = None, restricted: bool = False) -> list[str]:
    """Move the files that `use` has dropped back; their paths. Raises UserError."""
    with _LOCK:
        record = _existing(folder)
        for was, _ in record.dropped:
            _require_inside(Path(was), lora_dir if restricted else None)
        return _bring_back(folder, record)


def _new(grid: Grid, name: str, checkpoint: str, band: Sequence[int] | None) -> Record:
    rows = []
    for lora in grid.loras:
        file = epoch_file(Path(lora).absolute())
        rows.append(Row(str(file.path), file.label, file.epoch, _hash(file.path)))
    name = name or (run_of(Path(grid.loras[0])) if grid.loras else "")
    return Record(grid, rows, name, checkpoint, list(band) if band else None)


def _bare(folder: Path, grid: Grid) -> Record:
    """A grid.json that holds the plan alone; the sheet knows which files were drawn."""
    try:
        grid = files.read_recipe(folder / _SHEET)
    except UserError:
        grid = grid if grid.loras else Grid(**{**asdict(grid), "loras": ()})
    record = _new(grid, "", "", None)
    _find_pictures(folder, record)
    return record


def _find_pictures(folder: Path, record: Record) -> None:
    def named(path: Path) -> str | None:
        return path.relative_to(folder).as_posix() if path.is_file() else None

    record.sheets = [named(path) for path in files.sheet_paths(record.grid, folder / _SHEET)]
    pages = files.cell_paths(record.grid, folder / _SHEET)
    record.cells = [[[named(path) for path in row] for row in rows] for rows in pages]


def _remove_pictures(folder: Path, record: Record) -> None:
    _find_pictures(folder, record)
    cells = [cell for rows in record.cells for row in rows for cell in row]
    for name in filter(None, [*record.sheets, *cells]):
        (folder / name).unlink(missing_ok=True)


def _opened(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError):
        return None


def _write(folder: Path, record: Record) -> None:
    write_text(folder / _FILE, json.dumps(asdict(record), indent=1, ensure_ascii=False))


def _existing(folder: Path) -> Record:
    record = load(folder)
    if record is None:
        raise UserError("there is no grid", where=folder.name, remedy="Draw one")
    return record


def _check_place(record: Record, row: int, column: int, page: int = 0) -> None:
    sizes: dict[str, tuple[Any, Sequence[Any]]]
    sizes = {"row": (row, record.rows), "column": (column, record.grid.weights), "page": (page, record.grid.prompts)}
    for where, (number, items) in sizes.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(items):
            raise UserError(
                f"the grid has no {where} {number!r}", where=where, remedy=f"There are {len(items)}, from 0"
            )


def _row(row: Row, record: Record) -> dict[str, Any]:
    found, band = _located(row), record.band
    return {
        "label": row.label,
        "epoch": row.epoch,
        "lora": str(found or row.lora),
        "in_band": bool(band and row.epoch is not None and band[0] <= row.epoch <= band[-1]),
        "exists": found is not None,
    }


def _page(folder: Path, record: Record, number: int, url: str) -> dict[str, Any]:
    cells = _at(record.cells, number) or [[None] * len(record.grid.weights)] * len(record.rows)
    return {
        "prompt": record.grid.prompts[number],
        "sheet": f"{url}/sheet.png" if _there(folder, _at(record.sheets, number)) else None,
        "cells": [
            [f"{url}/cells/{row}/{column}.png" if _there(folder, cell) else None for column, cell in enumerate(line)]
            for row, line in enumerate(cells)
        ],
    }


def _at(items: Sequence[T], number: int) -> T | None:
    return items[number] if 0 <= number < len(items) else None


def _there(folder: Path, name: str | None) -> Path | None:
    path = folder / name if name else None
    return path if path and path.is_file() else None


def _located(row: Row) -> Path | None:
    """Where a row's file is now: in its place, among the others of its run, or beside either under another name."""
    path = Path(row.lora)
    folders = [path.parent, path.parent / OTHERS, *([path.parent.parent] if path.parent.name == OTHERS else [])]
    for folder in folders:
        if _is(folder / path.name, row):
            return folder / path.name
    if row.hash:
        for folder in folders:
            for candidate in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
                if _is(candidate, row):
                    return candidate
    return None


def _is(path: Path, row: Row) -> bool:
    """Whether this is the file that was drawn, and no later one of its name."""
    return path.is_file() and (not row.hash or _hash(path) == row.hash)


def _located_or_raise(record: Record, row: int) -> Path:
    wanted = record.rows[row]
    found = _located(wanted)
    if found:
        return found
    if Path(wanted.lora).is_file():
        raise UserError("the file is not the one that was drawn", where=wanted.lora, remedy="Draw the grid again")
    raise UserError("the file is gone", where=wanted.lora, remedy="Put it back, or choose another epoch")


def _hash(path: Path) -> str:
    try:
        return read_header(path, "LoRA").metadata.get("sshs_model_hash", "")
    except (UserError, OSError):
        return ""


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _require_inside(path: Path, folder: Path | None) -> None:
    if folder is not None and not _inside(path, folder):
        remedy = "This WebUI is open to others: see --enable-insecure-extension-access"
        raise UserError("lies outside the LoRA folder", where=path, remedy=remedy)


def _into(lora: Path, lora_dir: Path | None) -> Path:
    """The file itself where the WebUI sees it, else a copy in its folder."""
    if lora_dir is None or _inside(lora, lora_dir):
        return lora
    copy = lora_dir / lora.name
    if copy.exists():
        if _hash(copy) and _hash(copy) == _hash(lora):
            return copy
        raise UserError("another file has this name", where=copy, remedy="Rename one of the two")
    guarded(partial(copy_file, lora, copy), copy)
    return copy


def _drop(folder: Path, record: Record, lora: Path) -> list[str]:
    """Move the other files of a LoRA's run, with what lies beside them, into a folder; where they are now.

    The moves are written down before they are made: a failure on the way can be undone.
    """
    others = [p for p in sorted(lora.parent.glob("*.safetensors")) if p != lora and run_of(p) == run_of(lora)]
    moves = [move for other in others for move in _moves(other, lora.parent / OTHERS)]
    record.dropped = moves
    _write(folder, record)
    for was, moved in moves:
        guarded(partial(_move, Path(was), Path(moved)), was)
    return [moved for _, moved in moves]


def _bring_back(folder: Path, record: Record) -> list[str]:
    """Move dropped files to where they were. Raises UserError, once all others are back, where a place is taken."""
    back, taken = [], []
    for was, moved in record.dropped:
        if not Path(moved).is_file():
            continue
        if Path(was).exists():
            taken.append([was, moved])
            continue
        guarded(partial(_move, Path(moved), Path(was)), moved)
        back.append(was)
    for other in {Path(moved).parent for _, moved in record.dropped}:
        if other.is_dir() and not any(other.iterdir()):
            other.rmdir()
    record.dropped = taken
    _write(folder, record)
    if taken:
        raise UserError(
            "there is a new file of this name", where=taken[0][0], remedy=f"The old one stays {taken[0][1]}"
        )
    return back


def _moves(lora: Path, folder: Path) -> list[list[str]]:
    """[from, to] of a LoRA file and of what lies beside it, under a name that is free for all of them."""
    endings = [lora.suffix, *(ending for ending in _BESIDE if lora.with_name(lora.stem + ending).is_file())]
    stems = (lora.stem, *(f"{lora.stem} ({number})" for number in range(2, 1000)))
    stem = next(stem for stem in stems if not any((folder / (stem + ending)).exists() for ending in endings))
    return [[str(lora.with_name(lora.stem + ending)), str(folder / (stem + ending))] for ending in endings]


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
