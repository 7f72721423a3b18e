"""A measurement from its task to its result: what the child process does.

A task is a JSON object, as jobs.measures or the command line makes it: kind, checkpoint, vae, mix [{name, path, te,
unet, weights}], shot {prompt, …}, and by kind what `effects` and `tune` say. The result is measure.json in the folder
`out`, with maps/BLOCK.png and maps/picture.png for effects.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..blocks.families import UNLISTED, flat_weights, numbers_of, topology, weights_by_block
from ..blocks.presets import BUILTIN
from ..dataset.pictures import Dataset
from ..errors import UserError
from ..events import Listener, event
from ..files import replace_file, write_text
from ..grid.run import placement
from ..header import read_header
from ..model.load import StableDiffusion, load_model
from ..train.batch import Batch
from . import cases, drawn, effects, prompts, screen, tune
from .dials import Dials, Mixed
from .heat import overlay

RESULT, MAPS = "measure.json", "maps"
Stop = Callable[[], bool]
_SEEDS_PRESETS = ("GP1", "GP1_MORE", "HINA4", "ALL0.5")
_COMPARED = 10  # presets in the table, at most
_SMALL = 256 * 256  # pixels; up to here many go through the UNet at once
_ROWS = 128  # noisy latents of each kind, about
_DRAWN, _DRAWN_LARGE = 64, 24  # pictures of the subject for each numbers that are judged by pictures
_AROUND = (-0.4, -0.3, -0.2, -0.1)  # of keep: what else is tuned, drawn and judged
_WEAKER = 0.8
_STEPS = 4  # of each run at a neutral prompt
_RUNS, _RUNS_LARGE = 3 / 4, 3 / 8  # at neutral prompts, of rows


def run(task: Mapping[str, Any], out: Path, emit: Listener, stop: Stop) -> bool:
    """Do a task; whether it was done, not stopped. Raises UserError."""
    began = time.monotonic()
    kinds = {"effects": _effects, "tune": _tune}
    if task.get("kind") not in kinds:
        raise UserError(f"{task.get('kind')!r} can't be measured", where="kind", remedy=f"Choose {' or '.join(kinds)}")
    out.mkdir(parents=True, exist_ok=True)
    emit(event("stage", text=f"loading {Path(task['checkpoint']).name}"))
    model = load_model(task["checkpoint"], *placement(), task.get("vae"))
    try:
        found = kinds[task["kind"]](model, task, out, _Telling(emit), stop)
    except effects.Stopped:
        emit(event("stopped", path=None, steps=0, seconds=round(time.monotonic() - began, 1)))
        return False
    seconds = round(time.monotonic() - began, 1)
    known = {name: task[name] for name in ("kind", "mix", "shot")}
    write_text(out / RESULT, json.dumps({**known, "seconds": seconds, **found}, indent=1, ensure_ascii=False))
    emit(event("done", path=str(out / RESULT), steps=0, seconds=seconds))
    return True


class _Telling:
    """Progress as events, with the time that is left."""

    def __init__(self, emit: Listener) -> None:
        self.emit, self._last = emit, 0.0
        self._stage, self._began = "", time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if what.split()[0] != self._stage:
            self._stage, self._began = what.split()[0], now
        elif done < total and now - self._last < 0.2:
            return
        self._last = now
        eta = round((now - self._began) / done * (total - done), 1) if done else None
        self.emit(event("measuring", done=done, total=total, what=what, eta=eta))


# Effects


def _effects(model: StableDiffusion, task: Mapping[str, Any], out: Path, tell: _Telling, stop: Stop) -> dict[str, Any]:
    shot = task["shot"]
    run = effects.Run(
        **{name: shot[name] for name in ("prompt", "negative_prompt", "seeds", "steps", "cfg_scale", "sampler")},
        **{name: shot[name] for name in ("width", "height", "clip_skip")},
        prediction_type="v_prediction" if _is_v(Path(task["mix"][0]["path"])) else "epsilon",
    )
    mix, weights = _mix(task)
    timesteps = task.get("timesteps") or effects.TIMESTEPS
    each = bool(task.get("each", False))
    found = effects.measure(model, mix, weights, run, timesteps=timesteps, each=each, progress=tell, stop=stop)
    (out / MAPS).mkdir(exist_ok=True)
    values = found.values()
    for one, told in zip(found.effects, [*values["blocks"], *values["by_lora"]], strict=True):
        name = f"{one.block}.png" if one.lora is None else f"{one.block}-{one.lora + 1}.png"
        _save(overlay(one.field, run.width, run.height), out / MAPS / name)
        told["map"] = name
    _save(found.pictures[0], out / MAPS / "picture.png")
    return {**values, "picture": "picture.png"}


def _save(picture: Any, path: Path) -> None:
    with replace_file(path) as temporary:
        picture.save(temporary, "PNG")


# Tuning


@dataclass
class _Material:
    """What to tune on, what to compare on, the pictures that both come from, and how the subject is asked for."""

    tuning: tune.Goals
    comparing: tune.Goals
    pictures: Sequence[Batch]
    prompt: str
    seed: int
    at_once: int
    rows: int
    about: dict[str, Any]

    @property
    def how(self) -> cases.How:
        return self.tuning.how


def _tune(model: StableDiffusion, task: Mapping[str, Any], out: Path, tell: _Telling, stop: Stop) -> dict[str, Any]:
    mix, start = _mix(task)
    material = _material(model, task, mix, tell, stop)
    known = {one.name: task[one.name] for one in fields(tune.Options) if task.get(one.name) is not None}
    options = tune.Options(**known)
    dials = Dials(model, mix)
    try:
        drawing = _Drawing(model, dials, material, int(task.get("draw", _draws(material))), tell, stop)
        goals = material.tuning
        keeps = [min(1.0, max(0.0, options.keep + away)) for away in _AROUND] if drawing.count else []
        seen = drawing.screened if drawing.count else None
        tuned = tune.tune(goals, dials, start, options, keeps=keeps, screen=seen, progress=tell, stop=stop)
        weights = drawing.best([tuned.weights, *tuned.others], goals, options.keep)
        rows = _rows(task, start, weights, dials.family)
        scores = []
        for n, (name, numbers) in enumerate(rows):
            tell(n, len(rows), f"comparing {name}")
            scores.append(material.comparing.score(dials, name, numbers, stop))
        table = tune.table(scores, scores[1])
        for n in (1, len(rows) - 1):
            table[n]["shown"] = drawing.share(rows[n][1], rows[n][0])
    finally:
        dials.remove()
    return {
        **material.about,
        "options": asdict(options),
        "weights": weights,
        "drawn": drawing.count,
        "tries": drawing.tries,
        "presets": _presets(task, weights, dials),
        "table": table,
        "history": tuned.history,
    }


class _Drawing:
    """Pictures of the subject under some numbers, at the same seeds each time, and whether they show it.

    count: of them; 0 where nothing is drawn: no prompt asks for the subject, or the task says so.
    """

    def __init__(
        self, model: StableDiffusion, dials: Dials, material: _Material, count: int, tell: _Telling, stop: Stop
    ) -> None:
        self.count = count if material.prompt else 0
        self.tries: list[dict[str, float]] = []
        self._model, self._dials, self._material, self._tell, self._stop = model, dials, material, tell, stop
        self._none: tune.Numbers = [{} for _ in dials.present]
        self._flat: tune.Numbers = [flat_weights(dials.family) for _ in dials.present]
        self._judge = drawn.Judge(
            model,
            dials,
            material.how,
            material.prompt,
            self._flat,
            seed=material.seed,
            at_once=material.at_once,
            stop=stop,
        )
        if self.count:
            own = [batch.latents.float() * model.scale_factor for batch in material.pictures]
            self._judge.calibrate(own, self._draw(self._none, "without", 0))

    def screened(self, vector: tune.Vector, won: tune.Form) -> screen.Curve:
        """What each number does to the share of pictures that show the subject; numbers stay where that is known."""
        vector.reach = screen.REACH
        centre = screen.CENTRE * vector.now()
        numbers = centre + screen.MOVE * screen.design(vector.count)
        shown = [
            self._shown(vector.placed(row), f"numbers {n} of {len(numbers)}", 0) for n, row in enumerate(numbers, 1)
        ]
        return screen.fit(centre, numbers, torch.stack(shown), won.slope(centre))

    def best(self, found: Sequence[tune.Numbers], goals: tune.Goals, keep: float) -> tune.Numbers:
        """Of what was tuned for several values of keep; the first where nothing is drawn."""
        if not self.count:
            return found[0]
        weak: tune.Numbers = [{block: _WEAKER * w for block, w in its.items()} for its in self._flat]
        named = [(self._flat, "1 everywhere"), (weak, f"{_WEAKER} everywhere")]
        named += [(one, f"tuned, {n} of {len(found)}") for n, one in enumerate(found, 1)]
        flat, weaker, *tries = [
            drawn.Try(numbers, self._shown(numbers, what, 1), goals.drifted(self._dials, numbers, self._stop))
            for numbers, what in named
        ]
        self.tries = [
            {"shown": round(one.subject / flat.subject, 4), "drift": round(one.drift / flat.drift, 4)} for one in tries
        ]
        return drawn.choose(tries, flat, weaker, _WEAKER, keep).numbers

    def share(self, numbers: tune.Numbers, what: str) -> float | None:
        """Of pictures at seeds that nothing was chosen on."""
        return float(self._shown(numbers, what, 2).mean()) if self.count else None

    def _shown(self, numbers: tune.Numbers, what: str, turn: int) -> Tensor:
        return self._judge(self._draw(numbers, what, turn))

    def _draw(self, numbers: tune.Numbers, what: str, turn: int) -> Tensor:
        self._dials.turn(numbers)
        return drawn.draw(
            self._model,
            [self._material.prompt] * self.count,
            [cases.seed_of(self._material.seed, turn * self.count + n) for n in range(self.count)],
            self._material.how,
            at_once=self._material.at_once,
            on_run=lambda n, of: self._tell(n, of, f"drawing the subject, {what}"),
            stop=self._stop,
        )


def _draws(material: _Material) -> int:
    width, height = material.how.size
    return _DRAWN if width * height <= _SMALL else _DRAWN_LARGE


def _material(
    model: StableDiffusion, task: Mapping[str, Any], mix: Sequence[Mixed], tell: _Telling, stop: Stop
) -> _Material:
    shot, seed = task["shot"], int(task.get("seed", 1))
    side = int(task.get("resolution") or _resolution(mix[0].path) or 512)
    small = max(side * side, shot["width"] * shot["height"]) <= _SMALL
    at_once, rows = 8 if small else 2, int(task.get("rows", _ROWS))
    runs = max(1, round(rows * (_RUNS if small else _RUNS_LARGE)))
    how = cases.How(
        shot["negative_prompt"],
        shot["cfg_scale"],
        shot["clip_skip"],
        size=(shot["width"], shot["height"]),
        v_prediction=_is_v(mix[0].path),
    )
    tell.emit(event("stage", text="reading the pictures"))
    first, held_out, settings = cases.open_pictures(task["pictures"], side, rows, seed, at_once)
    captions = [use.picture.caption for part in (first, held_out) if part for use in part.uses()]
    trigger = task.get("trigger") or prompts.trigger_of(captions)
    still = list(task.get("prompts") or ()) or prompts.neutral(captions, trigger, 3 * runs // 2, seed)
    own = shot["prompt"] if shot["prompt"].strip() else trigger
    share = max(1, len(still) // 3) if len(still) > 2 else 0
    emphasis = float(task.get("emphasis") or tune.Options.emphasis)
    pictures: list[Batch] = []

    def warn(text: str) -> None:
        tell.emit(event("warning", text=text))

    def goals(dataset: Dataset, neutral: Sequence[str], runs: int, seed: int, what: str) -> tune.Goals:
        batches = cases.batches(
            model,
            dataset,
            settings,
            progress=lambda n, of: tell(n, of, f"encoding the pictures {what}"),
            stop=stop,
            warn=warn,
        )
        pictures.extend(batches)
        rounds = max(2, round(rows / sum(len(batch.captions) for batch in batches)))
        tell(0, 1, f"noising the pictures {what}")
        subject = cases.noised(model, batches, how, rounds, seed, [own] if own else [])
        rest = cases.steps_of_runs(
            model,
            [neutral[n % len(neutral)] for n in range(max(len(neutral), runs))],
            how,
            _STEPS,
            seed,
            at_once=at_once,
            stop=stop,
            on_run=lambda n, of: tell(n, of, f"drawing neutral prompts {what}"),
        )
        return tune.Goals(model, subject, rest, how, emphasis)

    tuning = goals(first, still[share:], runs, seed, "to tune on")
    comparing = goals(held_out or first, still[:share] or still, runs // 3, seed + 1, "to compare on")
    about = {
        "pictures": {"tuned": first.picture_count, "compared": held_out.picture_count if held_out else 0},
        "trigger": trigger,
        "prompts": {"tuned": still[share:], "compared": still[:share] or still},
    }
    return _Material(tuning, comparing, pictures, own, seed, at_once, rows, about)


def _rows(
    task: Mapping[str, Any], start: tune.Numbers, tuned: tune.Numbers, family: str
) -> list[tuple[str, tune.Numbers]]:
    """What is compared: nothing, 1 everywhere, what the mix had, presets, what was tuned."""
    flat, count = flat_weights(family), len(start)
    rows: list[tuple[str, tune.Numbers]] = [("without", [{}] * count), ("1 everywhere", [flat] * count)]
    rows += [(f"{x} everywhere", [dict.fromkeys(flat, x)] * count) for x in (0.8, 1.2)]
    if start != [flat] * count:
        rows.append(("as it was", start))
    known = {**BUILTIN, **(task.get("presets") or {})}
    chosen = [name for name in _SEEDS_PRESETS if name in known]
    chosen += [name for name in known if name not in BUILTIN and name != task.get("name")][: _COMPARED - len(chosen)]
    for name in chosen:
        if len(known[name]) in topology(family).by_count:
            rows.append((name, [weights_by_block(known[name], family=family)] * count))
    return [*rows, (str(task.get("name") or "tuned"), tuned)]


def _presets(task: Mapping[str, Any], tuned: tune.Numbers, dials: Dials) -> list[dict[str, Any]]:
    """One a LoRA. Blocks that it lacks, and that a short list doesn't name, don't matter and get 0."""
    name = str(task.get("name") or "tuned")
    found = []
    for n, (weights, present) in enumerate(zip(tuned, dials.present, strict=True)):
        short = topology(dials.family).attention
        its = {b: w if b in present or b in short else UNLISTED for b, w in weights.items()}
        numbers = [round(x, 2) for x in numbers_of(its, dials.family)]
        found.append({"name": name if not n else f"{name}-{n + 1}", "lora": task["mix"][n]["name"], "numbers": numbers})
    return found


def _mix(task: Mapping[str, Any]) -> tuple[list[Mixed], list[dict[str, float]]]:
    mix = [Mixed(Path(one["path"]), one["te"], one["unet"]) for one in task["mix"]]
    return mix, [dict(one["weights"]) for one in task["mix"]]


def _resolution(lora: Path) -> int | None:
    """The side in pixels that a LoRA's metadata says it was trained at."""
    sides = re.findall(r"\d+", read_header(lora, "LoRA").metadata.get("ss_resolution", ""))
    return max(map(int, sides)) if sides else None


def _is_v(lora: Path) -> bool:
    """Whether a LoRA's metadata says that its checkpoint predicts v."""
    return read_header(lora, "LoRA").metadata.get("modelspec.prediction_type") == "v"
