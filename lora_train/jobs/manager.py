"""A queue of jobs, one at a time on a GPU. Lives as long as the process, across UI reloads; its records outlive it."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..host.base import Host
from . import job as jobs
from . import record as records
from . import request as requests
from .child import Engine
from .job import Job
from .lock import ProcessLock, device_lock
from .record import UNFINISHED, Record
from .request import Request

GPU_IS_TAKEN = "waiting for the GPU (another training is running)"
CONTINUE = "waiting until you continue it"
_LOOK_EVERY = 1.0
_IDLE: dict[str, Any] = {
    **Record("", "", "", state="idle", created=0.0).to_dict(),
    "log": [],
    "resumable": False,
    "position": None,
}


class Manager:
    """Starts, watches and ends jobs; keeps their records in `host.data_dir()/jobs`. Safe to call from any thread.

    Every action on a job raises UserError where there is no such job, or where it can't be done now.
    """

    def __init__(self, host: Host, engine: Engine | None = None, grace: float = 30.0, patience: float = 130.0) -> None:
        """grace: seconds that a stopped training has to end by itself; patience: those that a paused one has."""
        self.host = host
        self._engine, self._grace, self._patience = engine or Engine(), grace, patience
        self._mutex = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._queue: list[Job] = []
        self._current: Job | None = None
        self._latest = ""
        self._worker: threading.Thread | None = None

    @property
    def _folder(self) -> Path:
        return self.host.data_dir() / "jobs"

    def start(self, values: dict[str, Any], grid: dict[str, Any] | None = None, *, share_gpu: bool = False) -> str:
        """Check everything, then queue a job; its id. It starts at once where nothing else runs.

        values have kohya's names; without `grid` none is drawn. share_gpu: the host's model stays on the GPU meanwhile.
        Raises UserError, naming every wrong field, before anything is created.
        """
        request = requests.check(self.host, values, grid, share_gpu)
        self._engine.environment()
        return self._add(request)

    def start_grid(self, values: dict[str, Any]) -> str:
        """Queue a grid of LoRA files that are there: {"loras": paths} or {"folder", "name"}, and a grid's fields."""
        return self._add(requests.check_grid(self.host, values))

    def start_measure(self, kind: str, values: dict[str, Any]) -> str:
        """Queue "effects" or "tune" of a mix on the host's checkpoint; values: see measures.task."""
        request = requests.check_measure(self.host, kind, values)
        self._engine.environment()
        return self._add(request)

    def pause(self, id: str) -> None:
        """End a job so that it can be gone on with; a training saves its state first. Returns at once."""
        with self._mutex:
            job = self._known(id)
            if job is self._current:
                job.ask("pause")
            elif job in self._queue:
                self._put_aside(job, "paused")
            elif job.record.state not in ("paused", "queued"):
                raise UserError("it isn't running", where=job.record.name)

    def resume(self, id: str) -> None:
        """Go on with a job: it is queued behind those that wait. Also for one that waits since a restart."""
        with self._mutex:
            job = self._known(id)
            self._environment(job)
            if job is self._current or job in self._queue:
                raise UserError("it is under way already", where=job.record.name)
            if job.saving():
                raise UserError(jobs.SAVING, where=job.record.name, remedy="Try again in a moment")
            if not job.resumable():
                raise UserError("there is nothing to go on from", where=job.record.name, remedy="Start it anew")
            if not job.own():
                raise UserError("another WebUI has it", where=job.record.name, remedy="Go on with it there")
            self._append(job)

    def stop(self, id: str | None = None) -> None:
        """Stop a job, without an id the present one; what has been saved stays. Returns at once."""
        with self._mutex:
            job = self._known(id) if id else self._current or next(iter(self._queue), None)
            if job is None:
                return
            if job is self._current:
                job.ask("stop")
            elif job in self._queue:
                self._put_aside(job, "stopped")
            elif job.elsewhere():
                raise UserError("another WebUI has it", where=job.record.name, remedy="Stop it there")
            elif job.record.state in UNFINISHED:
                job.put_aside("stopped")

    def remove(self, id: str) -> None:
        """Take a job from the queue or the list, with its folder; LoRA files and states stay."""
        with self._mutex:
            job = self._known(id)
            if job is self._current or job.elsewhere() or job.saving():
                raise UserError("it is running", where=job.record.name, remedy="Stop it first, then remove it")
            if job in self._queue:
                self._put_aside(job, "stopped")
            aside = job.folder.with_name(f".{job.folder.name}.removed")
            try:
                job.folder.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)
            except OSError as error:
                remedy = "Close what uses its files"
                raise UserError(f"it can't be removed ({error})", where=job.folder, remedy=remedy) from None
            self._jobs.pop(id, None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs and nothing is queued; whether that is so."""
        worker = self._worker
        if worker:
            worker.join(timeout)
        return worker is None or not worker.is_alive()

    def status(self, id: str | None = None) -> dict[str, Any]:
        """How a job stands, ready for JSON, with the `queue` of all unfinished ones.

        Without an id it is the running job, else the next, else the last one; state "idle" where there has been none.
        """
        with self._mutex:
            self._look()
            job = self._known(id) if id else self._shown()
            told = self._told(job) if job else dict(_IDLE)
            return {**told, "queue": self._unfinished()}

    def record(self, id: str) -> dict[str, Any] | None:
        """A job's record, ready for JSON; None where there is no such job."""
        with self._mutex:
            self._look()
            job = self._jobs.get(id)
            return self._told(job) if job else None

    def history(self) -> list[dict[str, Any]]:
        """All jobs, the latest first. One that was under way when its process died is "interrupted"."""
        with self._mutex:
            self._look()
            latest = sorted(self._jobs.values(), key=_age, reverse=True)
            return [{**self._told(job), "log": []} for job in latest]

    def folder(self, id: str) -> Path | None:
        """The folder of a job by its id; None where there is no such job."""
        known = re.fullmatch(r"[\w-]+", id, re.ASCII)
        folder = self._folder / id
        return folder if known and folder.is_dir() else None

    # The queue

    def _add(self, request: Request) -> str:
        folder = self._new_folder(request.name)
        job = self._job(folder, _fresh(folder.name, request), request)
        try:
            job.prepare()
            with self._mutex:
                self._append(job)
                self._jobs[folder.name] = job
        except BaseException:
            job.let_go()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder.name

    def _job(self, folder: Path, record: Record, request: Request | None = None) -> Job:
        return Job(self.host, self._engine, folder, record, request, grace=self._grace, patience=self._patience)

    def _append(self, job: Job) -> None:
        job.enqueue()
        self._queue.append(job)
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="jobs", daemon=True)
            self._worker.start()

    def _put_aside(self, job: Job, state: str) -> None:
        self._queue.remove(job)
        job.put_aside(state)
        job.let_go()

    def _work(self) -> None:
        """Run the queue to its end."""
        while job := self._next():
            try:
                environment = self._environment(job)
                lock = device_lock(self.host.data_dir(), self._engine.device(environment))
            except Exception as error:  # noqa: BLE001 (the next one may do better, and somebody has to say it)
                self._give_up(job, str(error))
                continue
            if self._begin(job, lock):
                try:
                    job.run(environment, lock)
                finally:
                    lock.release()
                    self._end(job)

    def _environment(self, job: Job) -> dict[str, str]:
        """Of the child, or of us where the job is a grid, which needs no packages of ours."""
        base = dict(os.environ) if job.record.kind == "grid" else self._engine.environment()
        return {**base, **self.host.environment()}

    def _next(self) -> Job | None:
        with self._mutex:
            if not self._queue:
                self._worker = None
                return None
            return self._queue[0]

    def _begin(self, job: Job, lock: ProcessLock) -> bool:
        """Take the device for the first of the queue; False where another one comes first by now."""
        while not lock.take():
            with self._mutex:
                if self._queue[:1] != [job]:
                    return False
                job.record.stage = GPU_IS_TAKEN
            time.sleep(_LOOK_EVERY)
        with self._mutex:
            if self._queue[:1] != [job]:
                lock.release()
                return False
            self._current = self._queue.pop(0)
            job.begin()
            self._latest = job.record.id
            return True

    def _end(self, job: Job) -> None:
        with self._mutex:
            self._current = None
            job.let_go()

    def _give_up(self, job: Job, text: str) -> None:
        with self._mutex:
            if job in self._queue:
                self._queue.remove(job)
                job.fail(text)
                job.let_go()
                self._latest = job.record.id

    # What is known

    def _look(self) -> None:
        """Take in what other processes, and earlier ones, have left on disk."""
        try:
            found = {path.parent.name: path.parent for path in self._folder.glob("[!.]*/record.json")}
        except OSError:
            found = {}
        ours = {id(job) for job in (self._current, *self._queue)}
        for name, folder in found.items():
            job = self._jobs.get(name)
            if job is None and (record := records.load(folder)):
                job = self._jobs[name] = self._job(folder, record)
            if job is not None and id(job) not in ours:
                job.look()
        for name in [name for name, job in self._jobs.items() if name not in found and id(job) not in ours]:
            del self._jobs[name]

    def _known(self, id: str) -> Job:
        if id not in self._jobs:
            self._look()
        try:
            return self._jobs[id]
        except KeyError:
            raise UserError("there is no such job", where=id, remedy="It may have been removed") from None

    def _shown(self) -> Job | None:
        job = self._current or next(iter(self._queue), None) or self._jobs.get(self._latest)
        return job or max(self._jobs.values(), key=_lately, default=None)

    def _told(self, job: Job) -> dict[str, Any]:
        return self._placed(job, job.status())

    def _placed(self, job: Job, told: dict[str, Any]) -> dict[str, Any]:
        """With its place in the queue: 0 runs."""
        waiting: list[Job | None] = [self._current, *self._queue]
        position = waiting.index(job) if job in waiting else None
        if told["state"] == "queued" and told["resumable"]:
            told["stage"] = CONTINUE
        return {**told, "position": position}

    def _unfinished(self) -> list[dict[str, Any]]:
        first = [job for job in (self._current, *self._queue) if job]
        rest = [job for job in self._jobs.values() if job not in first and job.record.state in UNFINISHED]
        return [self._placed(job, job.brief()) for job in [*first, *sorted(rest, key=_age)]]

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


def _fresh(id: str, request: Request) -> Record:
    """The record of a job that has done nothing yet."""
    record = Record(id, request.name, request.checkpoint, kind=request.kind, state="queued")
    record.output_dir = request.settings.output_dir if request.settings else ""
    record.taken_over, record.warnings = dict(request.taken_over), list(request.warnings)
    return record


def _lately(job: Job) -> float:
    return max(job.record.created, job.record.began)


def _age(job: Job) -> tuple[float, str]:
    return job.record.created, job.record.id
