"""The shapes of what the planners and the sets that a checkpoint draws are asked, and answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...studio import sets

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_ANY: Schema = {"type": "object", "additionalProperties": True}
_MANY: Schema = {"type": "array", "items": _ANY}


def _object(properties: dict[str, Schema], required: Iterable[str] = (), more: bool = False) -> Schema:
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": more}


def _maybe(shape: Schema, description: str = "") -> Schema:
    return {**shape, "nullable": True, **({"description": description} if description else {})}


_NUMBERS: Schema = {"type": "object", "additionalProperties": {**_WHOLE, "minimum": 1}}
_WORDS: Schema = {"type": "object", "additionalProperties": _TEXT}
_DRAWING: dict[str, Schema] = {
    "negative_prompt": {**_TEXT, "default": sets.NEGATIVE},
    "seed": {**_WHOLE, "minimum": 0, "default": 1},
    "steps": {**_WHOLE, "minimum": 1, "maximum": 150, "default": 20},
    "cfg_scale": {**_NUMBER, "minimum": 0, "maximum": 100, "default": 7},
    "sampler": {**_TEXT, "default": sets.SAMPLER},
    "clip_skip": _maybe(_WHOLE, "As the host has it."),
}

SORT = _object(
    {
        "classes": {"type": "object", "additionalProperties": _maybe(_TEXT), "description": "{picture's id: class}"},
        "join": {**_TEXTS, "description": "Pictures that are variants of one another."},
        "split": {**_TEXTS, "description": "Pictures that are variants of none."},
        "add_class": _TEXT,
        "drop_class": _TEXT,
        "names": {**_WORDS, "description": "{class: words of its folder's name}"},
        "repeats": _maybe(_NUMBERS, "The user's own; null: the solver's."),
        **dict.fromkeys(("flipped", "colour", "variants"), _FLAG),
        "tolerance": {**_NUMBER, "minimum": 0, "maximum": 3},
        "style": {**_TEXT, "description": "Put before the class in the folders' names."},
    }
)
LOOK = _object({"detector": {**_TEXT, "description": 'A name of "detectors"; "" for the shape alone.'}})
_PART = _object({"name": _TEXT, "pictures": _WHOLE, "repeats": _WHOLE, "reg": _WHOLE}, ["name", "pictures"])
PERSON = _object(
    {
        "parts": {"type": "array", "items": _PART},
        "epochs": {**_WHOLE, "minimum": 1, "default": 10},
        "batch_size": {**_WHOLE, "minimum": 1, "default": 1},
        "steps": _maybe(_WHOLE, "Wanted, where repeats or epochs are to be found."),
        "find": {**_TEXT, "enum": ["steps", "repeats", "epochs"], "default": "steps"},
    },
    ["parts"],
)
MAKE = _object(
    {
        "kind": {**_TEXT, "enum": [sets.REG, sets.CONCEPT], "default": sets.REG},
        "name": _TEXT,
        "prompts": _TEXTS,
        "count": _WHOLE,
        "repeats": {**_WHOLE, "default": 1},
        **dict.fromkeys(("width", "height"), _maybe(_WHOLE, "As the checkpoint is made for.")),
        "caption": _maybe(_TEXT, "Of every picture; null: its prompt."),
        **_DRAWING,
    },
    ["name", "prompts", "count"],
)
BASE = _object(
    {
        "count": {**_WHOLE, "minimum": 12, "default": 60},
        "side": _maybe(_WHOLE, "Pictures have about side x side pixels."),
        "subject": {**_TEXT, "default": sets.SUBJECT},
        **_DRAWING,
        "settings": {**_ANY, "description": "Of the training, over the recipe's."},
        "again": {**_FLAG, "description": "Draw a new set where there is one."},
    }
)
SET = _object({"set": _TEXT}, ["set"])
CLASS: dict[str, Schema] = {"class": {**_TEXT, "description": 'A class; "" for those in none.'}}
LANE: dict[str, Schema] = {
    **CLASS,
    "offset": {**_WHOLE, "minimum": 0, "default": 0},
    "limit": {**_WHOLE, "minimum": 1, "maximum": 500, "default": 100},
}


def components() -> dict[str, Schema]:
    """Answers that are named."""
    plan = {"nullable": True, **_ANY, "description": "Classes, rules and what mends them; null: nothing is sorted."}
    of_set = {
        **dict.fromkeys(("id", "kind", "checkpoint"), _TEXT),
        "folders": _TEXTS,
        **dict.fromkeys(("made", "count"), _WHOLE),
        **dict.fromkeys(("whole", "stopped"), _FLAG),
    }
    person = {
        "folders": _MANY,
        **dict.fromkeys(("epochs", "batch_size", "images", "steps_per_epoch", "steps"), _WHOLE),
        "notes": _TEXTS,
    }
    return {
        "StyleSorting": _object({"classes": _TEXTS, "plan": plan, "pictures": _MANY}, ["classes"], more=True),
        "StylePictures": _object({"total": _WHOLE, "offset": _WHOLE, "pictures": _MANY}, ["total", "pictures"]),
        "PersonParts": _object({"parts": {"type": "array", "items": _PART}}, more=True),
        "PersonPlan": _object(person),
        "PersonWritten": _object({"renamed": _MANY, "copied": _TEXTS, "fields": _ANY}, more=True),
        "DrawnSet": _object(of_set, more=True),
        "DrawnSets": _object(
            {"sets": {"type": "array", "items": {"$ref": "#/components/schemas/DrawnSet"}}}, more=True
        ),
        "SetStarted": _object({"task": _TEXT, "set": _TEXT, "project": _TEXT}, ["task"]),
        "BaseStyle": _object({"name": _TEXT, "recipe": _TEXT, "lora": _maybe(_TEXT)}, more=True),
    }
