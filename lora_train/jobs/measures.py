"""Measuring as a job: what the page asks for becomes the child's task file; its result lies in the job's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..blocks import mix as mixes
from ..blocks.presets import BUILTIN, PresetStore, check_name, shared_store
from ..errors import UserError, raise_all
from ..host.base import Host
from . import record as records

KINDS = ("effects", "tune")
TASK, RESULT, MAPS = "task.json", "measure.json", "maps"

_OPEN_FOLDERS = "Put them into the WebUI's folder, or start it with --gradio-allowed-path FOLDER"
_NUMBERS = {
    "effects": {},
    "tune": {
        "keep": (0.0, 1.0),
        "low": (-2.0, 1.0),
        "high": (1.0, 4.0),
        "rounds": (1, 5),
        "draw": (0, 256),
        "seed": (0, 2**32 - 1),
    },
}
_MOST_PROMPTS, _MOST_TEXT = 64, 2000


def task(host: Host, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The child's task, checked: `mix` ({"loras": […], "shot": {…}}), and by kind

    effects: timesteps (800, 500, 200 unless given), each (the blocks of each LoRA on their own, too).
    tune: name (of the preset), keep (0 … 1), pictures (a folder; else the one that the LoRA was trained on here),
    prompts (neutral ones; else the captions without the trigger), trigger, low, high, rounds, tied, seed, draw (how
    many pictures each result is judged by).
    Raises all problems together.
    """
    if kind not in KINDS:
        raise UserError(f"{kind!r} can't be measured", where="kind", remedy=f"Choose {' or '.join(KINDS)}")
    errors: list[UserError] = []
    mix = mixes.mix_from(values.get("mix"))
    checkpoint = host.checkpoint()
    if checkpoint is None:
        raise UserError("no checkpoint is chosen", where="checkpoint", remedy="Choose one")
    store = shared_store(host.data_dir())
    found = mixes.find(mix, host.lora_dir(), {**BUILTIN, **store.file.presets}, store.file.faults)
    if not found:
        raise UserError("no LoRA is switched on", where="mix.loras", remedy="Choose one, with a strength other than 0")
    made: dict[str, Any] = {
        "kind": kind,
        "checkpoint": str(checkpoint.path.absolute()),
        "vae": str(checkpoint.vae.absolute()) if checkpoint.vae else None,
        "family": found[0].family,
        "mix": [
            {
                "name": one.part.name,
                "path": str(one.path.absolute()),
                "te": one.part.te,
                "unet": one.part.unet,
                "weights": dict(one.weights),
            }
            for one in found
        ],
        "shot": {**asdict(mix.scene), "seeds": list(mix.scene.seeds), "prompts": list(mix.scene.prompts)},
    }
    known = {"mix", "share_gpu", *_NUMBERS[kind]}
    known |= {"timesteps", "each"} if kind == "effects" else {"name", "pictures", "prompts", "trigger", "tied"}
    errors += [UserError("is not known here", where=name, remedy="See openapi.json") for name in values.keys() - known]
    for name, (low, high) in _NUMBERS[kind].items():
        if values.get(name) is not None:
            made[name] = _number(values[name], low, high, name, errors)
    for name in ("each", "tied"):
        if name in known and not isinstance(made.setdefault(name, values.get(name, False)), bool):
            errors.append(UserError("is not true or false", where=name))
    if kind == "effects":
        made["timesteps"] = _timesteps(values.get("timesteps"), errors)
        if not mix.scene.prompt.strip():
            errors.append(UserError("is missing", where="mix.shot.prompt", remedy="Write what to draw"))
    else:
        made |= _goals(host, values, found[0].path, store, len(found), errors)
    raise_all(errors)
    return made


def still_there(made: Mapping[str, Any]) -> list[UserError]:
    """What a task needs and is gone by now."""
    needed = [made["checkpoint"], *(one["path"] for one in made["mix"])]
    gone = [UserError("there is no such file", where=path) for path in needed if not Path(path).is_file()]
    if made.get("pictures") and not Path(made["pictures"]).is_dir():
        gone.append(UserError("there is no such folder", where=made["pictures"]))
    return gone


def result(folder: Path) -> dict[str, Any] | None:
    """What a job has measured; None until it is done."""
    try:
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def keep_presets(host: Host, folder: Path) -> list[str]:
    """Write what was tuned under its name into the presets of this installation; the names. Raises UserError."""
    found = result(folder)
    if not found or found.get("kind") != "tune":
        return []
    store = shared_store(host.data_dir())
    file = store.file
    for preset in found["presets"]:
        file = file.put(preset["name"], tuple(preset["numbers"]))
    if file != store.file:
        store.save(file)
    return [preset["name"] for preset in found["presets"]]


def _goals(
    host: Host, values: Mapping[str, Any], lora: Path, store: PresetStore, count: int, errors: list[UserError]
) -> dict[str, Any]:
    name = str(values.get("name") or "").strip()
    try:
        check_name(name)
        taken = [other for other in preset_names(name, count) if other in BUILTIN]
        if taken:
            raise UserError(f"{taken[0]!r} is built in", remedy="Choose another name")
    except UserError as error:
        errors.append(UserError(error.what, where="name", remedy=error.remedy))
    prompts = values.get("prompts") or []
    texts = prompts.splitlines() if isinstance(prompts, str) else prompts
    right = isinstance(texts, list) and all(isinstance(text, str) and len(text) <= _MOST_TEXT for text in texts)
    if not right or len(texts) > _MOST_PROMPTS:
        errors.append(UserError(f"is not a list of at most {_MOST_PROMPTS} prompts", where="prompts"))
        texts = []
    folder = _pictures(host, values.get("pictures"), lora, errors)
    presets = {name: list(numbers) for name, numbers in {**BUILTIN, **store.file.presets}.items()}
    return {
        "name": name,
        "pictures": folder,
        "prompts": [text.strip() for text in texts if text.strip()],
        "trigger": str(values.get("trigger") or ""),
        "presets": presets,
    }


def preset_names(name: str, count: int) -> list[str]:
    """Of the LoRAs of a mix: NAME, NAME-2 …"""
    return [name if not n else f"{name}-{n + 1}" for n in range(count)]


def _pictures(host: Host, given: Any, lora: Path, errors: list[UserError]) -> str:
    folder = str(given or "") or trained_on(host, lora)
    remedy = "Name the folder of pictures that the LoRA was trained on"
    if not folder:
        errors.append(UserError("isn't known for this LoRA", where="pictures", remedy=remedy))
        return ""
    path = Path(folder).expanduser().absolute()
    allowed = [Path(one).expanduser().resolve() for one in host.picture_folders()] if host.restricted() else []
    if host.restricted() and not any(path.resolve().is_relative_to(one) for one in allowed):
        errors.append(UserError("lies outside the WebUI's own folders", where="pictures", remedy=_OPEN_FOLDERS))
    elif not path.is_dir():
        errors.append(UserError(f"there is no folder {path}", where="pictures", remedy=remedy))
    return str(path)


def trained_on(host: Host, lora: Path) -> str:
    """The folder of pictures that a LoRA was trained on by a job that is known here; empty for any other."""
    wanted = lora.resolve()
    for file in sorted((host.data_dir() / "jobs").glob("[!.]*/config.json"), reverse=True):
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = records.load(file.parent)
            if record and wanted in [Path(path).resolve() for path in record.files]:
                return str(json.loads(file.read_text(encoding="utf-8")).get("train_data_dir") or "")
    return ""


def _number(value: Any, low: float, high: float, name: str, errors: list[UserError]) -> float:
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not right or (isinstance(low, int) and value != int(value)):
        errors.append(UserError(f"{value!r} is not a number from {low:g} to {high:g}", where=name))
        return low
    return value


def _timesteps(given: Any, errors: list[UserError]) -> list[int]:
    if given is None:
        return [800, 500, 200]
    right = isinstance(given, list) and 0 < len(given) <= 20
    if not right or any(not isinstance(t, int) or not 0 <= t < 1000 for t in given):
        errors.append(UserError("is not a list of whole numbers from 0 to 999", where="timesteps"))
        return []
    return sorted(set(given), reverse=True)
