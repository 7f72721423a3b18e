"""Routes of what is the same for every job: settings, presets, languages, the report on this installation."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import Depends, HTTPException
from fastapi.responses import PlainTextResponse, Response

from ...blocks.presets import BUILTIN
from ...jobs.manager import Manager
from ...paths import PACKAGE
from ...settings import schema
from ...settings.presets import PRESETS
from .. import guard
from ..installer import INSTALLER
from ..report import report
from . import schemas
from .base import Body, Route, restricted

LANGUAGES = PACKAGE / "ui" / "languages"
_BODY = Depends(guard.json_body)
_CODE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}", re.ASCII)


class Files:
    """Each public method but `routes` is one route's answer."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Reading first."""
        packages = schemas.ref("Packages")
        return [
            Route("GET", "/schema", schema, "Every setting: type, range, default, help", schemas.listed("Setting")),
            Route("GET", "/presets", self.presets, "Recipes for training, and block weights", schemas.ref("Presets")),
            Route("GET", "/language/{code}", self.language, "The tab's words in a language", schemas.ANYTHING),
            Route("GET", "/report", self.report, "What to paste into an issue", "text/plain"),
            Route("POST", "/install", self.install, "Install what training needs", packages, schemas.NOTHING),
        ]

    def presets(self) -> dict[str, Any]:
        """Of training and of block weights."""
        training = [
            {"name": p.name, "title": {"en": p.title_en, "zh-CN": p.title_zh}, "note": p.note, "values": dict(p.values)}
            for p in PRESETS
        ]
        return {"training": training, "blocks": {name: list(numbers) for name, numbers in BUILTIN.items()}}

    def language(self, code: str) -> Response:
        """A file of ours."""
        file = LANGUAGES / f"{code}.json"
        if not _CODE.fullmatch(code) or not file.is_file():
            raise HTTPException(404, "there is no such language")
        text = file.read_text(encoding="utf-8")
        return Response(json.dumps(json.loads(text), ensure_ascii=False), media_type="application/json")

    def report(self) -> PlainTextResponse:
        """Versions and what is missing, as text."""
        return PlainTextResponse(report(self._manager))

    def install(self, body: Body = _BODY) -> dict[str, Any]:
        """Installs what training needs into the extension's own folder; progress is in the status."""
        if restricted(self._manager):
            raise HTTPException(403, "this WebUI is open to others, so nothing is installed")
        INSTALLER.install()
        return INSTALLER.view()
