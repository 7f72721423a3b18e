"""The routes under lora-train/v1: what the page reads, and the same actions for scripts. JSON in, JSON out.

Whoever may use the host's page may use them: its login or, for scripts, the WebUI's --api-auth.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import Depends, FastAPI, Request

from ...jobs.manager import Manager
from .. import guard
from . import schemas
from .base import ROOT, Answer, Route, described, shown
from .blocks import Blocks
from .boards import Workbench
from .caption_studio import CaptionStudio
from .captions import Captions
from .files import Files
from .grids import Grids
from .jobs import Jobs
from .measures import Measures
from .merges import Merges
from .openapi import document
from .pictures import Pictures
from .plan_sets import PlanSets
from .plans import Plans
from .tasks import TASKS

__all__ = ["ROOT", "add", "declared", "described"]


def add(app: FastAPI, manager: Manager, login: FastAPI | None = None) -> None:
    """Add the routes, once an app. login: the app whose login counts, where that is another one."""
    if any(getattr(route, "path", "").startswith(ROOT) for route in app.routes):
        return

    class Ours(Answer):
        shown = staticmethod(partial(shown, manager))

    known = [Depends(guard.allowed(login or app))]
    changing = [Depends(guard.same_site), *known]
    ours = [
        Ours(
            ROOT + route.path,
            route.answer,
            methods=[route.method],
            dependencies=changing if route.method == "POST" else known,
            response_model=None,
            include_in_schema=False,
        )
        for route in declared(manager)
    ]
    app.router.routes[:0] = ours  # gradio's own catch-all routes must not come first


def declared(manager: Manager) -> list[Route]:
    """All routes, openapi.json the last."""
    parts = (
        Jobs,
        Grids,
        Plans,
        Merges,
        Blocks,
        Workbench,
        Measures,
        Captions,
        CaptionStudio,
        Pictures,
        PlanSets,
        Files,
    )
    routes = [route for part in parts for route in part(manager).routes()] + TASKS.routes()

    def openapi(request: Request) -> dict[str, Any]:
        """These routes."""
        return document(routes, str(request.scope.get("root_path", "")).rstrip("/"))

    routes.append(Route("GET", "/openapi.json", openapi, "This document", schemas.ANYTHING))
    return routes
