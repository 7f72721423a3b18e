"""A training as a child process: told by a configuration file, heard through events, stopped by closing its stdin.

Its stdin is a pipe that only we hold: when this process ends in whatever way, the pipe closes and the child ends too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from ..errors import BAD_INPUT
from ..events import Event, parse
from . import packages
from .lock import device_name

_KEPT_LINES = 200
_OWN_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows


class Engine:
    """What trains: its command line, and the environment in which it finds its packages."""

    def command(self, config: Path) -> list[str]:
        """Train by `config`, in the Python that runs us."""
        return [sys.executable, "-m", "lora_train", "train", str(config), "--events"]

    def measuring(self, kind: str, task: Path) -> list[str]:
        """Measure by `task`: kind is a verb of the command line."""
        return [sys.executable, "-m", "lora_train", kind, "--task", str(task), "--out", str(task.parent), "--events"]

    def environment(self) -> dict[str, str]:
        """Raises UserError, naming the remedy, unless the packages are there and work."""
        return packages.environment()

    def device(self, environment: dict[str, str]) -> str:
        """The GPU that a training in this environment uses, as lock.device_name says it; empty for a CPU."""
        return device_name(environment)


class Child:
    """One running child. Events go to `on_event`, in the order told; every other line goes to the log."""

    def __init__(
        self,
        command: Sequence[str],
        env: dict[str, str],
        log: Path,
        on_event: Callable[[Event], None],
        inherit: tuple[int, ...] = (),
    ) -> None:
        """inherit: open files that the child holds too until it ends."""
        self._on_event = on_event
        self._tail: deque[str] = deque(maxlen=_KEPT_LINES)
        self._write_lock = threading.Lock()
        self._log = open(log, "a", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed by wait)
        try:
            self._process = subprocess.Popen(
                list(command),
                cwd=log.parent,
                env={**env, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=os.name != "nt",  # Ctrl-C and signals for us are not for the child
                creationflags=_OWN_GROUP,
                pass_fds=inherit,
            )
        except BaseException:
            self._log.close()
            raise
        self._readers = [
            self._reader(self._process.stdout, events=True),
            self._reader(self._process.stderr, events=False),
        ]

    @property
    def pid(self) -> int:
        """Its number among the system's processes."""
        return self._process.pid

    def wait(self) -> int:
        """Wait until the child has ended and everything it said has been heard; its exit code."""
        code = self._process.wait()
        for reader in self._readers:
            reader.join(timeout=10)  # a grandchild may hold the pipe
        with self._write_lock, contextlib.suppress(OSError):
            self._log.close()
        self._close_stdin()
        return code

    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def stop(self, grace: float = 30.0) -> None:
        """Ask the child to stop, then insist: its stdin closes; after `grace` seconds it is terminated, then killed."""
        self._close_stdin()
        for seconds, insist in ((grace, _terminate), (5.0, _kill)):
            try:
                self._process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                insist(self._process)

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines of the log."""
        return list(self._tail)[-lines:]

    def _close_stdin(self) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()

    def _reader(self, pipe: IO[bytes] | None, *, events: bool) -> threading.Thread:
        thread = threading.Thread(target=self._read, args=(pipe, events), name="child output", daemon=True)
        thread.start()
        return thread

    def _read(self, pipe: IO[bytes], events: bool) -> None:
        for raw in pipe:
            line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
            told = parse(line) if events else None
            if told is not None:
                self._tell(told, line)
            elif shown := line.rsplit("\r", 1)[-1].rstrip():  # of a progress bar, its last state
                self._keep(shown)
        pipe.close()

    def _tell(self, told: Event, line: str) -> None:
        """Whatever is wrong with an event, reading goes on: a child that nobody reads hangs on a full pipe."""
        try:
            self._on_event(told)
        except Exception as error:  # noqa: BLE001
            self._keep(f"{type(error).__name__}: {error} in {line}")

    def _keep(self, line: str) -> None:
        self._tail.append(line)
        with self._write_lock, contextlib.suppress(OSError):  # a full disk
            if not self._log.closed:
                self._log.write(line + "\n")
                self._log.flush()


def explain(code: int, tail: Sequence[str], what_ran: str = "training") -> str:
    """What an exit code that is neither done nor stopped means, for people."""
    end = "\n".join(tail).strip()
    if code == -9:
        what = f"the {what_ran} was killed (out of memory?). "
        what += "Close other programs, or choose a smaller resolution or batch"
    elif code == BAD_INPUT:
        what = f"the {what_ran} found a problem"
    else:
        what = f"the {what_ran} ended unexpectedly (exit code {code})"
    return f"{what}. The end of its log:\n{end}" if end else what


def _terminate(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process, signal.SIGTERM)


def _kill(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10.0)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "nt":
            process.terminate()
        else:
            os.killpg(process.pid, number)
