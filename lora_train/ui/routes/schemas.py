"""The shapes of requests and answers, as OpenAPI's component schemas. Settings come from the one settings object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ...dataset.tagging import EXISTING, SORTS, TagOptions, Writing
from ...grid.plan import DEFAULT_WEIGHTS, Grid
from ...network.kohya import PRECISIONS
from ...settings import schema
from . import schemas_blocks, schemas_captions, schemas_measures, schemas_pictures, schemas_sets

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
ANYTHING: Schema = {"type": "object", "additionalProperties": True}
NOTHING: Schema = {"type": "object", "maxProperties": 0}
"""A POST without fields still takes {}."""

BLANK: dict[str, Schema] = {
    "blank": {**FLAG, "default": False, "description": "An empty picture in place of 404."},
}

_PLAIN = {"bool": FLAG, "int": WHOLE, "float": NUMBER, "str": TEXT}
_STATES = (
    *("idle", "queued", "starting", "training", "pausing", "paused", "grid"),
    *("done", "stopped", "failed", "interrupted"),
)


def ref(name: str) -> Schema:
    """A reference to one of `components`."""
    return {"$ref": f"#/components/schemas/{name}"}


def listed(name: str) -> Schema:
    """A list of one of `components`."""
    return _list(ref(name))


def components() -> dict[str, Schema]:
    """All named schemas."""
    return {
        "Setting": _object({"name": TEXT, "section": TEXT, "type": TEXT, "help": TEXT}, more=True),
        "Settings": {
            **_object({row["name"]: setting(row) for row in schema()}),
            "description": "What isn't given has its default; the checkpoint, where none is named, is the host's.",
        },
        "GridFields": _object(_grid_fields()),
        **_requests(),
        **_answers(),
        **schemas_captions.components(),
        **schemas_pictures.components(),
        **schemas_sets.components(),
        **schemas_blocks.components(),
        **schemas_measures.components(),
    }


def setting(row: Schema) -> Schema:
    """One row of the settings' schema as OpenAPI has it."""
    kind, _, nullable = row["type"].partition(" | ")
    low, high, choices = row["low"], row["high"], row["choices"]
    bounds = {name: _number(bound, kind) for name, bound in (("minimum", low), ("maximum", high)) if bound is not None}
    if kind in _PLAIN:
        shape: Schema = {**_PLAIN[kind], **bounds}
        if choices and not row["open"]:
            shape["enum"] = [*choices, *([None] if nullable else [])]
    else:
        container, _, inner = kind.partition("[")
        item = {**_PLAIN[inner.rstrip("]").split(",")[0]], **bounds}
        size = {"minItems": 1, "maxItems": 2} if container == "tuple" else {}
        shape = {"type": "array", "items": item, **size}
    default = list(row["default"]) if isinstance(row["default"], tuple) else row["default"]
    named = f" One of {', '.join(map(str, choices))}, or an import path." if choices and row["open"] else ""
    return {
        **shape,
        **({"nullable": True} if nullable else {}),
        "default": default,
        "description": row["help"] + named,
    }


def _number(bound: float, kind: str) -> float:
    return int(bound) if kind == "int" else bound


def _grid_fields() -> dict[str, Schema]:
    """A grid's fields; defaults are the plan's own."""
    defaults = {f.name: f.default for f in fields(Grid)}
    size = {"type": "integer", "minimum": 64, "maximum": 2048, "multipleOf": 8, "description": "As in training."}
    return {
        "enabled": {**FLAG, "default": True},
        "prompts": {**_list(TEXT), "description": "A page each; empty: the first caption of the pictures."},
        "negative_prompt": {**TEXT, "default": ""},
        "weights": {**_list({**NUMBER, "minimum": -10, "maximum": 10}), "default": list(DEFAULT_WEIGHTS)},
        "epochs": {**TEXT, "default": "all", "description": '"all", "band" (the candidates) or numbers as 2,4-6.'},
        "seed": {**WHOLE, "minimum": 0, "maximum": 2**32 - 1, "default": defaults["seed"]},
        "steps": {**WHOLE, "minimum": 1, "maximum": 150, "default": defaults["steps"]},
        "cfg_scale": {**NUMBER, "minimum": 0, "maximum": 100, "default": defaults["cfg_scale"]},
        "sampler": {**TEXT, "default": defaults["sampler"]},
        "width": size,
        "height": size,
        "clip_skip": {**WHOLE, "minimum": 1, "maximum": 12, "nullable": True},
    }


def _requests() -> dict[str, Schema]:
    grid = {"allOf": [ref("GridFields")], "nullable": True, "description": "null: no grid is drawn."}
    place = {name: {**WHOLE, "minimum": 0} for name in ("row", "column")}
    files = {"loras": {**_list(TEXT), "description": "Paths, or:"}, "folder": TEXT, "name": TEXT}
    numbers = {"type": "object", "additionalProperties": _list(NUMBER)}
    options: dict[str, Schema] = {
        name: {**shape, "default": _plain(getattr(TagOptions(), name))} for name, shape in _tag_options().items()
    }
    writing = {f.name: {**TEXT, "default": f.default} for f in fields(Writing)}
    writing["existing"]["enum"] = list(EXISTING)
    return {
        "Start": _object({"settings": ref("Settings"), "grid": grid, "share_gpu": _flag()}, ["settings"]),
        "PlanRequest": _object(
            {"settings": ref("Settings"), "steps": {**WHOLE, "minimum": 1, "description": "Wanted in all."}},
            ["settings"],
        ),
        "StartGrid": _object({**files, **_grid_fields()}),
        "Mark": _object({**place, "accepted": FLAG}, [*place, "accepted"]),
        "Use": _object(
            {
                **place,
                "page": {**WHOLE, "minimum": 0, "default": 0},
                "drop_others": _flag("Move the run's other epochs to a folder of their own."),
                "activation_text": {**TEXT, "nullable": True},
            },
            [*place],
        ),
        "MergeRequest": _object(
            {
                "recipe": {**TEXT, "example": "Test0:1:GP1,BASE:-1:GP2"},
                "name": {**TEXT, "description": "A file name, or folder/name, inside the LoRA folder."},
                "presets": {"oneOf": [numbers, TEXT], "description": "Besides those of GET presets."},
                "rank": {**WHOLE, "minimum": 1, "nullable": True, "description": "At most this rank a layer."},
                "target_error": {**NUMBER, "nullable": True, "description": "Or: the least rank that errs less."},
                "precision": {**TEXT, "enum": list(PRECISIONS), "default": "fp16"},
                "unlisted": {**NUMBER, "default": 0, "description": "Of blocks that 17 numbers don't name."},
                "other": {**NUMBER, "default": 1, "description": "Of what lies in no block."},
                "overwrite": _flag(),
            },
            ["recipe", "name"],
        ),
        "CaptionRequest": _object(
            {
                "folder": TEXT,
                "captioner": {**TEXT, "description": "A name of GET captioners; onnx: a WD14 tagger's files."},
                "tagger": {**TEXT, "description": "For onnx: the folder of its files, where that isn't our own."},
                "options": _object(options),
                "writing": _object(writing),
            },
            ["folder", "captioner"],
        ),
    }


def _tag_options() -> dict[str, Schema]:
    kinds = {
        f.name: {bool: FLAG, int: WHOLE, float: NUMBER, str: TEXT}.get(type(f.default)) for f in fields(TagOptions)
    }
    shapes: dict[str, Schema] = {name: dict(kind) if kind else _list(TEXT) for name, kind in kinds.items()}
    shapes["sort"]["enum"] = list(SORTS)
    return shapes


def _answers() -> dict[str, Schema]:
    maybe, number = {**TEXT, "nullable": True}, {**NUMBER, "nullable": True}
    record = {**ANYTHING, "nullable": True}
    paths = _list(TEXT)
    job: dict[str, Schema] = {
        **dict.fromkeys(("id", "name", "checkpoint", "stage"), TEXT),
        "kind": {**TEXT, "enum": ["training", "grid"]},
        "state": {**TEXT, "enum": list(_STATES)},
        **dict.fromkeys(("step", "total", "epoch", "epochs"), WHOLE),
        **dict.fromkeys(("loss", "loss_average", "eta"), number),
        "losses": _list(_list(NUMBER)),
        "error": maybe,
        **dict.fromkeys(("files", "warnings", "advice"), paths),
    }
    task = {
        **dict.fromkeys(("id", "kind", "text"), TEXT),
        "state": {**TEXT, "enum": ["running", "done", "failed", "stopped"]},
        **dict.fromkeys(("done", "total"), WHOLE),
        "error": maybe,
        "result": record,
        "warnings": paths,
        "seconds": NUMBER,
    }
    packages = {"state": TEXT, "message": TEXT, "lines": paths}
    presets = {"training": _list(ANYTHING), "blocks": {"type": "object", "additionalProperties": _list(NUMBER)}}
    grid: dict[str, Schema] = {
        **dict.fromkeys(("id", "name", "checkpoint", "sampler"), TEXT),
        **dict.fromkeys(("seed", "steps", "width", "height"), WHOLE),
        "weights": _list(NUMBER),
        "rows": _list(ANYTHING),
        "pages": _list(ANYTHING),
        "marks": _list(_list(WHOLE)),
        "choice": record,
    }
    summary = {**dict.fromkeys(("id", "name", "checkpoint"), TEXT), "sheet": maybe, "choice": grid["choice"]}
    problem = {"where": maybe, "what": TEXT, "remedy": maybe}
    plan = dict.fromkeys(("pictures", "images", "steps_per_epoch", "epochs", "steps"), WHOLE)
    return {
        "Problem": _object(problem, ["what"]),
        "Problems": _object({"detail": listed("Problem")}, ["detail"]),
        "Refusal": _object({"detail": TEXT}, ["detail"]),
        "Job": _object(job, ["id", "state"], more=True),
        "Task": _object(task, ["id", "state"]),
        "Packages": _object(packages),
        "Status": {
            "allOf": [
                ref("Job"),
                _object(
                    {
                        "queue": _list(ANYTHING),
                        "host": ANYTHING,
                        "packages": ref("Packages"),
                        "tasks": listed("Task"),
                        "version": TEXT,
                    },
                    more=True,
                ),
            ]
        },
        "Events": _object({"events": _list(ANYTHING), "next": WHOLE}, ["events", "next"]),
        "Started": _object({"id": TEXT}, ["id"]),
        "Changed": _object({"id": TEXT, "state": TEXT}, ["id", "state"]),
        "TaskStarted": _object({"task": TEXT}, ["task"]),
        "Grid": _object(grid, ["id", "rows", "pages"], more=True),
        "GridSummary": _object({**summary, **dict.fromkeys(("rows", "columns", "pages", "marks"), WHOLE)}, more=True),
        "Series": _object({"name": TEXT, "folder": TEXT, "epochs": _list(ANYTHING), "newest": NUMBER}),
        "Used": _object({"lora": TEXT, "weight": NUMBER, "written": paths, "moved": paths, "grid": ref("Grid")}),
        "Undone": _object({"moved": paths, "grid": ref("Grid")}),
        "Plan": _object({**plan, "estimate": ANYTHING, "notes": paths, "aim": record}, more=True),
        "Presets": _object(presets),
        "Merged": _object({"path": TEXT, "name": TEXT, "report": ANYTHING}),
        "Captioner": _object(dict.fromkeys(("name", "title", "kind", "note"), TEXT)),
    }


def _object(properties: dict[str, Schema], required: Iterable[str] = (), more: bool = False) -> Schema:
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": more}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _flag(description: str = "") -> Schema:
    return {**FLAG, "default": False, **({"description": description} if description else {})}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
