"""Who may call our routes: whoever the host lets in, from the host's own page or as a script."""

from __future__ import annotations

import base64
import inspect
import json
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request
from fastapi.routing import APIRoute

_MOST_BYTES = 1 << 20


def allowed(app: FastAPI) -> Callable[[Request], Awaitable[None]]:
    """A dependency: 401 to who is neither logged in at `app`'s page nor sends the API's password."""

    async def check(request: Request) -> None:
        pairs = credentials()
        if _sent(request) in pairs or await _logged_in(app, request, needed=bool(pairs)):
            return
        raise HTTPException(401, "Not authenticated", headers={"WWW-Authenticate": "Basic"} if pairs else None)

    return check


async def json_body(request: Request) -> dict[str, Any]:
    """The body, which must be a JSON object sent as such: a form on another site can't do that."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send application/json")
    raw = await request.body()
    if len(raw) > _MOST_BYTES:
        raise HTTPException(413, "too large")
    try:
        body = json.loads(raw)
    except ValueError:
        raise HTTPException(400, "not valid JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "send a JSON object")
    return body


async def same_site(request: Request) -> None:
    """Refuse what another site's page sends in the user's name."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    if foreign or request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise HTTPException(403, "another site's page may not do that")


def credentials() -> set[tuple[str, str]]:
    """The pairs of the WebUI's --api-auth, if there is one."""
    options = getattr(sys.modules.get("modules.shared"), "cmd_opts", None)
    pairs = (pair.partition(":") for pair in (getattr(options, "api_auth", None) or "").split(",") if ":" in pair)
    return {(user.strip(), password.strip()) for user, _, password in pairs}


def _sent(request: Request) -> Any:
    """The known pair that came with the request, compared in constant time; None where none did."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return next((pair for pair in credentials() if _same((user, password), pair)), None)


def _same(given: tuple[str, str], known: tuple[str, str]) -> bool:
    same = [secrets.compare_digest(a.encode(), b.encode()) for a, b in zip(given, known, strict=True)]
    return all(same)


async def _logged_in(app: FastAPI, request: Request, needed: bool) -> bool:
    """What gradio's own login says; without gradio's page (--nowebui), whether no password is needed."""
    login = next((r for r in routes(app) if r.path.endswith("/login_check")), None)  # gradio 5: below /gradio_api
    if login is None:
        return not needed and getattr(app, "auth", None) is None
    user = login.dependant.dependencies[0].call
    try:
        found = user(request) if user else None
        outcome = login.endpoint(await found if inspect.isawaitable(found) else found)
        if inspect.isawaitable(outcome):
            await outcome
    except HTTPException:
        return False
    return True


def routes(app: Any) -> Iterator[APIRoute]:
    """All of an app's routes, those of included routers too."""
    for route in getattr(app, "routes", ()):
        if isinstance(route, APIRoute):
            yield route
        elif type(route).__name__ != "Mount":
            yield from routes(getattr(route, "original_router", None) or route)
