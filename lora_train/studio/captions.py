"""Captions of a set as a table: filters, edits of many at once with a preview, and the way back.

Nothing is written without a preview that shows each file before and after; what was written stands in the project's
journal, which takes it back.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from ..dataset import captions, encodings, folders, images
from ..dataset.folders import Listing, list_folder, listed, shown
from ..errors import UserError
from . import edits, limited, project, tokens
from .edits import Edit, Save, key
from .journal import Entry, Journal, Undone

TITLE = "captions: "
"""How the journal's entries begin that are about captions."""

_NUMBERED = re.compile(r"[0-9]+_.*", re.DOTALL)
_ENDING = re.compile(r"(\.[\w-]{1,20}){1,3}")


@dataclass(frozen=True)
class Row:
    """A picture and its caption. file: where the caption is, or would be written; folder: the name of its class.

    text: all lines, "" where there are none; encoding: "" for UTF-8, else what it was read as; note: what to look at;
    problem: why the file can't be read; digest: of the file's bytes, "" where there is no file; state: (time of change
    in ns, bytes) of the file.
    """

    picture: Path
    file: Path
    folder: str
    concept: str
    is_reg: bool = False
    text: str = ""
    encoding: str = ""
    note: str = ""
    problem: str = ""
    digest: str = ""
    state: tuple[int, int] | None = None

    @cached_property
    def name(self) -> str:
        """ "folder/picture", as a page has it."""
        return f"{shown(self.folder)}/{shown(self.picture.name)}"

    @property
    def missing(self) -> bool:
        """Whether there is no caption file."""
        return not self.digest and not self.problem

    @property
    def caption(self) -> str:
        """What a training without wildcards reads: the first line."""
        return self.text.split("\n")[0].strip()

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """Those of all lines, as they are written."""
        return tuple(tag for line in self.text.split("\n") for tag in edits.tags_of(line))

    @cached_property
    def keys(self) -> frozenset[str]:
        """Its tags without what case and underscores make different."""
        return frozenset(map(key, self.tags))

    @cached_property
    def tokens(self) -> int:
        """Of its longest line, as a training counts them."""
        return max(map(tokens.count, self.text.split("\n"))) if self.text else 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the picture by its folder's and its own name."""
        return {
            "name": self.name,
            "folder": shown(self.folder),
            "caption": self.text,
            "missing": self.missing,
            "is_reg": self.is_reg,
            "encoding": self.encoding,
            "note": self.note,
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Change:
    """A caption file before and after. before: None where there is no file yet; pictures: all that it belongs to."""

    file: Path
    pictures: tuple[Path, ...]
    before: str | None
    after: str
    note: str
    digest: str


@dataclass(frozen=True, eq=False)
class Changes(Sequence[Change]):
    """Each is made when it is asked for, since most of 10,000 are only counted.

    sharing: the pictures of each caption file that several have.
    """

    rows: Sequence[Row] = ()
    texts: Sequence[str] = ()
    sharing: Mapping[Path, tuple[Path, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Change: ...

    @overload
    def __getitem__(self, at: slice) -> Changes: ...

    def __getitem__(self, at: int | slice) -> Change | Changes:
        if isinstance(at, slice):
            return Changes(self.rows[at], self.texts[at], self.sharing)
        row = self.rows[at]
        return _change(row, self.texts[at], self.sharing.get(row.file, (row.picture,)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Changes) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Preview:
    """What an edit would do. skipped: files that can't be read, and so aren't changed.

    token: the same as long as the preview is; a request that applies it hands it back.
    """

    title: str
    changes: Changes
    skipped: tuple[str, ...] = ()

    @cached_property
    def token(self) -> str:
        found = hashlib.sha256(self.title.encode())
        for row, text in zip(self.changes.rows, self.changes.texts, strict=True):
            found.update("\0".join((str(row.file), row.digest, text, "")).encode("utf-8", "surrogatepass"))
        return found.hexdigest()[:32]


@dataclass(frozen=True)
class Applied:
    """What was written; files that were changed after the preview and stay as they are; what couldn't be written.

    entry: its id in the journal, None where nothing was written.
    """

    written: tuple[Path, ...]
    changed: tuple[Path, ...]
    problems: tuple[UserError, ...]
    entry: int | None = None


@dataclass(frozen=True)
class _Look:
    """What a folder held when its captions were read; they are the table's from row `start` on."""

    listing: Listing
    concept: str
    is_reg: bool
    start: int


@dataclass(frozen=True)
class Table:
    """All captions of a set. root: whose journal remembers edits."""

    root: Path
    extension: str
    rows: tuple[Row, ...]
    orphans: tuple[Path, ...] = ()
    said: tuple[str, ...] = ()
    looks: tuple[_Look, ...] = field(default=(), repr=False, compare=False)

    @property
    def journal(self) -> Journal:
        """The list of what was changed."""
        return Journal(self.root)

    @property
    def own(self) -> list[Row]:
        """Those of the pictures to be learnt, without regularisation."""
        return [row for row in self.rows if not row.is_reg]

    @cached_property
    def known(self) -> Counter[str]:
        """How many captions have each tag, by `edits.key`."""
        return Counter(name for row in self.own for name in row.keys)

    @cached_property
    def spelt(self) -> Counter[str]:
        """How many captions have each tag, as it is written."""
        return Counter(tag for row in self.own for tag in set(row.tags))

    @cached_property
    def sharing(self) -> dict[Path, tuple[Path, ...]]:
        """The pictures of each caption file that several have."""
        counts = Counter(row.file for row in self.rows)
        found: dict[Path, tuple[Path, ...]] = {}
        for row in self.rows if len(counts) < len(self.rows) else ():
            if counts[row.file] > 1:
                found[row.file] = (*found.get(row.file, ()), row.picture)
        return found

    def frequency(self, rows: Iterable[Row] | None = None) -> list[tuple[str, int]]:
        """(tag in lower case, how many captions have it), the most frequent first."""
        chosen = self.own if rows is None else rows
        found = Counter(tag for row in chosen for tag in {" ".join(tag.lower().split()) for tag in row.tags})
        return sorted(found.items(), key=lambda item: (-item[1], item[0]))

    def complete(self, text: str, most: int = 20) -> list[str]:
        """The set's tags that begin with `text`, then those with it inside; the most frequent first."""
        wanted = key(text)
        found = [tag for tag, _ in self.frequency() if wanted in key(tag)]
        return sorted(found, key=lambda tag: not key(tag).startswith(wanted))[:most]

    def select(
        self,
        *,
        tags: Iterable[str] = (),
        without: Iterable[str] = (),
        folder: str = "",
        missing: bool | None = None,
        text: str = "",
        foreign: bool = False,
        reg: bool = False,
    ) -> list[Row]:
        """Rows that have all `tags` and none of `without`, of one folder, with or without a caption, with `text` in it.

        missing: True for those without a caption or with an empty one. foreign: only those whose file isn't UTF-8.
        reg: those of regularisation, too.
        """
        wanted, unwanted = set(map(key, tags)), set(map(key, without))
        return [
            row
            for row in self.rows
            if (reg or not row.is_reg)
            and wanted <= row.keys
            and not unwanted & row.keys
            and (not folder or folder in (row.folder, row.concept))
            and (missing is None or missing == (not row.text.strip(" ,\n") and not row.problem))
            and text.casefold() in row.text.casefold()
            and (not foreign or bool(row.encoding))
        ]

    def reread(self, file: Path) -> Table:
        """The table with this caption file as it is by now."""
        return replace(self, rows=tuple(_read(_plain_row(row)) if row.file == file else row for row in self.rows))

    def row(self, name: str) -> Row:
        """The row of "folder/picture", as `as_dict` names it, or of the picture's name alone. Raises UserError."""
        found = [row for row in self.rows if name in (row.name, row.picture.name)]
        if len(found) != 1:
            what = "there is no such picture" if not found else f"{len(found)} pictures have this name"
            raise UserError(what, where=name, remedy="Name it as <folder>/<picture>")
        return found[0]


def open_table(folder: str | Path, extension: str = ".txt", known: Table | None = None) -> Table:
    """The captions of a project, its image/ folder, a <repeats>_<name> folder, or a folder of pictures.

    known: a table of before; what has not changed since isn't read again. Raises UserError where no pictures are.
    """
    if not extension.strip("."):
        raise UserError("no ending is given", where="extension", remedy="Give one such as .txt")
    ending = "." + extension.lstrip(".")
    if not _ENDING.fullmatch(ending) or Path("x" + ending).suffix.lower() in images.SUFFIXES:
        raise UserError(f"{ending!r} is no ending of captions", where="extension", remedy="Give one such as .txt")
    root, found, said = _folders(folder)
    before = known if known and known.extension == ending else None
    rows: list[Row] = []
    orphans: list[Path] = []
    looks: list[_Look] = []
    for listing, concept, is_reg in found:
        own = _rows(listing, concept, is_reg, ending, before)
        used = {row.file for row in own}
        orphans += [path for name, path in listing.others.items() if name.endswith(ending) and path not in used]
        looks.append(_Look(listing, concept, is_reg, len(rows)))
        rows += own
    if not rows:
        what = "no pictures are there"
        raise UserError(what, where=shown(str(folder)), remedy="Put some there, or name another folder")
    table = Table(root, ending, tuple(_by_majority(rows)), tuple(orphans), tuple(said), tuple(looks))
    return known if known and known == table and known.looks == table.looks else table  # with what was counted of it


def journal_of(folder: str | Path) -> Journal:
    """The journal that edits of the captions in `folder` go to. Raises UserError where there is no such folder."""
    return Journal(_root(project.understand(folder)))


def preview(
    table: Table, edit: Edit | Sequence[Edit], rows: Iterable[Row] | None = None, seconds: float | None = None
) -> Preview:
    """What an edit, or several in turn, would do to `rows` (all but those of regularisation). Writes nothing.

    A caption file that several pictures share is changed for all of them. seconds: what a regular expression may take,
    in a process of its own; None: no limit. Raises UserError.
    """
    chain = list(edit) if isinstance(edit, Sequence) else [edit]
    chosen = {row.file: row for row in (table.own if rows is None else rows)}
    named = [one.read_as for one in chain if isinstance(one, Save) and one.read_as]
    usable, skipped = list(chosen.values()), []
    if not named:
        skipped = [f"{shown(row.file.name)}: {row.problem}" for row in usable if row.problem]
        usable = [row for row in usable if not row.problem]
    before = [_read_as(row.file, named[-1]) if named and row.digest else row.text for row in usable]
    if seconds is not None and limited.is_slow(chain):
        made = limited.texts(chain, before, table.known, seconds)
    else:
        made = [edits.done(chain, text, table.known) for text in before]
    saves = any(isinstance(one, Save) for one in chain)
    found, texts = [], []
    for row, text in zip(usable, made, strict=True):
        if text != row.text or (saves and row.digest and (row.encoding or row.note)):
            found.append(row)
            texts.append(text)
    return Preview("; ".join(one.title() for one in chain), Changes(found, texts, table.sharing), tuple(skipped))


def apply(table: Table, wanted: Preview, progress: Callable[[int, int], None] | None = None) -> Applied:
    """Write what the preview shows. Files that changed since stay as they are. One step of the journal."""
    written: list[Path] = []
    changed: list[Path] = []
    problems: list[UserError] = []
    if not wanted.changes:
        return Applied((), (), ())
    with table.journal.change(TITLE + wanted.title) as step:
        for done, change in enumerate(wanted.changes, 1):
            try:
                if _digest(change.file) != change.digest:
                    changed.append(change.file)
                else:
                    step.write(change.file, change.after.encode("utf-8"))
                    written.append(change.file)
            except UserError as error:
                problems.append(error)
            if progress:
                progress(done, len(wanted.changes))
    return Applied(tuple(written), tuple(changed), tuple(problems), step.number if step.steps else None)


def history(folder: str | Path) -> list[Entry]:
    """What was done to captions, as the set's journal has it, the latest first. Raises UserError."""
    return [entry for entry in journal_of(folder).entries() if entry.title.startswith(TITLE)]


def undo(folder: str | Path, number: int | None = None) -> Undone:
    """Take back a change, the latest one of the set's journal where no number is given.

    Files edited since stay, and are named. Raises UserError, also where a later change touched the same files.
    """
    return journal_of(folder).undo(number)


# Which folders


def _root(opened: project.Opened) -> Path:
    if opened.project:
        return opened.project.root
    return opened.folder.parent if _NUMBERED.fullmatch(opened.folder.name) else opened.folder


def _folders(folder: str | Path) -> tuple[Path, list[tuple[Listing, str, bool]], list[str]]:
    """(root, (folder, words of its name, whether it regularises) each, sentences for the user)."""
    opened = project.understand(folder)
    said = list(opened.said)
    if opened.kind == "parent" and not opened.project:
        shown_choices = ", ".join(shown(path.name) for path in opened.choices)
        raise UserError(f"several projects are there: {shown_choices}", where=folder, remedy="Name one of them")
    if opened.project:
        all_of_it = opened.project.concepts()
        concepts = [c for c in all_of_it if c.folder == opened.focus or (not opened.focus and c.used)]
        if not opened.focus and (out := [shown(c.folder.name) for c in all_of_it if not c.used]):
            said.append(f"Left out of training, so not among these: {listed(out, 5)}")
        return opened.project.root, [(list_folder(c.folder), c.name, c.is_reg) for c in concepts], said
    found = [(listing, is_reg) for listing, is_reg in _plain(opened.folder) if listing.pictures]
    return _root(opened), [(one, _words(one.folder), is_reg) for one, is_reg in found], said


def _plain(folder: Path) -> list[tuple[Listing, bool]]:
    """A folder and those in it, with those of its reg/."""
    listing = list_folder(folder)
    found = [(listing, False)]
    for inner in listing.folders:
        try:
            below = list_folder(inner)
            is_reg = inner.name.lower() == "reg"
            found.append((below, is_reg))
            found += [(list_folder(path), True) for path in below.folders if is_reg]
        except UserError:
            continue
    return found


def _words(folder: Path) -> str:
    return folder.name.split("_", 1)[1] if _NUMBERED.fullmatch(folder.name) else folder.name


# Reading


def _rows(listing: Listing, concept: str, is_reg: bool, ending: str, known: Table | None) -> list[Row]:
    """Of what is known, files that have changed since are read again."""
    looks = known.looks if known else ()
    for look in looks:
        if known and (look.listing, look.concept, look.is_reg) == (listing, concept, is_reg):
            rows = known.rows[look.start : look.start + len(listing.pictures)]
            return [row if row.state == _state(row.file) else _read(_plain_row(row)) for row in rows]
    before = {row.picture: row for row in known.rows} if known else {}
    found = []
    for picture in listing.pictures:
        file = folders.caption_file(listing, picture, ending)
        row = Row(picture, file or picture.with_name(picture.stem + ending), listing.folder.name, concept, is_reg)
        old = before.get(picture)
        if old and old.file == row.file and (old.is_reg, old.concept) == (is_reg, concept) and file:
            found.append(old if old.state == _state(file) is not None else _read(row))
        else:
            found.append(_read(row) if file else row)
    return found


def _plain_row(row: Row) -> Row:
    return Row(row.picture, row.file, row.folder, row.concept, row.is_reg)


def _state(file: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - faster, and there may be 10,000
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _read(row: Row) -> Row:
    """The row with what its file holds; nothing of it where the file is gone."""
    state = _state(row.file)
    if state is None and not os.path.lexists(row.file):
        return row
    try:
        data = captions.read_bytes(row.file)
    except UserError as error:
        return replace(row, state=state, problem=error.what)
    digest = hashlib.sha256(data).hexdigest()
    try:
        text, encoding = encodings.decode(data, row.file)
    except UserError as error:
        return replace(row, state=state, problem=error.what, digest=digest)
    note = "NUL characters left out" if "\0" in text else ""
    where = row.picture, row.file, row.folder, row.concept, row.is_reg
    return Row(*where, _lines(text), encoding, note, "", digest, state)


def _lines(text: str) -> str:
    text = text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")
    return "" if not text.strip() else text.rstrip("\n")


def _by_majority(rows: list[Row]) -> list[Row]:
    """Where the encoding of a file had to be guessed, that of most files counts, if it fits: one program wrote them.

    So do the few that pass for UTF-8, as a word or two of another encoding may.
    """
    foreign = [row for row in rows if encodings.is_guess(row.encoding) or not (row.encoding or row.text.isascii())]
    if len(found := Counter(row.encoding for row in foreign)) < 2:
        return rows
    (usual, most), (_, second) = found.most_common(2)
    if most < 3 * second or not usual:
        return rows
    odd = {row.file for row in foreign if row.encoding != usual}
    return [_as(row, usual) if row.file in odd else row for row in rows]


def _as(row: Row, encoding: str) -> Row:
    try:
        text = encodings.decode_as(captions.read_bytes(row.file), encoding)
    except UserError:
        return row
    if text is None:
        return row
    note = f"read as {encoding} like the others; by itself it looks like {row.encoding or 'UTF-8'}"
    return replace(row, text=_lines(text), encoding=encoding, note=note)


# Changing


def _change(row: Row, text: str, pictures: tuple[Path, ...]) -> Change:
    notes = ["new file"] if row.missing else []
    notes += [f"was {row.encoding}"] if row.encoding else []
    notes += [row.note] if row.note else []
    notes += [f"shared by {len(pictures)} pictures"] if len(pictures) > 1 else []
    before = None if row.missing else row.text
    return Change(row.file, pictures, before, text, "; ".join(notes), row.digest)


def _read_as(file: Path, encoding: str) -> str:
    text = encodings.decode_as(captions.read_bytes(file), encoding)
    if text is None:
        raise UserError(f"it isn't {encoding}", where=file, remedy="Choose another encoding, or leave the file out")
    return _lines(text)


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"it can't be opened ({error.strerror})", where=file, remedy="Check its permissions") from error
