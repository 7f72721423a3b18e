"""Captions made by a program: how they are asked for, and what becomes of those that are there."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import UserError, raise_all
from .captions import read

EXISTING = ("keep", "append", "prepend", "replace")
SORTS = ("confidence", "alphabet")
_RANGES: dict[str, tuple[float, float]] = {
    "threshold": (0, 1),
    "beams": (1, 16),
    "min_length": (1, 128),
    "max_length": (1, 256),
    "batch_size": (1, 64),
}
_SPECIAL = re.compile(r"([\\()])")
Write = Callable[[Path, bytes], object]
"""Writes a file and remembers what was there, such as the `write` of a change of a project's journal."""
_EXTENSION = re.compile(r"\.[\w-]{1,20}")


@dataclass(frozen=True)
class TagOptions:
    """What a captioner is asked for, for one call. The host's own settings are neither read nor changed.

    threshold (0 to 1), spaces (for underscores), escape (brackets, as prompts need it), sort, exclude and ranks are for
    captioners of tags; beams, min_length and max_length (tokens) for those of sentences. batch_size is in pictures.
    """

    threshold: float = 0.5
    spaces: bool = True
    escape: bool = False
    sort: str = "confidence"
    exclude: tuple[str, ...] = ()
    ranks: bool = False
    beams: int = 1
    min_length: int = 24
    max_length: int = 48
    batch_size: int = 4

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TagOptions:
        """From a form or a request; "exclude" is a list, or text with commas. Raises UserError naming each field."""
        given = dict(values)
        if "exclude" in given:
            given["exclude"] = _words(given["exclude"])
        made: TagOptions = _checked(cls, given, {"sort": SORTS})
        if made.min_length > made.max_length:
            what = f"{made.min_length} is more than max_length, {made.max_length}"
            raise UserError(what, where="min_length", remedy="Make it smaller")
        return made


@dataclass(frozen=True)
class Tagged:
    """What a captioner made: captions by picture, why some have none, and whether it was stopped before the end."""

    captions: dict[Path, str]
    problems: tuple[UserError, ...] = ()
    stopped: bool = False


@dataclass(frozen=True)
class Writing:
    """Where a caption goes: what happens to the one that is there, the word that stands first, the file's ending."""

    existing: str = "keep"
    trigger: str = ""
    extension: str = ".txt"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Writing:
        """From a form or a request. Raises UserError naming each field."""
        made: Writing = _checked(cls, dict(values), {"existing": EXISTING})
        if not _EXTENSION.fullmatch(made.extension):
            raise UserError(f"{made.extension!r} is no file ending", where="extension", remedy='Write ".txt"')
        if "\n" in made.trigger or "\r" in made.trigger:
            raise UserError("it is more than one line", where="trigger", remedy="Write one word or several tags")
        return made


def tags_text(names: Sequence[str], scores: Sequence[float], options: TagOptions) -> str:
    """A caption of the tags that score at least the threshold; ratings ("rating:safe") are never among them."""
    excluded = {word.strip().replace(" ", "_") for word in options.exclude}
    found = [
        (name, float(score))
        for name, score in zip(names, scores, strict=True)
        if score >= options.threshold and not name.startswith("rating:") and name not in excluded
    ]
    found.sort(key=(lambda tag: -tag[1]) if options.sort == "confidence" else (lambda tag: tag[0]))
    return ", ".join(_shown(name, score, options) for name, score in found)


def _shown(name: str, score: float, options: TagOptions) -> str:
    text = name.replace("_", " ") if options.spaces else name
    if options.escape:
        text = _SPECIAL.sub(r"\\\1", text)
    return f"({text}:{score:.3f})" if options.ranks else text


def combine(old: str | None, new: str, writing: Writing) -> str | None:
    """The caption to be written, the trigger first; None where the old one stays. An empty old one counts as none.

    Appending and prepending leave out what is there already, tag by tag, and treat each line of an old caption alike.
    Nothing new never takes the place of something old.
    """
    lines = [line.strip() for line in (old or "").splitlines() if line.strip()]
    if lines and (writing.existing == "keep" or not new.strip()):
        return None
    if writing.existing in ("keep", "replace") or not lines:
        lines = [""]
    made = [_line(line, new, writing) for line in lines]
    return "\n".join(made) if any(made) else None


def _line(old: str, new: str, writing: Writing) -> str:
    parts = (new, old) if writing.existing == "prepend" else (old, new)
    return ", ".join(_distinct(tag for part in (writing.trigger, *parts) for tag in part.split(",")))


def _distinct(tags: Iterable[str]) -> list[str]:
    """Stripped, in order, each once."""
    seen: dict[str, str] = {}
    for tag in tags:
        if tag := " ".join(tag.split()):
            seen.setdefault(tag.lower(), tag)
    return list(seen.values())


class Writer:
    """Writes captions beside pictures."""

    def __init__(self, writing: Writing, write: Write) -> None:
        self._writing, self._write = writing, write
        self._owners: dict[Path, Path] = {}

    def write(self, picture: Path, caption: str) -> str:
        """ "written", "kept" (there was one and it stays, or there is nothing to write) or "same". Raises UserError."""
        target = picture.with_name(picture.stem + self._writing.extension)
        owner = self._owners.setdefault(target, picture)
        if owner != picture:
            what = f"{owner.name} has the same caption file, {target.name}"
            raise UserError(what, where=picture, remedy="Rename one of the pictures")
        old = self._old(target)
        text = combine(old, caption, self._writing)
        if text is None:
            return "kept"
        if text == old:
            return "same"
        self._write(target, text.encode("utf-8"))
        return "written"

    def _old(self, target: Path) -> str | None:
        """What is there. A file that can't be read as text is kept or replaced, but nothing is put beside its text."""
        if not target.exists():
            return None
        try:
            return read(target, all_lines=True)[0]
        except UserError:
            if self._writing.existing in ("append", "prepend"):
                raise
            return "?" if self._writing.existing == "keep" else None


def _words(value: Any) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise UserError("is no list of tags", where="exclude", remedy="Write tags with commas between them")
    return tuple(word.strip() for word in words if word.strip())


def _checked(kind: Any, given: dict[str, Any], choices: dict[str, tuple[str, ...]]) -> Any:
    """An instance of the dataclass `kind`, every wrong value named at once."""
    known = {field.name: field.default for field in fields(kind)}
    problems = [
        UserError("there is no such option", where=name, remedy="Leave it out") for name in given if name not in known
    ]
    values = {}
    for name in known.keys() & given.keys():
        try:
            values[name] = _value(name, given[name], known[name], choices.get(name))
        except UserError as error:
            problems.append(error)
    raise_all(sorted(problems, key=lambda error: str(error.where)))
    return kind(**values)


def _value(name: str, value: Any, default: Any, choices: tuple[str, ...] | None) -> Any:
    if choices is not None and value not in choices:
        raise UserError(f"{value!r} is none of its choices", where=name, remedy=f"Choose from {', '.join(choices)}")
    if name in _RANGES:
        return _number(name, value, type(default))
    if not isinstance(value, type(default)):
        kinds = {bool: "true or false", str: "text"}
        raise UserError(f"{value!r} is not {kinds.get(type(default), 'a list')}", where=name, remedy="Change it")
    return value


def _number(name: str, value: Any, kind: type) -> Any:
    low, high = _RANGES[name]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    whole = kind is not int or (is_number and value == int(value))
    if not (is_number and whole and low <= value <= high):
        kinds = "a whole number" if kind is int else "a number"
        raise UserError(f"{value!r} is not {kinds} from {low:g} to {high:g}", where=name, remedy="Change it")
    return kind(value)
