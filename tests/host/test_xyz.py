"""Grids by the WebUI's X/Y/Z plot, against stand-ins; tests/webui draws real ones."""

from __future__ import annotations

import csv
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from lora_train.errors import UserError
from lora_train.grid.plan import Grid
from lora_train.grid.sheet import Cell
from lora_train.host.webui import WebUIHost, xyz
from lora_train.network.kohya import write_lora


def grid(prompt: str, **more: Any) -> Grid:
    return Grid(**{"loras": ("cat-000001.safetensors", "cat-000002.safetensors"), "prompts": (prompt,), **more})


def lora(path: Path) -> str:
    write_lora(path, {"lora_unet_x.lora_up.weight": torch.zeros(1, 1)}, {}, torch.float16)
    return str(path)


@pytest.mark.parametrize(
    ("names", "prompt", "weights"),
    [
        (["cat-000001", "cat-000002"], "a cat", (0.2, 1.0)),
        (["cat", "cat2"], "a cat", (0.2, 1.0)),
        (["lora", "o"], "a lora in a photo", (0.0, 0.5)),
        (["a-1", "a-2"], "1 girl, (hat:1), <lora:other:1>", (1.0, 0.5, -0.25)),
        (["a-0.2", "b"], "(hat:0.2) <lora:x:0.2>", (0.2, 1.0)),
        (["a, b", "c"], "x", (0.2, 1.0)),
        (["一只 猫-000001", "一只 猫-000002"], "一只 猫", (0.5, 1.0)),
    ],
)
def test_every_cell_has_its_lora_and_weight_and_the_users_words(
    names: list[str], prompt: str, weights: tuple[float, ...]
) -> None:
    plan = xyz.axes(grid(prompt, weights=weights), prompt, names)
    made = plan.cell_prompts()
    wanted = [(name, weight) for name in names for weight in weights]
    for text, (name, weight) in zip(made, wanted, strict=True):
        words, _, tag = text.rpartition(" <lora:")
        assert words == prompt
        assert tag.startswith(f"{name}:")
        assert float(tag[len(name) + 1 : -1]) == weight


def test_plain_texts_where_nothing_is_ambiguous() -> None:
    plan = xyz.axes(grid("", weights=(0.2, 1.0)), "a cat", ["cat-000001", "cat-000002"])
    assert (plan.names, plan.weights) == (["cat-000001", "cat-000002"], ["0.2", "1"])


def test_a_prompt_that_names_the_lora_is_refused() -> None:
    with pytest.raises(UserError, match="names this LoRA already"):
        xyz.axes(grid(""), "<lora:cat:1>", ["cat"])


def test_values_with_commas_and_quotes() -> None:
    assert xyz.values(["a, b", 'say "x"', "c"]) == '"a, b","say ""x""",c'


def test_spaces_around_a_name_are_not_left_to_the_plot() -> None:
    """It strips its values."""
    plan = xyz.axes(grid("", weights=(1.0,)), "x", [" a", "b "])
    assert plan.names == ["<lora: a:", "<lora:b :"]


class Plot:
    """A1111's X/Y/Z plot: Prompt S/R on two axes, rows outside; a picture's colour is its row and column."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.current_axis_options = [SimpleNamespace(label=label) for label in ("Nothing", "Seed", "Prompt S/R")]
        self.calls: list[SimpleNamespace] = []
        self.fails: set[str] = set()
        self.unapplied: set[str] = set()
        self.before_cell: Callable[[int], None] = lambda number: None
        self.after_cell: Callable[[int], None] = lambda number: None
        self.comments = ""

    def title(self) -> str:
        return "X/Y/Z plot"

    def run(
        self, p: Any, x_type: int, x_values: str, y_type: int, y_values: str, include_lone_images: bool, new: bool
    ) -> Any:
        assert include_lone_images
        assert not new
        assert (x_type, y_type) == (2, 2)
        xs, ys = (list(map(str.strip, next(csv.reader([values])))) for values in (x_values, y_values))
        self.calls.append(SimpleNamespace(p=p, xs=xs, ys=ys))
        pictures: list[Any] = []
        texts: list[str | None] = []
        for number, (row, column) in enumerate((row, column) for row in range(len(ys)) for column in range(len(xs))):
            self.before_cell(number + len(xs) * len(ys) * (len(self.calls) - 1))
            assert xs[0] in p.prompt
            assert ys[0] in p.prompt
            prompt = p.prompt.replace(xs[0], xs[column]).replace(ys[0], ys[row])
            stopped = self.state.interrupted or self.state.stopping_generation
            drawn = not stopped and not any(part in prompt for part in self.fails)
            names = [tag.replace(",", "") for tag in re.findall("<lora:([^:]+):", prompt)]
            found = [f"{name}: 12ab" for name in names if not any(part in name for part in self.unapplied)]
            hashes = f', Lora hashes: "{", ".join(found)}"' if found else ""
            pictures.append(Image.new("RGB", (8, 8), (row, column, len(self.calls))))
            bare = re.sub("<lora:[^>]+>", "", prompt)  # as where no always-on scripts run
            texts.append(f"{bare}\nSteps: 3{hashes}" if drawn else None)
            self.state.job_no += 1
            if not stopped and drawn:
                self.after_cell(number + len(xs) * len(ys) * (len(self.calls) - 1))
                its = SimpleNamespace(prompt=prompt, script_args=p.script_args)
                p.scripts.postprocess(its, SimpleNamespace(images=pictures[-1:], infotexts=texts[-1:]))
        pictures.insert(0, Image.new("RGB", (16, 16)))
        return SimpleNamespace(images=pictures, infotexts=[texts[0], *texts], comments=self.comments)


@pytest.fixture
def plot(webui: SimpleNamespace) -> Plot:
    made = Plot(webui.shared.state)
    webui.scripts.scripts_txt2img.selectable_scripts[:] = [made]
    return made


@pytest.fixture
def loras(tmp_path: Path) -> tuple[str, ...]:
    return tuple(lora(tmp_path / f"一只 猫, cat-{epoch:06}.safetensors") for epoch in (1, 2))


def nothing(done: int, total: int, cell: Cell | None) -> None:
    """Not interested."""


def drawn(sheet: Any, page: int = 0) -> list[list[bool]]:
    return [[cell is not None for cell in row] for row in sheet.pages[page].cells]


def test_a_grid_by_the_plot(webui: SimpleNamespace, plot: Plot, loras: tuple[str, ...]) -> None:
    seen: list[tuple[int, int]] = []
    wanted = grid("a cat", loras=loras, weights=(0.2, 1.0), seed=5, clip_skip=3)
    sheet = WebUIHost().draw(wanted, lambda done, total, cell: seen.append((done, total)))
    [call] = plot.calls
    assert (call.xs, call.ys) == (["0.2", "1"], ["一只 猫, cat-000001", "一只 猫, cat-000002"])
    assert (call.p.prompt, call.p.seed) == ("a cat <lora:一只 猫, cat-000001:0.2>", 5)
    assert call.p.override_settings == {"CLIP_stop_at_last_layers": 3}
    [page] = sheet.pages
    assert [[cell.getpixel((0, 0))[:2] for cell in row] for row in page.cells] == [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]
    assert page.texts[1][1].startswith("a cat <lora:一只 猫, cat-000002:1>\nSteps: 3, Lora hashes: ")
    assert page.picture.width > 2 * 192  # our own sheet, whose labels can be read
    assert sheet.errors == ()
    assert (seen[0], seen[-1]) == ((0, 4), (4, 4))
    assert not webui.call_queue.queue_lock.held
    assert webui.shared.state.job == ""


def test_a_plot_for_each_prompt(webui: SimpleNamespace, plot: Plot, loras: tuple[str, ...]) -> None:
    seen: list[int] = []
    wanted = grid("", loras=loras, prompts=("a cat", "a dog, 0.5 <lora:style:1>"), weights=(0.5, 1.0))
    sheet = WebUIHost().draw(wanted, lambda done, total, cell: seen.append(done))
    assert [call.p.prompt.partition(" ")[2][:3] for call in plot.calls] == ["cat", "dog"]
    assert [page.cells[0][0].getpixel((0, 0))[2] for page in sheet.pages] == [1, 2]
    assert sheet.pages[1].texts[1][0].startswith("a dog, 0.5 <lora:style:1> <lora:一只 猫, cat-000002:0.5")
    assert seen == sorted(seen)
    assert seen[-1] == 8


def told_cells(wanted: Grid) -> tuple[list[Cell], Any]:
    """The cells in the order in which they were told, and the sheet."""
    cells: list[Cell] = []
    sheet = WebUIHost().draw(wanted, lambda done, total, cell: cells.append(cell) if cell else None)
    return cells, sheet


@pytest.mark.parametrize("weights", [(0.0, 0.5, 1.0), (0.5, 0.5)])
def test_cells_are_told_as_they_are_drawn(weights: tuple[float, ...], plot: Plot, loras: tuple[str, ...]) -> None:
    cells, sheet = told_cells(grid("", loras=loras, prompts=("a", "b"), weights=weights))
    places = [(p, r, c) for p in range(2) for r in range(2) for c in range(len(weights))]
    assert [(cell.page, cell.row, cell.column) for cell in cells] == places
    for cell in cells:
        page = sheet.pages[cell.page]
        assert cell.picture is page.cells[cell.row][cell.column]
        assert cell.text == page.texts[cell.row][cell.column]


def test_a_told_cell_is_there_before_the_next_is_drawn(plot: Plot, loras: tuple[str, ...]) -> None:
    heard = threading.Event()

    def wait(number: int) -> None:
        assert number == 0 or heard.wait(10)

    plot.before_cell = wait
    WebUIHost().draw(grid("a", loras=loras), lambda done, total, cell: heard.set() if cell else None)


def test_no_cell_is_told_that_is_half_done_or_without_its_lora(
    webui: SimpleNamespace, plot: Plot, loras: tuple[str, ...]
) -> None:
    plot.unapplied, plot.fails = {"000002"}, {"000001:0.5"}
    wanted = grid("a", loras=loras, weights=(0.0, 0.5, 1.0))
    assert [(cell.row, cell.column) for cell in told_cells(wanted)[0]] == [(0, 0), (0, 2), (1, 0)]
    plot.unapplied, plot.fails = {""}, set()
    webui.shared.opts.lora_add_hashes_to_infotext = False
    assert len(told_cells(wanted)[0]) == 6
    plot.after_cell = lambda number: setattr(webui.shared.state, "interrupted", number == 16)
    assert [(cell.row, cell.column) for cell in told_cells(wanted)[0]] == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_on_cell_ends_the_drawing(webui: SimpleNamespace, plot: Plot, loras: tuple[str, ...]) -> None:
    def wait_for_the_interruption(number: int) -> None:
        while not webui.shared.state.interrupted:
            time.sleep(0.001)

    def on_cell(done: int, total: int, cell: Cell | None) -> None:
        if plot.calls:
            raise KeyError("enough")

    plot.before_cell = wait_for_the_interruption
    with pytest.raises(KeyError, match="enough"):
        WebUIHost().draw(grid("a cat", loras=loras, prompts=("a", "b")), on_cell)
    assert len(plot.calls) == 1
    assert not webui.call_queue.queue_lock.held
    assert not webui.shared.state.interrupted


def test_a_checkpoint_that_forge_cannot_load_is_told(
    webui: SimpleNamespace, plot: Plot, loras: tuple[str, ...]
) -> None:
    def reload() -> None:
        raise ValueError("Failed to recognize model type!")

    webui.sd_models.forge_model_reload = reload
    with pytest.raises(UserError, match="can't load its checkpoint: Failed to recognize"):
        WebUIHost().draw(grid("a", loras=loras, weights=(0.5, 1.0)), nothing)


@pytest.mark.parametrize(("how", "kept"), [("interrupted", 4), ("stopping_generation", 5)])
def test_interrupted_in_the_webui_what_is_drawn_stays(
    how: str, kept: int, webui: SimpleNamespace, plot: Plot, loras: tuple[str, ...]
) -> None:
    """Interrupted, the WebUI gives the picture that it was at half done; told to stop, it ends that picture first."""
    plot.before_cell = lambda number: setattr(webui.shared.state, how, number >= 5)
    sheet = WebUIHost().draw(grid("", loras=loras, prompts=("a", "b", "c"), weights=(0.5, 1.0)), nothing)
    assert [sum(map(sum, drawn(sheet, page))) for page in range(3)] == [min(4, kept), kept - min(4, kept), 0]
    assert len(plot.calls) == 2
    assert sheet.errors == (f"the grid was interrupted in the WebUI after {kept} of 12 cells",)


def test_interrupted_before_the_first_cell(webui: SimpleNamespace, plot: Plot, loras: tuple[str, ...]) -> None:
    plot.before_cell = lambda number: webui.shared.state.interrupt()
    with pytest.raises(UserError, match="interrupted in the WebUI after 0 of 4"):
        WebUIHost().draw(grid("a", loras=loras, weights=(0.5, 1.0)), nothing)


def test_a_cell_that_fails_is_missing_and_told(plot: Plot, loras: tuple[str, ...]) -> None:
    plot.fails = {"000002:1>"}
    sheet = WebUIHost().draw(grid("a", loras=loras, weights=(0.5, 1.0)), nothing)
    assert drawn(sheet) == [[True, True], [True, False]]
    assert sheet.errors == ("1 of 4 cells were not drawn: NaN in the Unet",)
    plot.fails = {"a"}
    with pytest.raises(UserError, match="NaN in the Unet"):
        WebUIHost().draw(grid("a", loras=loras, weights=(0.5, 1.0)), nothing)


def test_a_picture_without_its_lora_is_no_cell(plot: Plot, loras: tuple[str, ...]) -> None:
    """A1111 goes on without a file that it can't load; only the hash is missing in the picture's text."""
    plot.unapplied, plot.comments = {"000002"}, "Networks with errors: cat (5)\n"
    sheet = WebUIHost().draw(grid("a", loras=loras, weights=(0.0, 1.0)), nothing)
    assert drawn(sheet) == [[True, True], [True, False]]
    assert "Networks with errors: cat (5)" in sheet.errors
    plot.unapplied = {""}  # the user's settings leave hashes out: nothing can be known
    assert drawn(WebUIHost().draw(grid("a", loras=loras, weights=(0.0, 1.0)), nothing)) == [[True, True], [True, True]]


def _gone(path: Path) -> None:
    path.unlink()


def _html(path: Path) -> None:
    path.write_text("<html>")


@pytest.mark.parametrize("damage", [_gone, _html])
def test_a_bad_file_is_named_before_anything_is_drawn(
    damage: Callable[[Path], None], plot: Plot, loras: tuple[str, ...]
) -> None:
    damage(Path(loras[1]))
    with pytest.raises(UserError, match="cat-000002"):
        WebUIHost().draw(grid("a", loras=loras), nothing)
    assert not plot.calls


def test_a_file_that_goes_away_meanwhile_is_told(plot: Plot, loras: tuple[str, ...]) -> None:
    plot.before_cell = lambda number: Path(loras[1]).unlink(missing_ok=True)
    sheet = WebUIHost().draw(grid("a", loras=loras, weights=(1.0,)), nothing)
    assert len(sheet.errors) == 1
    assert "went away" in sheet.errors[0]


@pytest.mark.parametrize("name", ["a=b-000001", "a<b-000001"])
def test_a_name_that_no_prompt_can_hold(name: str, plot: Plot, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't hold this file name"):
        WebUIHost().draw(grid("a", loras=(lora(tmp_path / f"{name}.safetensors"),)), nothing)


def test_failures_are_in_plain_words(webui: SimpleNamespace, plot: Plot, loras: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"no sampler 'Foo'\. Choose from Euler"):
        WebUIHost().draw(grid("a cat", loras=loras, sampler="Foo"), nothing)

    def refused(number: int) -> None:
        raise AssertionError("Error: Resulting grid would be too large")

    plot.before_cell = refused
    with pytest.raises(UserError, match="refuses this grid: Error: Resulting grid would be too large"):
        WebUIHost().draw(grid("a cat", loras=loras), nothing)
    assert webui.shared.state.job == ""
    for empty in ({"loras": ()}, {"prompts": ()}, {"weights": ()}):
        with pytest.raises(UserError, match="at least one"):
            WebUIHost().draw(grid("a cat", **{"loras": loras, **empty}), nothing)
    webui.scripts.scripts_txt2img.selectable_scripts.clear()
    with pytest.raises(UserError, match="no X/Y/Z plot"):
        WebUIHost().draw(grid("a cat", loras=loras), nothing)
