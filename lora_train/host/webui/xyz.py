"""A grid drawn by the WebUI's own X/Y/Z plot: weights along X, LoRA files along Y, both by Prompt S/R."""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...grid.plan import Grid
from ..base import Sheet

OnCell = Callable[[int, int], None]
_AXIS = "Prompt S/R"
_CLIP_SKIP = "CLIP_stop_at_last_layers"
_LOOK_EVERY = 0.3


@dataclass(frozen=True)
class Axes:
    """A prompt, and the texts which take the place of the first one of their axis."""

    prompt: str
    names: list[str]
    weights: list[str]


def draw(grid: Grid, on_cell: OnCell) -> Sheet:
    """Draw `grid`; the caller holds the WebUI's queue. Raises UserError, or what on_cell raises."""
    script = _script()
    plan = axes(grid, [_known_name(Path(lora)) for lora in grid.loras])
    with _clip_skip(grid.clip_skip) as overrides:
        processing = _processing(grid, plan.prompt, overrides)
        try:
            with _watched(len(plan.names) * len(plan.weights), on_cell), _job():
                result = script.run(processing, *_arguments(script, plan))
            return _sheet(result, columns=len(plan.weights), rows=len(plan.names))
        finally:
            processing.close()


def axes(grid: Grid, names: list[str]) -> Axes:
    """The prompt with the first LoRA at the first weight, and the replacements along both axes.

    A replacement touches every place where the first text occurs. So that all other words stay, the plainest first text
    is taken that occurs nowhere else: a bare name or one in its "<lora:…:", a bare number or one with its ">".
    """
    for numbers, texts in _weight_texts(grid.weights):
        prompts = [f"{grid.prompt} <lora:{name}:{numbers[0]}>".strip() for name in names]
        if any(_occurs(texts[0], prompt, grid) != 1 for prompt in prompts):
            continue
        for form in (names, [f"<lora:{name}:" for name in names]):
            if _occurs(form[0], prompts[0], grid) == 1:
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


def _known_name(lora: Path) -> str:
    """The name by which the WebUI knows a LoRA file. Raises UserError where a prompt can't reach it."""
    name = lora.stem
    if any(mark in name for mark in ":<>"):
        raise UserError("a prompt can't hold this file name", where=lora.name, remedy="Rename the file")
    networks = sys.modules.get("networks")
    if networks is None:
        return name
    found = _found(networks, name)
    if found is None:
        networks.list_available_networks()
        found = _found(networks, name)
    if found is None:
        raise UserError("the WebUI doesn't see this file", where=lora, remedy="Put it into the WebUI's LoRA folder")
    if not _same_file(found, lora):
        raise UserError(f"{found} has the same name, and the WebUI uses that", where=lora, remedy="Rename one of them")
    return name


def _found(networks: Any, name: str) -> str | None:
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


def _processing(grid: Grid, prompt: str, overrides: dict[str, Any]) -> Any:
    """The WebUI's txt2img job for one cell, without always-on scripts: cells differ by their LoRA only."""
    from modules import processing, shared

    kind = processing.StableDiffusionProcessingTxt2Img
    sampler, scheduler = _sampler(grid.sampler)
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


def _sampler(name: str) -> tuple[str, str | None]:
    """The WebUI's names of a sampler and of its schedule. Raises UserError for one it doesn't have."""
    from modules import sd_samplers

    split = getattr(sd_samplers, "get_sampler_and_scheduler", None)
    sampler, scheduler = split(name, None) if split else (name, None)
    if sampler not in sd_samplers.all_samplers_map or not name.lower().startswith(sampler.lower()):
        choices = ", ".join(sampler.name for sampler in sd_samplers.all_samplers)
        raise UserError(f"the WebUI has no sampler {name!r}", where="sampler", remedy=f"Choose from {choices}")
    return sampler, scheduler


@contextlib.contextmanager
def _clip_skip(wanted: int | None) -> Iterator[dict[str, Any]]:
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
    """Tell the WebUI that it is busy, and make an interruption and a failure known as a UserError."""
    from modules import shared

    shared.state.begin(job="Train LoRA grid")
    try:
        yield
        interrupted = shared.state.interrupted or getattr(shared.state, "stopping_generation", False)
    except AssertionError as error:
        raise UserError(f"the WebUI refuses this grid: {error}") from error
    finally:
        shared.state.end()
        shared.state.interrupted = False
        shared.total_tqdm.clear()
    if interrupted:
        raise UserError("the grid was interrupted in the WebUI", remedy="Draw it again")


@contextlib.contextmanager
def _watched(total: int, on_cell: OnCell) -> Iterator[None]:
    """Tell on_cell how far the WebUI is; where on_cell raises, interrupt the WebUI and raise the same."""
    from modules import shared

    finished = threading.Event()
    raised: list[BaseException] = []

    def look() -> None:
        while not finished.wait(_LOOK_EVERY):
            try:
                on_cell(min(shared.state.job_no, total), total)
            except BaseException as error:  # noqa: BLE001 (raised again below)
                raised.append(error)
                shared.state.interrupt()
                return

    watcher = threading.Thread(target=look, name="grid progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
        if raised:
            raise raised[0]
    on_cell(total, total)


def _sheet(result: Any, columns: int, rows: int) -> Sheet:
    """The plot's own picture, and its cells by LoRA and weight. Raises UserError where a cell failed."""
    pictures = list(getattr(result, "images", []) or [])
    if len(pictures) != columns * rows + 1 or any(not text for text in result.infotexts[1:]):
        raise UserError(f"the WebUI couldn't draw the grid: {_last_error()}", remedy="See its console")
    cells = pictures[1:]
    by_lora = tuple(tuple(cells[row * columns : (row + 1) * columns]) for row in range(rows))
    return Sheet(pictures[0], by_lora)


def _last_error() -> str:
    from modules import errors

    records = getattr(errors, "exception_records", None)
    return str(records[-1].get("exception", "")) if records else "it gave no reason"
