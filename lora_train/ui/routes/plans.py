"""The route that reckons a run before it begins."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import Depends

from ... import settings as settings_module
from ...dataset.source import open_dataset
from ...errors import raise_all
from ...jobs.manager import Manager
from ...jobs.request import unreadable
from ...plan import history
from ...plan.costs import estimate
from ...plan.steps import aim, plan
from .. import guard
from . import schemas
from .base import Body, Reader, Route

_BODY = Depends(guard.json_body)
_MOST_STEPS = 10**9


class Plans:
    """Steps, buckets, memory and time."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """One."""
        body = schemas.ref("PlanRequest")
        return [
            Route("POST", "/plan", self.plan, "Steps, buckets, memory and time of a run", schemas.ref("Plan"), body)
        ]

    def plan(self, body: Body = _BODY) -> dict[str, Any]:
        """What these settings mean; with `steps`, also which repeats or epochs make that many. Changes nothing."""
        given = Reader(body, ("settings", "steps"))
        values, wanted = given.table("settings", needed=True), given.whole("steps", 1, _MOST_STEPS)
        given.check()
        settings, notes = settings_module.from_dict(self._filled(values))
        raise_all(unreadable(self._manager.host, settings))
        dataset = open_dataset(settings)
        if settings.validation_split:
            notes.append(f"{settings.validation_split:.0%} of the pictures will be held out; they are counted here")
        planned = plan(settings, dataset)
        costs = estimate(settings, planned, history.read(self._manager.host.data_dir() / "jobs"))
        aimed = asdict(aim(settings, dataset, wanted)) if wanted else None
        return {**planned.as_dict(), "estimate": costs.as_dict(), "notes": notes, "aim": aimed}

    def _filled(self, values: dict[str, Any]) -> dict[str, Any]:
        """With the host's checkpoint where none is named."""
        if values.get("pretrained_model_name_or_path"):
            return values
        checkpoint = self._manager.host.checkpoint()
        return {**values, "pretrained_model_name_or_path": str(checkpoint.path) if checkpoint else ""}
