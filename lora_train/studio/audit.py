"""What is probably wrong with the captions of a set, with the files, and the edit that mends it.

A finding is a hint where only the picture can tell (contradictions, rare tags); its edit is for the user to choose.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from ..dataset import encodings
from ..dataset.folders import listed, shown
from . import edits, tokens
from .captions import Row, Table
from .edits import Add, Deduplicate, Edit, Remove, Reorder, Replace, Save, key, tags_of

FEW = 5
"""Captions below which nothing is said of what most of them have."""

_MINORITY, _MAJORITY = 0.2, 0.7  # of a folder's captions
_SENTENCE = 4  # words; a tag of more is a sentence

_GIRLS = frozenset({"1girl", "girl", "woman", "female", "lady", "female focus"})
_BOYS = frozenset({"1boy", "boy", "man", "male", "male focus"})
_HER = re.compile(r"\b(?:woman|girl|lady|female)\b")
_HIM = re.compile(r"\b(?:man|boy|gentleman|male)\b")
_SEVERAL = re.compile(r"(?:[2-9]|\d{2,}|\d\+|multiple) ?(?:girls|boys|others|people)|couple|group|crowd|everyone")
_ONE = frozenset({"1girl", "1boy", "1other", "solo", "solo focus"})
_NOBODY = frozenset({"no humans", "scenery only"})
_PAIR = frozenset({"solo", "1girl", "1boy"})
_LORA = re.compile(r"<(?:lora|lyco|hypernet):[^>]*>")


@dataclass(frozen=True)
class Finding:
    """kind: which check; text: what, with numbers; rows: the pictures; tags: those in question.

    edit: what would mend it in `rows`, None where only a look or another tool helps; hint: whether it may be right.
    """

    kind: str
    text: str
    rows: tuple[Row, ...]
    tags: tuple[str, ...] = ()
    edit: Edit | None = None
    hint: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `edit` as `edits.from_dict` reads it."""
        return {
            "kind": self.kind,
            "text": self.text,
            "pictures": [row.name for row in self.rows],
            "tags": list(self.tags),
            "edit": None if self.edit is None else edits.as_dict(self.edit),
            "title": "" if self.edit is None else self.edit.title(),
            "hint": self.hint,
        }


def audit(table: Table, trigger: str = "", max_token_length: int = 75) -> list[Finding]:
    """All findings on the pictures to be learnt, those that are certainly wrong first.

    trigger: the tag that every caption is to have; "": that of each folder's name, where some caption begins with it.
    max_token_length: what the training will read of a caption.
    """
    rows = table.own
    written = [row for row in rows if row.text.strip(" ,\n")]
    found: list[Finding] = []
    found += _files(table, rows)
    found += _encodings(rows)
    found += _lines(written)
    found += _lengths(written, max_token_length)
    known = bool(trigger.strip()) and not all(_lacks(row, trigger) for row in written)
    signs = _Signs(frozenset(table.known))
    for _, group in groupby(sorted(written, key=lambda row: row.folder), key=lambda row: row.folder):
        members = list(group)
        found += _trigger(members, trigger, known)
        found += _contradictions(members, signs)
    found += _repeated(written)
    found += _spellings(written, table.spelt)
    found += _syntax(written)
    found += _rare(written, table.known)
    return sorted(found, key=lambda finding: finding.hint)


# Files


def _files(table: Table, rows: Sequence[Row]) -> Iterator[Finding]:
    if bad := [row for row in rows if row.problem]:
        why = "; ".join(f"{name} ({reason})" for name, reason in {row.file.name: row.problem for row in bad}.items())
        yield Finding("unreadable", f"{_files_text(bad)} can't be read: {why}", tuple(bad))
    if missing := [row for row in rows if row.missing]:
        text = f"no caption for {_of(missing, rows)}; the folder's name would serve"
        yield Finding("missing", text, tuple(missing))
    if empty := [row for row in rows if row.digest and not row.problem and not row.text.strip(" ,\n")]:
        yield Finding("empty", f"an empty caption for {_of(empty, rows)}", tuple(empty))
    shared: dict[Path, list[Row]] = {file: [] for file in table.sharing}
    for row in rows if shared else ():
        if row.file in shared:
            shared[row.file].append(row)
    for file, sharing in shared.items():
        names = listed([shown(row.picture.name) for row in sharing], 5)
        if len(sharing) > 1:
            yield Finding("shared", f"{names} have one caption file, {shown(file.name)}", tuple(sharing), hint=True)
    if table.orphans:
        names = listed([shown(path.name) for path in table.orphans], 5)
        yield Finding("orphan", f"captions without a picture: {names}", (), hint=True)


def _encodings(rows: Sequence[Row]) -> Iterator[Finding]:
    """What isn't UTF-8; each encoding by itself."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.encoding:
            found[row.encoding].append(row)
    for encoding, members in found.items():
        read = (
            "sd-scripts would take its first bytes for a part of the first tag"
            if encoding == encodings.BOM
            else "look whether they read right"
        )
        text = f"{encoding}, not UTF-8, for {_of(members, rows)}: {read}"
        yield Finding("encoding", text, tuple(members), (), Save())
    if nul := [row for row in rows if "NUL" in row.note]:
        yield Finding("encoding", f"NUL characters in {_files_text(nul)}", tuple(nul), (), Save())


def _lines(rows: Sequence[Row]) -> Iterator[Finding]:
    several = [row for row in rows if "\n" in row.text.strip()]
    if blank := [row for row in rows if not row.caption and row.text.strip()]:
        text = f"an empty line comes first in {_files_text(blank)}, and only the first line is read"
        yield Finding("lines", text, tuple(blank))
    if more := [row for row in several if row.caption]:
        text = f"several lines in {_files_text(more)}; only the first is read unless enable_wildcard is on"
        yield Finding("lines", text, tuple(more), hint=True)


def _lengths(rows: Sequence[Row], limit: int) -> Iterator[Finding]:
    """Captions that are longer than what is read, by the max_token_length that would do."""
    longer = [row for row in rows if row.tokens > limit]
    bounds = [bound for bound in tokens.LIMITS if bound >= limit] or [limit]
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        chosen = tuple(row for row in longer if row.tokens > low and (high is None or row.tokens <= high))
        if chosen:
            most = max(row.tokens for row in chosen)
            helps = f"max_token_length {high} reads them whole" if high else "shorten them"
            text = f"more than {low} tokens (up to {most}) for {_of(chosen, rows)}, the rest is cut off: {helps}"
            yield Finding("long", text, chosen)


# Tags


def _trigger(rows: Sequence[Row], trigger: str, known: bool) -> Iterator[Finding]:
    """trigger: "" takes the folder's words, or the first of them, where a caption begins with these.

    known: some caption of the set has the trigger. A folder none of whose captions does may have its own.
    """
    wanted = trigger.strip() or _trigger_of(rows)
    if not wanted:
        return
    without = [row for row in rows if _lacks(row, wanted)]
    if without:
        text = f'no "{wanted}" for {_of(without, rows)} of {shown(rows[0].folder)}'
        other = known and len(without) == len(rows)
        yield Finding("trigger", text, tuple(without), (wanted,), Add((wanted,)), hint=other)
    later = [row for row in rows if key(wanted) in row.keys and row.tags and key(row.tags[0]) != key(wanted)]
    if later:
        text = f'"{wanted}", but not first, for {_of(later, rows)} of {shown(rows[0].folder)}'
        yield Finding("trigger", text, tuple(later), (wanted,), Reorder(first=(wanted,)), hint=True)


def _lacks(row: Row, trigger: str) -> bool:
    """Whether a caption has the trigger neither as a tag nor as words of a sentence."""
    name = key(trigger)
    if name in row.keys and "\n" not in row.text:
        return False
    return not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", key(row.caption))


def _trigger_of(rows: Sequence[Row]) -> str:
    words = rows[0].concept.strip()
    for word in filter(None, (words, words.split(" ")[0])):
        if found := Counter(row.tags[0] for row in rows if row.tags and key(row.tags[0]) == key(word)):
            return found.most_common(1)[0][0]
    return ""


@dataclass(frozen=True)
class _Sign:
    """What a caption speaks of by having one of the tags `keys`, and none of `unless`."""

    of: str
    keys: frozenset[str]
    unless: frozenset[str] = frozenset()

    def on(self, row: Row) -> bool:
        return not self.keys.isdisjoint(row.keys) and self.unless.isdisjoint(row.keys)

    def tags(self, row: Row) -> list[str]:
        return [tag for tag in row.tags if key(tag) in self.keys] if self.on(row) else []


class _Signs:
    """Those that captions are compared by; tags: all that there are, by key."""

    def __init__(self, tags: frozenset[str]) -> None:
        self.several = frozenset(filter(_SEVERAL.fullmatch, tags))
        sentences = list(filter(_is_sentence, tags))
        girl = _Sign("a girl or woman", _GIRLS | set(filter(_HER.search, sentences)))
        boy = _Sign("a boy or man", _BOYS | set(filter(_HIM.search, sentences)))
        one, many = _Sign("one person", _ONE, self.several), _Sign("several", self.several)
        self.opposites = [(girl, boy), (boy, girl), (one, many)]
        """What most may speak of, and what a few then speak of by mistake."""


def _contradictions(rows: Sequence[Row], signs: _Signs) -> Iterator[Finding]:
    """Of a few captions with what most of the folder's say; then within a caption."""
    told: set[Path] = set()
    for usual, odd in signs.opposites if len(rows) >= FEW else ():
        strange = [row for row in rows if odd.on(row)]
        most = [row for row in rows if usual.on(row)]
        if strange and len(strange) <= _MINORITY * len(rows) and len(most) >= _MAJORITY * len(rows):
            told.update(row.picture for row in strange)
            said = tuple(dict.fromkeys(tag for row in strange for tag in odd.tags(row)))
            tags, edit = listed(list(said), 3), _mended([t for t in said if not _is_sentence(t)], strange, most, usual)
            where = f"{_of(strange, rows)} of {shown(rows[0].folder)}"
            text = f"unlike the rest, {odd.of} ({tags}) for {where}; {usual.of} for {len(most)}"
            yield Finding("contradiction", text, tuple(strange), said, edit, hint=True)
    for row in rows:
        if row.picture not in told and (clash := _clash(row, signs.several)):
            text = f'{shown(row.picture.name)} says both "{clash[0]}" and "{clash[1]}"'
            yield Finding("contradiction", text, (row,), clash, Remove(clash[1:]), hint=True)


def _mended(odd: list[str], strange: list[Row], most: list[Row], usual: _Sign) -> Edit | None:
    """Take the odd tags away; or where none of these captions has the usual one, put that in their place."""
    if not odd:
        return None
    if any(map(usual.on, strange)):
        return Remove(tuple(odd))
    best = Counter(tag for row in most for tag in usual.tags(row) if not _is_sentence(tag)).most_common(1)
    return Replace(odd[0], best[0][0], tags=tuple(odd[1:])) if best else Remove(tuple(odd))


def _clash(row: Row, several: frozenset[str]) -> tuple[str, str] | None:
    """Two tags of which one must be wrong. Lines of a wildcard are alternatives, so only one line can clash."""
    suspicious = not (several.isdisjoint(row.keys) and _NOBODY.isdisjoint(row.keys)) or row.keys >= _PAIR
    if not suspicious or "\n" in row.text.strip():
        return None
    by_key = {key(tag): tag for tag in row.tags}
    crowd = [tag for name, tag in by_key.items() if name in several]
    if nobody := next((tag for name, tag in by_key.items() if name in _NOBODY), ""):
        people = [tag for name, tag in by_key.items() if name in _ONE] + crowd
        return (nobody, people[0]) if people else None
    if "solo" in by_key and crowd:
        return by_key["solo"], crowd[0]
    if row.keys >= _PAIR:
        return by_key["solo"], by_key["1boy"]
    for one, many in (("1girl", "girls"), ("1boy", "boys")):
        for name in by_key:
            if one in by_key and name != one and re.fullmatch(rf"(?:[2-9]|\d{{2,}}|\d\+|multiple) ?{many}", name):
                return by_key[name], by_key[one]
    return None


@lru_cache(1 << 16)
def _is_sentence(tag: str) -> bool:
    return len(key(tag).split()) >= _SENTENCE


def _repeated(rows: Sequence[Row]) -> Iterator[Finding]:
    """The same tag twice in one line."""
    found: dict[str, None] = {}
    twice = []
    for row in rows:
        if len(row.tags) == len(row.keys):
            continue
        again = [tag for line in row.text.split("\n") for tag, n in Counter(map(key, tags_of(line))).items() if n > 1]
        if again:
            twice.append(row)
            found.update(dict.fromkeys(again))
    if twice:
        text = f"a tag twice for {_of(twice, rows)}: {listed(list(found), 5)}"
        yield Finding("repeated", text, tuple(twice), tuple(found), Deduplicate())


def _spellings(rows: Sequence[Row], tags: Counter[str]) -> Iterator[Finding]:
    """Tags that differ in case, underscores, spaces or escaped brackets alone."""
    spelt: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for tag, n in tags.items():
        spelt[key(tag)][tag] = n
    for spellings in spelt.values():
        if len(spellings) < 2:
            continue
        usual, *others = [tag for tag, _ in sorted(spellings.items(), key=lambda item: (-item[1], item[0]))]
        shown_others = ", ".join(f'"{tag}" ({spellings[tag]})' for tag in others)
        text = f'"{usual}" ({spellings[usual]}) is also written {shown_others}'
        members = tuple(row for row in rows if not set(others).isdisjoint(row.tags))
        edit = Replace(others[0], usual, exact=True, tags=tuple(others[1:]))
        yield Finding("spelling", text, members, (usual, *others), edit)


def _syntax(rows: Sequence[Row]) -> Iterator[Finding]:
    if calls := [row for row in rows if _LORA.search(row.text)]:
        text = f"<lora:…> in {_files_text(calls)}, which is read as words"
        yield Finding("syntax", text, tuple(calls), (), Replace(_LORA.pattern, "", regex=True))


def _rare(rows: Sequence[Row], known: Counter[str]) -> Iterator[Finding]:
    """Tags of one picture alone; sentences are each picture's own."""
    if len(rows) < FEW:
        return
    once = {name for name, n in known.items() if n == 1 and not _LORA.search(name)}
    found = [row for row in rows if not once.isdisjoint(row.keys)]
    rare = {key(t): (t, row) for row in found for t in row.tags if key(t) in once and not _is_sentence(t)}
    if rare:
        members = tuple(dict.fromkeys(row for _, row in rare.values()))
        names = tuple(tag for tag, _ in rare.values())
        told = listed(list(names), 5)
        one = f"1 tag is on one picture alone: {told}"
        text = one if len(rare) == 1 else f"{len(rare)} tags are on one picture alone: {told}"
        yield Finding("rare", text, members, names, Remove(names), hint=True)


# Words


def _of(rows: Iterable[Row], all_rows: Sequence[Row]) -> str:
    return f"{len(list(rows))} of {len(all_rows)} pictures"


def _files_text(rows: Sequence[Row]) -> str:
    return "1 caption" if len(rows) == 1 else f"{len(rows)} captions"
