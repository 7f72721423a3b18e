"""The shapes of requests and answers of the step Pictures."""

from __future__ import annotations

from typing import Any

from ...studio.crops import ALPHA
from ...studio.masks import WAYS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
ANYTHING: Schema = {"type": "object", "additionalProperties": True}
_PLACE: Schema = {"type": "array", "items": WHOLE, "minItems": 4, "maxItems": 4, "nullable": True}
_IDS: Schema = {"type": "array", "items": TEXT}
_WORDS = ("id", "name", "folder")


def _object(properties: Schema, required: tuple[str, ...] = (), more: bool = False) -> Schema:
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": more}


_WAY = _object(
    {
        "name": {**TEXT, "enum": ["whole", "head", "focal", "centre", "split", "parts"]},
        "shape": {**TEXT, "default": "1:1"},
        **dict.fromkeys(("overlap", "shoulder"), NUMBER),
        "every": FLAG,
        "detector": TEXT,
    }
)
_OPTIONS = _object(
    {
        "side": {**WHOLE, "minimum": 64, "maximum": 4096, "nullable": True, "description": "Of the shorter side."},
        "background": {**TEXT, "default": "white"},
        "alpha": {**TEXT, "enum": list(ALPHA), "default": "flat"},
        "captions": {**FLAG, "default": True},
        "upscaler": TEXT,
        "cutout": {**FLAG, "description": "Take the background away, where rembg is installed."},
        "model": {**TEXT, "description": "Of rembg."},
    }
)
_CUT = _object({"picture": TEXT, "box": _PLACE, "into": TEXT, "suffix": TEXT}, ("picture", "into"))

FOLDER = _object({"folder": TEXT})
MAKE = _object({"folder": TEXT, "name": {**TEXT, "description": "A new folder in it."}}, ("folder",))
CONCEPT = _object({"concept": TEXT}, ("concept",))
USE = _object({"concept": TEXT, "used": FLAG}, ("concept", "used"))
FIELDS = _object({"masks": FLAG})
BOXES = _object({"picture": TEXT, "way": _WAY}, ("picture",))
PREVIEW = _object({"picture": TEXT, "box": _PLACE, "options": _OPTIONS}, ("picture",))
CUT = _object(
    {"cuts": {"type": "array", "items": _CUT}, "pictures": _IDS, "way": _WAY, "into": TEXT, "options": _OPTIONS}
)
SOME = _object({"pictures": _IDS}, ("pictures",))
MASKS = _object({"pictures": _IDS, "way": {**TEXT, "enum": list(WAYS)}, "model": TEXT}, ("pictures", "way"))
PAINT = _object({"png": {**TEXT, "description": "In base64; white is learnt."}}, ("png",))
UNDO = _object({"change": {**WHOLE, "minimum": 1}})

FILTER: Schema = {
    "folder": {**TEXT, "description": "The id of one of its folders."},
    "finding": {**TEXT, "description": "Something that the scan found, or captioned, uncaptioned, masked, unmasked."},
    "search": {**TEXT, "description": "Words of the file's name."},
}
PAGE: Schema = {"offset": {**WHOLE, "default": 0}, "limit": {**WHOLE, "default": 100}, **FILTER}


def components() -> dict[str, Schema]:
    """Answers that are named."""
    many: Schema = {"type": "array", "items": ANYTHING}
    named = dict.fromkeys(_WORDS, TEXT)
    return {
        "PictureProjectName": _object(named, _WORDS),
        "PictureProject": _object({**named, "concepts": many, "changes": many}, _WORDS, more=True),
        "PictureFolder": _object({"kind": TEXT, "folder": TEXT, "said": _IDS, "choices": many}, more=True),
        "PictureFolders": _object({"folder": TEXT, "pictures": WHOLE, "folders": many}, more=True),
        "PicturePage": _object({"total": WHOLE, "offset": WHOLE, "pictures": many}, ("total", "pictures")),
        "PictureIds": _object({"ids": _IDS}, ("ids",)),
        "PicturesUndone": _object(
            {
                "title": TEXT,
                "unmasked": FLAG,
                "restored": WHOLE,
                "changed": _IDS,
                "project": {"$ref": "#/components/schemas/PictureProject"},
            }
        ),
    }
