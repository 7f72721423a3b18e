"""Work that takes a while and is no job: under way in a thread, seen in the status, while the page may be reloaded."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from fastapi import Depends, HTTPException

from ...errors import UserError
from .. import guard
from . import schemas
from .base import Body, Route

_BODY = Depends(guard.json_body)
_KEPT = 8


@dataclass
class Task:
    """state: running, done, failed, stopped. `stop` is set when its work is to end."""

    id: str
    kind: str
    text: str
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
    """The last few tasks, one of which may be running."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._tasks: deque[Task] = deque(maxlen=_KEPT)
        self._numbers = count(1)

    def start(self, kind: str, text: str, work: Callable[[Task], dict[str, Any]]) -> str:
        """Begin `work`, which says how far it is in the task that it is given. Raises UserError while another runs."""
        with self._mutex:
            running = next((task for task in self._tasks if task.state == "running"), None)
            if running:
                raise UserError(f"something else is under way: {running.text}", remedy="Wait until it ends, or stop it")
            task = Task(f"{kind}-{next(self._numbers)}", kind, text)
            self._tasks.appendleft(task)
        threading.Thread(target=task.run, args=(work,), name=f"task {task.id}", daemon=True).start()
        return task.id

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


TASKS = Tasks()
"""One a process: the module stays loaded when a WebUI reloads its tabs, and so does what is under way."""
