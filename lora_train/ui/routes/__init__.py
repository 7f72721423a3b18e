"""The routes under lora-train/v1: what the page reads, and the same actions for scripts. JSON in, JSON out.

Whoever may use the host's page may use them: its login or, for scripts, the WebUI's --api-auth.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, Response

from ... import __version__
from ...errors import UserError, UserErrors
from ...jobs.manager import Manager
from ...jobs.record import chart
from ...settings import schema
from .. import guard
from ..installer import INSTALLER

ROOT = "/lora-train/v1"
_BODY = Depends(guard.json_body)
_FRESH = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def add(app: FastAPI, manager: Manager, login: FastAPI | None = None) -> None:
    """Add the routes, once an app. login: the app whose login counts, where that is another one."""
    if any(getattr(route, "path", "").startswith(ROOT) for route in app.routes):
        return
    routes = _Routes(manager)
    known = [Depends(guard.allowed(login or app))]
    for path, answer in routes.readings().items():
        app.add_api_route(ROOT + path, answer, methods=["GET"], dependencies=known, response_model=None)
    for path, action in routes.actions().items():
        dependencies = [Depends(guard.same_site), *known]
        app.add_api_route(ROOT + path, action, methods=["POST"], dependencies=dependencies, response_model=None)
    # Gradio's own catch-all routes must not come first.
    ours = [route for route in app.router.routes if getattr(route, "path", "").startswith(ROOT)]
    app.router.routes[:] = ours + [route for route in app.router.routes if route not in ours]


class _Routes:
    """Each public method is one route's answer."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def readings(self) -> dict[str, Callable[..., Any]]:
        """GET routes: they change nothing."""
        return {
            "/status": self.status,
            "/history": self.history,
            "/schema": schema,
            "/jobs/{job}/grid.png": self.grid,
            "/jobs/{job}/chart.svg": self.chart,
        }

    def actions(self) -> dict[str, Callable[..., Any]]:
        """POST routes."""
        return {"/start": self.start, "/stop": self.stop, "/install": self.install}

    def status(self, response: Response) -> dict[str, Any]:
        """The job, the host and the packages."""
        response.headers.update(_FRESH)
        INSTALLER.check()
        checkpoint = self._manager.host.checkpoint()
        host = {"name": self._manager.host.name, "checkpoint": checkpoint.title if checkpoint else None}
        return {**self._manager.status(), "host": host, "packages": INSTALLER.view(), "version": __version__}

    def history(self, response: Response) -> list[dict[str, Any]]:
        """Earlier jobs, without their losses."""
        response.headers.update(_FRESH)
        return [{**record, "losses": []} for record in self._manager.history()]

    def grid(self, job: str) -> FileResponse:
        """The grid's picture of one of our jobs."""
        path = self._folder(job) / "grid.png"
        if not path.is_file():
            raise HTTPException(404, "this job has no grid")
        return FileResponse(path, media_type="image/png", headers=_FRESH)

    def chart(self, job: str) -> Response:
        """The loss curve of one of our jobs."""
        self._folder(job)
        now = self._manager.status()
        record = now if now["id"] == job else next((r for r in self._manager.history() if r["id"] == job), now)
        svg = chart(record)
        return Response(svg, media_type="image/svg+xml", headers=_FRESH)

    def start(self, body: dict[str, Any] = _BODY) -> dict[str, Any]:
        """{"settings": {…}, "grid": {…} or null}: starts a job."""
        given, grid = body.get("settings"), body.get("grid")
        if not isinstance(given, dict) or not isinstance(grid, dict | None):
            raise HTTPException(422, 'send {"settings": {...}, "grid": {...} or null}')
        try:
            return {"id": self._manager.start(given, grid)}
        except UserError as error:
            raise HTTPException(422, described(error)) from None

    def stop(self, body: dict[str, Any] = _BODY) -> dict[str, Any]:
        """{}: stops what is running."""
        self._manager.stop()
        return {"stopping": True}

    def install(self, body: dict[str, Any] = _BODY) -> dict[str, Any]:
        """{}: installs what training needs."""
        if getattr(self._manager.host, "restricted", lambda: False)():
            raise HTTPException(403, "this WebUI is open to others, so nothing is installed")
        INSTALLER.install()
        return INSTALLER.view()

    def _folder(self, job: str) -> Path:
        folder = self._manager.folder(job)
        if folder is None:
            raise HTTPException(404, "there is no such job")
        return folder


def described(error: UserError) -> list[dict[str, str | None]]:
    """Errors for a script: field, problem, remedy."""
    single = error.errors if isinstance(error, UserErrors) else [error]
    return [{"where": e.where, "what": e.what, "remedy": e.remedy} for e in single]
