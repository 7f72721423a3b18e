"""Locks between processes that end with their holder, however that ends."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO


class ProcessLock:
    """Held through an open file: the system frees it when the process is gone, so that nothing stale can remain."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def take(self, patience: float = 0.0) -> bool:
        """Take the lock; False where another holds it for `patience` seconds, in this process or elsewhere."""
        if self._file:
            return False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self._path, "ab")  # noqa: SIM115 (closed by release)
        end = time.monotonic() + patience
        while True:
            try:
                _lock(file)
            except OSError:
                if time.monotonic() >= end:
                    file.close()
                    return False
                time.sleep(0.05)
            else:
                self._file = file
                return True

    def release(self) -> None:
        """Give the lock back, also for children that share it."""
        if self._file:
            _unlock(self._file)
            self._file.close()
            self._file = None

    def held(self) -> bool:
        """Whether it was taken through this object."""
        return self._file is not None

    def held_elsewhere(self) -> bool:
        """Whether another process holds it."""
        if self._file or not self._path.exists():
            return False
        try:
            free = self.take()
        except OSError:  # a folder that can't be written
            return False
        if free:
            self.release()
        return not free

    def shared(self) -> tuple[int, ...]:
        """What a child inherits in order to hold the lock too until it ends; nothing where the system can't do that."""
        return (self._file.fileno(),) if self._file and os.name != "nt" else ()


def _lock(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(file: IO[bytes]) -> None:
    if os.name != "nt":  # there closing does it, for locks aren't inherited
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
