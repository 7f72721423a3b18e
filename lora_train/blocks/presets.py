"""Block presets: `NAME:n1,n2,…` a line, the text format of sd-webui-lora-block-weight's lbwpresets.txt.

17 or 26 numbers are for SD1.5; lines of 12, 20 or 61 (SDXL, FLUX) are kept, and refused where they are used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError, raise_all
from ..files import write_text
from .layout import BLOCKS_BY_COUNT, OTHER_FAMILIES

Presets = dict[str, tuple[float, ...]]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def parse_number(text: str) -> float | None:
    """A finite decimal number, or None. Python's `1_0`, `nan` and `inf` are none."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def format_number(value: float) -> str:
    """The shortest text that reads back as `value`; whole numbers without a point."""
    return repr(float(value)).removesuffix(".0")


def format_numbers(numbers: tuple[float, ...]) -> str:
    return ",".join(map(format_number, numbers))


def _numbers(text: str) -> tuple[float, ...]:
    """For the tables below: `a*n` stands for n times a."""
    runs = (run.partition("*") for run in text.split(","))
    return tuple(float(value) for value, _, times in runs for _ in range(int(times or 1)))


BUILTIN: Presets = {
    # what sd-webui-lora-block-weight starts with
    "NONE": _numbers("0*17"),
    "ALL": _numbers("1*17"),
    "INS": _numbers("1*4,0*13"),
    "IND": _numbers("1,0*3,1*3,0*10"),
    "INALL": _numbers("1*7,0*10"),
    "MIDD": _numbers("1,0*3,1*8,0*5"),
    "OUTD": _numbers("1,0*7,1*4,0*5"),
    "OUTS": _numbers("1,0*11,1*5"),
    "OUTALL": _numbers("1,0*7,1*9"),
    "ALL0.5": _numbers("0.5*17"),
    # a style less the checkpoint's own; the _MORE pair for a style that is too weak
    "GP1": _numbers("1,0.6,0.9*3,0.6,0.5,0.4*2,0.6,0.8,1,1.1*5"),
    "GP2": _numbers("0.3,0.1*11,0.2*5"),
    "GP1_MORE": _numbers("1,0.6,1*3,0.8,0.6,0.4*2,0.5,0.6,1,1.2*5"),
    "GP2_MORE": _numbers("0.3,0.1*11,0.3*5"),
    # a person
    "HINA4": _numbers("0.25*4,0.75,0.5,0.75*2,0.8*3,0.85*3,1*3"),
}


def parse_presets(text: str, where: object = "presets") -> Presets:
    """Presets by name. `#` begins a comment, blank lines are skipped, the last of equal names must equal the first.

    Raises UserErrors, one for each bad line, naming it.
    """
    presets: Presets = {}
    errors = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            _add_line(presets, line.partition("#")[0].strip())
        except UserError as error:
            errors.append(UserError(error.what, where=f"{where}, line {number}", remedy=error.remedy))
    raise_all(errors)
    return presets


def _add_line(presets: Presets, line: str) -> None:
    if not line:
        return
    name, numbers = _parse_line(line)
    if presets.setdefault(name, numbers) != numbers:
        raise UserError(f"{name!r} stands above with other numbers", remedy="Rename one of the two")


def _parse_line(line: str) -> tuple[str, tuple[float, ...]]:
    name, colon, rest = line.partition(":")
    if not colon or not name.strip():
        raise UserError("this is not NAME:17 numbers", remedy="Begin the line with # if it is a comment")
    numbers = parse_numbers(rest.split(","))
    if len(numbers) not in (*BLOCKS_BY_COUNT, *OTHER_FAMILIES):
        raise UserError(f"{name.strip()!r} has {count_text(len(numbers))}")
    return name.strip(), numbers


def parse_numbers(texts: list[str]) -> tuple[float, ...]:
    """Numbers of a list of texts; raises UserError naming the first that is none and its place."""
    values = [parse_number(text.strip()) for text in texts]
    if None in values:
        place = values.index(None)
        raise UserError(f"{texts[place].strip()!r}, number {place + 1}, is not a number")
    return tuple(value for value in values if value is not None)


def count_text(count: int) -> str:
    return f"{count} number{'' if count == 1 else 's'} where SD1.5 has 17 (or 26)"


def require_sd15_numbers(name: str, numbers: tuple[float, ...]) -> tuple[float, ...]:
    """`numbers` when there are 17 or 26; raises UserError naming the preset otherwise."""
    if len(numbers) not in BLOCKS_BY_COUNT:
        count, family = len(numbers), OTHER_FAMILIES.get(len(numbers))
        raise UserError(f"{name} has {count_text(count)}" + (f"; {count} are for {family}" if family else ""))
    return numbers


def read_presets(path: str | Path) -> Presets:
    """Presets of a text file in UTF-8. Raises UserError: missing, not text, or every bad line."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("there is no such preset file", where=path, remedy="Check --presets") from None
    except UnicodeDecodeError:
        raise UserError("this is not a text file in UTF-8", where=path, remedy="Save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"the preset file can't be read ({error.strerror})", where=path) from None
    return parse_presets(text, path)


def format_presets(presets: Mapping[str, tuple[float, ...]]) -> str:
    """The text that parse_presets reads back. Raises UserError for a name that a line can't hold."""
    for name in presets:
        if name != name.strip() or not name or any(c in ":#" for c in name) or len(name.splitlines()) != 1:
            remedy = "Leave out : and #, and spaces at the ends"
            raise UserError(f"{name!r} can't be the name of a preset", remedy=remedy)
    return "".join(f"{name}:{format_numbers(numbers)}\n" for name, numbers in presets.items())


def write_presets(path: str | Path, presets: Mapping[str, tuple[float, ...]]) -> None:
    """Replace a preset file; comments in the old one are lost."""
    write_text(path, format_presets(presets))
