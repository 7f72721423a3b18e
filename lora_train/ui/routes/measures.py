"""Routes of measurements: the effect map of a mix, and its block weights tuned. They are jobs in the queue."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, HTTPException
from fastapi.responses import FileResponse

from ...jobs import measures
from ...jobs.manager import Manager
from .. import guard
from . import schemas
from .base import Body, Reader, Route, folder_of, picture, shown

_BODY = Depends(guard.json_body)
_TOLD = ("id", "name", "kind", "state", "stage", "step", "total", "eta", "error", "warnings", "created", "position")


class Measures:
    """Each public method but `routes` is one route's answer."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Reading first."""
        one = "/blocks/measures/{job}"
        shown, started, asked = (schemas.ref(name) for name in ("Measure", "Started", "MeasureRequest"))
        listed = schemas.listed("Measure")
        return [
            Route("GET", "/blocks/measures", self.measures, "All measurements, the latest first", listed),
            Route("GET", one, self.measure, "How one stands, and its result", shown),
            Route(
                "GET", one + "/maps/{block}.png", self.map, "Where a block acts, to lay over picture.png", "image/png"
            ),
            Route(
                "POST", "/blocks/measures", self.start_measure, "Measure or tune the blocks of a mix", started, asked
            ),
        ]

    def measures(self) -> list[dict[str, Any]]:
        """Without results."""
        return [self._told(job) for job in self._manager.history() if job["kind"] in measures.KINDS]

    def measure(self, job: str) -> dict[str, Any]:
        """404 where it isn't one."""
        folder = folder_of(self._manager, job)
        found = self._manager.record(job)
        if not found or found["kind"] not in measures.KINDS:
            raise HTTPException(404, "this job measures nothing")
        result = measures.result(folder) if found["state"] == "done" else None
        if result:
            result["mix"] = [{name: part[name] for name in part if name != "path"} for part in result.get("mix", ())]
        return {**self._told(found), "result": result}

    def map(self, job: str, block: str) -> FileResponse:
        """A block's map; "picture" is the picture itself, "IN01-2" the second LoRA's alone."""
        folder = folder_of(self._manager, job) / measures.MAPS
        path = next((file for file in folder.glob("*.png") if file.stem == block), None)
        return picture(path, "there is no such map")

    def start_measure(self, body: Body = _BODY) -> dict[str, Any]:
        """Queues it; GET blocks/measures/{id} tells how it stands."""
        given = Reader(body, tuple(body))
        kind = given.text("kind")
        given.check()
        values = {name: value for name, value in body.items() if name != "kind" and value is not None}
        return {"id": self._manager.start_measure(kind, values)}

    def _told(self, job: dict[str, Any]) -> dict[str, Any]:
        texts = [shown(self._manager, text) for text in job.get("warnings") or ()]
        error = shown(self._manager, job["error"]) if job.get("error") else None
        return {**{name: job.get(name) for name in _TOLD}, "warnings": texts, "error": error}
