"""Who may call our routes: whoever the host lets in, from the host's own page or as a script.

A script sends the name and password of --api-auth. A page that asks for a login shows it by gradio's own means. Where
there is --api-auth and the page is open, only the page itself may, which hands back a cookie that it was given.
"""

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
_COOKIE = (f"train_lora_{secrets.token_hex(4)}", secrets.token_urlsafe(24))  # cookies know no ports: a name of our own


def allowed(app: FastAPI) -> Callable[[Request], Awaitable[None]]:
    """A dependency: 401 to who is neither logged in at `app`'s page nor sends the API's password."""

    async def check(request: Request) -> None:
        pairs = credentials()
        if _sent(request) in pairs:
            return
        page = await _page(app, request)
        if page == "known" or (page == "open" and (not pairs or _from_page(request))):
            return
        raise HTTPException(401, "Not authenticated", headers=_challenge(request) if pairs else None)

    return check


def _challenge(request: Request) -> dict[str, str] | None:
    """Scripts are asked for the password; a page is not, as its browser would ask for it again and again."""
    page = "referer" in request.headers or "sec-fetch-mode" in request.headers
    return None if page else {"WWW-Authenticate": "Basic"}


def page_cookie() -> str:
    """`name=value` of the cookie that our page has to set; "" where it needs none."""
    return "=".join(_COOKIE) if credentials() else ""


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
    """Refuse what another site's page sends in the user's name. A browser that says where it comes from is believed."""
    said, origin, host = (request.headers.get(name) for name in ("sec-fetch-site", "origin", "host"))
    if said is not None:
        foreign = said not in ("same-origin", "none") or origin == "null"
    else:
        foreign = origin is not None and urlsplit(origin).netloc.lower() != (host or "").lower()
    if foreign:
        raise HTTPException(403, "another site's page may not do that; a proxy has to pass on the header Host")


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


def _from_page(request: Request) -> bool:
    name, value = _COOKIE
    return secrets.compare_digest(request.cookies.get(name, "").encode(), value.encode())


async def _page(app: FastAPI, request: Request) -> str:
    """What gradio's own login says: "known" to who is logged in, "open" where nobody has to be, "closed".

    Without gradio's page (--nowebui) nobody can log in: "open" unless there is any password.
    """
    login = next((r for r in routes(app) if r.path.endswith("/login_check")), None)  # gradio 5: below /gradio_api
    if login is None:
        return "closed" if credentials() or getattr(app, "auth", None) is not None else "open"
    user = login.dependant.dependencies[0].call
    try:
        found = user(request) if user else None
        found = await found if inspect.isawaitable(found) else found
        outcome = login.endpoint(found)
        if inspect.isawaitable(outcome):
            await outcome
    except HTTPException:
        return "closed"
    return "open" if found is None else "known"


def routes(app: Any) -> Iterator[APIRoute]:
    """All of an app's routes, those of included routers too."""
    for route in getattr(app, "routes", ()):
        if isinstance(route, APIRoute):
            yield route
        elif type(route).__name__ != "Mount":
            yield from routes(getattr(route, "original_router", None) or route)
