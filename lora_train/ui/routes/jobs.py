"""Routes of jobs: how they stand, and starting, pausing and ending them."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException
from fastapi.responses import FileResponse, Response

from ... import __version__
from ...host.base import Checkpoint
from ...jobs.manager import Manager
from ...jobs.record import chart
from .. import guard
from ..installer import INSTALLER
from . import schemas
from .base import Body, Reader, Route, folder_of, picture, restricted, told
from .tasks import TASKS

_BODY = Depends(guard.json_body)
_LONG = ("losses", "smoothed")
_MOST_EVENTS = 1000


class Jobs:
    """Each public method but `routes` is one route's answer."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Reading first."""
        job = {"job": {"type": "string", "description": "a job's id; the running job, else the last one"}}
        after = {"after": {"type": "integer", "minimum": 0, "default": 0, "description": "events to leave out"}}
        change = schemas.ref("Changed")
        return [
            Route("GET", "/status", self.status, "The job, the queue, the host", schemas.ref("Status"), query=job),
            Route("GET", "/jobs", self.jobs, "All jobs, the latest first, without curves", schemas.listed("Job")),
            Route("GET", "/jobs/{job}", self.job, "One job", schemas.ref("Job")),
            Route("GET", "/jobs/{job}/events", self.events, "A job's events", schemas.ref("Events"), query=after),
            Route("GET", "/jobs/{job}/chart.svg", self.chart, "The loss curve", "image/svg+xml"),
            Route("GET", "/jobs/{job}/previews/{number}.png", self.preview, "A preview picture", "image/png"),
            Route("POST", "/jobs", self.start, "Start a training", schemas.ref("Started"), schemas.ref("Start")),
            Route("POST", "/jobs/{job}/pause", self.pause, "Save a state and pause", change, schemas.NOTHING),
            Route("POST", "/jobs/{job}/resume", self.resume, "Go on from the saved state", change, schemas.NOTHING),
            Route("POST", "/jobs/{job}/stop", self.stop, "Stop; saved files stay", change, schemas.NOTHING),
            Route("POST", "/jobs/{job}/remove", self.remove, "Forget the job; LoRAs stay", change, schemas.NOTHING),
        ]

    def status(self, job: str | None = None) -> dict[str, Any]:
        """The job, the queue, the host, the packages and what else is under way."""
        if job is not None:
            folder_of(self._manager, job)
        INSTALLER.check()
        now = self._manager.status(job)
        more = {"packages": INSTALLER.view(), "tasks": TASKS.view(), "version": __version__}
        return {**told(self._manager, now), "host": self._host(), **more}

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs without what is long."""
        records = self._manager.history()
        short = [{**record, **{name: [] for name in _LONG}, "rates": {}} for record in records]
        return [told(self._manager, record) for record in short]

    def job(self, job: str) -> dict[str, Any]:
        """All that is known of one job."""
        return dict(told(self._manager, self._record(job)))

    def events(self, job: str, after: int = 0) -> dict[str, Any]:
        """Events from number `after` on, and the number to ask for next."""
        file = folder_of(self._manager, job) / "events.jsonl"
        if after < 0:
            raise HTTPException(422, [{"where": "after", "what": "is less than 0", "remedy": "Give 0 or more"}])
        found = _events(file, after)
        return {"events": told(self._manager, found), "next": after + len(found)}

    def chart(self, job: str) -> Response:
        """The loss curve of one job."""
        return Response(chart(self._record(job)), media_type="image/svg+xml")

    def preview(self, job: str, number: int) -> FileResponse:
        """One of the pictures drawn while training, counted over all epochs."""
        paths = [path for row in self._record(job)["previews"] for path in row["paths"]]
        return picture(Path(paths[number]) if 0 <= number < len(paths) else None, "there is no such preview")

    def start(self, body: Body = _BODY) -> dict[str, Any]:
        """Starts a training, or puts it into the queue."""
        given = Reader(body, ("settings", "grid", "share_gpu"))
        settings, grid, share = given.table("settings", needed=True), given.table("grid"), given.flag("share_gpu")
        given.check()
        return {"id": self._manager.start(settings, grid, share_gpu=share)}

    def pause(self, job: str, body: Body = _BODY) -> dict[str, Any]:
        """Ends the training's process with a state to go on from."""
        folder_of(self._manager, job)
        self._manager.pause(job)
        return self._changed(job)

    def resume(self, job: str, body: Body = _BODY) -> dict[str, Any]:
        """Goes on where the job was."""
        folder_of(self._manager, job)
        self._manager.resume(job)
        return self._changed(job)

    def stop(self, job: str, body: Body = _BODY) -> dict[str, Any]:
        """Ends the job; what has been saved stays."""
        folder_of(self._manager, job)
        self._manager.stop(job)
        return self._changed(job)

    def remove(self, job: str, body: Body = _BODY) -> dict[str, Any]:
        """Takes the job from the queue or the list."""
        folder_of(self._manager, job)
        self._manager.remove(job)
        return {"id": job, "state": "removed"}

    def _changed(self, job: str) -> dict[str, Any]:
        return {"id": job, "state": self._record(job)["state"]}

    def _record(self, job: str) -> dict[str, Any]:
        record = self._manager.record(job)
        if record is None:
            raise HTTPException(404, "there is no such job")
        return record

    def _host(self) -> dict[str, Any]:
        host = self._manager.host
        checkpoint: Checkpoint | None = host.checkpoint()
        return {
            "name": host.name,
            "checkpoint": checkpoint.title if checkpoint else None,
            "vae": checkpoint.vae.name if checkpoint and checkpoint.vae else None,
            "clip_skip": checkpoint.clip_skip if checkpoint else None,
            "checkpoints": checkpoint is not None or bool(host.checkpoints()),
            "language": host.language(),
            "busy": host.busy(),
            "restricted": restricted(self._manager),
            "capabilities": sorted(host.capabilities()),
        }


def _events(file: Path, after: int) -> list[Any]:
    """Whole lines only: the last one may be half written."""
    try:
        with open(file, encoding="utf-8") as lines:
            chosen = list(islice(lines, after, after + _MOST_EVENTS))
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in chosen if line.endswith("\n")]
