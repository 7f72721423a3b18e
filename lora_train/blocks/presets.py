"""Block presets: `NAME:n1,n2,…` a line, the text format of sd-webui-lora-block-weight's lbwpresets.txt.

17 or 26 numbers are for SD1.5 and SD2, 12 or 20 for SDXL; lines of 61 (FLUX) are kept, and refused where they are used.
A PresetFile keeps every line as it stands in the file, byte for byte; parse_presets is the strict reading of a text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from ..errors import UserError, raise_all
from ..files import replace_file
from ..paths import ROOT
from .families import COUNTS, FOREIGN_COUNTS, count_problem

Presets = dict[str, tuple[float, ...]]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PLACEHOLDER = re.compile(r"[RU]|X([+-][\d.]+)?")
_MARK = "\ufeff"  # what Windows Notepad puts before a text
_OWN_PRESETS = "block-presets.txt"
_LBW_SCRIPT, _LBW_PRESETS = "lora_block_weight.py", "lbwpresets.txt"


def parse_number(text: str) -> float | None:
    """A finite decimal number, or None. Python's `1_0`, `nan` and `inf` are none."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def format_number(value: float) -> str:
    """The shortest text that reads back as `value`; whole numbers without a point."""
    return repr(float(value)).removesuffix(".0")


def format_numbers(numbers: Iterable[float]) -> str:
    return ",".join(map(format_number, numbers))


def _numbers(text: str) -> tuple[float, ...]:
    """For the tables below: `a*n` stands for n times a."""
    runs = (run.partition("*") for run in text.split(","))
    return tuple(float(value) for value, _, times in runs for _ in range(int(times or 1)))


LBW_DEFAULTS: Presets = {
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
}
"""What sd-webui-lora-block-weight starts with."""

BUILTIN: Presets = {
    **LBW_DEFAULTS,
    # a style less the checkpoint's own; the _MORE pair for a style that is too weak
    "GP1": _numbers("1,0.6,0.9*3,0.6,0.5,0.4*2,0.6,0.8,1,1.1*5"),
    "GP2": _numbers("0.3,0.1*11,0.2*5"),
    "GP1_MORE": _numbers("1,0.6,1*3,0.8,0.6,0.4*2,0.5,0.6,1,1.2*5"),
    "GP2_MORE": _numbers("0.3,0.1*11,0.3*5"),
    # a person
    "HINA4": _numbers("0.25*4,0.75,0.5,0.75*2,0.8*3,0.85*3,1*3"),
}


# Reading one line


def parse_numbers(texts: list[str]) -> tuple[float, ...]:
    """Numbers of a list of texts; raises UserError naming the first that is none and its place."""
    values = [parse_number(text.strip()) for text in texts]
    if None in values:
        place = values.index(None)
        text = texts[place].strip()
        what = f"{text!r}, number {place + 1}, is not a number"
        if _PLACEHOLDER.fullmatch(text):
            what = f"{text!r}, number {place + 1}, stands for a value that changes from picture to picture"
            raise UserError(what, remedy="Write a number: random and inherited weights can't be drawn again")
        raise UserError(what)
    return tuple(value for value in values if value is not None)


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
    if len(numbers) not in (*COUNTS, *FOREIGN_COUNTS):
        raise UserError(f"{name.strip()!r} has {count_problem(len(numbers))}")
    return name.strip(), numbers


def require_count(name: str, numbers: tuple[float, ...], family: str | None = None) -> tuple[float, ...]:
    """`numbers` when a family (None: any that is known) has so many; raises UserError naming the preset."""
    problem = count_problem(len(numbers), family)
    if problem:
        raise UserError(f"{name} has {problem}")
    return numbers


def check_name(name: str) -> str:
    """`name` when a line of a preset file can hold it. Raises UserError."""
    marks = any(c in name for c in ":#," + _MARK) or any("\ud800" <= c <= "\udfff" for c in name)
    if name != name.strip() or not name or marks or len(name.splitlines()) != 1:
        remedy = "Leave out : # and commas, and spaces at the ends"
        raise UserError(f"{name!r} can't be the name of a preset", remedy=remedy)
    return name


def look_up(
    name: str,
    presets: Mapping[str, tuple[float, ...]],
    family: str | None = None,
    faults: Mapping[str, UserError] | None = None,
) -> tuple[float, ...]:
    """A preset's numbers. faults: why lines of a preset file can't be used, by name, as PresetFile.faults.

    Raises UserError: unknown, with names that are near; a faulty line; made for another family.
    """
    if name in presets:
        return require_count(f"preset {name!r}", presets[name], family)
    if faults and name in faults:
        fault = faults[name]
        raise UserError(f"preset {name!r} can't be used: {fault.what}", where=fault.where, remedy=fault.remedy)
    raise UserError(f"there is no preset {name!r}", remedy=near_names(name, presets))


def near_names(name: str, names: Iterable[str]) -> str:
    """A remedy for an unknown name: the known ones that are like it."""
    known = sorted(set(names))
    near = get_close_matches(name, known, n=3, cutoff=0.5) or known[:10]
    shown = ", ".join(f'"{one}"' if "," in one else one for one in near)
    return f"Known are: {shown}" + (", …" if len(near) < len(known) else "") if near else "None is known"


# Strict reading of a text


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


def format_presets(presets: Mapping[str, tuple[float, ...]]) -> str:
    """The text that parse_presets reads back. Raises UserError for a name that a line can't hold."""
    return "".join(f"{check_name(name)}:{format_numbers(numbers)}\n" for name, numbers in presets.items())


def _read(path: Path) -> str:
    """The text of a file as it is: line ends, and the byte order mark where there is one."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError("there is no such preset file", where=path, remedy="Check --presets") from None
    except UnicodeDecodeError:
        raise UserError("this is not a text file in UTF-8", where=path, remedy="Save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"the preset file can't be read ({error.strerror})", where=path) from None


# A file whose every line is kept


@dataclass(frozen=True)
class Line:
    """One line as it stands. end: its line end, empty in a last line without one.

    name and numbers: of a preset; fault: why a line that looks like a preset can't be used. Otherwise it is a comment.
    """

    text: str
    end: str = "\n"
    name: str | None = None
    numbers: tuple[float, ...] | None = None
    fault: UserError | None = field(default=None, compare=False)


@dataclass(frozen=True)
class PresetFile:
    """The lines of a preset file, in order. Edits return a new one and change only the line that they are about."""

    lines: tuple[Line, ...] = ()
    where: str = "presets"
    mark: str = ""

    @classmethod
    def parse(cls, text: str, where: object = "presets") -> PresetFile:
        """Any text; nothing is refused. `PresetFile.parse(text).text == text`."""
        mark = _MARK if text.startswith(_MARK) else ""
        pieces = enumerate(text[len(mark) :].splitlines(keepends=True), start=1)
        return cls(tuple(_line(piece, f"{where}, line {number}") for number, piece in pieces), str(where), mark)

    @property
    def text(self) -> str:
        """What parse was given, but for the edits."""
        return self.mark + "".join(line.text + line.end for line in self.lines)

    @cached_property
    def presets(self) -> Presets:
        """Presets that can be used, in order. The last of equal names counts, as in sd-webui-lora-block-weight."""
        return {name: line.numbers for name, line in self._named.items() if line.numbers is not None}

    @cached_property
    def with_builtin(self) -> Presets:
        """Those and the built-in ones. A name that stands in the file, right or wrong, is never the built-in one's."""
        return {**{name: numbers for name, numbers in BUILTIN.items() if name not in self._named}, **self.presets}

    @cached_property
    def faults(self) -> dict[str, UserError]:
        """Why a name's line can't be used, for look_up."""
        return {name: line.fault for name, line in self._named.items() if line.fault}

    @cached_property
    def _named(self) -> dict[str, Line]:
        """The last line of each name."""
        return {line.name: line for line in self.lines if line.name is not None}

    @property
    def problems(self) -> list[UserError]:
        """What is wrong, by line: presets that can't be used, and names that stand there twice."""
        found = [line.fault for line in self.lines if line.fault]
        seen: dict[str, tuple[float, ...]] = {}
        for number, line in enumerate(self.lines, start=1):
            if line.name is None or line.numbers is None:
                continue
            if seen.get(line.name, line.numbers) != line.numbers:
                what, remedy = f"{line.name!r} stands above with other numbers", "This line counts; rename one of them"
                found.append(UserError(what, where=f"{self.where}, line {number}", remedy=remedy))
            seen[line.name] = line.numbers
        return found

    def put(self, name: str, numbers: tuple[float, ...]) -> PresetFile:
        """With a preset of that name: its line, the last of several, gets these numbers, else one is added at the end.

        Raises UserError for a name or a count that the file can't hold.
        """
        check_name(name)
        if len(numbers) not in FOREIGN_COUNTS:
            require_count(f"preset {name!r}", numbers)
        text = f"{name}:{format_numbers(numbers)}"
        place = self._place(name)
        if place is not None:
            return self._with(place, replace(self.lines[place], text=text, name=name, numbers=numbers, fault=None))
        *before, last = self.lines or (Line("", ""),)
        if last.text and not last.end:
            last = replace(last, end=self._end)
        kept = (*before, last) if self.lines else ()
        return replace(self, lines=(*kept, Line(text, self._end, name, numbers)))

    def rename(self, old: str, new: str) -> PresetFile:
        """With another name for a preset, in every line of it. Raises UserError: unknown, taken, not possible."""
        self._require(old)
        check_name(new)
        if new != old and self._place(new) is not None:
            raise UserError(f"{new!r} is taken", where=self.where, remedy="Choose another name, or remove that preset")
        lines = [
            replace(line, text=line.text.replace(old, new, 1), name=new) if line.name == old else line
            for line in self.lines
        ]
        return replace(self, lines=tuple(lines))

    def remove(self, name: str) -> PresetFile:
        """Without a preset's lines. Raises UserError when there is none."""
        self._require(name)
        return replace(self, lines=tuple(line for line in self.lines if line.name != name))

    @property
    def _end(self) -> str:
        return next((line.end for line in self.lines if line.end), "\n")

    def _place(self, name: str) -> int | None:
        return next((n for n in reversed(range(len(self.lines))) if self.lines[n].name == name), None)

    def _require(self, name: str) -> None:
        if self._place(name) is None:
            names = [line.name for line in self.lines if line.name]
            raise UserError(f"there is no preset {name!r}", where=self.where, remedy=near_names(name, names))

    def _with(self, place: int, line: Line) -> PresetFile:
        return replace(self, lines=(*self.lines[:place], line, *self.lines[place + 1 :]))


def _line(piece: str, where: str) -> Line:
    """A line of a preset file. As in sd-webui-lora-block-weight a line with a # anywhere is a comment."""
    text = piece.splitlines()[0]
    end = piece[len(text) :]
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if not colon or not name or "#" in text or not _looks_like_numbers(rest):
        return Line(text, end)
    try:
        numbers = _parse_line(text)[1]
        return Line(text, end, name, numbers)
    except UserError as error:
        return Line(text, end, name, fault=UserError(error.what, where=where, remedy=error.remedy))


def _looks_like_numbers(text: str) -> bool:
    """Whether a line that is no comment was meant to be a list of weights: most of its pieces are numbers, or it has as
    many as a preset."""
    pieces = [piece.strip() for piece in text.split(",")]
    weights = sum(parse_number(piece) is not None or bool(_PLACEHOLDER.fullmatch(piece)) for piece in pieces)
    return 2 * weights > len(pieces) > 2 or len(pieces) in (*COUNTS, *FOREIGN_COUNTS)


# Where presets are kept


def find_block_weight(extensions: str | Path) -> Path | None:
    """The folder of sd-webui-lora-block-weight among a WebUI's extensions, under whatever name; None: not installed."""
    found = sorted(Path(extensions).glob(f"*/scripts/{_LBW_SCRIPT}"))
    return found[0].parents[1] if found else None


@dataclass(frozen=True)
class PresetStore:
    """A preset file on the disk, as it was when it was read. before: its bytes then, None where there was none."""

    path: Path
    file: PresetFile
    before: bytes | None

    def save(self, file: PresetFile) -> PresetStore:
        """Write it, unless someone else wrote the file since. Raises UserError, also where writing isn't allowed."""
        if _bytes(self.path) != self.before:
            remedy = "Read it again and repeat the change"
            raise UserError("the preset file was changed by another program", where=self.path, remedy=remedy)
        data = file.text.encode("utf-8")
        with replace_file(self.path) as temporary:
            temporary.write_bytes(data)
        return PresetStore(self.path, file, data)


def open_store(own: str | Path, block_weight: str | Path | None = None) -> PresetStore:
    """The preset file of sd-webui-lora-block-weight where that is installed (its folder is given), else our `own`.

    Where there is none yet, it is as that extension would begin it, or empty. Raises UserError: not UTF-8, unreadable.
    """
    path = Path(own) if block_weight is None else _block_weight_file(Path(block_weight))
    before = _bytes(path)
    if before is not None:
        return PresetStore(path, PresetFile.parse(_read(path), path), before)
    text = "" if block_weight is None else format_presets({**LBW_DEFAULTS, "FLUXALL": (1.0,) * 61})
    return PresetStore(path, PresetFile.parse(text, path), None)


def open_presets(path: str | Path) -> PresetStore:
    """A preset file that must be there. Raises UserError: missing, not UTF-8, unreadable."""
    _read(Path(path))
    return open_store(path)


def shared_store(data_dir: str | Path) -> PresetStore:
    """The presets of this installation: LoRA Block Weight's file where it lies beside us, else one in `data_dir`."""
    extensions = ROOT.parent
    block_weight = find_block_weight(extensions) if extensions.name == "extensions" else None
    return open_store(Path(data_dir) / _OWN_PRESETS, block_weight)


def _block_weight_file(folder: Path) -> Path:
    """It was in the WebUI's own scripts once, and is moved from there when the extension next starts."""
    path, old = folder / "scripts" / _LBW_PRESETS, folder.parent.parent / "scripts" / _LBW_PRESETS
    return old if old.is_file() and not path.is_file() else path


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"the preset file can't be read ({error.strerror})", where=path) from None
