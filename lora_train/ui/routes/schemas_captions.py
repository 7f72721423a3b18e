"""The shapes of the caption studio's requests and answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...studio import edits

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_WHOLE: Schema = {"type": "integer"}
_ANY: Schema = {"type": "object", "additionalProperties": True}
_TEXTS: Schema = {"type": "array", "items": _TEXT}

FILTER: dict[str, Schema] = {
    "tags": {**_TEXTS, "description": "Only captions with all of these."},
    "without": {**_TEXTS, "description": "Only captions with none of these."},
    "folder": {**_TEXT, "description": "Only this folder's."},
    "missing": {**_FLAG, "nullable": True, "description": "Only without a caption, or only with one."},
    "text": {**_TEXT, "description": "Only captions with this text."},
    "foreign": {**_FLAG, "description": "Only those whose file isn't UTF-8."},
    "reg": {**_FLAG, "description": "Those of regularisation, too."},
    "names": {**_TEXTS, "description": "Only these pictures, as <folder>/<picture>."},
}
"""Which rows of a set a request is about."""


def _object(properties: dict[str, Schema], required: Iterable[str] = ()) -> Schema:
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": False}


def components() -> dict[str, Schema]:
    """All named schemas of the caption studio."""
    of_set = {"folder": _TEXT, "extension": {**_TEXT, "default": ".txt"}}
    of_rows = {**of_set, "filter": {"$ref": "#/components/schemas/CaptionFilter"}}
    edit = {**_ANY, "description": f'{{"edit": one of {", ".join(edits.KINDS)}, and its options}}'}
    chain = {"edits": {"type": "array", "items": edit, "minItems": 1, "maxItems": 16}}
    row = {
        **dict.fromkeys(("name", "id", "folder", "caption", "encoding", "note", "problem", "digest"), _TEXT),
        **dict.fromkeys(("missing", "is_reg"), _FLAG),
        "tokens": {**_WHOLE, "description": "CLIP's, of its longest line."},
    }
    flips = {
        **of_rows,
        "protect": {**_TEXT, "description": "Tags that stay, with commas between."},
        "writing": {**_FLAG, "description": "Pictures with writing in them, too."},
    }
    either = {"task": {**_TEXT, "description": "Where there are many: the task that does it, with this as its result."}}
    changes = {"type": "array", "items": _ANY}
    names = {"changed": {**_TEXTS, "description": "Files that were edited meanwhile, and stay as they are."}}
    rows = {"type": "array", "items": {"$ref": "#/components/schemas/CaptionRow"}}
    return {
        "CaptionSet": _object(of_set, ["folder"]),
        "CaptionFilter": _object(FILTER),
        "CaptionRow": _object(row),
        "CaptionPageRequest": _object(
            {
                **of_rows,
                "offset": _WHOLE,
                "limit": _WHOLE,
                "fresh": {**_FLAG, "description": "Look at the files anew."},
            },
            ["folder"],
        ),
        "CaptionPage": _object(
            {
                **dict.fromkeys(("total", "matching", "missing", "unreadable", "offset"), _WHOLE),
                "encodings": _ANY,
                "folders": changes,
                "root": _TEXT,
                "said": _TEXTS,
                "regex": {**_FLAG, "description": "Whether regular expressions are run here."},
                "rows": rows,
            }
        ),
        "CaptionTagsRequest": _object(of_rows, ["folder"]),
        "CaptionTags": _object(
            {
                "tags": {"type": "array", "items": {"type": "array", "items": {}}},
                "different": _WHOLE,
                "captions": _WHOLE,
            }
        ),
        "CaptionPreviewRequest": _object({**of_rows, **chain}, ["folder", "edits"]),
        "CaptionPreview": _object(
            {"title": _TEXT, "token": _TEXT, "total": _WHOLE, "changes": changes, "skipped": _TEXTS}
        ),
        "CaptionApplyRequest": _object({**of_rows, **chain, "token": _TEXT}, ["folder", "edits", "token"]),
        "CaptionsWritten": _object(
            {**either, "written": _WHOLE, **names, "problems": _TEXTS, "entry": {**_WHOLE, "nullable": True}}
        ),
        "CaptionEditRequest": _object(
            {**of_set, **dict.fromkeys(("name", "caption", "digest"), _TEXT)}, ["folder", "name", "caption", "digest"]
        ),
        "CaptionHistory": _object({"changes": changes}),
        "CaptionUndoRequest": _object(
            {**of_set, "change": {**_WHOLE, "description": "Its id; the latest where none is named."}}, ["folder"]
        ),
        "CaptionsTakenBack": _object({**either, "restored": _WHOLE, **names, "title": _TEXT}),
        "CaptionAuditRequest": _object(
            {**of_set, "trigger": _TEXT, "max_token_length": {**_WHOLE, "enum": [75, 150, 225]}}, ["folder"]
        ),
        "CaptionAudit": _object({"findings": changes, "captions": _WHOLE}),
        "CaptionFlipsRequest": _object(flips, ["folder"]),
        "CaptionFlips": _object({"total": _WHOLE, "changes": changes, "skipped": _TEXTS, "writing": _WHOLE}),
    }
