"""Routes of the workbench: what there is to mix, mixes as text and back, advice, and baking."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException

from ...blocks import advice, norms, sound
from ...blocks.bake import bake_sources, limit_of
from ...blocks.board import Boards
from ...blocks.families import COUNTS, FAMILIES, FOREIGN_COUNTS, OTHER, UNLISTED, topology, weights_by_block
from ...blocks.into_checkpoint import sources_into_checkpoint
from ...blocks.metadata import RECIPE_KEY, open_recipe
from ...blocks.mix import Found, Mix, Part, find, mix_from, numbers_text, prompt_of, recipe_of
from ...blocks.paste import Pasted, parse_pasted
from ...blocks.presets import BUILTIN, PresetStore, shared_store
from ...blocks.recipe import find_lora, find_loras, name_of
from ...blocks.report import Report
from ...blocks.resize import resize
from ...card import write_card, write_preview
from ...errors import UserError
from ...host.base import Checkpoint
from ...jobs.manager import Manager
from ...paths import MINI_CHECKPOINT
from .. import guard
from . import schemas
from .base import Body, Reader, Route, described, refresh_loras, restricted, shown
from .merges import inside
from .tasks import TASKS, Task

_BODY = Depends(guard.json_body)
_MOST_RANK = 1 << 16
_PATIENCE = 1.0  # seconds that a page waits for what isn't known yet
_LIMITS = ("exact", "rank", "error")
_MOST_REPORTS = 8
_REPORTS: dict[str, dict[str, Any]] = {}
"""By the id of their task."""
_TAG = re.compile(r"\s*<(?:lora|lyco):[^>]*>(?:\s*,)?")
Progress = Callable[[int, int], None]


class Blocks:
    """Each public method but `routes` is one route's answer."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Reading first."""
        name = {"name": {**schemas.TEXT, "description": "In the LoRA folder, without an ending."}}
        lora, mix, task = schemas.ref("BlockLora"), schemas.ref("MixRequest"), schemas.ref("TaskStarted")
        presets = schemas.ref("BlockPresets")
        return [
            Route(
                "GET",
                "/blocks/loras",
                self.loras,
                "LoRAs of the folder, the newest first",
                schemas.listed("BlockLoraFile"),
            ),
            Route("GET", "/blocks/lora", self.lora, "What a LoRA holds, block by block", lora, query=name),
            Route("GET", "/blocks/families", self.families, "Blocks by name", schemas.ANYTHING),
            Route("GET", "/blocks/presets", self.presets, "Block presets of this installation", presets),
            Route(
                "POST",
                "/blocks/presets",
                self.change_presets,
                "Write, rename or remove a preset",
                presets,
                schemas.ref("ChangePresets"),
            ),
            Route(
                "POST",
                "/blocks/parse",
                self.parse,
                "LoRAs and weights in a text that was pasted",
                schemas.ref("ParsedMix"),
                schemas.ref("ParseMix"),
            ),
            Route(
                "POST", "/blocks/text", self.text, "A mix as prompt, recipe and numbers", schemas.ref("MixText"), mix
            ),
            Route(
                "GET", "/blocks/advice", self.symptoms, "Faults of pictures that there is advice for", schemas.ANYTHING
            ),
            Route(
                "POST",
                "/blocks/advice",
                self.advise,
                "What to change against a fault",
                schemas.ref("Advised"),
                schemas.ref("Advise"),
            ),
            Route(
                "GET",
                "/blocks/recipe",
                self.recipe,
                "The mix that a baked file was made from",
                schemas.ref("OpenedRecipe"),
                query=name,
            ),
            Route(
                "POST",
                "/blocks/compare",
                self.compare,
                "Two LoRAs block by block",
                schemas.ANYTHING,
                schemas.ref("CompareLoras"),
            ),
            Route("GET", "/blocks/reports/{task}", self.report, "What a task wrote, layer by layer", schemas.ANYTHING),
            Route("POST", "/blocks/bake", self.bake, "Make one LoRA of a mix", task, schemas.ref("BakeRequest")),
            Route(
                "POST",
                "/blocks/into_checkpoint",
                self.into_checkpoint,
                "Merge a mix into a checkpoint",
                task,
                schemas.ref("IntoCheckpoint"),
            ),
            Route(
                "POST", "/blocks/resize", self.resize, "One LoRA at another rank", task, schemas.ref("ResizeRequest")
            ),
        ]

    # What there is

    def loras(self) -> list[dict[str, Any]]:
        """With `problem` where a file can't be used, `baked` where it tells its recipe. Of a large folder some have no
        family yet: ask again.
        """
        if not self._lora_dir.is_dir():
            return []
        found = []
        for path in find_loras(self._lora_dir):
            try:
                found.append((path.stat(), path))
            except OSError:
                continue
        found.sort(key=lambda one: (-one[0].st_mtime, one[1]))
        families = sound.families([path for _, path in found], _PATIENCE)
        return [
            {
                "name": name_of(path, self._lora_dir),
                "modified": status.st_mtime,
                "size": status.st_size,
                **asdict(seen),
            }
            for (status, path), seen in zip(found, families, strict=True)
        ]

    def lora(self, name: str = "") -> dict[str, Any]:
        """`present`: how many modules each block has; `recipe`: how it was baked, if it was."""
        path = self._found(name)
        held = sound.held(path)
        index, family = held.index, held.index.family
        present = {block: len(modules) for block, modules in index.blocks().items()}
        weight, text = _card(path)
        known = _recipe_text(held.metadata)
        return {
            "name": name_of(path, self._lora_dir),
            "family": family,
            "kinds": index.kinds(),
            "blocks": [block for block in topology(family).blocks if block in present] + [OTHER] * (OTHER in present),
            "present": present,
            "recipe": known,
            "hash": held.metadata.get("sshs_model_hash", ""),
            "needs_checkpoint": any(module.needs_checkpoint for module in index.modules.values()),
            "bundled": sorted({key.split(".")[1] for key in index.bundled}),
            "preferred_weight": weight,
            "activation_text": text,
        }

    def families(self) -> dict[str, Any]:
        """By family: blocks in order, those that a short list names, groups, partners; `unlisted`: what others get."""
        return {name: _family(name) for name in FAMILIES}

    def presets(self) -> dict[str, Any]:
        """Those of LoRA Block Weight where it is installed (`shared`), else our own, and the built-in ones."""
        return _presets_view(self._store(), restricted(self._manager))

    def change_presets(self, body: Body = _BODY) -> dict[str, Any]:
        """One of {put: {name, numbers}}, {rename: [old, new]}, {remove: name}. Comments and order of the file stay."""
        given = Reader(body, ("put", "rename", "remove"))
        put, remove = given.table("put"), given.text("remove", "")
        given.check()
        rename = body.get("rename")
        if sum(bool(one) for one in (put, rename, remove)) != 1:
            raise UserError("name one change", where="put", remedy="One of put, rename and remove")
        store = self._store()
        file = store.file
        if put is not None:
            values = Reader(put, ("name", "numbers"))
            name = values.text("name")
            values.check()
            file = file.put(name, _numbers(put.get("numbers")))
        elif rename is not None:
            if not isinstance(rename, list) or len(rename) != 2 or not all(isinstance(one, str) for one in rename):
                raise UserError("is not [old name, new name]", where="rename", remedy="See openapi.json")
            _refuse_builtin(rename[0], store)
            file = file.rename(*rename)
        else:
            _refuse_builtin(remove, store)
            file = file.remove(remove)
        return _presets_view(store.save(file), restricted(self._manager))

    # Text

    def parse(self, body: Body = _BODY) -> dict[str, Any]:
        """A prompt with LoRA tags, a recipe, preset lines, or 12, 17, 20 or 26 numbers. name null: of no LoRA.

        prompt: what is left of a prompt without its tags.
        """
        given = Reader(body, ("text", "family"))
        text = given.text("text")
        family = given.text("family") if body.get("family") else None
        given.check()
        if family:
            topology(family)
        store = self._store()
        pasted = parse_pasted(text, store.file.with_builtin, None, store.file.faults)
        files = find_loras(self._lora_dir)
        loras = [self._part(one, files, family) for one in pasted]
        head = text.partition("\nNegative prompt:")[0].partition("\nSteps:")[0]
        tagged = "<lora:" in text or "<lyco:" in text
        return {"loras": loras, "prompt": _TAG.sub("", head).strip(" ,\n") if tagged else None}

    def text(self, body: Body = _BODY) -> dict[str, Any]:
        """numbers: a list's text for each LoRA of the mix, null for a hidden one."""
        given = Reader(body, ("mix",))
        given.table("mix", needed=True)
        given.check()
        mix = mix_from(body["mix"])
        presets = self._known_presets()
        found = self.find(mix)
        numbers = {id(one.part): numbers_text(one) for one in found}
        texts = [numbers.get(id(part)) for part in mix.loras]
        named = [(part, text) for part, text in zip(mix.loras, texts, strict=True) if text]
        lines = [f"{part.preset or part.name.rpartition('/')[2]}:{text}" for part, text in named]
        try:
            prompt, problem = prompt_of(found, mix.scene.prompt), None
        except UserError as error:
            prompt, problem = mix.scene.prompt, str(error)
        return {
            "prompt": prompt,
            "prompt_problem": problem,
            "recipe": recipe_of(found, self._lora_dir, presets),
            "numbers": texts,
            "preset_lines": "\n".join(lines),
        }

    # Advice

    def symptoms(self) -> dict[str, Any]:
        """With the steps of each, the first being 0."""
        return {
            "symptoms": [
                {
                    "key": one.key,
                    "label": one.label,
                    "steps": [{"text": step.text, "reason": step.reason} for step in one.steps],
                }
                for one in advice.SYMPTOMS.values()
            ],
            "families": list(advice.FAMILIES),
            "amount": advice.AMOUNT,
            "limits": [advice.LIMITS.low, advice.LIMITS.high],
        }

    def advise(self, body: Body = _BODY) -> dict[str, Any]:
        """The changes of a step for a mix. roles: {main, own}, places in its list; else told by their strengths.

        changes: lora is the place in the list, block null stands for the strength. next: the step to try after it.
        """
        given = Reader(body, ("symptom", "step", "amount", "mix", "roles", "locked"))
        symptom, step = given.text("symptom"), given.whole("step", 0, 20, default=0)
        amount, roles = given.number("amount", advice.AMOUNT), given.table("roles") or {}
        given.table("mix", needed=True)
        given.check()
        mix = mix_from(body["mix"])
        main, own = _roles(mix, roles)
        found = {id(one.part): one for one in self.find(mix)}
        sets = {advice.MAIN: main, advice.OWN: own}
        held = {role: found.get(id(mix.loras[n])) for role, n in sets.items() if n is not None}
        chosen = held.get(advice.MAIN)
        if main is None or chosen is None:
            remedy = "Add the LoRA that the picture shows, with a strength above 0"
            raise UserError("there is no LoRA to change", where="mix", remedy=remedy)
        other = held.get(advice.OWN)
        proposal = advice.propose(
            symptom,
            advice.Mix(
                chosen.weights,
                other.weights if other else None,
                mix.loras[main].unet,
                mix.loras[own].unet if own is not None else -1.0,
            ),
            step,
            amount,
            locked=_locked(body.get("locked"), sets),
            family=chosen.family,
        )
        the = advice.SYMPTOMS[symptom].steps[step]
        return {
            "changes": [
                {"lora": sets[c.target], "role": c.target, "block": c.block, "from": c.old, "to": c.new}
                for c in proposal.changes
            ],
            "reason": the.reason,
            "text": the.text,
            "held": dict(proposal.held),
            "step": step,
            "next": step + 1 if proposal.more else None,
        }

    # Files

    def recipe(self, name: str = "") -> dict[str, Any]:
        """Opens a recipe: the mix; `missing`: LoRAs that are gone; `changed`: those that are others now."""
        path = self._found(name)
        opened = open_recipe(path)
        files = find_loras(self._lora_dir)
        presets = self._known_presets()
        parts: list[Part] = []
        missing: list[str] = []
        changed: list[str] = []
        for source in opened.sources:
            known = None
            try:
                known = find_lora(source.name, self._lora_dir, files)
                if sound.digest(known) != source.sha256:
                    changed.append(source.name)
            except UserError:
                (changed if known else missing).append(source.name)
            weights = source.weights
            if weights is None and source.numbers is not None:
                weights = weights_by_block(source.numbers, opened.unlisted, opened.family)
            same = source.preset is not None and presets.get(source.preset) == source.numbers
            te = source.strength if source.te is None else source.te
            own = name_of(known, self._lora_dir) if known else source.name
            parts.append(Part(own, te, source.strength, weights, source.preset if same else None))
        mix = Mix(tuple(parts)).as_dict()
        return {
            "mix": {"loras": mix["loras"]},
            "text": opened.text,
            "family": opened.family,
            "limit": _limit_view(opened.rank, opened.target_error),
            "precision": opened.precision,
            "against": opened.against,
            "missing": missing,
            "changed": changed,
        }

    def compare(self, body: Body = _BODY) -> dict[str, Any]:
        """{"names": [a, b]}: of every block the norm in each, and the cosine between them.

        weights: strength times weight of each by block; with them `subtraction` says what b's do to a in each block.
        """
        Reader(body, ("names", "weights")).check()
        names, weights = body.get("names"), body.get("weights")
        if not isinstance(names, list) or len(names) != 2 or not all(isinstance(one, str) for one in names):
            raise UserError("is not a list of two LoRAs", where="names", remedy="See openapi.json")
        if weights is not None and (not isinstance(weights, list) or len(weights) != 2):
            raise UserError("is not a list of two sets of weights", where="weights", remedy="See openapi.json")
        paths = [self._found(name) for name in names]
        told = _compared(tuple(map(sound.stamp, paths)), self._base_for(paths))
        factors = [_factors(one) for one in weights or (None, None)]
        judged = norms.subtraction(told["norms"][0], told["norms"][1], told["cosine"], *factors) if weights else []
        return {"names": names, **told, "subtraction": [_finite(asdict(one)) for one in judged]}

    def bake(self, body: Body = _BODY) -> dict[str, Any]:
        """A task whose result is the report. limit: {"exact": true}, {"rank": N} or {"error": E}; preview_try:
        {board, try, picture}; against: a checkpoint, for what changes one by its own weights.
        """
        fields = (
            "mix",
            "name",
            "limit",
            "precision",
            "overwrite",
            "preview_try",
            "preferred_weight",
            "activation_text",
        )
        given = Reader(body, (*fields, "against"))
        name, precision, overwrite = given.text("name"), given.text("precision", "fp16"), given.flag("overwrite")
        given.table("mix", needed=True)
        limit, preview = given.table("limit"), given.table("preview_try")
        weight, text = given.number("preferred_weight", 1.0), given.text("activation_text", "")
        against = given.text("against", "")
        given.check()
        rank, error = _limit(limit)
        known = limit_of(rank, error, precision)
        sources = self._sources(mix_from(body["mix"]))
        out = self._out(name, overwrite)
        picture = self._preview(preview)
        base = self._checkpoint(against).path if against else None

        def work(task: Task) -> dict[str, Any]:
            report = bake_sources(sources, out, known, precision, against=base, progress=_progress(task))
            preview = write_preview(out, picture, overwrite) if picture else None
            written = [write_card(out, weight, text or None), *([preview] if preview else [])]
            refresh_loras(self._manager)
            kept = out.with_suffix(".png").name if picture and not preview else None
            told = self._written(task, name_of(out, self._lora_dir), out, report)
            return {**told, "written": [shown(self._manager, str(path)) for path in written], "picture_kept": kept}

        return {"task": self._start("bake", f"baking {out.stem}", work, out)}

    def into_checkpoint(self, body: Body = _BODY) -> dict[str, Any]:
        """A task that writes a new checkpoint beside the one that is named (default: the host's)."""
        if restricted(self._manager):
            raise HTTPException(403, "this WebUI is open to others, so no checkpoint is written")
        given = Reader(body, ("mix", "checkpoint", "name", "overwrite"))
        name, wanted, overwrite = given.text("name"), given.text("checkpoint", ""), given.flag("overwrite")
        given.table("mix", needed=True)
        given.check()
        checkpoint = self._checkpoint(wanted)
        sources = self._sources(mix_from(body["mix"]))
        out = self._free(inside(_folder_for(checkpoint, self._manager), name), overwrite)

        def work(task: Task) -> dict[str, Any]:
            report = sources_into_checkpoint(sources, checkpoint.path, out, progress=_progress(task))
            return self._written(task, out.stem, out, report)

        return {"task": self._start("checkpoint", f"merging into {checkpoint.title}", work, out)}

    def resize(self, body: Body = _BODY) -> dict[str, Any]:
        """A task. limit: {"rank": N} or {"error": E}; precision: the file's own where it isn't given."""
        given = Reader(body, ("name", "out", "limit", "precision", "overwrite", "against"))
        name, target, overwrite = given.text("name"), given.text("out"), given.flag("overwrite")
        limit, precision, against = (
            given.table("limit", needed=True),
            given.text("precision", ""),
            given.text("against", ""),
        )
        given.check()
        rank, error = _limit(limit)
        if rank is None and error is None:
            raise UserError("give a rank or an error", where="limit", remedy='For example {"rank": 32}')
        path, out = self._found(name), self._out(target, overwrite)
        limit_of(rank, error, precision or "fp16")
        base = self._checkpoint(against).path if against else None

        def work(task: Task) -> dict[str, Any]:
            report = resize(path, out, rank, error, precision or None, base, progress=_progress(task))
            weight, text = _card(path)
            if weight is not None or text:
                write_card(out, weight, text)
            refresh_loras(self._manager)
            return self._written(task, name_of(out, self._lora_dir), out, report)

        return {"task": self._start("resize", f"resizing {path.stem}", work, out)}

    def report(self, task: str) -> dict[str, Any]:
        """With every layer: its rank, norm and error."""
        if task not in _REPORTS:
            raise HTTPException(404, "there is no such report")
        return _REPORTS[task]

    # Beneath

    def _start(self, kind: str, text: str, work: Callable[[Task], dict[str, Any]], out: Path) -> str:
        """A task that writes `out`; its error names no folder that isn't for everyone."""

        def told(task: Task) -> dict[str, Any]:
            try:
                return work(task)
            except UserError as error:
                raise UserError(shown(self._manager, str(error))) from None

        return TASKS.start(kind, text, told, writes=[out.parent])

    def _written(self, task: Task, name: str, out: Path, report: Report) -> dict[str, Any]:
        """For the task's result, which every look at the status carries: all but the layers, which GET report has."""
        path = shown(self._manager, str(out))
        whole = {**report.as_dict(), "out": path}
        _REPORTS[task.id] = whole
        while len(_REPORTS) > _MOST_REPORTS:
            _REPORTS.pop(next(iter(_REPORTS)), None)
        return {"name": name, "path": path, "report": {key: whole[key] for key in whole if key != "modules"}}

    def find(self, mix: Mix) -> list[Found]:
        """The files of a mix. Raises UserError."""
        store = self._store()
        return find(mix, self._lora_dir, store.file.with_builtin, store.file.faults)

    @property
    def _lora_dir(self) -> Path:
        return self._manager.host.lora_dir()

    def _store(self) -> PresetStore:
        return shared_store(self._manager.host.data_dir())

    def _known_presets(self) -> dict[str, tuple[float, ...]]:
        return self._store().file.with_builtin

    def _found(self, name: str) -> Path:
        if not name:
            raise HTTPException(404, "name a LoRA of the folder")
        return find_lora(name, self._lora_dir)

    def _base_for(self, paths: list[Path]) -> Path | None:
        """The host's checkpoint where one of the LoRAs can't be understood without."""
        modules = [module for path in paths for module in sound.held(path).index.modules.values()]
        return self._checkpoint("").path if any(module.needs_checkpoint for module in modules) else None

    def _sources(self, mix: Mix) -> list[Any]:
        found = self.find(mix)
        if not found:
            remedy = "Add a LoRA, or give one a strength and weights"
            raise UserError("nothing is left: no LoRA of the mix does anything", where="mix", remedy=remedy)
        presets = self._known_presets()
        return [one.source(self._lora_dir, presets) for one in found]

    def _out(self, name: str, overwrite: bool) -> Path:
        return self._free(inside(self._lora_dir, name), overwrite)

    @staticmethod
    def _free(out: Path, overwrite: bool) -> Path:
        if out.exists() and not overwrite:
            error = UserError("there is a file of this name", where="name", remedy="Choose another, or overwrite it")
            raise HTTPException(409, described(error))
        return out

    def _preview(self, given: Mapping[str, Any] | None) -> Path | None:
        if given is None:
            return None
        values = Reader(dict(given), ("board", "try", "picture"))
        board, number = values.text("board"), values.whole("try", 0, 1 << 31, needed=True)
        place = values.whole("picture", 0, 10_000, default=0)
        values.check()
        path = Boards(self._manager.host.data_dir() / "boards").full(board, number, place)
        if path is None:
            raise UserError("there is no such picture", where="preview_try", remedy="Choose a try of the history")
        return path

    def _checkpoint(self, wanted: str) -> Checkpoint:
        host = self._manager.host
        current = host.checkpoint()
        known = [*([current] if current else []), *host.checkpoints()]
        if not wanted and current:
            return current
        for one in known:
            if wanted in (one.title, one.path.name, one.path.stem):
                return one
        titles = ", ".join(dict.fromkeys(one.title for one in known)) or "none"
        raise UserError(f"there is no checkpoint {wanted!r}", where="checkpoint", remedy=f"There are: {titles}")

    def _part(self, one: Pasted, files: list[Path], family: str | None) -> dict[str, Any]:
        name = None
        if one.lora is not None:
            path = find_lora(one.lora, self._lora_dir, files)
            name, family = name_of(path, self._lora_dir), sound.held(path).index.family
        weights = None
        if one.numbers is not None:
            guessed = next((name for name in FAMILIES if len(one.numbers) in topology(name).by_count), "SD1.5")
            weights = weights_by_block(one.numbers, family=family or guessed)
        if one.other is not None and weights is not None:
            weights[OTHER] = one.other
        return {"name": name, "te": one.te, "unet": one.unet, "weights": weights, "preset": one.preset, "hidden": False}


@lru_cache(maxsize=32)
def _compared(stamps: tuple[sound.Stamp, ...], base: Path | None) -> dict[str, Any]:
    """Of two files as they are; the stamps name them."""
    first, second = (Path(stamp[0]) for stamp in stamps)
    return {
        "family": sound.held(first).index.family,
        "norms": [norms.norms(path, base) for path in (first, second)],
        "cosine": norms.cosine(first, second, base),
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity."""
    return {name: None if value in (math.inf, -math.inf) else value for name, value in values.items()}


def _factors(given: Any) -> dict[str, float] | None:
    if given is None:
        return None
    right = isinstance(given, dict) and all(isinstance(one, (int, float)) for one in given.values())
    if not right:
        raise UserError("is not numbers by block", where="weights", remedy="See openapi.json")
    return {str(block): float(value) for block, value in given.items()}


def _family(name: str) -> dict[str, Any]:
    the = topology(name)
    lists = {f"names{count}": blocks for count, blocks in the.by_count.items()}
    return {**the.as_dict(), **lists, "other": OTHER, "unlisted": UNLISTED}


def _presets_view(store: PresetStore, hide_place: bool) -> dict[str, Any]:
    own = store.file.presets
    shown = {**{name: numbers for name, numbers in BUILTIN.items() if name not in own}, **own}
    lines = list(store.file.lines)
    return {
        "file": store.path.name if hide_place else str(store.path),
        "shared": store.path.name == "lbwpresets.txt",
        "presets": [
            {
                "name": name,
                "numbers": list(numbers),
                "family": _family_of(len(numbers)),
                "builtin": name not in own,
            }
            for name, numbers in shown.items()
        ],
        "faults": [
            {"line": n, "text": line.text, "what": line.fault.what}
            for n, line in enumerate(lines, start=1)
            if line.fault
        ],
    }


def _family_of(count: int) -> str:
    """The first that a list of so many numbers is for."""
    return next((name for name in FAMILIES if count in topology(name).by_count), FOREIGN_COUNTS.get(count, ""))


def _refuse_builtin(name: str, store: PresetStore) -> None:
    if name in BUILTIN and name not in store.file.presets and name not in store.file.faults:
        remedy = "Write one of another name; a preset of the same name takes its place"
        raise UserError(f"{name!r} is built in", where="presets", remedy=remedy)


def _numbers(given: Any) -> tuple[float, ...]:
    right = isinstance(given, list) and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in given)
    if not right:
        raise UserError(
            "is not a list of numbers", where="numbers", remedy=f"Give {', '.join(map(str, COUNTS))} of them"
        )
    return tuple(map(float, given))


def _roles(mix: Mix, given: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(of the style, of what is taken away), places in the list."""
    shown = [n for n, part in enumerate(mix.loras) if not part.hidden]
    main = next((n for n in shown if mix.loras[n].unet > 0), None)
    own = next((n for n in shown if mix.loras[n].unet < 0), None)
    for role, place in given.items():
        right = place is None or (isinstance(place, int) and not isinstance(place, bool) and place in shown)
        if role not in ("main", "own") or not right:
            raise UserError(
                f"{role}: {place!r} is not a LoRA of the mix", where="roles", remedy="Give its place, from 0"
            )
        main, own = (place, own) if role == "main" else (main, place)
    return main, own


def _locked(given: Any, sets: Mapping[str, int | None]) -> set[tuple[str, str]]:
    """[[place in the list, block], …] as advice has it."""
    roles = {place: role for role, place in sets.items() if place is not None}
    try:
        return {(roles[place], str(block)) for place, block in given or [] if place in roles}
    except (TypeError, ValueError):
        raise UserError("is not a list of [place, block]", where="locked", remedy="See openapi.json") from None


def _limit(given: Mapping[str, Any] | None) -> tuple[int | None, float | None]:
    """(rank, error) of {"exact": true}, {"rank": N} or {"error": E}."""
    given = {name: value for name, value in (given or {}).items() if value is not None and value is not False}
    reader = Reader(dict(given), _LIMITS)
    rank, error = reader.whole("rank", 1, _MOST_RANK), reader.number("error")
    reader.flag("exact")
    reader.check()
    if len(given) > 1:
        raise UserError("name one of exact, rank and error", where="limit", remedy='For example {"rank": 32}')
    return rank, error


def _limit_view(rank: int | None, error: float | None) -> dict[str, Any]:
    return {"rank": rank} if rank is not None else {"error": error} if error is not None else {"exact": True}


def _progress(task: Task) -> Progress:
    """Counts in the task, and ends the work where that is wanted."""

    def on(done: int, total: int) -> None:
        task.done, task.total = done, total
        if task.stop.is_set():
            raise UserError("it was stopped", remedy="Nothing was written")

    return on


def _card(path: Path) -> tuple[float | None, str]:
    """(preferred weight, activation text) of a LoRA's card."""
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8-sig"))
        weight, text = card.get("preferred weight"), card.get("activation text")
    except (OSError, ValueError, AttributeError):
        return None, ""
    weight = float(weight) if isinstance(weight, (int, float)) and weight else None
    return weight, text if isinstance(text, str) else ""


def _recipe_text(metadata: Mapping[str, str]) -> str | None:
    try:
        return str(json.loads(metadata[RECIPE_KEY])["recipe"])
    except (KeyError, ValueError, TypeError):
        return None


def _folder_for(checkpoint: Checkpoint, manager: Manager) -> Path:
    """Beside the checkpoint; the embedded one has no place for others beside it."""
    if checkpoint.path != MINI_CHECKPOINT:
        return checkpoint.path.parent
    others = [one for one in manager.host.checkpoints() if one.path != MINI_CHECKPOINT]
    if not others:
        remedy = "Put a checkpoint into the host's models folder first"
        raise UserError("there is no folder for checkpoints", where="checkpoint", remedy=remedy)
    return others[0].path.parent
