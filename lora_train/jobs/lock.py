"""A lock between processes that ends with its holder, however that ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO


class ProcessLock:
    """Held through an open file: the system frees it when the process is gone, so that nothing stale can remain."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def take(self) -> bool:
        """Take the lock; False where another holds it, in this process or elsewhere."""
        if self._file:
            return False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self._path, "ab")  # noqa: SIM115 (closed by release)
        try:
            _lock(file)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._file:
            self._file.close()
            self._file = None

    def held_elsewhere(self) -> bool:
        """Whether another process holds it."""
        if self._file or not self._path.exists() or not self.take():
            return not self._file and self._path.exists()
        self.release()
        return False


def _lock(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
