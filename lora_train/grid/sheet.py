"""The labelled sheet: weights along the top, LoRA files down the left, what they share above. Pillow only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .plan import Grid, run_of

Cells = Sequence[Sequence[Image.Image | None]]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

PAPER, INK, SOFT, RULE = (252, 252, 251), (28, 30, 34), (112, 116, 124), (222, 223, 226)
_LEGIBLE = 192
"""Smaller cells are enlarged by a whole factor to at least this many pixels wide."""
_MAX_PIXELS = 100_000_000
_MAX_PROMPT_LINES = 8
_NARROWEST = 640
_SMALLEST_TEXT = 22
"""Pixels: a sheet of seven small cells is seen at about half its size."""

_PLAIN_FONTS = ("DejaVuSans.ttf", "arial.ttf", "Arial.ttf", "Helvetica.ttc", "LiberationSans-Regular.ttf")
_WIDE_FONTS = (
    *("msyh.ttc", "simhei.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc", "NotoSansCJK-Regular.ttc"),
    *(
        "NotoSansCJKsc-Regular.otf",
        "wqy-microhei.ttc",
        "wqy-zenhei.ttc",
        "DroidSansFallbackFull.ttf",
        "Arial Unicode.ttf",
    ),
)


@dataclass(frozen=True)
class Cell:
    """A picture that has just been drawn. text: its generation parameters, where the host has written them itself."""

    page: int
    row: int
    column: int
    picture: Image.Image
    text: str = ""


OnCell = Callable[[int, int, Cell | None], None]
"""Called with (done, total, cell): cell is the picture that was drawn, None where only the numbers are told."""


@dataclass(frozen=True)
class Page:
    """One prompt's labelled sheet, and its cells row by row (one row a LoRA, one column a weight); None: not drawn.

    texts: the cells' generation parameters, where the host has written them itself.
    """

    picture: Image.Image
    cells: tuple[tuple[Image.Image | None, ...], ...]
    texts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Sheet:
    """A drawn grid: a page for each prompt, and for people why cells are missing."""

    pages: tuple[Page, ...]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Layout:
    """Where things go, in pixels."""

    cell: tuple[int, int]
    text: int
    left: int
    top: int
    size: tuple[int, int]
    header: tuple[str, ...]

    @property
    def gap(self) -> int:
        return max(6, self.text // 2)

    @property
    def margin(self) -> int:
        return self.text * 3 // 2

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """The upper left corner of a cell."""
        return self.left + column * (self.cell[0] + self.gap), self.top + row * (self.cell[1] + self.gap)


def page(grid: Grid, number: int, cells: Cells, model_name: str = "", texts: tuple[tuple[str, ...], ...] = ()) -> Page:
    """A page with its labelled sheet; cells[row][column]: a row for each LoRA, a column for each weight."""
    return Page(draw(grid, cells, title(grid, model_name), grid.prompts[number]), tuple(map(tuple, cells)), texts)


def draw(grid: Grid, cells: Cells, title: str, prompt: str) -> Image.Image:
    """A page whose cells are drawn: cells[row][column], a row for each LoRA, a column for each weight."""
    layout = _layout(grid, prompt)
    picture = Image.new("RGB", layout.size, PAPER)
    pen = ImageDraw.Draw(picture)
    _draw_header(pen, layout, title, settings_line(grid))
    _draw_labels(pen, layout, grid)
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            _draw_cell(picture, pen, layout, cell, layout.corner(row, column))
    return picture


def title(grid: Grid, model_name: str = "") -> str:
    """A sheet's first line: the run's name, and the checkpoint's where it is known."""
    run = run_of(Path(grid.loras[0])) if grid.loras else "grid"
    return f"{run} on {model_name}" if model_name else run


def settings_line(grid: Grid) -> str:
    """What all cells share besides the prompt, on one line."""
    parts = [
        f"seed {grid.seed}",
        grid.sampler,
        f"{grid.steps} steps",
        f"CFG {grid.cfg_scale:g}",
        f"{grid.width}x{grid.height}",
    ]
    return "  ·  ".join([*parts, f"clip skip {grid.clip_skip}"] if grid.clip_skip else parts)


def _layout(grid: Grid, prompt: str) -> _Layout:
    cell = _cell_size(grid)
    text = max(_SMALLEST_TEXT, min(44, cell[0] // 12))
    gap, margin = max(6, text // 2), text * 3 // 2
    labels = max(_width(label, text) for label in (*grid.labels, "weight"))
    left = margin + labels + text
    right = left + len(grid.weights) * (cell[0] + gap) - gap
    width = max(right + margin, _NARROWEST)
    header = _header_lines(grid, prompt, text, width - 2 * margin)
    top = margin + round(text * 1.5) + text // 2 + _line(text) * (len(header) + 1) + text + 2 * text
    bottom = top + len(grid.loras) * (cell[1] + gap) - gap
    return _Layout(cell, text, left, top, (width, bottom + margin), header)


def _cell_size(grid: Grid) -> tuple[int, int]:
    """Small cells grow by a whole factor; a grid of too many pixels shrinks."""
    factor = -(-_LEGIBLE // grid.width) if grid.width < _LEGIBLE else 1
    width, height = grid.width * factor, grid.height * factor
    pixels = width * height * len(grid.weights) * len(grid.loras)
    shrink = min(1.0, (_MAX_PIXELS / pixels) ** 0.5)
    return max(16, int(width * shrink)), max(16, int(height * shrink))


def _header_lines(grid: Grid, prompt: str, text: int, width: int) -> tuple[str, ...]:
    lines = wrap(prompt or "(no prompt)", text, width)
    if grid.negative_prompt:
        lines += wrap(f"negative: {grid.negative_prompt}", text, width)
    if len(lines) > _MAX_PROMPT_LINES:
        lines = [*lines[: _MAX_PROMPT_LINES - 1], lines[_MAX_PROMPT_LINES - 1][:-1] + "…"]
    return tuple(lines)


def _draw_header(pen: ImageDraw.ImageDraw, layout: _Layout, title: str, settings: str) -> None:
    x, y, large = layout.margin, layout.margin, round(layout.text * 1.5)
    _write(pen, (x, y + large), _cut(title, large, layout.size[0] - 2 * x), large, INK, "ls")
    y += large + layout.text // 2
    for line in layout.header:
        _write(pen, (x, y + layout.text), line, layout.text, INK, "ls")  # on one height whatever the font
        y += _line(layout.text)
    _write(pen, (x, y + layout.text), settings, layout.text, SOFT, "ls")
    y += _line(layout.text) + layout.text // 3
    pen.line([(x, y), (layout.size[0] - x, y)], fill=RULE, width=max(1, layout.text // 15))


def _draw_labels(pen: ImageDraw.ImageDraw, layout: _Layout, grid: Grid) -> None:
    end, above = layout.left - layout.text, layout.top - layout.text // 2
    _write(pen, (end, above), "weight", layout.text, SOFT, "rs")
    for column, weight in enumerate(grid.weights):
        middle = layout.corner(0, column)[0] + layout.cell[0] // 2
        _write(pen, (middle, above), f"{weight:g}", layout.text, INK, "ms")
    for row, label in enumerate(grid.labels):
        middle = layout.corner(row, 0)[1] + layout.cell[1] // 2
        _write(pen, (end, middle), label, layout.text, INK, "rm")


def _draw_cell(
    picture: Image.Image, pen: ImageDraw.ImageDraw, layout: _Layout, cell: Image.Image | None, corner: tuple[int, int]
) -> None:
    (x, y), (width, height) = corner, layout.cell
    if cell is None:
        _write(pen, (x + width // 2, y + height // 2), "not drawn", layout.text, SOFT, "mm")
    else:
        shown = cell.convert("RGB")
        if shown.size != layout.cell:
            grows = width > shown.width
            shown = shown.resize(layout.cell, Image.Resampling.BICUBIC if grows else Image.Resampling.LANCZOS)
        picture.paste(shown, corner)
    pen.rectangle([x - 1, y - 1, x + width, y + height], outline=RULE)


def wrap(text: str, size: int, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces, and inside words where one is longer than a line."""
    lines: list[str] = []
    for word in " ".join(text.split()).split(" "):
        if lines and _width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and _width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _cut(text: str, size: int, width: int) -> str:
    lines = wrap(text, size, width)
    return lines[0] if len(lines) == 1 else lines[0][:-1] + "…"


def _line(text: int) -> int:
    return round(text * 1.45)


def _width(text: str, size: int) -> int:
    font = _font_for(text, size)
    return round(font.getlength(_drawable(text, font)))


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    anchor: str = "la",
) -> None:
    """Text at a point; anchors as in Pillow, also for fonts that know none."""
    font = _font_for(text, size)
    text = _drawable(text, font)
    if isinstance(font, ImageFont.FreeTypeFont):
        pen.text(at, text, font=font, fill=colour, anchor=anchor)
        return
    x_part, y_part = {"l": 0.0, "m": 0.5, "r": 1.0}, {"a": 0.0, "m": 0.5, "s": 1.0}
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    pen.text(
        (at[0] - (right - left) * x_part[anchor[0]], at[1] - (bottom - top) * y_part[anchor[1]]),
        text,
        font=font,
        fill=colour,
    )


def _drawable(text: str, font: Font) -> str:
    """Pillow's bitmap font fails on anything outside Latin-1."""
    return text if isinstance(font, ImageFont.FreeTypeFont) else text.encode("latin-1", "replace").decode("latin-1")


def _font_for(text: str, size: int) -> Font:
    return _font(size, _script(text))


def _script(text: str) -> str:
    """'east' where Chinese, Japanese or Korean is in it, 'other' where it goes beyond Latin letters, else 'latin'."""
    largest = max((ord(letter) for letter in text.replace("…", "")), default=0)
    return "east" if largest > 0x2E7F else "other" if largest > 0x24F else "latin"


@lru_cache(maxsize=32)
def _font(size: int, script: str) -> Font:
    """Pillow's own scalable font, which has Latin letters; the system's fonts for the rest, and for an old Pillow."""
    names = {"east": (*_WIDE_FONTS, *_PLAIN_FONTS), "other": _PLAIN_FONTS, "latin": ()}[script]
    found = _first_font(names, size)
    if found:
        return found
    try:
        return ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1
        return _first_font(_PLAIN_FONTS, size) or ImageFont.load_default()


def _first_font(names: Sequence[str], size: int) -> ImageFont.FreeTypeFont | None:
    for name in names:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None
