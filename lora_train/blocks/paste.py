"""What people paste when they mean block weights: a prompt, a picture's text, a recipe, preset lines, bare numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..errors import UserError, UserErrors, raise_all
from .lbw import INFOTEXT, parse_infotext, parse_prompt
from .presets import look_up, parse_number, parse_numbers, require_count
from .recipe import parse_recipe

_SEPARATORS = re.compile(r"[,，、;；\s|]+")
_COMMENT = re.compile(r"(^|\s)#.*")
_PRESET = re.compile(r"(?P<name>[^:：]+)[:：](?P<numbers>[^:：]*)")
_INFOTEXT = re.compile(rf'{re.escape(INFOTEXT)}: ("(?:\\.|[^\\"])*")')


@dataclass(frozen=True)
class Pasted:
    """One set of weights. lora: whose they are; preset: their name; numbers: None where a LoRA stands without any.

    other: weight of what lies in no block, where the text says it.
    """

    line: int
    numbers: tuple[float, ...] | None
    preset: str | None = None
    lora: str | None = None
    te: float = 1.0
    unet: float = 1.0
    other: float | None = None


def parse_pasted(
    text: str,
    presets: Mapping[str, tuple[float, ...]],
    family: str | None = None,
    faults: Mapping[str, UserError] | None = None,
) -> list[Pasted]:
    """The weights in a text, in order. `#` begins a comment where a space or nothing is before it.

    family: what the numbers must be for; None: any count that is known. faults: see presets.look_up.
    Raises all UserErrors at once, naming the line.
    """
    if "<lora:" in text or "<lyco:" in text:
        return _prompt(text, presets, family, faults)
    lines = [(number, _COMMENT.sub("", line).strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise UserError("there is nothing to read", remedy="Paste a prompt, a recipe, preset lines or numbers")
    whole = _bare(" ".join(line for _, line in lines))
    if whole is not None and not all(_fits(_bare(line)) for _, line in lines):
        lines = [(lines[0][0], " ".join(line for _, line in lines))]
    pasted: list[Pasted] = []
    errors: list[UserError] = []
    for number, line in lines:
        try:
            pasted += [replace(found, line=number) for found in _line(line, presets, family, faults)]
        except UserErrors as error:
            errors += [_at(number, one) for one in error.errors]
        except UserError as error:
            errors.append(_at(number, error))
    raise_all(errors)
    return pasted


def _at(line: int, error: UserError) -> UserError:
    where = (error.where or "").removeprefix("recipe, ")
    return UserError(error.what, where=f"line {line}" + (f", {where}" if where else ""), remedy=error.remedy)


def _prompt(
    text: str,
    presets: Mapping[str, tuple[float, ...]],
    family: str | None,
    faults: Mapping[str, UserError] | None,
) -> list[Pasted]:
    """With the numbers that a picture's text keeps, where there are some: those were meant."""
    kept = _INFOTEXT.search(text)
    then = parse_infotext(json.loads(kept[1])) if kept else {}
    return [
        Pasted(
            line=text.count("\n", 0, tag.span[0]) + 1,
            numbers=tag.numbers,
            preset=tag.weights if isinstance(tag.weights, str) else None,
            lora=tag.name,
            te=tag.te,
            unet=tag.unet,
        )
        for tag in parse_prompt(text, {**presets, **then}, family, faults)
    ]


def _line(
    line: str,
    presets: Mapping[str, tuple[float, ...]],
    family: str | None,
    faults: Mapping[str, UserError] | None,
) -> Iterator[Pasted]:
    bare = _bare(line)
    if bare is not None:
        yield Pasted(0, require_count("the list", bare, family))
        return
    found = _PRESET.fullmatch(line)
    pieces = _SEPARATORS.split(found["numbers"].strip(" ,")) if found else []
    if found and len(pieces) > 1:
        name = found["name"].strip()
        yield Pasted(0, require_count(f"{name!r}", parse_numbers(pieces), family), preset=name)
        return
    for item in parse_recipe(line):
        preset, numbers = (item.weights, None) if isinstance(item.weights, str) else (None, item.weights)
        if preset is not None:
            numbers = look_up(preset, presets, family, faults)
        elif numbers is not None:
            require_count("the list", numbers, family)
        te = item.strength if item.te is None else item.te
        yield Pasted(0, numbers, preset, item.name, te, item.strength, item.other)


def _bare(line: str) -> tuple[float, ...] | None:
    """Numbers and nothing else, whatever is between them; None where it is something else."""
    values = [parse_number(piece) for piece in _SEPARATORS.split(line.strip(" ,[]()"))]
    return None if None in values else tuple(value for value in values if value is not None)


def _fits(numbers: tuple[float, ...] | None) -> bool:
    try:
        return numbers is not None and bool(require_count("", numbers))
    except UserError:
        return False
