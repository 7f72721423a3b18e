"""Routes that let the host's captioners write captions. The set's journal takes them back: see caption_studio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException

from ...dataset.tagging import TagOptions, Writing
from ...errors import UserError
from ...host.base import Captioner, find_captioner
from ...jobs.manager import Manager
from ...studio import captioning, onnx_tagger
from ...studio.captions import Table, open_table
from ...studio.onnx_tagger import OnnxTagger
from .. import guard
from . import schemas
from .base import Body, Reader, Route, restricted
from .tasks import TASKS, Task

_BODY = Depends(guard.json_body)
TAGGERS = "taggers"
"""Where taggers are looked for, in the host's data folder."""

_MOST_PROBLEMS = 20


class Captions:
    """What the host can say about pictures."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Reading first."""
        start, listed = schemas.ref("CaptionRequest"), schemas.listed("Captioner")
        return [
            Route("GET", "/captioners", self.captioners, "What can write captions here", listed),
            Route(
                "POST",
                "/captions",
                self.start,
                "Write captions for a folder of pictures",
                schemas.ref("TaskStarted"),
                start,
            ),
        ]

    def captioners(self) -> list[dict[str, str]]:
        """Empty where the host has none, and no tagger lies in our folder."""
        found = [*self._manager.host.captioners(), *self._own()]
        return [{"name": c.name, "title": c.title, "kind": c.kind, "note": c.note()} for c in found]

    def _own(self) -> list[OnnxTagger]:
        """A tagger in our folder of taggers."""
        place = self._manager.host.data_dir() / TAGGERS
        return [OnnxTagger(place)] if onnx_tagger.folders(place) else []

    def _captioner(self, name: str, tagger: str) -> Captioner:
        """One of the host's, or a tagger: of the folder that is named, or of our folder of taggers."""
        if name != OnnxTagger.name:
            return find_captioner(self._manager.host, name)
        place = self._manager.host.data_dir() / TAGGERS
        return OnnxTagger(Path(tagger).expanduser() if tagger else place)

    def start(self, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task; how far it is stands in the status."""
        self._refuse_strangers()
        given = Reader(body, ("folder", "captioner", "tagger", "options", "writing"))
        folder, name, tagger = given.text("folder"), given.text("captioner"), given.text("tagger", "")
        options, writing = given.table("options"), given.table("writing")
        given.check()
        captioner = self._captioner(name, tagger.strip())
        chosen, how = TagOptions.from_dict(options or {}), Writing.from_dict(writing or {})
        table = _table(folder, how.extension)

        def work(task: Task) -> dict[str, Any]:
            task.total = len(table.own)

            def progress(done: int, total: int) -> None:
                task.done, task.total = done, total

            made = captioning.write(table, captioner, chosen, how, progress=progress, stop=task.stop)
            task.warnings += [str(problem) for problem in made.problems[:_MOST_PROBLEMS]]
            return {**made.counts, "problems": len(made.problems), "entry": made.entry, "trigger": how.trigger}

        text, places = f"captions by {captioner.title}", {row.picture.parent for row in table.own}
        of_host = captioner.name != OnnxTagger.name
        return {"task": TASKS.start("captions", text, work, model=of_host, writes=places)}

    def _refuse_strangers(self) -> None:
        if restricted(self._manager):
            raise HTTPException(403, "this WebUI is open to others, so no captions are written")


def _table(folder: str, extension: str) -> Table:
    """The captions of what `folder` means. Raises UserError."""
    if not folder or not Path(folder).expanduser().is_dir():
        raise UserError("there is no such folder", where="folder", remedy="Name the folder of your pictures")
    return open_table(folder, extension)
