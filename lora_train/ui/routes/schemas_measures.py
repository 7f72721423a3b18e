"""The shapes of measurements."""

from __future__ import annotations

from typing import Any

from ...jobs.measures import KINDS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean", "default": False}
_WHOLE: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}


def components() -> dict[str, Schema]:
    """All named schemas of measurements."""
    mix = {"$ref": "#/components/schemas/Mix"}
    asked = {
        "kind": {**_TEXT, "enum": list(KINDS)},
        "mix": mix,
        "share_gpu": {**_FLAG, "description": "The host's own model stays on the GPU meanwhile."},
        "timesteps": {
            "type": "array",
            "items": {**_WHOLE, "minimum": 0, "maximum": 999},
            "default": [800, 500, 200],
            "description": "effects: where the prediction is looked at.",
        },
        "each": {**_FLAG, "description": "effects: the blocks of each of several LoRAs on their own, too."},
        "name": {**_TEXT, "description": "tune: what the preset is called; of a second LoRA NAME-2."},
        "keep": {
            **_NUMBER,
            "minimum": 0,
            "maximum": 1,
            "default": 0.5,
            "description": "tune: 0 the subject alone, 1 everything else alone, 0.5 as strong as it is.",
        },
        "pictures": {
            **_TEXT,
            "description": "tune: the folder that the first LoRA was trained on; known for LoRAs trained here.",
        },
        "prompts": {
            **_TEXTS,
            "description": "tune: prompts that should stay what they are; else the captions without the trigger.",
        },
        "trigger": {**_TEXT, "description": "tune: else the tag that all captions begin with."},
        "low": {**_NUMBER, "default": 0},
        "high": {**_NUMBER, "default": 2},
        "rounds": {**_WHOLE, "default": 1, "description": "tune: it measures again where the last one ended."},
        "draw": {
            **_WHOLE,
            "minimum": 0,
            "maximum": 256,
            "description": "tune: pictures of the subject that each result is judged by; 64, larger than 256 px 24.",
        },
        "tied": {**_FLAG, "description": "tune: one number a block for all LoRAs of the mix."},
        "seed": {**_WHOLE, "default": 1},
    }
    told = {
        **dict.fromkeys(("id", "name", "kind", "state", "stage"), _TEXT),
        **dict.fromkeys(("step", "total"), _WHOLE),
        "eta": {**_NUMBER, "nullable": True, "description": "Seconds."},
        "error": {**_TEXT, "nullable": True},
        "warnings": _TEXTS,
        "created": _NUMBER,
        "position": {**_WHOLE, "nullable": True, "description": "In the queue; 0 runs."},
        "result": {
            "type": "object",
            "nullable": True,
            "additionalProperties": True,
            "description": "effects: whole, timesteps, blocks [{block, effect, share, by_timestep, modules, was_off, "
            "map}], by_lora [the same with lora], picture. tune: presets [{name, lora, numbers}], weights [by LoRA], "
            "table [{name, subject, drift, loss, shown}], drawn [pictures each], history [[step, won, drift]], "
            "pictures, prompts, trigger.",
        },
    }
    return {
        "MeasureRequest": {
            "type": "object",
            "properties": asked,
            "required": ["kind", "mix"],
            "additionalProperties": False,
        },
        "Measure": {"type": "object", "properties": told, "additionalProperties": False},
    }
