"""Routes of the caption studio: the table, previews of edits, what they write, the way back, and the audit.

A picture is named by its id or as <folder>/<picture> among those of the set, never by a path that was sent.
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException, Request
from fastapi.responses import Response

from ...dataset import images
from ...dataset.folders import shown
from ...errors import UserError
from ...jobs.manager import Manager
from ...studio import audit, captions, edits, flips, limited, look
from ...studio.captions import Preview, Row, Table
from ...studio.flips import Plan
from ...studio.look import picture_id
from .. import guard
from . import schemas
from .base import Body, Reader, Route, no_picture, restricted
from .schemas_captions import FILTER
from .tasks import TASKS, Task

_BODY = Depends(guard.json_body)
_MOST_ROWS, _MOST_TAGS, _MOST_CHANGES, _MOST_EDITS = 200, 5000, 200, 16
_AT_ONCE = 200
"""Captions that a request writes before it answers; more are a task."""
_KEPT_TABLES, _KEPT_THUMBNAILS = 4, 1500
_SIDES = (96, 192, 1024)
_OPEN_ENDINGS = (".txt", ".caption")
_LOOK = 20.0
"""Seconds for which a page, unlike what is written, may rest on the last look at the folder."""

_lock = threading.Lock()
_tables: OrderedDict[tuple[str, str], tuple[Table, float]] = OrderedDict()
_thumbnails: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()
_decoders = threading.Semaphore(2)


class CaptionStudio:
    """Each public method but `routes` is one route's answer."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Reading first."""
        ref, at = schemas.ref, "/caption-studio"
        picture = f"{at}/pictures/{{picture}}.jpg"
        query = {
            "folder": {**schemas.TEXT, "description": "Of the set, as it was asked for."},
            "extension": {**schemas.TEXT, "description": "Of caption files."},
            "side": {"type": "integer", "enum": list(_SIDES), "description": "Pixels at most."},
            **schemas.BLANK,
        }
        described = {
            "table": ("Pictures with their captions, a page at a time", "CaptionPage", "CaptionPageRequest"),
            "tags": ("How many captions have each tag", "CaptionTags", "CaptionTagsRequest"),
            "preview": ("What edits would do; nothing is written", "CaptionPreview", "CaptionPreviewRequest"),
            "apply": ("Write what a preview showed", "CaptionsWritten", "CaptionApplyRequest"),
            "edit": ("Write one caption", "CaptionRow", "CaptionEditRequest"),
            "history": ("What was done to captions, the latest first", "CaptionHistory", "CaptionSet"),
            "undo": ("Take a change back; what was edited since stays", "CaptionsTakenBack", "CaptionUndoRequest"),
            "audit": ("What is probably wrong, and what mends it", "CaptionAudit", "CaptionAuditRequest"),
            "flips": ("Which mirrored copies would be made", "CaptionFlips", "CaptionFlipsRequest"),
            "flip": ("Make mirrored copies with their captions", "TaskStarted", "CaptionFlipsRequest"),
        }
        return [
            Route("GET", picture, self.picture, "A picture of the set, small", "image/jpeg", query=query),
            *(
                Route("POST", f"{at}/{name}", getattr(self, name), summary, ref(returns), ref(body))
                for name, (summary, returns, body) in described.items()
            ),
        ]

    # Reading

    def picture(
        self,
        request: Request,
        picture: str,
        folder: str = "",
        extension: str = ".txt",
        side: int = 192,
        blank: bool = False,
    ) -> Response:
        """As JPEG, kept by the browser as long as the picture is the same."""
        if side not in _SIDES:
            raise HTTPException(404, "there is no such size")
        found = next((row.picture for row in self._table(folder, extension, _LOOK).rows if _id(row) == picture), None)
        if found is None or not found.is_file():
            return no_picture("there is no such picture", blank)
        state = found.stat()
        tag = f'"{state.st_mtime_ns:x}-{state.st_size:x}-{side}"'
        headers = {"Cache-Control": "private, no-cache", "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        try:
            made = _small(found, picture, side)
        except UserError as error:
            return no_picture(str(error), blank)
        return Response(made, media_type="image/jpeg", headers=headers)

    def table(self, body: Body = _BODY) -> dict[str, Any]:
        """{"folder", "extension", "filter", "offset", "limit", "fresh"}: rows from `offset`, and how many there are."""
        given = Reader(body, ("folder", "extension", "filter", "offset", "limit", "fresh"))
        offset = given.whole("offset", 0, 10**7, 0)
        limit = given.whole("limit", 1, _MOST_ROWS, 50)
        table, rows = self._chosen(given, 0.0 if given.flag("fresh") else _LOOK)
        own = table.own
        folders = Counter((row.folder, row.is_reg) for row in table.rows)
        return {
            "total": len(own),
            "matching": len(rows),
            "missing": sum(not row.text.strip(" ,\n") and not row.problem for row in own),
            "encodings": dict(Counter(row.encoding for row in own if row.encoding)),
            "unreadable": sum(bool(row.problem) for row in own),
            "folders": [{"name": shown(name), "pictures": n, "is_reg": reg} for (name, reg), n in folders.items()],
            "root": shown(table.root.name),
            "said": list(table.said),
            "regex": not restricted(self._manager),
            "offset": offset,
            "rows": [_row(row) for row in rows[offset : offset + limit]],
        }

    def tags(self, body: Body = _BODY) -> dict[str, Any]:
        """{"folder", "extension", "filter"}: the most frequent of the captions that the filter leaves."""
        given = Reader(body, ("folder", "extension", "filter"))
        table, rows = self._chosen(given, _LOOK)
        found = table.frequency(rows)
        return {"tags": found[:_MOST_TAGS], "different": len(found), "captions": len(rows)}

    def preview(self, body: Body = _BODY) -> dict[str, Any]:
        """{"folder", "extension", "filter", "edits"}: the first changes, and the token with which to apply them all."""
        given = Reader(body, ("folder", "extension", "filter", "edits"))
        _, wanted = self._preview(given, body.get("edits"))
        changes = [
            {
                "name": f"{shown(change.file.parent.name)}/{shown(change.pictures[0].name)}",
                "picture": picture_id(change.pictures[0]),
                "before": change.before,
                "after": change.after,
                "note": change.note,
            }
            for change in wanted.changes[:_MOST_CHANGES]
        ]
        return {
            "title": wanted.title,
            "token": wanted.token,
            "total": len(wanted.changes),
            "changes": changes,
            "skipped": list(wanted.skipped),
        }

    def audit(self, body: Body = _BODY) -> dict[str, Any]:
        """{"folder", "extension", "trigger", "max_token_length"}: findings, those that are certainly wrong first."""
        given = Reader(body, ("folder", "extension", "trigger", "max_token_length"))
        trigger, longest = given.text("trigger", ""), given.whole("max_token_length", 75, 225, 75)
        table = self._table(*_named(given))
        found = audit.audit(table, trigger, longest)
        return {"findings": [finding.as_dict() for finding in found], "captions": len(table.own)}

    def history(self, body: Body = _BODY) -> dict[str, Any]:
        """{"folder"}: changes of captions alone."""
        given = Reader(body, ("folder", "extension"))
        folder, extension = _named(given)
        self._table(folder, extension)  # whether it may be read
        found = captions.history(folder)[:100]
        kept = ("id", "time", "files", "undone")
        title = len(captions.TITLE)
        return {"changes": [{name: getattr(e, name) for name in kept} | {"title": e.title[title:]} for e in found]}

    # Writing

    def apply(self, body: Body = _BODY) -> dict[str, Any]:
        """A preview's fields and its "token": refused where the captions are others by now."""
        given = Reader(body, ("folder", "extension", "filter", "edits", "token"))
        token = given.text("token")
        table, wanted = self._preview(given, body.get("edits"))
        if token != wanted.token:
            remedy = "Look at the preview again"
            raise UserError("the captions have changed since the preview", where="token", remedy=remedy)

        def work(progress: Callable[[int, int], None] | None) -> dict[str, Any]:
            done = captions.apply(table, wanted, progress)
            return {
                "written": len(done.written),
                "changed": [shown(path.name) for path in done.changed],
                "problems": [str(problem) for problem in done.problems],
                "entry": done.entry,
            }

        return _soon([change.file for change in wanted.changes], f"captions: {wanted.title}", work)

    def edit(self, body: Body = _BODY) -> dict[str, Any]:
        """{"folder", "extension", "name", "caption", "digest"}: written unless the file isn't the one of the digest."""
        given = Reader(body, ("folder", "extension", "name", "caption", "digest"))
        name, text, digest = given.text("name"), given.text("caption"), given.text("digest")
        folder, extension = _named(given)
        table = self._table(folder, extension, _LOOK)
        table = table.reread(table.row(name).file)
        row = table.row(name)
        if row.digest != digest:
            remedy = "Read the captions again, then edit it"
            raise UserError("it was changed by another program meanwhile", where=row.file.name, remedy=remedy)
        wanted = replace(
            captions.preview(table, edits.Set(text), [row]), title=f"write the caption of {shown(row.picture.name)}"
        )
        TASKS.check(row.file)
        done = captions.apply(table, wanted)
        if done.problems or done.changed:
            raise (*done.problems, UserError("it was changed meanwhile", where=row.file.name, remedy="Try again"))[0]
        table = table.reread(row.file)
        with _lock:
            if (folder, extension) in _tables:
                _tables[folder, extension] = table, _tables[folder, extension][1]
        return _row(table.row(name))

    def undo(self, body: Body = _BODY) -> dict[str, Any]:
        """{"folder", "change"}: one of the history, its latest that isn't undone where none is named."""
        given = Reader(body, ("folder", "extension", "change"))
        number = given.whole("change", 1, 10**9)
        folder, extension = _named(given)
        self._table(folder, extension)  # whether it may be written
        open_changes = [entry for entry in captions.history(folder) if not entry.undone]
        entry = next((one for one in open_changes if number in (None, one.id)), None)
        if entry is None:
            raise UserError("there is nothing to undo", where="change", remedy="Look at the list of changes")

        def work(_: Any) -> dict[str, Any]:
            undone = captions.undo(folder, entry.id)
            changed = [shown(path.name) for path in undone.changed]
            return {"restored": len(undone.restored), "changed": changed, "title": entry.title[len(captions.TITLE) :]}

        return _soon(captions.journal_of(folder).places(entry.id), f"taking back: {entry.title}", work)

    # Mirrored copies

    def flips(self, body: Body = _BODY) -> dict[str, Any]:
        """{"folder", "extension", "filter", "protect", "writing"}: what `flip` would make."""
        _, wanted = self._flips(body)
        copies = [
            {
                "name": f"{shown(copy.target.parent.name)}/{shown(copy.target.name)}",
                "picture": _id(copy.row),
                "before": None if copy.caption is None else copy.row.text,
                "after": copy.caption or "",
                "note": "",
            }
            for copy in wanted.copies[:_MOST_CHANGES]
        ]
        total = len(wanted.copies)
        return {"total": total, "changes": copies, "skipped": list(wanted.skipped), "writing": wanted.writing}

    def flip(self, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task; its result names the change to undo."""
        table, wanted = self._flips(body)
        if not wanted.copies:
            raise UserError("there is nothing to mirror", where="filter", remedy="Choose other pictures")

        def work(task: Task) -> dict[str, Any]:
            done = flips.make(table, wanted, _progress(task), task.stop)
            task.warnings += [str(problem) for problem in done.problems[:20]]
            return {"written": len(done.pictures), "problems": len(done.problems), "entry": done.entry}

        places = {copy.target.parent for copy in wanted.copies}
        return {"task": TASKS.start("caption-studio", "mirrored copies", work, writes=places)}

    def _flips(self, body: Body) -> tuple[Table, Plan]:
        given = Reader(body, ("folder", "extension", "filter", "protect", "writing"))
        protect, writing = given.text("protect", ""), given.flag("writing")
        table, rows = self._chosen(given)
        return table, flips.plan(table, rows, edits.tags_of(protect), writing)

    # What all of them do

    def _preview(self, given: Reader, sent: Any) -> tuple[Table, Preview]:
        if (
            not isinstance(sent, list)
            or not 1 <= len(sent) <= _MOST_EDITS
            or not all(isinstance(e, dict) for e in sent)
        ):
            raise UserError(f"is no list of 1 to {_MOST_EDITS} edits", where="edits", remedy="See openapi.json")
        chain = [edits.from_dict(one) for one in sent]
        if limited.is_slow(chain) and restricted(self._manager):
            raise HTTPException(403, "this WebUI is open to others, so no regular expressions are run")
        table, rows = self._chosen(given)
        return table, captions.preview(table, chain, rows, seconds=limited.SECONDS)

    def _chosen(self, given: Reader, age: float = 0.0) -> tuple[Table, list[Row]]:
        """The set that a request names, and those of its rows that the filter leaves."""
        sent = given.table("filter") or {}
        folder, extension = _named(given)
        chosen = _filter(sent)
        names = chosen.pop("names")
        table = self._table(folder, extension, age)
        rows = table.select(**chosen)
        return table, rows if names is None else [row for row in rows if row.name in names]

    def _existing(self, folder: str) -> Path:
        if not folder.strip():
            raise UserError("no folder is given", where="folder", remedy="Name it in the step Pictures")
        place = Path(folder).expanduser()
        self._within(place)
        if not place.is_dir():
            raise UserError("there is no such folder", where="folder", remedy="Name the folder of your pictures")
        return place

    def _table(self, folder: str, extension: str, age: float = 0.0) -> Table:
        """What has not changed since the last look isn't read again. age: seconds that a look may be old."""
        place = self._existing(folder)
        ending = "." + extension.lstrip(".")
        if restricted(self._manager) and ending not in _OPEN_ENDINGS:  # gradio's page serves other files as they are
            what = "this WebUI is open to others, so captions of this ending are neither read nor written"
            raise UserError(what, where="extension", remedy=f"Choose {' or '.join(_OPEN_ENDINGS)}")
        with _lock:
            before, read = _tables.get((folder, extension), (None, 0.0))
            alike = (one for one, _ in _tables.values() if one.extension == ending and place.is_relative_to(one.root))
            known = before or next(alike, None)
        now = time.monotonic()
        young = before is not None and now - read < age
        table = before if young and before is not None else captions.open_table(place, extension, known)
        if restricted(self._manager):
            self._within(table.root, *{row.picture.parent for row in table.rows})
            self._within(*(path for row in table.rows for path in (row.picture, row.file) if path.is_symlink()))
        _keep(folder, extension, table, read if young else now)
        return table

    def _within(self, *places: Path) -> None:
        """An open host reads and writes captions in its own folders alone."""
        if not restricted(self._manager):
            return
        allowed = [Path(folder).expanduser().resolve() for folder in self._manager.host.picture_folders()]
        if not all(any(place.resolve().is_relative_to(one) for one in allowed) for place in places):
            raise HTTPException(403, "this WebUI is open to others, and the folder lies outside of its own")


def read_ahead(folder: Path) -> None:
    """Read a set's captions before they are asked for; where there are 10,000, the first page waits for them all."""
    try:
        table = captions.open_table(folder)
    except UserError:
        return  # whoever asks is told
    table.known, table.spelt  # noqa: B018 - their tags
    for row in table.rows:
        row.tokens  # noqa: B018
        row.name  # noqa: B018
    _keep(str(folder), ".txt", table, -math.inf)  # what changes until they are asked for is read then


def _keep(folder: str, extension: str, table: Table, read: float) -> None:
    with _lock:
        _tables[folder, extension] = table, read
        _tables.move_to_end((folder, extension))
        while len(_tables) > _KEPT_TABLES:
            _tables.popitem(last=False)


def _named(given: Reader) -> tuple[str, str]:
    """(folder, extension), everything else that is wrong with the request raised with them."""
    folder, extension = given.text("folder"), given.text("extension", ".txt")
    given.check()
    return folder.strip(), extension.strip() or ".txt"


def _filter(sent: dict[str, Any]) -> dict[str, Any]:
    """The arguments of Table.select, and "names": a set or None."""
    kinds: dict[str, Any] = {"tags": list, "without": list, "folder": str, "text": str, "foreign": bool, "reg": bool}
    made: dict[str, Any] = {}
    for name, value in sent.items():
        right = name in FILTER
        if name in ("tags", "without", "names"):
            right = isinstance(value, list) and all(isinstance(one, str) for one in value)
        elif name == "missing":
            right = value is None or isinstance(value, bool)
        elif name in kinds:
            right = isinstance(value, kinds[name])
        if not right:
            raise UserError(f"{name} is not as it should be", where="filter", remedy="See openapi.json")
        made[name] = value
    names = made.pop("names", None)
    return {**made, "names": None if names is None else set(names)}


def _id(row: Row) -> str:
    return picture_id(row.picture)


def _row(row: Row) -> dict[str, Any]:
    """A row for the page."""
    return {**row.as_dict(), "id": _id(row), "tokens": row.tokens, "digest": row.digest}


def _soon(files: Iterable[Path], text: str, work: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Do it at once, or as a task where it writes many `files`: {"task": its id}, else what was done."""
    written = list(files)
    folders = {file.parent for file in written}
    if len(written) <= _AT_ONCE:
        TASKS.check(*folders)
        return work(None)
    return {"task": TASKS.start("caption-studio", text, lambda task: work(_progress(task)), writes=folders)}


def _progress(task: Task) -> Callable[[int, int], None]:
    def told(done: int, total: int) -> None:
        task.done, task.total = done, total

    return told


def _small(path: Path, name: str, side: int) -> bytes:
    """A JPEG of the picture; the latest are remembered."""
    state = path.stat()
    known = (name, side, state.st_mtime_ns, state.st_size)
    with _lock:
        if known in _thumbnails:
            _thumbnails.move_to_end(known)
            return _thumbnails[known]
    with _decoders:
        made = images.flat(look.small(path, side))
    buffer = io.BytesIO()
    made.save(buffer, "JPEG", quality=82)
    with _lock:
        if side < max(_SIDES):  # a large one takes as much as dozens of the others
            _thumbnails[known] = buffer.getvalue()
        while len(_thumbnails) > _KEPT_THUMBNAILS:
            _thumbnails.popitem(last=False)
    return buffer.getvalue()
