"""Metadata of a baked LoRA: what its sources agree on, kohya's keys for it, and the recipe to make it again."""

from __future__ import annotations

import json
from typing import Any

from ..network.kohya import file_hash
from .recipe import Source
from .report import Report

RECIPE_KEY = "lora_train_recipe"


def baked_metadata(
    report: Report, sources: list[Source], metadatas: list[dict[str, str]], rank: int | None, unlisted: float
) -> dict[str, str]:
    """The texts for write_lora. metadatas: those of the sources' files, in their order."""
    least, greatest = report.total().ranks
    dim = str(least) if least == greatest else "Dynamic"
    return {
        **_shared(metadatas),
        "ss_output_name": report.out.stem,
        "ss_network_module": "networks.lora",
        "ss_network_dim": dim,
        "ss_network_alpha": dim,
        "ss_tag_frequency": json.dumps(_tags(sources, metadatas), ensure_ascii=False),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": report.out.stem,
        RECIPE_KEY: json.dumps(_recipe(report, sources, rank, unlisted), ensure_ascii=False),
    }


def _shared(metadatas: list[dict[str, str]]) -> dict[str, str]:
    """kohya's keys that all sources that have any agree on; of the base model's, the first source's."""
    known = [metadata for metadata in metadatas if any(key.startswith("ss_") for key in metadata)]
    first = known[0] if known else {}
    agreed = {key: value for key, value in first.items() if all(other.get(key) == value for other in known)}
    agreed = {key: value for key, value in agreed.items() if key.startswith("ss_")}
    base = {key: first[key] for key in ("ss_base_model_version", "ss_v2") if key in first}
    return {"ss_base_model_version": "sd_v1", "ss_v2": "False", **base, **agreed}


def _tags(sources: list[Source], metadatas: list[dict[str, str]]) -> dict[str, Any]:
    """kohya's tag counts of the LoRAs that are added, not of those subtracted; folders named after their LoRA."""
    merged: dict[str, Any] = {}
    for source, metadata in zip(sources, metadatas, strict=True):
        try:
            folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
        except ValueError:
            continue
        if source.item.strength > 0 and isinstance(folders, dict):
            merged.update({f"{source.item.name}/{folder}": tags for folder, tags in folders.items()})
    return merged


def _recipe(report: Report, sources: list[Source], rank: int | None, unlisted: float) -> dict[str, Any]:
    """All that is needed to make the file again."""
    return {
        "version": 1,
        "recipe": report.recipe,
        "sources": [
            {
                "name": source.item.name,
                "file": source.path.name,
                "sha256": file_hash(source.path),
                "strength": source.item.strength,
                "preset": source.item.weights if isinstance(source.item.weights, str) else None,
                "numbers": source.numbers,
            }
            for source in sources
        ],
        "unlisted": unlisted,
        "rank": rank,
        "target_error": report.target_error,
        "precision": report.precision,
        "relative_error": report.relative_error,
    }
