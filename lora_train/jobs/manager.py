"""One job at a time: train in a child process, then draw the grid. Lives as long as the process, across UI reloads."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TextIO

from ..errors import DONE, STOPPED, UserError
from ..events import Event
from ..files import write_text
from ..grid.plan import Grid, series
from ..host.base import Host
from . import record as records
from .child import Child, Engine, explain
from .lock import ProcessLock
from .record import GridRecord, Record
from .request import Request, check, prompt_of, rows

StartChild = Callable[[Callable[[Event], None]], Child]
_SAVE_EVERY = 5.0
_IDLE: dict[str, Any] = {**Record("", "", "", state="idle", began=0.0).to_dict(), "log": []}


class StoppedByUser(Exception):
    """Raised through a host's on_cell to end a grid."""


class Manager:
    """Starts, watches and ends jobs; keeps their records in `host.data_dir()/jobs`. Safe to call from any thread."""

    def __init__(self, host: Host, engine: Engine | None = None, grace: float = 30.0) -> None:
        """grace: seconds that a stopped training has to end by itself."""
        self.host = host
        self._engine, self._grace = engine or Engine(), grace
        self._mutex = threading.Lock()
        self._job: Job | None = None
        self._lock = ProcessLock(self._folder / "lock")

    @property
    def _folder(self) -> Path:
        return self.host.data_dir() / "jobs"

    def start(self, values: dict[str, Any], grid: dict[str, Any] | None = None) -> str:
        """Check everything, then start a job; its id. `values` have kohya's names; without `grid` none is drawn.

        Raises UserError, naming every wrong field, before anything is created.
        """
        with self._mutex:
            if self._job and self._job.running():
                raise _running()
            request = check(self.host, values, grid)
            env = {**self._engine.environment(), **getattr(self.host, "environment", dict)()}
            if not self._lock.take():
                raise _running()
            try:
                folder = self._new_folder(request.settings.output_name)
                start_child = partial(Child, self._engine.command(folder / "config.json"), env, folder / "log.txt")
                self._job = Job(self.host, request, folder, start_child, self._grace)
                self._job.start(self._lock.release)
            except BaseException:
                self._lock.release()
                raise
            return self._job.record.id

    def stop(self) -> None:
        """Stop the training or the grid; what has been saved stays."""
        if self._job:
            self._job.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended; whether it has."""
        return self._job is None or self._job.wait(timeout)

    def status(self) -> dict[str, Any]:
        """How the present or last job stands, ready for JSON; state "idle" where this process has had none."""
        return self._job.status() if self._job else dict(_IDLE)

    def history(self) -> list[dict[str, Any]]:
        """All jobs on disk, the latest first. One that was under way when its process died is "interrupted"."""
        found = [record for folder in self._folder.glob("*/") if (record := records.load(folder))]
        current = self._job.record.id if self._job and self._job.running() else None
        lost = not self._lock.held_elsewhere()
        for record in found:
            if record.running() and lost and record.id != current:
                record.state = "interrupted"
        return [record.to_dict() for record in sorted(found, key=lambda record: record.id, reverse=True)]

    def folder(self, job: str) -> Path | None:
        """The folder of a job by its id; None where there is no such job."""
        known = re.fullmatch(r"[\w-]+", job, re.ASCII)
        folder = self._folder / job
        return folder if known and folder.is_dir() else None

    def _new_folder(self, name: str) -> Path:
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:40]}"
        for suffix in ("", *(f"-{n}" for n in range(2, 100))):
            folder = self._folder / (stamp + suffix)
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(
                    f"the job's folder can't be made ({error})", where=folder, remedy="Check the permissions"
                ) from None
        raise UserError("too many jobs at once", where=self._folder, remedy="Try again")


@lru_cache(maxsize=1)
def instance() -> Manager:
    """This process's manager. The module stays loaded when a WebUI reloads its tabs, and so does the job."""
    from ..host import current

    return Manager(current())


class Job:
    """One job: its thread, its child, its folder."""

    def __init__(self, host: Host, request: Request, folder: Path, start_child: StartChild, grace: float) -> None:
        self._host, self._request, self._folder = host, request, folder
        self._start_child, self._grace = start_child, grace
        self._child: Child | None = None
        self._stop = threading.Event()
        self._saved = 0.0
        settings = request.settings
        self.record = Record(folder.name, settings.output_name, request.checkpoint, output_dir=settings.output_dir)
        self.record.warnings += request.warnings
        self._thread = threading.Thread(target=self._run, name=f"job {folder.name}", daemon=True)

    def start(self, on_end: Callable[[], None]) -> None:
        """Write what will be done, then do it in a thread of its own; `on_end` is called when all is over."""
        write_text(self._folder / "config.json", self._request.settings.to_json())
        if self._request.grid:
            write_text(self._folder / "grid.json", self._request.grid.to_json())
        self.record.save(self._folder)
        self._on_end = on_end
        self._thread.start()

    def running(self) -> bool:
        """Whether anything is still going on."""
        return self._thread.is_alive()

    def wait(self, timeout: float | None) -> bool:
        """Wait until the job has ended; whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Ask for the end; returns at once."""
        self._stop.set()

    def status(self) -> dict[str, Any]:
        """The record and the log's last lines."""
        return {**self.record.to_dict(), "log": self._child.tail(20) if self._child else []}

    def _run(self) -> None:
        try:
            self._train()
            if self.record.state == "training":
                self._finish()
        except UserError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 (the thread's outermost edge: the tab has to say what happened)
            self._fail(f"unexpected: {type(error).__name__}: {error}")
        finally:
            self.record.seconds = round(time.time() - self.record.began, 1)
            self._save_quietly()
            self._on_end()

    def _train(self) -> None:
        """Run the child to its end; the state is "training" only if it did all it was told."""
        with ExitStack() as stack:
            self.record.stage = "making room for the training"
            stack.enter_context(self._host.memory_for_training())
            if self._stop.is_set():
                self.record.state = "stopped"
                return
            events = stack.enter_context(open(self._folder / "events.jsonl", "a", encoding="utf-8"))
            self.record.state, self.record.stage = "training", "starting the training"
            self._child = child = self._start_child(lambda e: self._heard(e, events))
            threading.Thread(target=self._stop_child, args=(child,), name="job stop", daemon=True).start()
            code = child.wait()
        self._ended(code, child.tail(20))

    def _stop_child(self, child: Child) -> None:
        while child.running():
            if self._stop.wait(0.5):
                child.stop(self._grace)
                return

    def _heard(self, e: Event, events: TextIO) -> None:
        events.write(json.dumps(e, ensure_ascii=False) + "\n")
        events.flush()
        self.record.apply(e)
        self.record.seconds = round(time.time() - self.record.began, 1)
        if e["event"] == "saved" or time.monotonic() - self._saved > _SAVE_EVERY:
            self._save_quietly()

    def _ended(self, code: int, tail: list[str]) -> None:
        if code == DONE and not self.record.error:
            return
        if code == STOPPED or self._stop.is_set():
            self.record.state, self.record.stage, self.record.error = "stopped", "", None
            return
        self._fail(self.record.error or explain(code, tail))

    def _finish(self) -> None:
        """Show the host its files, then draw. A failing grid is a warning: the LoRA is whole."""
        try:
            self._host.refresh_loras()
            if self._request.grid and not self._stop.is_set():
                self._draw(self._request.grid)
        except StoppedByUser:
            self.record.warnings.append("the grid was stopped")
        except UserError as error:
            self._grid_failed(str(error))
        except Exception as error:  # noqa: BLE001 (a WebUI fails in ways of its own)
            self._grid_failed(f"unexpected: {type(error).__name__}: {error}")
        self.record.state, self.record.stage = "done", ""

    def _draw(self, plan: Grid) -> None:
        from ..grid.files import save

        settings = self._request.settings
        files = rows(self.record.files, series(Path(settings.output_dir), settings.output_name))
        prompt = plan.prompt or prompt_of(Path(settings.train_data_dir), settings.caption_extension)
        plan = replace(plan, loras=files, prompt=prompt)
        self.record.grid = GridRecord(0, len(plan.loras) * len(plan.weights))
        self.record.state, self.record.stage = "grid", "drawing the grid"
        self._save_quietly()
        sheet = self._host.draw(plan, self._cell_drawn)
        out = self._folder / "grid.png"
        save(sheet, plan, out, self.record.checkpoint)
        self.record.grid.path = str(out)

    def _cell_drawn(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise StoppedByUser
        if self.record.grid:
            self.record.grid.done, self.record.grid.total = done, total

    def _grid_failed(self, text: str) -> None:
        self.record.grid = self.record.grid or GridRecord()
        self.record.grid.error = text
        self.record.warnings.append(f"no grid was drawn: {text}")

    def _fail(self, text: str) -> None:
        self.record.state, self.record.stage, self.record.error = "failed", "", text

    def _save_quietly(self) -> None:
        """A record that can't be written (a full disk) must not end the training."""
        self._saved = time.monotonic()
        try:
            self.record.save(self._folder)
        except (OSError, UserError) as error:
            text = f"the job's record can't be written: {error}"
            if text not in self.record.warnings:
                self.record.warnings.append(text)


def _running() -> UserError:
    return UserError("a training is running", remedy="Wait until it has ended, or stop it")
