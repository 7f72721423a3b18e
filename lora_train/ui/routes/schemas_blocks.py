"""The shapes of the workbench's requests and answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...blocks.mix import Scene
from ...network.kohya import PRECISIONS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean", "default": False}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_ANY: Schema = {"type": "object", "additionalProperties": True}
_MAYBE: Schema = {**_TEXT, "nullable": True}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_NUMBERS: Schema = {"type": "object", "additionalProperties": _NUMBER}


def components() -> dict[str, Schema]:
    """All named schemas of the workbench."""
    return {**_mixes(), **_requests(), **_answers()}


def _mixes() -> dict[str, Schema]:
    plain = Scene()
    part: dict[str, Schema] = {
        "name": {**_TEXT, "description": "In the LoRA folder, without an ending."},
        "te": {**_NUMBER, "default": 1},
        "unet": {**_NUMBER, "default": 1},
        "weights": {
            **_NUMBERS,
            "nullable": True,
            "description": "By block; null: the preset's, or 1 everywhere. Not given: 0 for blocks that a short list "
            "doesn't name, 1 for OTHER.",
        },
        "preset": {**_MAYBE, "description": "What the weights are called."},
        "hidden": {**_FLAG, "description": "Left out for now."},
    }
    size = {**_WHOLE, "minimum": 64, "maximum": 2048, "multipleOf": 8}
    shot: dict[str, Schema] = {
        **{name: {**_TEXT, "default": ""} for name in ("prompt", "negative_prompt")},
        "prompts": {**_TEXTS, "description": "Further ones; each is drawn with every seed."},
        "seeds": {"type": "array", "items": {**_WHOLE, "minimum": 0, "maximum": 2**32 - 1}, "default": [1]},
        "steps": {**_WHOLE, "minimum": 1, "maximum": 150, "default": plain.steps},
        "cfg_scale": {**_NUMBER, "default": plain.cfg_scale},
        "sampler": {**_TEXT, "default": plain.sampler},
        "width": {**size, "default": plain.width},
        "height": {**size, "default": plain.height},
        "clip_skip": {**_WHOLE, "minimum": 1, "maximum": 12, "default": plain.clip_skip},
    }
    return {
        "MixPart": _object(part, ["name"]),
        "Mix": _object({"loras": _list(_ref("MixPart")), "shot": _object(shot)}),
    }


def _requests() -> dict[str, Schema]:
    mix = _ref("Mix")
    limit = {
        **_object({"exact": {"type": "boolean"}, "rank": {**_WHOLE, "minimum": 1}, "error": _NUMBER}),
        "description": "One of them; without any: exact.",
    }
    cell = {name: {**_WHOLE, "minimum": 0} for name in ("row", "column", "page")}
    against = {**_TEXT, "description": "A checkpoint's name, for DoRA, IA3 and GLoRA."}
    precision = {**_TEXT, "enum": list(PRECISIONS), "default": "fp16"}
    preset = _object({"name": _TEXT, "numbers": {"type": "array", "items": _NUMBER}}, ["name", "numbers"])
    picture = _object({"board": _TEXT, "try": _WHOLE, "picture": {**_WHOLE, "default": 0}}, ["board", "try"])
    roles = {name: {**_WHOLE, "nullable": True} for name in ("main", "own")}
    return {
        "MixRequest": _object({"mix": mix}, ["mix"]),
        "ParseMix": _object({"text": _TEXT, "family": _MAYBE}, ["text"]),
        "ChangePresets": _object({"put": preset, "rename": _TEXTS, "remove": _TEXT}),
        "Advise": _object(
            {
                "symptom": _TEXT,
                "step": {**_WHOLE, "default": 0},
                "amount": _NUMBER,
                "mix": mix,
                "roles": _object(roles),
                "locked": {"type": "array", "items": {"type": "array", "items": {}}},
            },
            ["symptom", "mix"],
        ),
        "CompareLoras": _object({"names": _TEXTS, "weights": _list(_NUMBERS)}, ["names"]),
        "BakeRequest": _object(
            {
                "mix": mix,
                "name": {**_TEXT, "description": "A file name, or folder/name, inside the LoRA folder."},
                "limit": limit,
                "precision": precision,
                "overwrite": _FLAG,
                "preview_try": picture,
                "preferred_weight": {**_NUMBER, "default": 1},
                "activation_text": {**_TEXT, "default": ""},
                "against": against,
            },
            ["mix", "name"],
        ),
        "IntoCheckpoint": _object(
            {
                "mix": mix,
                "checkpoint": {**_TEXT, "description": "Its name; default: the host's."},
                "name": _TEXT,
                "overwrite": _FLAG,
            },
            ["mix", "name"],
        ),
        "ResizeRequest": _object(
            {
                "name": _TEXT,
                "out": {**_TEXT, "description": "The new file's name, inside the LoRA folder."},
                "limit": limit,
                "precision": {**_TEXT, "description": "As the file has it, where it isn't given."},
                "overwrite": _FLAG,
                "against": against,
            },
            ["name", "out", "limit"],
        ),
        "NewBoard": _object(
            {"name": _TEXT, "mix": mix, "from": _object({"job": _TEXT, **cell}, ["job", "row", "column"])}
        ),
        "RenameBoard": _object({"name": _TEXT}, ["name"]),
        "NewTry": _object(
            {
                "mix": mix,
                "parent": {**_WHOLE, "nullable": True, "description": "The try that this one was made from."},
                "draft": {**_FLAG, "description": "A first small look before each full picture."},
            },
            ["mix"],
        ),
        "ChangeTry": _object({"note": _TEXT, "star": {"type": "boolean"}, "keep": {"type": "boolean"}}),
    }


def _answers() -> dict[str, Schema]:
    addresses = {"type": "array", "items": _MAYBE}
    attempt: dict[str, Schema] = {
        "id": _WHOLE,
        "parent": {**_WHOLE, "nullable": True},
        "created": _NUMBER,
        "mix": _ref("Mix"),
        "note": _TEXT,
        "star": {"type": "boolean"},
        "state": {**_TEXT, "enum": ["waiting", "running", "done", "failed", "superseded"]},
        "seconds": {**_NUMBER, "nullable": True},
        "label": _TEXT,
        "error": _MAYBE,
        **dict.fromkeys(("pictures", "thumbs", "drafts"), addresses),
    }
    board = {"id": _TEXT, "name": _TEXT, "created": _NUMBER}
    maybe = {"allOf": [_ref("Try")], "nullable": True}
    preset = {"name": _TEXT, "numbers": _list(_NUMBER), "family": _TEXT, "builtin": {"type": "boolean"}}
    fault = {"line": _WHOLE, "text": _TEXT, "what": _TEXT}
    return {
        "BlockLoraFile": _object(
            {"name": _TEXT, "family": _MAYBE, "modified": _NUMBER, "size": _WHOLE, "problem": _MAYBE}
            | {"baked": {"type": "boolean"}}
        ),
        "BlockLora": _object(
            {"name": _TEXT, "family": _TEXT, "kinds": _ANY, "blocks": _TEXTS, "present": _ANY}, more=True
        ),
        "BlockPresets": _object(
            {
                "file": _TEXT,
                "shared": {"type": "boolean"},
                "presets": _list(_object(preset)),
                "faults": _list(_object(fault)),
            }
        ),
        "ParsedMix": _object({"loras": _list(_ANY), "prompt": _MAYBE}),
        "MixText": _object(
            {"prompt": _TEXT, "prompt_problem": _MAYBE, "recipe": _TEXT, "numbers": addresses, "preset_lines": _TEXT}
        ),
        "Advised": _object(
            {
                "changes": _list(_ANY),
                "reason": _TEXT,
                "text": _TEXT,
                "held": _ANY,
                "step": _WHOLE,
                "next": {**_WHOLE, "nullable": True},
            }
        ),
        "OpenedRecipe": _object(
            {"mix": _ref("Mix"), "text": _TEXT, "family": _TEXT, "limit": _ANY, "precision": _TEXT, "against": _MAYBE}
            | {"missing": _TEXTS, "changed": _TEXTS}
        ),
        "Try": _object(attempt, ["id", "state"]),
        "Tried": _object({"try": _ref("Try"), "known": {"type": "boolean"}}, ["try"]),
        "Board": _object(
            {**board, "mix": _ref("Mix"), "revision": _WHOLE, "tries": _list(_ref("Try")), "removed": _WHOLE}, ["id"]
        ),
        "BoardSummary": _object({**board, "changed": _NUMBER, "tries": _WHOLE, "stars": _WHOLE, "thumb": _MAYBE}),
        "BoardNow": _object(
            {
                **dict.fromkeys(("running", "waiting", "last"), maybe),
                "busy": {"type": "boolean"},
                "latest": _TEXTS,
                "revision": _WHOLE,
            }
        ),
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _object(properties: dict[str, Schema], required: Iterable[str] = (), more: bool = False) -> Schema:
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": more}
