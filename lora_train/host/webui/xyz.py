"""A grid drawn by the WebUI's own X/Y/Z plot, one for each prompt: weights along X, LoRA files along Y, by Prompt S/R.

The sheets are our own: the plot's legend is 16 pixels high whatever the size of its cells. The plot saves its picture
where the user's settings want grids saved.
"""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import json
import queue
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ...errors import UserError
from ...grid.plan import Grid
from ...grid.sheet import Cell, OnCell, Sheet, page
from ...header import read_header

T = TypeVar("T")
_AXIS = "Prompt S/R"
_CLIP_SKIP = "CLIP_stop_at_last_layers"
_LOOK_EVERY = 0.3


@dataclass(frozen=True)
class Axes:
    """A prompt, and the texts which take the place of the first one of their axis."""

    prompt: str
    names: list[str]
    weights: list[str]

    def cell_prompts(self) -> list[str]:
        """What the plot draws, row by row."""
        first_name, first_weight = self.names[0], self.weights[0]
        columns = [self.prompt.replace(first_weight, weight) for weight in self.weights]
        return [prompt.replace(first_name, name) for name in self.names for prompt in columns]


def draw(grid: Grid, on_cell: OnCell) -> Sheet:
    """Draw `grid`; the caller holds the WebUI's queue. Raises UserError, or what on_cell raises.

    Interrupted in the WebUI, the sheet has what was drawn until then. Raises UserError where that is nothing.
    """
    for name in ("loras", "weights", "prompts"):
        if not getattr(grid, name):
            raise UserError(f"a grid needs at least one of its {name}", where=name)
    script = _script()
    names = [known_name(Path(lora)) for lora in grid.loras]
    plans = [axes(grid, prompt, names) for prompt in grid.prompts]
    sampler_name(grid.sampler)
    size = len(grid.loras) * len(grid.weights)
    pages: list[_Drawn] = []
    with with_clip_skip(grid.clip_skip) as overrides, _job():
        load_checkpoint()
        for number, plan in enumerate(plans):
            if _stopped():
                pages.append(_Drawn.none(size))
                continue
            processing = processing_of(grid, plan.prompt, overrides)
            told = _Told(plan, number, grid.negative_prompt)
            processing.scripts, processing.script_args = told.runner(), ()
            try:
                with _watched(number * size, size, grid.count, told, on_cell):
                    result = script.run(processing, *_arguments(script, plan))
                pages.append(_drawn(result, plan, grid, broken_off=_broken_off()))
            finally:
                processing.close()
        stopped = _stopped()
    errors = _errors(pages, grid, stopped)
    missing = [lora for lora in grid.loras if not Path(lora).is_file()]
    errors += [f"{lora}: the file went away while the grid was drawn" for lora in missing]
    if not any(cell for drawn in pages for cell in drawn.cells):
        raise UserError(f"the WebUI couldn't draw the grid: {errors[0]}", remedy="See its console")
    columns, model = len(grid.weights), _model_name()
    return Sheet(
        tuple(
            page(grid, number, in_rows(drawn.cells, columns), model, in_rows(drawn.texts, columns))
            for number, drawn in enumerate(pages)
        ),
        tuple(errors),
    )


@dataclass(frozen=True)
class _Drawn:
    """The cells of one plot, row by row, and the WebUI's own text of each; None and "": not drawn."""

    cells: list[Image.Image | None]
    texts: list[str]
    comments: str = ""

    @classmethod
    def none(cls, size: int) -> _Drawn:
        return cls([None] * size, [""] * size)


def in_rows(items: Sequence[T], columns: int) -> tuple[tuple[T, ...], ...]:
    """A flat list as rows."""
    return tuple(tuple(items[start : start + columns]) for start in range(0, len(items), columns))


def axes(grid: Grid, prompt: str, names: list[str]) -> Axes:
    """The prompt with the first LoRA at the first weight, and the replacements along both axes.

    A replacement touches every place where the first text occurs. So that all other words stay, the plainest first text
    is taken that occurs nowhere else: a bare name or one in its "<lora:…:", a bare number or one with its ">".
    """
    for numbers, texts in _weight_texts(grid.weights):
        prompts = [f"{prompt} <lora:{name}:{numbers[0]}>".strip() for name in names]
        if any(_occurs(texts[0], text, grid) != 1 for text in prompts):
            continue
        for form in (names, [f"<lora:{name}:" for name in names]):
            stripped = any(text != text.strip() for text in form)  # as the plot does with its values
            if _occurs(form[0], prompts[0], grid) == 1 and not stripped:
                return Axes(prompts[0], form, texts)
    raise UserError("the prompt names this LoRA already", where=names[0], remedy="Take it out of the prompt")


def _occurs(text: str, prompt: str, grid: Grid) -> int:
    return prompt.count(text) + grid.negative_prompt.count(text)


def _weight_texts(weights: tuple[float, ...]) -> Iterator[tuple[list[str], list[str]]]:
    """The weights as numbers in a prompt, and the same as replacements; the same numbers get longer and longer."""
    numbers = [f"{weight:g}" for weight in weights]
    yield numbers, numbers
    for zeros in range(1, 5):
        yield numbers, [f"{number}>" for number in numbers]
        numbers = [f"{weight:.{zeros + 2}f}" for weight in weights]


def values(texts: list[str]) -> str:
    """An axis' values as the plot reads them: comma-separated, quoted where needed."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(texts)
    return out.getvalue()


def known_name(lora: Path) -> str:
    """The name by which the WebUI knows a LoRA file. Raises UserError where a prompt can't reach it."""
    name = lora.stem
    read_header(lora, "LoRA")  # the WebUI would draw without a file that it can't read
    if any(mark in name for mark in ":<>="):
        raise UserError("a prompt can't hold this file name", where=lora.name, remedy="Rename the file")
    networks = sys.modules.get("networks")
    if networks is None:
        return name
    found = find_network(networks, name)
    if found is None:
        networks.list_available_networks()
        found = find_network(networks, name)
    if found is None:
        raise UserError("the WebUI doesn't see this file", where=lora, remedy="Put it into the WebUI's LoRA folder")
    if not _same_file(found, lora):
        raise UserError(f"{found} has the same name, and the WebUI uses that", where=lora, remedy="Rename one of them")
    return name


def find_network(networks: Any, name: str) -> str | None:
    """The file which the name stands for in a prompt: an alias counts unless two files have it."""
    aliases = getattr(networks, "available_network_aliases", {})
    forbidden = name.lower() in getattr(networks, "forbidden_network_aliases", {})
    entry = networks.available_networks.get(name) if forbidden or name not in aliases else aliases[name]
    return getattr(entry, "filename", None)


def _same_file(one: str, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return other.samefile(one)
    return False


def _script() -> Any:
    """The X/Y/Z plot of the txt2img tab."""
    from modules import scripts

    plots = [s for s in scripts.scripts_txt2img.selectable_scripts if str(s.title()).lower() == "x/y/z plot"]
    if not plots or not hasattr(plots[0], "current_axis_options"):
        raise UserError("this WebUI has no X/Y/Z plot", remedy="Enable the built-in script, or update the WebUI")
    return plots[0]


def _arguments(script: Any, plan: Axes) -> list[Any]:
    """What the plot's run takes, by its own names: forks have more of them. What we don't know is off."""
    labels = [option.label for option in script.current_axis_options]
    if _AXIS not in labels:
        raise UserError(f"the X/Y/Z plot has no axis {_AXIS!r}", remedy="Update the WebUI")
    known = {
        "x_type": labels.index(_AXIS),
        "x_values": values(plan.weights),
        "y_type": labels.index(_AXIS),
        "y_values": values(plan.names),
        "z_type": labels.index("Nothing"),
        "z_values": "",
        "draw_legend": True,
        "include_lone_images": True,
        "margin_size": 0,
        "items_per_grid": 0,
        **{f"{axis}_values_dropdown": [] for axis in "xyz"},
    }
    names = list(inspect.signature(script.run).parameters)[1:]
    return [known.get(name, False) for name in names]


def processing_of(grid: Grid, prompt: str, overrides: dict[str, Any]) -> Any:
    """The WebUI's txt2img job for one cell, without always-on scripts: cells differ by their LoRA only."""
    from modules import processing, shared

    kind = processing.StableDiffusionProcessingTxt2Img
    sampler, scheduler = sampler_name(grid.sampler)
    wanted = {
        "sd_model": shared.sd_model,
        "outpath_samples": shared.opts.outdir_samples or shared.opts.outdir_txt2img_samples,
        "outpath_grids": shared.opts.outdir_grids or shared.opts.outdir_txt2img_grids,
        "prompt": prompt,
        "negative_prompt": grid.negative_prompt,
        "styles": [],
        "seed": grid.seed,
        "sampler_name": sampler,
        "scheduler": scheduler,
        "steps": grid.steps,
        "cfg_scale": grid.cfg_scale,
        "width": grid.width,
        "height": grid.height,
        "do_not_save_samples": True,
        "do_not_save_grid": True,
        "override_settings": overrides,
    }
    known = {f.name for f in fields(kind) if f.init}
    if "backend.memory_management" in sys.modules:  # Forge and Neo choose the model themselves
        known.discard("sd_model")
    p = kind(**{name: value for name, value in wanted.items() if name in known})
    p.is_api = True
    return p


def sampler_name(name: str) -> tuple[str, str | None]:
    """The WebUI's names of a sampler and of its schedule. Raises UserError for one it doesn't have."""
    from modules import sd_samplers

    split = getattr(sd_samplers, "get_sampler_and_scheduler", None)
    sampler, scheduler = split(name, None) if split else (name, None)
    if sampler not in sd_samplers.all_samplers_map or not name.lower().startswith(sampler.lower()):
        choices = ", ".join(sampler.name for sampler in sd_samplers.all_samplers)
        raise UserError(f"the WebUI has no sampler {name!r}", where="sampler", remedy=f"Choose from {choices}")
    return sampler, scheduler


def load_checkpoint() -> None:
    """Forge loads its checkpoint at the first picture only, where the plot hides why that failed."""
    from modules import sd_models

    load = getattr(sd_models, "forge_model_reload", None)
    try:
        if load is not None:
            load()
    except ValueError as error:
        raise UserError(
            f"the WebUI can't load its checkpoint: {error}", remedy="Choose another one at the top of the page"
        ) from error


@contextlib.contextmanager
def with_clip_skip(wanted: int | None) -> Iterator[dict[str, Any]]:
    """The override that sets CLIP skip for the grid alone. The WebUI puts its own value back after each picture.

    It does so only for a setting that was ever written, hence the writing of the present value; that goes again.
    """
    from modules import shared

    present = getattr(shared.opts, _CLIP_SKIP, None)
    if wanted is None or present is None or wanted == present:
        yield {}
        return
    never_written = _CLIP_SKIP not in shared.opts.data
    try:
        setattr(shared.opts, _CLIP_SKIP, present)
    except (AssertionError, RuntimeError):
        remedy = f"Use {present}, or start it without --freeze-settings"
        raise UserError(f"the WebUI's CLIP skip is fixed to {present}", where="clip_skip", remedy=remedy) from None
    try:
        yield {_CLIP_SKIP: wanted}
    finally:
        if never_written:
            shared.opts.data.pop(_CLIP_SKIP, None)


@contextlib.contextmanager
def _job() -> Iterator[None]:
    """Tell the WebUI that it is busy."""
    from modules import shared

    shared.state.begin(job="Train LoRA grid")
    try:
        yield
    except AssertionError as error:
        raise UserError(f"the WebUI refuses this grid: {error}") from error
    finally:
        shared.state.end()
        shared.state.interrupted = False
        shared.total_tqdm.clear()


class _Told:
    """What the plot of a page has drawn so far; the WebUI tells it through a script of ours that is always on."""

    def __init__(self, plan: Axes, page: int, negative_prompt: str) -> None:
        self.cells: queue.SimpleQueue[Cell | None] = queue.SimpleQueue()
        self._plan, self._page, self._negative_prompt = plan, page, negative_prompt
        self._prompts, self._met = plan.cell_prompts(), Counter[str]()

    def runner(self) -> Any:
        """The scripts of this plot: ours alone, so that cells differ by their LoRA only."""
        from modules import scripts

        from . import prompts

        told = self

        class Listener(scripts.Script):
            filename, args_from, args_to = __file__, 0, 0

            def title(self) -> str:
                return "Train LoRA grid"

            def show(self, is_img2img: bool) -> Any:
                return scripts.AlwaysVisible

            def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
                told.drawn(p.prompt, processed)

        runner = scripts.ScriptRunner()
        runner.alwayson_scripts += [prompts.script()(), Listener()]
        return runner

    def drawn(self, prompt: str, processed: Any) -> None:
        """A picture is ready; the WebUI draws on."""
        if _broken_off() or not processed.images or prompt not in self._prompts:
            return
        number = self._nth(prompt)
        row, column = divmod(number, len(self._plan.weights))
        text = str((processed.infotexts or [""])[0] or "")
        if _applied(text, self._plan, number) or not _tells_hashes():
            text = _whole(text, prompt, self._negative_prompt)
            self.cells.put(Cell(self._page, row, column, processed.images[0], text))

    def _nth(self, prompt: str) -> int:
        """Of cells with the same prompt, such as those of a weight given twice, the next one."""
        places = [number for number, other in enumerate(self._prompts) if other == prompt]
        self._met[prompt] += 1
        return places[min(self._met[prompt], len(places)) - 1]


@contextlib.contextmanager
def _watched(before: int, size: int, total: int, told: _Told, on_cell: OnCell) -> Iterator[None]:
    """Tell on_cell how far a plot of `size` cells is; where on_cell raises, interrupt the WebUI and raise the same.

    It is called by a thread of its own, so that the WebUI draws on while it writes a picture.
    """
    from modules import shared

    finished = threading.Event()
    raised: list[BaseException] = []
    shared.state.job_no = 0

    def look() -> None:
        try:
            while True:
                try:
                    cell = told.cells.get(timeout=_LOOK_EVERY)
                except queue.Empty:
                    cell = None
                if cell is None and finished.is_set():
                    return
                on_cell(before + min(shared.state.job_no, size), total, cell)
        except BaseException as error:  # noqa: BLE001 (raised again below)
            raised.append(error)
            shared.state.interrupt()

    watcher = threading.Thread(target=look, name="grid progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        told.cells.put(None)
        watcher.join()
        if raised:
            raise raised[0]
    on_cell(before + (min(shared.state.job_no, size) if _stopped() else size), total, None)


def _stopped() -> bool:
    """Whether the WebUI's user has interrupted it."""
    from modules import shared

    return bool(shared.state.interrupted or getattr(shared.state, "stopping_generation", False))


def _broken_off() -> bool:
    """Whether the WebUI stopped in the middle of a picture."""
    from modules import shared

    return bool(shared.state.interrupted)


def _drawn(result: Any, plan: Axes, grid: Grid, broken_off: bool) -> _Drawn:
    """The plot's cells. Of an interrupted one the last was left half done. Raises UserError for another number."""
    size = len(plan.names) * len(plan.weights)
    pictures = list(getattr(result, "images", None) or [])[1:]
    texts = [text or "" for text in list(getattr(result, "infotexts", None) or [])[1:]]
    if not pictures:
        return _Drawn.none(size)
    if len(pictures) != size or len(texts) != size:
        raise UserError(f"the WebUI gave {len(pictures)} pictures instead of {size}", remedy="Look at its console")
    cells = [picture if text else None for picture, text in zip(pictures, texts, strict=True)]
    drawn = [number for number, cell in enumerate(cells) if cell]
    if broken_off and drawn:
        cells[drawn[-1]], texts[drawn[-1]] = None, ""
    _drop_unapplied(cells, texts, plan)
    prompts = plan.cell_prompts()
    texts = [_whole(text, prompt, grid.negative_prompt) for text, prompt in zip(texts, prompts, strict=True)]
    return _Drawn(cells, texts, str(getattr(result, "comments", "") or ""))


def _drop_unapplied(cells: list[Image.Image | None], texts: list[str], plan: Axes) -> None:
    """Empty the cells without a LoRA that the WebUI couldn't load: it draws on, and names no hash in their text."""
    if not any("Lora hashes: " in text for text in texts):
        return  # the user's settings leave them out
    for number, text in enumerate(texts):
        if not _applied(text, plan, number):
            cells[number] = None


def _applied(text: str, plan: Axes, number: int) -> bool:
    """Whether a cell's text names its LoRA's hash, or it has none."""
    row, column = divmod(number, len(plan.weights))
    if float(plan.weights[column].rstrip(">")) == 0:
        return True
    name = json.dumps(_without_marks(_stem(plan.names[row])), ensure_ascii=False)[1:-1]
    return "Lora hashes: " in text and f"{name}: " in text


def _tells_hashes() -> bool:
    """Whether the user wants LoRA hashes in the pictures' texts."""
    from modules import shared

    return bool(getattr(shared.opts, "lora_add_hashes_to_infotext", True))


def _whole(text: str, prompt: str, negative_prompt: str) -> str:
    """A cell's text with its whole prompt: the WebUI leaves the `<lora:…>` out where no always-on scripts run."""
    values = text.rpartition("\n")[2]
    negative = [f"Negative prompt: {negative_prompt}"] if negative_prompt else []
    return "\n".join([prompt, *negative, values]) if "Steps: " in values else text


def _stem(text: str) -> str:
    """The file's name in a replacement of the axis."""
    return text.removeprefix("<lora:").removesuffix(":") if text.startswith("<lora:") else text


def _without_marks(name: str) -> str:
    """As the WebUI's Lora extension writes a name beside its hash."""
    return name.translate(str.maketrans("", "", ":,"))


def _errors(pages: Sequence[_Drawn], grid: Grid, stopped: bool) -> list[str]:
    """Why cells are missing, and what the WebUI remarked."""
    cells = [cell for drawn in pages for cell in drawn.cells]
    done = sum(cell is not None for cell in cells)
    remarks = dict.fromkeys(line for drawn in pages for line in drawn.comments.splitlines() if "errors" in line)
    if stopped:
        return [f"the grid was interrupted in the WebUI after {done} of {grid.count} cells", *remarks]
    lost = [f"{grid.count - done} of {grid.count} cells were not drawn: {_last_error()}"] if done < grid.count else []
    return [*lost, *remarks]


def _model_name() -> str:
    from modules import sd_models

    info = sd_models.select_checkpoint()
    return Path(info.filename).stem if info else ""


def _last_error() -> str:
    from modules import errors

    records = getattr(errors, "exception_records", None)
    return str(records[-1].get("exception", "")) if records else "the WebUI gave no reason"
