"""Metadata of a baked LoRA: what its sources agree on, kohya's keys for it, and the recipe to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..header import read_header
from .recipe import Item, Source, format_recipe
from .report import LORA, Report

RECIPE_KEY = "lora_train_recipe"
_VERSION = 3

_BASE = {  # ss_base_model_version, ss_v2, modelspec.architecture
    "SD1.5": ("sd_v1", "False", "stable-diffusion-v1/lora"),
    "SD2": ("sd_v2", "True", "stable-diffusion-v2-512/lora"),
    "SDXL": ("sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora"),
}


@dataclass(frozen=True)
class Made:
    """A bake and its circumstances. hashes: sha256 of each source's file; against: the checkpoint's name, if any."""

    report: Report
    sources: list[Source]
    hashes: Mapping[Path, str]
    rank: int | None
    unlisted: float
    against: str | None = None


@dataclass(frozen=True)
class OpenedSource:
    """A source as the recipe in a file names it. preset: its name then; numbers: what it stood for.

    te, other: as in recipe.Item; weights: of every block, None in files of earlier versions.
    """

    name: str
    file: str
    sha256: str
    strength: float
    preset: str | None
    numbers: tuple[float, ...] | None
    te: float | None = None
    other: float | None = None
    weights: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Recipe:
    """How a baked file was made, as open_recipe reads it."""

    family: str
    sources: list[OpenedSource]
    unlisted: float
    rank: int | None
    target_error: float | None
    precision: str
    against: str | None
    relative_error: float
    text: str

    def items(self, presets: Mapping[str, tuple[float, ...]]) -> list[Item]:
        """For the editor: a preset by its name where it still stands for the same numbers, else the numbers."""
        return [Item(s.name, s.strength, self._weights(s, presets), s.te, s.other) for s in self.sources]

    def recipe(self, presets: Mapping[str, tuple[float, ...]]) -> str:
        """The text that bakes the same again."""
        return format_recipe(self.items(presets))

    @staticmethod
    def _weights(source: OpenedSource, presets: Mapping[str, tuple[float, ...]]) -> str | tuple[float, ...] | None:
        known = source.preset is not None and presets.get(source.preset) == source.numbers
        return source.preset if known else source.numbers


def open_recipe(path: str | Path) -> Recipe:
    """The recipe of a file that was baked, resized or merged here. Raises UserError where there is none."""
    text = read_header(Path(path), "LoRA").metadata.get(RECIPE_KEY)
    if text is None:
        remedy = "Only files that were baked here tell how they were made"
        raise UserError("there is no recipe in this file", where=path, remedy=remedy)
    try:
        values = json.loads(text)
        return Recipe(
            str(values.get("family", "SD1.5")),
            [_opened(source) for source in values["sources"]],
            float(values["unlisted"]),
            values["rank"],
            values["target_error"],
            str(values["precision"]),
            values.get("against"),
            float(values["relative_error"]),
            str(values["recipe"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        remedy = "It may come from a newer version of this extension"
        raise UserError("the recipe in this file can't be read", where=path, remedy=remedy) from None


def _opened(source: Mapping[str, Any]) -> OpenedSource:
    numbers = None if source["numbers"] is None else tuple(float(number) for number in source["numbers"])
    names = [str(source[key]) for key in ("name", "file", "sha256")]
    te, other = (None if source.get(key) is None else float(source[key]) for key in ("te", "other"))
    weights = source.get("weights") and {str(block): float(weight) for block, weight in source["weights"].items()}
    strength, preset = float(source["strength"]), source["preset"]
    return OpenedSource(names[0], names[1], names[2], strength, preset, numbers, te, other, weights)


def baked_metadata(made: Made, metadatas: Sequence[Mapping[str, str]], keep: bool = False) -> dict[str, str]:
    """The texts for write_lora. metadatas: those of the sources' files; keep: all of the first one's stay."""
    report = made.report
    least, greatest = report.total().ranks
    plain = all(module.form == LORA for module in report.modules)
    dim = str(least) if plain and least == greatest else "Dynamic"
    shared = dict(metadatas[0]) if keep else _shared(metadatas)
    tags = {} if keep else {"ss_tag_frequency": json.dumps(_tags(made.sources, metadatas), ensure_ascii=False)}
    version, v2, architecture = _BASE[report.family]
    return {
        "ss_base_model_version": version,
        "ss_v2": v2,
        **shared,
        **tags,
        "ss_output_name": report.out.stem,
        "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
        "ss_network_dim": dim,
        "ss_network_alpha": dim,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": report.out.stem,
        RECIPE_KEY: recipe_text(made),
    }


def _shared(metadatas: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """kohya's keys that all sources that have any agree on; of the base model's, the first source's."""
    known = [metadata for metadata in metadatas if any(key.startswith("ss_") for key in metadata)]
    first = known[0] if known else {}
    agreed = {key: value for key, value in first.items() if all(other.get(key) == value for other in known)}
    agreed = {key: value for key, value in agreed.items() if key.startswith("ss_")}
    return {**{key: first[key] for key in ("ss_base_model_version", "ss_v2") if key in first}, **agreed}


def _tags(sources: Sequence[Source], metadatas: Sequence[Mapping[str, str]]) -> dict[str, Any]:
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


def recipe_text(made: Made) -> str:
    """All that is needed to make the file again, as JSON."""
    report = made.report
    return json.dumps(
        {
            "version": _VERSION,
            "recipe": report.recipe,
            "family": report.family,
            "sources": [
                {
                    "name": source.item.name,
                    "file": source.path.name,
                    "sha256": made.hashes[source.path],
                    "strength": source.item.strength,
                    "te": source.item.te,
                    "other": source.item.other,
                    "weights": dict(source.weights),
                    "preset": source.item.weights if isinstance(source.item.weights, str) else None,
                    "numbers": source.numbers,
                }
                for source in made.sources
            ],
            "unlisted": made.unlisted,
            "rank": made.rank,
            "target_error": report.target_error,
            "precision": report.precision,
            "against": made.against,
            "relative_error": report.relative_error,
        },
        ensure_ascii=False,
    )
