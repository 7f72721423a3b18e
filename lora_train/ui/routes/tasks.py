"""Work that takes a while and is no job: under way in a thread, seen in the status, while the page may be reloaded.

Several may be under way at once, but for two that need the host's model, and two that write the same place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException

from ...errors import UserError
from .. import guard
from . import schemas
from .base import Body, Route

_BODY = Depends(guard.json_body)
_KEPT = 8
_IN_THE_WAY = "under way"
_WAIT = "Wait until it ends, or stop it"


@dataclass
class Task:
    """state: running, done, failed, stopped. `stop` is set when its work is to end.

    model: it needs the host's model; writes: files and folders that it writes, with all that is in them.
    """

    id: str
    kind: str
    text: str
    model: bool = False
    writes: tuple[Path, ...] = ()
    state: str = "running"
    done: int = 0
    total: int = 0
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    result: dict[str, Any] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    _began: float = field(default_factory=time.monotonic)
    _seconds: float | None = None

    def view(self) -> dict[str, Any]:
        """Ready for JSON."""
        seconds = time.monotonic() - self._began if self._seconds is None else self._seconds
        names = ("id", "kind", "text", "state", "done", "total", "error", "result")
        values = {name: getattr(self, name) for name in names}
        return {**values, "warnings": list(self.warnings), "seconds": round(seconds, 1)}

    def run(self, work: Callable[[Task], dict[str, Any]]) -> None:
        """Do it; whatever happens, the state says so."""
        try:
            self.result = work(self)
            self.state = "stopped" if self.stop.is_set() else "done"
        except UserError as error:
            self.error, self.state = str(error), "stopped" if self.stop.is_set() else "failed"
        except Exception as error:  # noqa: BLE001 (the thread's outermost edge: the tab has to say so)
            self.error, self.state = f"unexpected: {type(error).__name__}: {error}", "failed"
        finally:
            self._seconds = time.monotonic() - self._began


class Tasks:
    """Those that are running, and the last few that have ended."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._tasks: list[Task] = []
        self._numbers = count(1)

    def start(
        self,
        kind: str,
        text: str,
        work: Callable[[Task], dict[str, Any]],
        *,
        model: bool = False,
        writes: Iterable[Path] = (),
    ) -> str:
        """Begin `work`, which says how far it is in the task that it is given; see Task for `model` and `writes`.

        Raises UserError while another is in its way.
        """
        task = Task(f"{kind}-{next(self._numbers)}", kind, text, model, tuple(map(_real, writes)))
        with self._mutex:
            self._check(task)
            self._tasks.insert(0, task)
            for old in [one for one in self._tasks if one.state != "running"][_KEPT - 1 :]:
                self._tasks.remove(old)
        threading.Thread(target=task.run, args=(work,), name=f"task {task.id}", daemon=True).start()
        return task.id

    def check(self, *writes: Path, model: bool = False) -> None:
        """Raise UserError where a task that writes these places, or needs the model, couldn't start now."""
        with self._mutex:
            self._check(Task("", "", "", model, tuple(map(_real, writes))))

    def _check(self, wanted: Task) -> None:
        for one in self._tasks:
            if one.state != "running":
                continue
            if one.model and wanted.model:
                raise UserError(f"the model is in use: {one.text}", where=_IN_THE_WAY, remedy=_WAIT)
            if any(a.is_relative_to(b) or b.is_relative_to(a) for a in one.writes for b in wanted.writes):
                raise UserError(f"the same files are being written: {one.text}", where=_IN_THE_WAY, remedy=_WAIT)

    def find(self, task: str) -> Task | None:
        """The task of that id, if it is still known."""
        return next((one for one in list(self._tasks) if one.id == task), None)

    def view(self) -> list[dict[str, Any]]:
        """All of them, the newest first, ready for JSON."""
        return [task.view() for task in list(self._tasks)]

    def routes(self) -> list[Route]:
        """Ending a task."""
        answer = schemas.ref("Changed")
        return [Route("POST", "/tasks/{task}/stop", self.stop, "Stop what is under way", answer, schemas.NOTHING)]

    def stop(self, task: str, body: Body = _BODY) -> dict[str, Any]:
        """Asks for the end; what is done stays."""
        found = self.find(task)
        if found is None:
            raise HTTPException(404, "there is no such task")
        found.stop.set()
        return {"id": found.id, "state": found.state}


def _real(path: Path) -> Path:
    """Links followed, so that two names of one folder are the same."""
    return path.expanduser().resolve()


TASKS = Tasks()
"""One a process: the module stays loaded when a WebUI reloads its tabs, and so does what is under way."""
