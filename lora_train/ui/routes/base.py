"""What every route is made of: its declaration, and how a problem becomes an answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.routing import APIRoute

from ...errors import UserError, UserErrors
from ...jobs.manager import Manager

ROOT = "/lora-train/v1"
FRESH = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_PATIENCE = 1.0  # seconds
_BLANK = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\0\0\0!\xf9\4\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}

Schema = dict[str, Any]
Body = dict[str, Any]


@dataclass(frozen=True)
class Route:
    """One route below ROOT. POST takes a JSON object of the schema `body`; `returns` is a schema or a media type."""

    method: str
    path: str
    answer: Callable[..., Any]
    summary: str
    returns: Schema | str
    body: Schema | None = None
    query: Schema = field(default_factory=dict)


class Answer(APIRoute):
    """A route of FastAPI's that answers a UserError with 422 and all its problems, told by `shown`."""

    shown: Callable[[str], str] = staticmethod(str)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handler(request)
            except UserError as error:
                response = JSONResponse({"detail": described(error, self.shown)}, 422)
            response.headers.update({name: FRESH[name] for name in FRESH if name not in response.headers})
            return response

        return answer


def described(error: UserError, shown: Callable[[str], str] = str) -> list[dict[str, str | None]]:
    """Errors for a script: field, problem, remedy."""
    single = error.errors if isinstance(error, UserErrors) else [error]
    return [
        {"where": None if e.where is None else shown(e.where), "what": shown(e.what), "remedy": shown(e.remedy)}
        for e in single
    ]


def folder_of(manager: Manager, job: str) -> Path:
    """The folder of a job; 404 where there is no such job."""
    folder = manager.folder(job)
    if folder is None:
        raise HTTPException(404, "there is no such job")
    return folder


def picture(path: Path | None, missing: str) -> FileResponse:
    """A picture file; 404 saying `missing` where there is none."""
    if path is None or path.suffix.lower() not in PICTURES or not path.is_file():
        raise HTTPException(404, missing)
    return FileResponse(path, media_type=PICTURES[path.suffix.lower()])


def no_picture(why: str, blank: bool) -> Response:
    """404 saying `why`; `blank`: an empty picture in its place, since a browser's console tells of each 404."""
    if not blank:
        raise HTTPException(404, why)
    return Response(_BLANK, media_type="image/gif", headers=FRESH)


def refresh_loras(manager: Manager) -> None:
    """Let the host list its LoRAs anew. Goes on by itself where it is busy: with a training that may be for hours."""
    refreshing = threading.Thread(target=manager.host.refresh_loras, name="LoRA list", daemon=True)
    refreshing.start()
    refreshing.join(_PATIENCE)


def restricted(manager: Manager) -> bool:
    """Whether strangers may reach this host, or its owner hides the server's folders."""
    return manager.host.restricted()


def shown(manager: Manager, text: str) -> str:
    """A text for the page: while the host is open to others, files by their names below the host's own folders."""
    return _stripped(text, _folders(manager)) if restricted(manager) else text


def told(manager: Manager, value: Any) -> Any:
    """Values for the page, with every text in them as `shown` has it."""
    if not restricted(manager):
        return value
    folders = _folders(manager)

    def inside(one: Any) -> Any:
        if isinstance(one, str):
            return _stripped(one, folders)
        if isinstance(one, dict):
            return {name: inside(its) for name, its in one.items()}
        return [inside(its) for its in one] if isinstance(one, (list, tuple)) else one

    return inside(value)


def _folders(manager: Manager) -> list[str]:
    """The host's own, the innermost first."""
    host = manager.host
    models = [one.path.parent for one in (host.checkpoint(), *host.checkpoints()) if one and one.path.is_absolute()]
    found = {*models, *(path.absolute() for path in (host.lora_dir(), host.data_dir()))}
    found |= {path.resolve() for path in found}
    return sorted(filter(None, (str(path).rstrip("/\\") for path in found)), key=len, reverse=True)


def _stripped(text: str, folders: Sequence[str]) -> str:
    for folder in folders:
        if folder in text:
            text = text.replace(folder + os.sep, "").replace(folder, os.path.basename(folder))  # noqa: PTH119 - any text
    return text


class Reader:
    """Takes fields out of a body, and names all that are wrong together."""

    def __init__(self, body: Body, known: tuple[str, ...]) -> None:
        self._body = body
        self._errors = [UserError("is not known here", where=name) for name in body if name not in known]

    def text(self, name: str, default: str | None = None) -> str:
        """A text; needed unless there is a default."""
        value = self._body.get(name, default)
        return value if isinstance(value, str) else self._wrong(name, "is not a text" if name in self._body else "", "")

    def flag(self, name: str) -> bool:
        """true or false; false where it isn't given."""
        value = self._body.get(name, False)
        return value if isinstance(value, bool) else self._wrong(name, "is not true or false", False)

    def whole(self, name: str, low: int, high: int, default: int | None = None, needed: bool = False) -> Any:
        """A whole number; `default` where it isn't given or null."""
        value = self._body.get(name)
        if value is None:
            return self._wrong(name, "", 0) if needed else default
        right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return value if right else self._wrong(name, f"is not a whole number from {low} to {high}", low)

    def number(self, name: str, default: float | None = None) -> Any:
        """A number; `default` where it isn't given or null."""
        value = self._body.get(name)
        if value is None:
            return default
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if right else self._wrong(name, "is not a number", 0.0)

    def table(self, name: str, needed: bool = False) -> Any:
        """A JSON object; None where it isn't given or null."""
        value = self._body.get(name)
        if value is None:
            return self._wrong(name, "", {}) if needed else None
        return value if isinstance(value, dict) else self._wrong(name, "is not a JSON object", {})

    def check(self) -> None:
        """Raise everything that was wrong."""
        if self._errors:
            raise UserErrors(self._errors)

    def _wrong(self, name: str, what: str, instead: Any) -> Any:
        self._errors.append(UserError(what or "is missing", where=name, remedy="See openapi.json"))
        return instead
