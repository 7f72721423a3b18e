"""Merge recipes: `Test0:1:GP1,BASE:-1:GP2`.

Grammar::

    recipe   = item { "," item }
    item     = name ":" strength [ ":" "other=" number ] [ ":" weights ]
    strength = number [ "/" number ]                 one for all, or the text encoder's and the UNet's
    weights  = preset | number { "," number }        17 or 26 numbers (SD1.5, SD2), 12 or 20 (SDXL)
    name, preset = any text without , : " or text in double quotes, with "" for a quote

Commas divide items and the numbers of one item. They can't be confused: an item has a colon, a further number has none.
An unquoted number in the third place begins a list of numbers; quote a preset whose name is a number.
Without weights every block has weight 1. `other=` is the weight of what lies in no block.
Names are files in the LoRA folder or below it, without `.safetensors`;
a path below the folder (`style/Test0`) tells files of equal names apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError, raise_all
from .families import BASE, OTHER, SD15, UNLISTED, flat_weights, weights_by_block
from .layout import family_of_file
from .presets import format_number, format_numbers, look_up, near_names, parse_number, parse_numbers, require_count

_EXAMPLE = "Write NAME:STRENGTH or NAME:STRENGTH:PRESET, for example Test0:1:GP1,BASE:-1:GP2. A name with , or : in it \
goes between double quotes"
_OTHER = re.compile(r"other\s*=\s*(.*)")
_FIELD = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")*)"\s*|(?P<bare>[^",:]*))(?P<end>[,:]|\Z)')


@dataclass(frozen=True)
class Item:
    """One LoRA of a recipe. weights: a preset's name, the numbers themselves, or None for 1 everywhere.

    te: the text encoder's strength where it is another; other: weight of what lies in no block, None: as for all.
    """

    name: str
    strength: float
    weights: str | tuple[float, ...] | None = None
    te: float | None = None
    other: float | None = None


@dataclass(frozen=True)
class Source:
    """An item whose file and numbers are found. weights: every block of families.blocks_of(family) -> weight."""

    item: Item
    path: Path
    numbers: tuple[float, ...] | None
    weights: Mapping[str, float]
    family: str = SD15

    def factor(self, block: str) -> float:
        """Strength times weight."""
        te = self.item.te
        return (te if block == BASE and te is not None else self.item.strength) * self.weights[block]


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
            path = find_lora(item.name, lora_dir, files)
            its = family or family_of_file(path)
        except UserError as error:
            errors.append(error)
        try:
            numbers = _numbers_of(item, presets, its, faults)
            if path and its:
                own = other if item.other is None else item.other
                weights = flat_weights(its) if numbers is None else weights_by_block(numbers, unlisted, its, own)
                if item.other is not None:
                    weights[OTHER] = item.other
                elif numbers is not None and other != 1:
                    item = replace(item, other=other)
                sources.append(Source(item, path, numbers, weights, its))
        except UserError as error:
            errors.append(error)
    raise_all([*errors, *several_families([(source.item.name, source.family) for source in sources])])
    return sources


def several_families(loras: list[tuple[str, str]], where: str = "recipe") -> list[UserError]:
    """What is wrong with LoRAs, (name, family), that are not for one model; nothing where they are."""
    one_of = {family: name for name, family in reversed(loras)}
    if len(one_of) < 2:
        return []
    each = " and ".join(f"{name!r} for {family}" for family, name in sorted(one_of.items()))
    remedy = "Take together LoRAs of one kind of checkpoint"
    return [UserError(f"these LoRAs are for different models: {each}", where=where, remedy=remedy)]


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
    fields = fields[1:] if _names_other(fields) else fields
    return len(fields) > 2 and not fields[2].quoted and parse_number(fields[2].text) is not None


def _names_other(fields: list[_Field]) -> bool:
    return len(fields) > 2 and not fields[2].quoted and bool(_OTHER.fullmatch(fields[2].text))


def _item(fields: list[_Field]) -> Item:
    shown = ":".join(field.text for field in fields[:3]) or "an empty item"
    strengths = [parse_number(text.strip()) for text in fields[1].text.split("/")] if len(fields) > 1 else []
    try:
        if not fields[0].text or None in strengths or len(strengths) not in (1, 2):
            raise UserError("this is not NAME:STRENGTH", remedy=_EXAMPLE)
        other = None
        if _names_other(fields) and (found := _OTHER.fullmatch(fields.pop(2).text)):
            other = parse_number(found[1])
            if other is None:
                raise UserError(f"{found[1]!r}, the weight of what lies in no block, is not a number")
        *te, strength = [number for number in strengths if number is not None]
        return Item(fields[0].text, strength, _weights(fields), te[0] if te and te[0] != strength else None, other)
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
    strength = format_number(item.strength)
    parts = [_quoted(item.name), strength if item.te is None else f"{format_number(item.te)}/{strength}"]
    if item.other is not None:
        parts.append(f"other={format_number(item.other)}")
    if isinstance(item.weights, str):
        parts.append(_quoted(item.weights, number_too=True))
    elif item.weights is not None:
        parts.append(format_numbers(item.weights))
    return ":".join(parts)


def _quoted(text: str, number_too: bool = False) -> str:
    plain = text and text == text.strip() and not any(c in ',:"' for c in text)
    if plain and not (number_too and (parse_number(text) is not None or _OTHER.fullmatch(text))):
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
        where = ", ".join(filter(None, ["recipe", item.name, error.where]))
        raise UserError(error.what, where=where, remedy=error.remedy) from None


def name_of(path: Path, lora_dir: str | Path) -> str:
    """A file's name in a recipe: its path below the LoRA folder, without an ending."""
    return path.relative_to(lora_dir).with_suffix("").as_posix()


def find_lora(name: str, lora_dir: str | Path, files: list[Path] | None = None) -> Path:
    """The one file of that stem, or of that path below the folder. files: what find_loras found there.

    Raises UserError: none, several, no such folder. It never leads out of the folder, but for links in it.
    """
    lora_dir = Path(lora_dir)
    files = find_loras(lora_dir) if files is None else files
    stems = {path: path.relative_to(lora_dir).with_suffix("").as_posix() for path in files}
    found = [path for path, stem in stems.items() if stem == name] or [path for path in files if path.stem == name]
    if not found:
        remedy = near_names(name, [path.stem for path in files])
        raise UserError(f"there is no LoRA {name!r}", where=lora_dir, remedy=remedy)
    if len(found) > 1:
        paths = ", ".join(stems[path] for path in found)
        raise UserError(f"{len(found)} LoRAs are named {name!r}", where=lora_dir, remedy=f"Write one of {paths}")
    return found[0]
