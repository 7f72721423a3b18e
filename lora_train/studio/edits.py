"""What may be done to the tags of captions: text in, text out.

A line of a caption is tags with commas between them; a "|||" in it (kohya's keep_tokens_separator) parts the tags that
stay at the start, those that may move, and those that stay at the end. Commas inside {a|b} part nothing. Several lines,
which wildcards choose among, are treated one by one. A line whose tags stay as they are is left to the letter.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Protocol

from ..errors import UserError

MARK = "|||"
PLACES = ("first", "last", "after")
SCOPES = ("tag", "text")
SORTS = ("", "alphabet", "frequency")
_MOST_PATTERN = 500

# Faces made of characters, whose underscores are theirs.
_FACES = frozenset(
    ("0_0", "o_o", "._.", "^_^", ">_<", ">_o", "@_@", "=_=", "x_x", "u_u", "t_t", ";_;", "+_+", "+_-", "3_3", "|_|")
)
_WEIGHT = re.compile(r"^\(.*:[+-]?[\d.]+\)$")
_BARE = re.compile(r"(?<!\\)([()])")
_ESCAPED = re.compile(r"\\([()])")
_SPACES = re.compile(r"\s+")
_BRACES = re.compile(r"\{[^{}]*\|[^{}]*\}")
_HIDDEN = "\0"  # in place of commas in braces; captions have no NUL
_SIDE = re.compile(r"(?<![^\W\d_])(left|right)(?=(?:most)?(?![^\W\d_]))", re.IGNORECASE)
# Where the two words are no sides, with underscores as spaces.
_NO_SIDE = re.compile(
    r"\bleft (?:behind|alone|over|overs|4 dead|unattended|for dead)\b|\b(?:nothing|what is|all that is|only one) left\b"
    r"|\ball right\b|\bright (?:angles?|angled|now|away|here|there|before|after|at|in|on|under|above|behind|next|beside"
    r"|stuff)\b",
    re.IGNORECASE,
)

Parts = list[list[str]]
"""The tags of a line, between the marks."""


def parts_of(line: str) -> Parts:
    """The tags of one line, without empty ones."""
    return [[tag for tag in map(str.strip, _split(part)) if tag] for part in line.split(MARK)]


def tags_of(line: str) -> list[str]:
    """All tags of one line as they are written."""
    return [tag for part in parts_of(line) for tag in part]


def joined(parts: Parts) -> str:
    """The line of these tags."""
    return f" {MARK} ".join(", ".join(part) for part in parts).strip()


@lru_cache(maxsize=65536)
def key(tag: str) -> str:
    """What tags have in common that differ in case, underscores, spaces and escaped brackets alone."""
    tag = _ESCAPED.sub(r"\1", tag).casefold()
    return _SPACES.sub(" ", tag if tag in _FACES else tag.replace("_", " ")).strip()


def _split(text: str) -> list[str]:
    """At commas, except inside {a|b}."""
    if "{" not in text:
        return text.split(",")
    return [part.replace(_HIDDEN, ",") for part in _BRACES.sub(_hidden, text).split(",")]


def _hidden(braces: re.Match[str]) -> str:
    return braces[0].replace(",", _HIDDEN)


class Edit(Protocol):
    """One operation on captions."""

    def title(self) -> str:
        """What it does, in one clause."""

    def text(self, text: str, known: Counter[str]) -> str:
        """The caption that becomes of this one. known: how many captions have each tag, by `key`."""


class _ByLine(ABC):
    """An edit that treats the lines of a caption one by one; a caption without text has one empty line."""

    @abstractmethod
    def line(self, line: str, known: Counter[str]) -> str: ...

    def text(self, text: str, known: Counter[str]) -> str:
        if not text.strip():
            return self.line("", known)
        lines = text.split("\n")
        return "\n".join(self.line(line, known).replace("\n", " ") if line.strip() else line for line in lines)


@dataclass(frozen=True)
class Add(_ByLine):
    """Tags that aren't there yet: first, last, or behind the tag `after` (first where that is missing).

    With a "|||" in the line first and last are those of the whole line.
    """

    tags: tuple[str, ...]
    place: str = "first"
    after: str = ""

    def title(self) -> str:
        places = {"first": "first", "last": "last", "after": f"after {self.after}"}
        return f"add {_shown(self.tags)} {places[self.place]}"

    def line(self, line: str, known: Counter[str]) -> str:
        parts = parts_of(line)
        there = {key(tag) for part in parts for tag in part}
        new = [tag for tag in _distinct(self.tags) if key(tag) not in there]
        if not new:
            return line
        if self.place == "last":
            parts[-1] += new
            return joined(parts)
        if self.place == "after":
            for part in parts:
                found = next((at for at, tag in enumerate(part) if key(tag) == key(self.after)), None)
                if found is not None:
                    part[found + 1 : found + 1] = new
                    return joined(parts)
        parts[0][:0] = new
        return joined(parts)


@dataclass(frozen=True)
class Remove(_ByLine):
    """Tags, wherever they are; case and underscores don't matter unless `exact`."""

    tags: tuple[str, ...]
    exact: bool = False

    def title(self) -> str:
        return f"remove {_shown(self.tags)}"

    def line(self, line: str, known: Counter[str]) -> str:
        same = _same(self.exact)
        gone = {same(tag) for tag in self.tags}
        return _mapped(line, lambda tag: [] if same(tag) in gone else [tag])


@dataclass(frozen=True)
class Replace(_ByLine):
    """Text by other text. scope "tag": whole tags, or with `regex` what it finds inside each; "text": all of the line.

    A tag may become several, or none where `by` is empty. Case and underscores don't matter for whole tags, unless
    `exact`. tags: more of them that become the same.
    """

    find: str
    by: str = ""
    regex: bool = False
    scope: str = "tag"
    exact: bool = False
    tags: tuple[str, ...] = ()

    def title(self) -> str:
        return f"replace {_shown((self.find, *self.tags))} by {self.by or 'nothing'}"

    def line(self, line: str, known: Counter[str]) -> str:
        if not self.regex and self.scope == "text":
            return line.replace(self.find, self.by)
        try:
            if self.scope == "text":
                return re.sub(self.find, self.by, line)
            if self.regex:
                pattern = re.compile(self.find)
                return _mapped(line, lambda tag: tags_of(pattern.sub(self.by, tag)))
        except (re.error, IndexError) as error:
            raise UserError(f"it can't be used ({error})", where=self.find, remedy="Mend the expression") from None
        same = _same(self.exact)
        wanted = {same(tag) for tag in (self.find, *self.tags)}
        return _mapped(line, lambda tag: tags_of(self.by) if same(tag) in wanted else [tag])


@dataclass(frozen=True)
class Reorder(_ByLine):
    """`first` to the start and `last` to the end where they are there; the rest sorted, but for the `keep` first tags.

    sort: "" as it is, "alphabet", or "frequency" (what most captions have first). A "|||" keeps what stays apart.
    """

    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    sort: str = ""
    keep: int = 0

    def title(self) -> str:
        clauses = [f"{_shown(self.first)} to the start"] if self.first else []
        clauses += [f"{_shown(self.last)} to the end"] if self.last else []
        clauses += [f"sort by {self.sort}"] if self.sort else []
        return "reorder: " + (", ".join(clauses) or "nothing")

    def line(self, line: str, known: Counter[str]) -> str:
        parts = parts_of(line)
        before = [list(part) for part in parts]
        front, back = ([key(tag) for tag in tags] for tags in (self.first, self.last))
        moved: dict[str, list[str]] = {}
        for at, part in enumerate(parts):
            for tag in part:
                if key(tag) in front or key(tag) in back:
                    moved.setdefault(key(tag), []).append(tag)
            parts[at] = [tag for tag in part if key(tag) not in moved]
        free = parts[min(1, len(parts) - 1)]
        keep = self.keep if len(parts) == 1 else 0
        if self.sort == "alphabet":
            free[keep:] = sorted(free[keep:], key=key)
        elif self.sort == "frequency":
            free[keep:] = sorted(free[keep:], key=lambda tag: (-known[key(tag)], key(tag)))
        parts[0][:0] = [tag for name in dict.fromkeys(front) for tag in moved.get(name, [])]
        parts[-1] += [tag for name in dict.fromkeys(back) if name not in front for tag in moved.get(name, [])]
        return line if parts == before else joined(parts)


@dataclass(frozen=True)
class Deduplicate(_ByLine):
    """Each tag once, where it stands first; empty places between commas go, too."""

    def title(self) -> str:
        return "remove repeated tags"

    def line(self, line: str, known: Counter[str]) -> str:
        seen: set[str] = set()

        def once(tag: str) -> list[str]:
            if key(tag) in seen:
                return []
            seen.add(key(tag))
            return [tag]

        made = _mapped(line, once)
        empty = any(not tag.strip() for part in line.split(MARK) for tag in _split(part)) and bool(line.strip())
        return joined(parts_of(made)) if empty else made


@dataclass(frozen=True)
class Underscores(_ByLine):
    """Underscores to spaces, or spaces to underscores; `protect`: tags that stay, such as a trigger. Faces (^_^) do."""

    to: str = "spaces"
    protect: tuple[str, ...] = ()

    def title(self) -> str:
        return "underscores to spaces" if self.to == "spaces" else "spaces to underscores"

    def line(self, line: str, known: Counter[str]) -> str:
        spared = {tag.strip() for tag in self.protect}

        def changed(tag: str) -> list[str]:
            if tag in spared or tag.casefold() in _FACES:
                return [tag]
            return [tag.replace("_", " ") if self.to == "spaces" else _SPACES.sub("_", tag)]

        return _mapped(line, changed)


@dataclass(frozen=True)
class Brackets(_ByLine):
    r"""Brackets written as prompts need them, \( \), or plain; (tag:1.2) is a weight and stays."""

    to: str = "escaped"

    def title(self) -> str:
        return "escape brackets" if self.to == "escaped" else "plain brackets"

    def line(self, line: str, known: Counter[str]) -> str:
        def changed(tag: str) -> list[str]:
            if _WEIGHT.match(tag):
                return [tag]
            return [_BARE.sub(r"\\\1", tag) if self.to == "escaped" else _ESCAPED.sub(r"\1", tag)]

        return _mapped(line, changed)


@dataclass(frozen=True)
class Swap(_ByLine):
    """left to right and right to left, as a mirrored picture has them: "looking to the left", "left-handed".

    Only whole words that mean a side: neither "bright" nor "right angle". protect: tags that stay, such as a trigger.
    """

    protect: tuple[str, ...] = ()

    def title(self) -> str:
        return "swap left and right"

    def line(self, line: str, known: Counter[str]) -> str:
        spared = {tag.strip() for tag in self.protect}
        return _mapped(line, lambda tag: [tag if tag in spared else mirrored(tag)])


def mirrored(tag: str) -> str:
    """A tag or sentence as it is true of the mirrored picture."""
    if not _SIDE.search(tag):
        return tag
    spared = [found.span() for found in _NO_SIDE.finditer(tag.replace("_", " ").replace("-", " "))]

    def other(word: re.Match[str]) -> str:
        if any(start <= word.start() < end for start, end in spared):
            return word[0]
        new = "right" if word[0].lower() == "left" else "left"
        return new.upper() if word[0].isupper() else new.capitalize() if word[0][0].isupper() else new

    return _SIDE.sub(other, tag)


@dataclass(frozen=True)
class Set:
    """The whole caption anew: what a cell of the table holds after it was edited."""

    caption: str

    def title(self) -> str:
        return "write a caption"

    def text(self, text: str, known: Counter[str]) -> str:
        return self.caption.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class Save:
    """Text as it is, in UTF-8 with plain line ends. read_as: the encoding to read it by; "" finds out."""

    read_as: str = ""

    def title(self) -> str:
        return "save as UTF-8" + (f", read as {self.read_as}" if self.read_as else "")

    def text(self, text: str, known: Counter[str]) -> str:
        return text


KINDS: dict[str, type] = {
    "add": Add,
    "remove": Remove,
    "replace": Replace,
    "reorder": Reorder,
    "deduplicate": Deduplicate,
    "underscores": Underscores,
    "brackets": Brackets,
    "swap": Swap,
    "set": Set,
    "save": Save,
}
"""By the word that a request names them with."""

_CHOICES = {
    (Add, "place"): PLACES,
    (Replace, "scope"): SCOPES,
    (Reorder, "sort"): SORTS,
    (Underscores, "to"): ("spaces", "underscores"),
    (Brackets, "to"): ("escaped", "plain"),
    (Save, "read_as"): ("", "GBK", "Shift-JIS", "cp1252", "UTF-16", "UTF-8"),
}


def from_dict(values: Mapping[str, Any]) -> Edit:
    """{"edit": "add", "tags": ["hina"], "place": "first"}; tags may be text with commas. Raises UserError."""
    word = values.get("edit")
    kind = KINDS.get(word) if isinstance(word, str) else None
    if kind is None:
        raise UserError(f"{word!r} is no edit", where="edit", remedy=f"Choose from {', '.join(KINDS)}")
    known = {field.name: field for field in fields(kind)}
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name == "edit":
            continue
        if name not in known:
            raise UserError("there is no such option", where=name, remedy="Leave it out")
        given[name] = _value(kind, name, str(known[name].type), value)
    return checked(kind, given)


def as_dict(edit: Edit) -> dict[str, Any]:
    """An edit as `from_dict` reads it."""
    return {"edit": type(edit).__name__.lower(), **asdict(edit)}  # type: ignore[call-overload]


def done(chain: Iterable[Edit], text: str, known: Counter[str]) -> str:
    """The caption that several edits in turn make of this one."""
    for edit in chain:
        text = edit.text(text, known)
    return text


def checked(kind: type, given: Mapping[str, Any]) -> Edit:
    """An edit of that kind, if it makes sense. Raises UserError."""
    required = {Add: "tags", Remove: "tags", Replace: "find", Set: "caption"}.get(kind)
    if required and (required not in given or (required != "caption" and not given[required])):
        raise UserError("it is missing", where=required, remedy="Give at least one tag")
    if kind is Add and given.get("place") == "after" and not given.get("after"):
        raise UserError("it is missing", where="after", remedy="Give the tag that the others follow")
    if kind is Replace and given.get("regex"):
        pattern = given["find"]
        if len(pattern) > _MOST_PATTERN:
            raise UserError("it is too long", where="find", remedy=f"Use {_MOST_PATTERN} characters at most")
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"the expression is wrong: {error}", where="find", remedy="Mend it") from None
    made: Edit = kind(**given)
    return made


def _value(kind: type, name: str, annotation: str, value: Any) -> Any:
    if annotation.startswith("tuple"):
        tags = tags_of(value) if isinstance(value, str) else value
        if not isinstance(tags, (list, tuple)) or not all(isinstance(tag, str) for tag in tags):
            raise UserError(f"{value!r} is no list of tags", where=name, remedy="Write tags with commas between them")
        if any("\n" in tag or "\r" in tag or MARK in tag for tag in tags):
            raise UserError(f"a tag has a line end or {MARK}", where=name, remedy="Leave it out")
        return tuple(tag.strip() for tag in tags if tag.strip())
    if name == "keep":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1000:
            raise UserError(f"{value!r} is not a whole number from 0 to 1000", where=name, remedy="Change it")
        return value
    expected: type = bool if annotation == "bool" else str
    if not isinstance(value, expected):
        words = "true or false" if expected is bool else "text"
        raise UserError(f"{value!r} is not {words}", where=name, remedy="Change it")
    if name != "caption" and isinstance(value, str) and ("\n" in value or "\r" in value):
        raise UserError("it is more than one line", where=name, remedy="Write one line")
    choices = _CHOICES.get((kind, name))
    if choices and value not in choices:
        shown = ", ".join(choice or '""' for choice in choices)
        raise UserError(f"{value!r} is none of its choices", where=name, remedy=f"Choose from {shown}")
    return value


def _mapped(line: str, change: Callable[[str], Sequence[str]]) -> str:
    """The line with each tag as `change` makes it; to the letter as it was where all stay."""
    parts = parts_of(line)
    made = [[new for tag in part for new in change(tag)] for part in parts]
    return line if made == parts else joined(made)


def _same(exact: bool) -> Callable[[str], str]:
    return str.strip if exact else key


def _distinct(tags: Sequence[str]) -> list[str]:
    return list({key(tag): tag for tag in reversed(tags)}.values())[::-1]


def _shown(tags: Sequence[str]) -> str:
    more = f" and {len(tags) - 3} more" if len(tags) > 3 else ""
    return ", ".join(tags[:3]) + more
