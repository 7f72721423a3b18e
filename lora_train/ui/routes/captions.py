"""Routes that let the host's captioners write captions, and take them back."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException

from ...dataset import images, tagging
from ...dataset.tagging import TagOptions, Writer, Writing
from ...errors import UserError
from ...host.base import find_captioner
from ...jobs.manager import Manager
from .. import guard
from . import schemas
from .base import Body, Reader, Route, restricted
from .tasks import TASKS, Task

_BODY = Depends(guard.json_body)
_MOST_PROBLEMS = 20
_UNDO = re.compile(r"[\d-]{1,40}", re.ASCII)


class Captions:
    """What the host can say about pictures."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Reading first."""
        start, undo = schemas.ref("CaptionRequest"), schemas.ref("UndoCaptions")
        listed, task = schemas.listed("Captioner"), schemas.ref("TaskStarted")
        return [
            Route("GET", "/captioners", self.captioners, "What can write captions here", listed),
            Route("POST", "/captions", self.start, "Write captions for a folder of pictures", task, start),
            Route("POST", "/captions/undo", self.undo, "Put former captions back", schemas.ref("CaptionsUndone"), undo),
        ]

    def captioners(self) -> list[dict[str, str]]:
        """Empty where the host has none."""
        host = self._manager.host
        return [{"name": c.name, "title": c.title, "kind": c.kind, "note": c.note()} for c in host.captioners()]

    def start(self, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task; how far it is stands in the status."""
        self._refuse_strangers()
        given = Reader(body, ("folder", "captioner", "options", "writing"))
        folder, name = given.text("folder"), given.text("captioner")
        options, writing = given.table("options"), given.table("writing")
        given.check()
        captioner = find_captioner(self._manager.host, name)
        chosen, how = TagOptions.from_dict(options or {}), Writing.from_dict(writing or {})
        pictures = _pictures(folder)
        undo = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9}.jsonl"

        def work(task: Task) -> dict[str, Any]:
            task.total = len(pictures)
            done = _Captioning(task, Writer(how, undo))
            tagged = captioner.tag(pictures, chosen, done.caption, task.stop)
            for problem in tagged.problems:
                done.problem(problem)
            return {**done.counts, "problems": done.problems, "undo": undo.stem if undo.is_file() else None}

        return {"task": TASKS.start("captions", f"captions by {captioner.title}", work)}

    def undo(self, body: Body = _BODY) -> dict[str, Any]:
        """{"undo": the name that a task's result gave}: captions become what they were; those edited since stay."""
        self._refuse_strangers()
        given = Reader(body, ("undo",))
        name = given.text("undo")
        given.check()
        file = self._folder / f"{name}.jsonl"
        if not _UNDO.fullmatch(name) or not file.is_file():
            raise HTTPException(404, "there is nothing of this name to undo")
        undone = tagging.undo(file)
        return {"restored": [str(path) for path in undone.restored], "changed": [str(path) for path in undone.changed]}

    @property
    def _folder(self) -> Path:
        return self._manager.host.data_dir() / "captions"

    def _refuse_strangers(self) -> None:
        if restricted(self._manager):
            raise HTTPException(403, "this WebUI is open to others, so no captions are written")


class _Captioning:
    """Writes each caption as it comes, and counts."""

    def __init__(self, task: Task, writer: Writer) -> None:
        self._task, self._writer = task, writer
        self.counts = {"written": 0, "kept": 0, "same": 0}
        self.problems = 0

    def caption(self, done: int, total: int, picture: Path, caption: str) -> None:
        """One picture more; an empty caption is an unreadable picture's."""
        self._task.done, self._task.total = done, total
        if not caption:
            return
        try:
            self.counts[self._writer.write(picture, caption)] += 1
        except UserError as error:
            self.problem(error)

    def problem(self, error: UserError) -> None:
        """Count it; the first few are told."""
        self.problems += 1
        if self.problems <= _MOST_PROBLEMS:
            self._task.warnings.append(str(error))


def _pictures(folder: str) -> list[Path]:
    """All below a folder, hidden ones left out. Raises UserError."""
    root = Path(folder).expanduser()
    if not folder or not root.is_dir():
        raise UserError("there is no such folder", where="folder", remedy="Name the folder of your pictures")
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in images.SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not found:
        raise UserError("there are no pictures in it", where="folder", remedy="Name the folder of your pictures")
    return [path.absolute() for path in found]
