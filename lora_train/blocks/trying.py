"""Drawing tries one after another. Only the newest counts: it takes the place of one that waits and of one drawn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ..errors import UserError
from .board import Boards, Try, view
from .mix import Mix, Scene, mix_from

Draw = Callable[[Scene, str, int, Callable[[], bool]], Image.Image | None]
"""(scene, prompt, seed, cancelled) -> the picture, None where it was cancelled. Raises UserError."""


@dataclass
class _Wanted:
    """A try on its way. drafts: a first small look at each picture; kept: no newer one ends it."""

    board: str
    attempt: Try
    draw: Draw
    drafts: bool = False
    kept: bool = False
    cancel: threading.Event = field(default_factory=threading.Event)


class Trying:
    """Draws tries in a thread of its own, which ends when nothing is left to draw."""

    def __init__(self, boards: Boards) -> None:
        self._boards = boards
        self._lock = threading.Lock()
        self._running: _Wanted | None = None
        self._waiting: _Wanted | None = None
        self._last: _Wanted | None = None
        self._thread: threading.Thread | None = None
        self._changes = 0

    def ask(self, board: str, attempt: Try, draw: Draw, drafts: bool = False) -> None:
        """Draw this one next. What waits is superseded, what is being drawn is cancelled unless it is to be kept."""
        wanted = _Wanted(board, attempt, draw, drafts)
        with self._lock:
            if self._waiting:
                self._end(self._waiting, "superseded")
            self._waiting = wanted
            if self._running and not self._running.kept:
                self._running.cancel.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="tries", daemon=True)
                self._thread.start()
            self._changes += 1

    def keep(self, board: str, number: int, kept: bool = True) -> bool:
        """Let a try be drawn to its end whatever comes; whether it is on its way."""
        with self._lock:
            found = self._find(board, number)
            if found:
                found.kept = kept
            return found is not None

    def stop(self, board: str, number: int | None = None) -> bool:
        """Give up a try, or all of a board; whether there was one."""
        with self._lock:
            found = [one for one in (self._running, self._waiting) if one and one.board == board]
            found = [one for one in found if number in (None, one.attempt.id)]
            for one in found:
                one.cancel.set()
                if one is self._waiting:
                    self._waiting = None
                    self._end(one, "superseded")
            return bool(found)

    def now(self, board: str) -> dict[str, Any]:
        """What is being drawn for a board, what waits, how the last one ended; for JSON. revision: grows with each
        change.
        """
        with self._lock:
            held = (self._running, self._waiting, self._last)
            running, waiting, last = (one if one and one.board == board else None for one in held)
            changes = self._changes
            busy = self._running is not None and running is None
        told = self._boards.open(board)
        return {
            "running": running and view(told, running.attempt),
            "waiting": waiting and view(told, waiting.attempt),
            "last": last and view(told, last.attempt),
            "busy": busy,
            "latest": self._boards.latest(board),
            "revision": changes + told.revision,
        }

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is drawn; whether that is so."""
        thread = self._thread
        if thread:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _work(self) -> None:
        while wanted := self._next():
            began = time.monotonic()
            state, error = "done", None
            try:
                if not self._draw(wanted):
                    state = "superseded"
            except UserError as problem:
                state, error = "failed", str(problem)
            except Exception as problem:  # noqa: BLE001 (the thread's outermost edge: the page has to say so)
                state, error = "failed", f"unexpected: {type(problem).__name__}: {problem}"
            self._finish(wanted, state, error, time.monotonic() - began)

    def _next(self) -> _Wanted | None:
        with self._lock:
            self._running, self._waiting = self._waiting, None
            if self._running is None:
                self._thread = None
            else:
                self._running.attempt.state = "running"
                self._changes += 1
            return self._running

    def _draw(self, wanted: _Wanted) -> bool:
        """False where it was cancelled."""
        one, boards = wanted.attempt, self._boards
        scene = _scene(one)
        pictures = scene.pictures()
        missing = []
        for number, key in enumerate(one.keys):
            known = boards.drawn(wanted.board, key)
            if known:
                with Image.open(known) as drawn:
                    boards.add_picture(wanted.board, one, number, drawn)
            else:
                missing.append(number)
        rounds = [(scene.smaller(), True)] if wanted.drafts else []
        for size, draft in [*rounds, (scene, False)]:
            for number in missing:
                picture = None if wanted.cancel.is_set() else wanted.draw(size, *pictures[number], wanted.cancel.is_set)
                if picture is None:
                    return False
                boards.add_picture(wanted.board, one, number, picture, draft)
                with self._lock:
                    self._changes += 1
        return True

    def _finish(self, wanted: _Wanted, state: str, error: str | None, seconds: float) -> None:
        one = wanted.attempt
        one.error, one.seconds = error, round(seconds, 2)
        try:
            if state == "done":
                one.state = "done"
                self._boards.keep(wanted.board, one)
            else:
                self._boards.forget(wanted.board, one)
        except Exception as problem:  # noqa: BLE001 (else the thread ends, and nothing is drawn any more)
            state, one.error = "failed", str(problem)
            self._boards.forget(wanted.board, one)
        with self._lock:
            self._end(wanted, state)

    def _end(self, wanted: _Wanted, state: str) -> None:
        wanted.attempt.state = state
        if state != "superseded" or self._last is None:
            self._last = wanted
        self._changes += 1

    def _find(self, board: str, number: int) -> _Wanted | None:
        held = (self._running, self._waiting)
        return next((one for one in held if one and one.board == board and one.attempt.id == number), None)


def _scene(one: Try) -> Scene:
    mix: Mix = mix_from(one.mix)
    return mix.scene
