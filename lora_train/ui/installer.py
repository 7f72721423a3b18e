"""The engine's packages, looked at and installed in the background, so that no page has to wait."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from ..errors import UserError
from ..jobs import packages

_LOOK_AGAIN = 20.0


class Installer:
    """state: unknown, checking, ready, missing, installing, failed."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._state, self._message = "unknown", ""
        self._lines: deque[str] = deque(maxlen=8)
        self._began, self._found, self._checked = 0.0, 0, 0.0

    def view(self) -> dict[str, Any]:
        """How things stand, ready for JSON. While it installs, the first line tells how far it is."""
        lines = list(self._lines)
        if self._state == "installing":
            minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
            of = f"package {self._found} of about {packages.wanted()}, " if self._found else ""
            lines.insert(0, f"{of}{minutes}:{seconds:02} minutes …")
        return {"state": self._state, "message": self._message, "lines": lines}

    def check(self) -> None:
        """Look whether the packages are there and work, unless that is known or under way.

        What is missing or failed is looked at again now and then, and stays what is shown until it has changed.
        """
        with self._mutex:
            again = self._state in ("missing", "failed") and time.monotonic() - self._checked > _LOOK_AGAIN
            if again:
                self._checked = time.monotonic()
        if again:
            threading.Thread(target=self._look_again, name="packages checked again", daemon=True).start()
        else:
            self._begin("checking", self._check, unless=("checking", "installing", "ready", "missing", "failed"))

    def install(self) -> None:
        """Start the installation; its lines appear in `view`."""
        self._begin("installing", self._install, unless=("installing", "ready"))

    def _begin(self, state: str, action: Any, unless: tuple[str, ...]) -> None:
        with self._mutex:
            if self._state in unless:
                return
            self._state, self._message = state, ""
        threading.Thread(target=self._guarded, args=(action,), name=f"packages {state}", daemon=True).start()

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except UserError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 (the thread's outermost edge: the tab has to say so)
            self._fail(f"unexpected: {type(error).__name__}: {error}")

    def _fail(self, message: str) -> None:
        self._checked, self._message = time.monotonic(), message
        self._state = "failed"

    def _check(self) -> None:
        found = packages.status()
        self._checked, self._message = time.monotonic(), found.message
        self._state = "ready" if found.ready else "missing"

    def _look_again(self) -> None:
        ready = packages.status().ready
        with self._mutex:
            if ready and self._state in ("missing", "failed"):
                self._state, self._message = "ready", ""

    def _install(self) -> None:
        self._lines.clear()
        self._began, self._found = time.monotonic(), 0
        packages.install(self._line)
        self._check()

    def _line(self, line: str) -> None:
        self._found += line.startswith("Collecting ")
        if line:
            self._lines.append(line)


INSTALLER = Installer()
"""One a process: the module stays loaded when a WebUI reloads its tabs, and so does a running installation."""
