"""One job: trains in a child process, then draws the grid; can be paused, and gone on with by another process."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from ..errors import DONE, STOPPED, UserError
from ..events import Event, event
from ..files import write_text
from ..grid.files import sheet_paths
from ..grid.plan import Grid, choose, series
from ..grid.record import Drawing
from ..grid.sheet import Cell
from ..host.base import Host
from . import measures
from . import record as records
from . import request as requests
from .child import Child, Engine, explain
from .lock import ProcessLock
from .record import GridRecord, Record
from .request import Request, prompts_of, rows
from .states import SavedState, saved_states, whole

WAITING = "waiting in the queue"
SAVING = "the training is still saving its state"
_SAVE_EVERY = 5.0
_LOG_LINES, _LOG_BYTES = 20, 16384
_CHILD, _RESUME = "child.json", "resume.json"


def _word(request: Request) -> str:
    return "measurement" if request.measure else "training"


class Interrupted(Exception):
    """Raised through a host's on_cell to end a grid."""


class Job:
    """One job and its folder. Its manager calls `run` in a thread; everything else may be called from any thread."""

    def __init__(
        self,
        host: Host,
        engine: Engine,
        folder: Path,
        record: Record,
        request: Request | None = None,
        *,
        grace: float = 30.0,
        patience: float = 130.0,
    ) -> None:
        """grace: seconds that a stopped training has to end by itself; patience: those that a paused one has."""
        self.record, self.folder = record, folder
        self._host, self._engine, self._request = host, engine, request
        self._grace, self._patience = grace, patience
        self._owner = ProcessLock(folder / "owner.lock")
        self._child: Child | None = None
        self._drawing: Drawing | None = None
        self._asked, self._wish = threading.Event(), ""
        self._saved = self._run_since = 0.0
        self._seconds_before, self._again = 0.0, False
        self._resumable: bool | None = None
        self._read_at = 0

    # Who has it

    def prepare(self) -> None:
        """Take a new job and write what it is to do. Raises UserError where that can't be written."""
        assert self._request
        self.own()
        self._request.save(self.folder)

    def own(self) -> bool:
        """Take the job for this process; False where another one has it."""
        return self._owner.take(patience=0.5)

    def let_go(self) -> None:
        """Leave the job to whoever wants to go on with it."""
        self._owner.release()

    def elsewhere(self) -> bool:
        """Whether another process has it."""
        return self._owner.held_elsewhere()

    def look(self) -> None:
        """Read the record of a job that this process doesn't have, as far as it has changed."""
        known = self._read_at
        self._know()
        if self._read_at != known and (found := records.load(self.folder)):
            self.record, self._resumable = found, None
        if self.record.running() and not self.elsewhere():
            self.record.state, self.record.stage = "interrupted", ""
            self.record.read_events(self.folder)

    # What it is asked to do

    def enqueue(self) -> None:
        """From here on it waits for its turn. Raises UserError where its record can't be written."""
        self._asked.clear()
        self._wish, self._resumable = "", None
        self.record.state, self.record.stage, self.record.error = "queued", WAITING, None
        self.record.save(self.folder)
        self._know()

    def begin(self) -> None:
        """Its turn has come; `run` follows."""
        now = time.time()
        self._run_since, self._seconds_before = now, self.record.seconds
        self._again = bool(self.record.began)
        self.record.began = self.record.began or now
        self.record.state, self.record.stage = "starting", ""

    def ask(self, wish: str) -> None:
        """Ask a running job for the end: "pause" or "stop"; returns at once."""
        self._wish = wish
        if wish == "pause":
            drawing = self.record.state == "grid"
            stage = "ending after this picture" if drawing else "the training saves its state"
            if self.record.kind in measures.KINDS:
                stage = "ending"
            self.record.state, self.record.stage = "pausing", stage
        self._asked.set()

    def put_aside(self, state: str) -> None:
        """End one that doesn't run: "paused" or "stopped"."""
        self.record.state, self.record.stage, self._resumable = state, "", None
        self._save_quietly()

    def fail(self, text: str) -> None:
        """End it with a reason."""
        self.record.state, self.record.stage, self.record.error = "failed", "", text
        self._save_quietly()

    def status(self) -> dict[str, Any]:
        """The record, whether it can be gone on with, and the log's last lines."""
        return {**self.brief(), **self.record.to_dict(), "stage": self.stage(), "log": self._tail()}

    def brief(self) -> dict[str, Any]:
        """What a list of jobs shows."""
        names = ("id", "name", "kind", "state", "step", "total", "created")
        told = {name: getattr(self.record, name) for name in names}
        return {**told, "stage": self.stage(), "resumable": self.resumable()}

    def stage(self) -> str:
        """What it is doing, for people."""
        return SAVING if self.record.state == "interrupted" and self.saving() else self.record.stage

    def saving(self) -> bool:
        """Whether the child of a process that is gone still runs, to save its state."""
        try:
            known = json.loads((self.folder / _CHILD).read_text(encoding="utf-8"))
            child = psutil.Process(known["pid"])
            same = abs(child.create_time() - known["started"]) < 2  # numbers are given again
            return same and child.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, LookupError, TypeError, psutil.Error):
            return False

    def resumable(self) -> bool:
        """Whether it can be gone on with: nobody has it, and its state is there or, without a step done, not needed."""
        state = self.record.state
        if state not in ("queued", "paused", "stopped", "failed", "interrupted") or self._owned() or self.saving():
            return False
        if self._resumable is None:
            self._resumable = self._has_something(state)
        return self._resumable

    def _has_something(self, state: str) -> bool:
        from_the_start = self.record.kind in ("grid", *measures.KINDS)
        if state == "queued" or from_the_start or self.record.trained or not self.record.step:
            return True
        return next(self._states(), None) is not None

    def _owned(self) -> bool:
        return self._owner.held() or self.elsewhere()

    def _states(self) -> Any:
        try:
            settings = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            return saved_states(settings, self.record.created)
        except (OSError, ValueError):
            return iter(())

    # What it does

    def run(self, environment: dict[str, str], device: ProcessLock) -> None:
        """Do it all; never raises. `device` is what the child holds too, so that nobody takes it before that ends."""
        try:
            request = self._request = self._request or requests.load(self.folder)
            requests.check_again(self._host, request)
            if (request.settings or request.measure) and not self.record.trained:
                self._train(request, environment, device)
            elif not self._asked.is_set():
                self.record.state = "training"
            if self.record.state in ("training", "starting", "pausing"):
                if request.measure:
                    self._measured()
                else:
                    self._finish(request)
        except UserError as error:
            self.fail(str(error))
        except Exception as error:  # noqa: BLE001 (the thread's outermost edge: the tab has to say what happened)
            self.fail(f"unexpected: {type(error).__name__}: {error}")
        finally:
            self._resumable, self._child = None, None
            self._count_seconds()
            self._save_quietly()

    def _train(self, request: Request, environment: dict[str, str], device: ProcessLock) -> None:
        """Run the child to its end; the record says `trained` only if it did all it was told."""
        with ExitStack() as stack:
            if self._again:
                self.record.read_events(self.folder)
            command = self._command(request)
            if not request.share_gpu:
                self.record.stage = f"making room for the {'measurement' if request.measure else 'training'}"
                self._save_quietly()
                stack.enter_context(self._host.memory_for_training())
            if self._asked.is_set():
                self._end_early()
                return
            self.record.state = "training"
            self.record.stage = f"starting the {'measurement' if request.measure else 'training'}"
            self._save_quietly()
            log = self.folder / "log.txt"
            child = self._child = Child(command, environment, log, self._heard, device.shared())
            self._remember(child)
            threading.Thread(target=self._end_child, args=(child,), name="job end", daemon=True).start()
            code = child.wait()
            (self.folder / _CHILD).unlink(missing_ok=True)
        self._ended(code, child.tail(_LOG_LINES), _word(request))

    def _command(self, request: Request) -> list[str]:
        if request.measure:
            return self._engine.measuring(request.kind, self.folder / measures.TASK)
        return self._engine.command(self._config(request))

    def _config(self, request: Request) -> Path:
        """The child's configuration: as asked for, or going on from the newest whole state."""
        assert request.settings
        state = self._newest() if self._again else None
        if state is None:
            if self.record.step:
                self._heard(event("resumed", path=None, step=0))
            return self.folder / "config.json"
        self._heard(event("resumed", path=str(state.folder), step=state.step))
        self.record.resume = str(state.folder)
        write_text(self.folder / _RESUME, replace(request.settings, resume=str(state.folder)).to_json())
        return self.folder / _RESUME

    def _newest(self) -> SavedState | None:
        """The newest whole state of this job; a damaged one is passed over with a warning."""
        for state in self._states():
            if whole(state):
                return state
            self.record.warn(f"{state.folder.name} is damaged: the training goes on from an older state")
        return None

    def _remember(self, child: Child) -> None:
        """For a later process, which may find the child still saving."""
        with suppress(OSError, UserError, psutil.Error):
            started = psutil.Process(child.pid).create_time()
            write_text(self.folder / _CHILD, json.dumps({"pid": child.pid, "started": started}))

    def _end_child(self, child: Child) -> None:
        while child.running():
            if self._asked.wait(0.5):
                child.stop(self._patience if self._wish == "pause" else self._grace)
                return

    def _heard(self, e: Event) -> None:
        try:
            with open(self.folder / records.EVENTS, "a", encoding="utf-8") as events:
                events.write(json.dumps(e, ensure_ascii=False) + "\n")
        except OSError as error:
            self.record.warn(f"the job's events can't be written: {error}")
        stage = self.record.stage
        self.record.apply(e)
        if self.record.state == "pausing":
            self.record.stage = stage
        self._count_seconds()
        if e["event"] in ("saved", "state") or time.monotonic() - self._saved > _SAVE_EVERY:
            self._save_quietly()

    def _ended(self, code: int, tail: list[str], word: str) -> None:
        if code == DONE and not self.record.error:
            self.record.trained, self.record.state = True, "training"
        elif code == STOPPED or self._wish == "stop":
            if self.record.error:
                self.record.warn(self.record.error)
            self._end_early()
        else:
            self.fail(self.record.error or explain(code, tail, word))

    def _end_early(self) -> None:
        self.record.state = "paused" if self._wish == "pause" else "stopped"
        self.record.stage, self.record.error = "", None

    def _measured(self) -> None:
        """Keep tuned numbers as presets. What was measured lies in the job's folder."""
        try:
            measures.keep_presets(self._host, self.folder)
        except UserError as error:
            self.record.warn(f"the preset couldn't be kept: {error}")
        self.record.state, self.record.stage = "done", ""

    def _finish(self, request: Request) -> None:
        """Show the host its files, then draw. A failing grid after a training is a warning: the LoRA is whole."""
        alone = self.record.kind == "grid"
        try:
            self._host.refresh_loras()
            if request.grid and not (self._asked.is_set() and self._wish == "stop" and not alone):
                self._drawable()
                self._draw(request, request.grid)
        except Interrupted:
            if alone or self._wish == "pause":
                self._end_early()
                return
            self.record.warn("the grid was stopped")
        except UserError as error:
            self._grid_failed(str(error))
        except Exception as error:  # noqa: BLE001 (a WebUI fails in ways of its own)
            self._grid_failed(f"unexpected: {type(error).__name__}: {error}")
        if self.record.state != "failed":
            self.record.state, self.record.stage = "done", ""

    def _draw(self, request: Request, plan: Grid) -> None:
        if settings := request.settings:
            found = series(Path(settings.output_dir), settings.output_name)
            files = choose(rows(self.record.files, found), request.epochs, self.record.band)
            plan = replace(plan, loras=files, prompts=plan.prompts or prompts_of(settings))
        about = {"name": self.record.name, "checkpoint": self.record.checkpoint}
        drawing = self._drawing = Drawing(self.folder, plan, **about, band=self.record.band)
        self.record.grid = GridRecord(0, plan.count)
        self.record.state, self.record.stage = "grid", "drawing the grid"
        self._save_quietly()
        try:
            sheet = self._host.draw(plan, self._cell_drawn)
            drawing.finish(sheet)
            for text in sheet.errors:
                self.record.warn(text)
        except BaseException:
            with suppress(OSError, UserError):
                drawing.break_off()
            raise
        finally:
            pages = [str(path) for path in sheet_paths(plan, self.folder / "grid.png") if path.is_file()]
            self.record.grid.pages, self.record.grid.path = pages, next(iter(pages), None)

    def _drawable(self) -> None:
        """Raises Interrupted where the end was asked for."""
        if self._asked.is_set():
            raise Interrupted

    def _cell_drawn(self, done: int, total: int, cell: Cell | None = None) -> None:
        if cell and self._drawing:
            self._drawing.add(cell)
        self._drawable()
        if self.record.grid:
            self.record.grid.done, self.record.grid.total = done, total

    def _grid_failed(self, text: str) -> None:
        self.record.grid = self.record.grid or GridRecord()
        self.record.grid.error = text
        if self.record.kind == "grid":
            self.fail(text)
        else:
            self.record.warn(f"no grid was drawn: {text}")

    def _count_seconds(self) -> None:
        self.record.seconds = round(self._seconds_before + time.time() - self._run_since, 1)

    def _tail(self) -> list[str]:
        """The log's last lines."""
        if child := self._child:
            return child.tail(_LOG_LINES)
        try:
            with open(self.folder / "log.txt", "rb") as log:
                log.seek(max(0, log.seek(0, 2) - _LOG_BYTES))
                return list(deque(log.read(_LOG_BYTES).decode("utf-8", errors="replace").splitlines(), _LOG_LINES))
        except OSError:
            return []

    def _save_quietly(self) -> None:
        """A record that can't be written (a full disk) must not end the training."""
        self._saved = time.monotonic()
        try:
            self.record.save(self.folder)
        except (OSError, UserError) as error:
            self.record.warn(f"the job's record can't be written: {error}")
        self._know()

    def _know(self) -> None:
        """Remember when the record on disk was written: this one is as new, or newer."""
        with suppress(OSError):
            self._read_at = records.record_path(self.folder).stat().st_mtime_ns
