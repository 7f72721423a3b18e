"""Merge recipes: `Test0:1:GP1,BASE:-1:GP2`.

Grammar::

    recipe  = item { "," item }
    item    = name ":" strength [ ":" weights ]
    weights = preset | number { "," number }        17 or 26 numbers (SD1.5, SD2), 12 or 20 (SDXL)
    name, preset = any text without , : " or text in double quotes, with "" for a quote

Commas divide items and the numbers of one item. They can't be confused: an item has a colon, a further number has none.
An unquoted number in the third place begins a list of numbers; quote a preset whose name is a number.
Without a third part every block has weight 1. Names are files in the LoRA folder or below it, without `.safetensors`;
a path below the folder (`style/Test0`) tells files of equal names apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, raise_all
from .families import SD15, UNLISTED, flat_weights, weights_by_block
from .layout import family_of_file
from .presets import format_number, format_numbers, look_up, near_names, parse_number, parse_numbers, require_count

_EXAMPLE = "Write NAME:STRENGTH or NAME:STRENGTH:PRESET, for example Test0:1:GP1,BASE:-1:GP2"
_FIELD = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"\s*|(?P<bare>[^",:]*))(?P<end>[,:]|\Z)')


@dataclass(frozen=True)
class Item:
    """One LoRA of a recipe. weights: a preset's name, the numbers themselves, or None for 1 everywhere."""

    name: str
    strength: float
    weights: str | tuple[float, ...] | None = None


@dataclass(frozen=True)
class Source:
    """An item whose file and numbers are found. weights: every block of families.blocks_of(family) -> weight."""

    item: Item
    path: Path
    numbers: tuple[float, ...] | None
    weights: Mapping[str, float]
    family: str = SD15

    def factor(self, block: str) -> float:
        return self.item.strength * self.weights[block]


@dataclass(frozen=True)
class _Field:
    text: str
    quoted: bool


def parse_recipe(text: str) -> list[Item]:
    """Items of a recipe, in order. Raises UserError naming the item that is wrong."""
    groups: list[list[_Field]] = []
    for piece in _pieces(text):
        if len(piece) == 1 and groups and _begins_numbers(groups[-1]):
            groups[-1].append(piece[0])
        else:
            groups.append(piece)
    return [_item(group) for group in groups]


def format_recipe(items: list[Item]) -> str:
    """The text that parse_recipe reads back as the same items."""
    return ",".join(map(_format_item, items))


def resolve(
    items: list[Item],
    lora_dir: str | Path,
    presets: Mapping[str, tuple[float, ...]],
    unlisted: float = UNLISTED,
    family: str | None = None,
    other: float = 1.0,
    faults: Mapping[str, UserError] | None = None,
) -> list[Source]:
    """Find each item's file and numbers. unlisted, other: see families.weights_by_block; faults: see presets.look_up.

    family: what the files are for; None: as their headers say.
    Raises all UserErrors at once: unknown LoRA or preset, wrong count, several files of one name, different families.
    """
    files = find_loras(lora_dir)
    sources: list[Source] = []
    errors = []
    for item in items:
        path, its = None, family
        try:
            path = _find(item.name, files, Path(lora_dir))
            its = family or family_of_file(path)
        except UserError as error:
            errors.append(error)
        try:
            numbers = _numbers_of(item, presets, its, faults)
            if path and its:
                weights = flat_weights(its) if numbers is None else weights_by_block(numbers, unlisted, its, other)
                sources.append(Source(item, path, numbers, weights, its))
        except UserError as error:
            errors.append(error)
    raise_all([*errors, *_several_families(sources)])
    return sources


def _several_families(sources: list[Source]) -> list[UserError]:
    one_of = {source.family: source.item.name for source in reversed(sources)}
    if len(one_of) < 2:
        return []
    each = " and ".join(f"{name!r} for {family}" for family, name in sorted(one_of.items()))
    return [UserError(f"these LoRAs are for different models: {each}", where="recipe")]


def find_loras(lora_dir: str | Path) -> list[Path]:
    """Every .safetensors below a folder, links followed, sorted. Raises UserError when there is no such folder."""
    lora_dir = Path(lora_dir)
    if not lora_dir.is_dir():
        raise UserError("there is no such folder", where=lora_dir, remedy="Give the folder that holds your LoRAs")
    return sorted(path for path in _walk(lora_dir) if path.suffix == ".safetensors" and not path.name.startswith("."))


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for where, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link back to a folder above
            below.clear()
            continue
        seen.add(real)
        yield from (Path(where, name) for name in names)


def _pieces(text: str) -> Iterator[list[_Field]]:
    """The fields between two commas, quotes taken off."""
    place, piece, end = 0, [], ","
    while end:
        found = _FIELD.match(text, place)
        if not found:
            near = text[place:].strip()[:40]
            raise UserError(f"a quotation mark is out of place at {near!r}", where="recipe", remedy=_EXAMPLE)
        piece.append(_field(found["quoted"], found["bare"]))
        place, end = found.end(), found["end"]
        if end != ":":
            yield piece
            piece = []


def _field(quoted: str | None, bare: str | None) -> _Field:
    return _Field((bare or "").strip(), False) if quoted is None else _Field(quoted.replace('""', '"'), True)


def _begins_numbers(fields: list[_Field]) -> bool:
    return len(fields) > 2 and not fields[2].quoted and parse_number(fields[2].text) is not None


def _item(fields: list[_Field]) -> Item:
    shown = ":".join(field.text for field in fields[:3]) or "an empty item"
    strength = parse_number(fields[1].text) if len(fields) > 1 else None
    try:
        if not fields[0].text or strength is None:
            raise UserError("this is not NAME:STRENGTH", remedy=_EXAMPLE)
        return Item(fields[0].text, strength, _weights(fields))
    except UserError as error:
        raise UserError(error.what, where=f"recipe, {shown}", remedy=error.remedy) from None


def _weights(fields: list[_Field]) -> str | tuple[float, ...] | None:
    if len(fields) < 3:
        return None
    if _begins_numbers(fields):
        numbers = parse_numbers([field.text for field in fields[2:]])
        return require_count("the list", numbers)
    if not fields[2].text or len(fields) > 3:
        raise UserError("the third part is neither a preset nor 17 numbers", remedy=_EXAMPLE)
    return fields[2].text


def _format_item(item: Item) -> str:
    parts = [_quoted(item.name), format_number(item.strength)]
    if isinstance(item.weights, str):
        parts.append(_quoted(item.weights, number_too=True))
    elif item.weights is not None:
        parts.append(format_numbers(item.weights))
    return ":".join(parts)


def _quoted(text: str, number_too: bool = False) -> str:
    plain = text and text == text.strip() and not any(c in ',:"' for c in text)
    if plain and not (number_too and parse_number(text) is not None):
        return text
    return '"' + text.replace('"', '""') + '"'


def _numbers_of(
    item: Item,
    presets: Mapping[str, tuple[float, ...]],
    family: str | None,
    faults: Mapping[str, UserError] | None,
) -> tuple[float, ...] | None:
    """family None: only whether the preset is known."""
    try:
        if isinstance(item.weights, str):
            return look_up(item.weights, presets, family, faults)
        return None if item.weights is None else require_count("the list", item.weights, family)
    except UserError as error:
        raise UserError(error.what, where=f"recipe, {item.name}", remedy=error.remedy) from None


def _find(name: str, files: list[Path], lora_dir: Path) -> Path:
    """The one file of that stem, or of that path below the folder."""
    stems = {path: path.relative_to(lora_dir).with_suffix("").as_posix() for path in files}
    found = [path for path, stem in stems.items() if stem == name] or [path for path in files if path.stem == name]
    if not found:
        remedy = near_names(name, [path.stem for path in files])
        raise UserError(f"there is no LoRA {name!r}", where=lora_dir, remedy=remedy)
    if len(found) > 1:
        paths = ", ".join(stems[path] for path in found)
        raise UserError(f"{len(found)} LoRAs are named {name!r}", where=lora_dir, remedy=f"Write one of {paths}")
    return found[0]
