"""The routes as an OpenAPI 3 document, made from their declarations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ... import __version__
from . import schemas
from .base import ROOT, Route

_WHOLE = ("number", "page", "row", "column", "attempt")
_DESCRIPTION = (
    "Everything that the Train LoRA tab does. POST takes a JSON object sent as application/json; GET changes nothing. "
    "Where the WebUI has --gradio-auth, its login is needed; with --api-auth a script sends that name and password."
)


def document(routes: Sequence[Route], prefix: str = "") -> dict[str, Any]:
    """The document; `prefix` is the path that a proxy or --subpath puts before our routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.0.3",
        "info": {"title": "Train LoRA", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": prefix + ROOT}],
        "security": [{}, {"basic": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.components(),
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", route.path)
    placed: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": schemas.WHOLE if name in _WHOLE else schemas.TEXT}
        for name in names
    ]
    placed += [_query(name, dict(shape)) for name, shape in route.query.items()]
    responses = {"200": _answer("Done", route.returns), "401": _answer("Not logged in", schemas.ref("Refusal"))}
    if names:
        responses["404"] = _answer("There is no such thing", schemas.ref("Refusal"))
    if route.method == "POST":
        responses["403"] = _answer("Not from here", schemas.ref("Refusal"))
        responses["422"] = _answer("What has to be mended", schemas.ref("Problems"))
    return {
        "operationId": _identifier(route),
        "summary": route.summary,
        "tags": [route.path.split("/")[1].split(".")[0]],
        **({"parameters": placed} if placed else {}),
        **({"requestBody": {"required": True, "content": _json(route.body)}} if route.body is not None else {}),
        "responses": dict(sorted(responses.items())),
    }


def _query(name: str, shape: dict[str, Any]) -> dict[str, Any]:
    text = shape.pop("description", "")
    return {"name": name, "in": "query", "required": False, "description": text, "schema": shape}


def _answer(description: str, shape: Any) -> dict[str, Any]:
    if not isinstance(shape, str):
        return {"description": description, "content": _json(shape)}
    binary = shape.startswith("image/") and shape != "image/svg+xml"
    return {"description": description, "content": {shape: {"schema": {"type": "string", **_binary(binary)}}}}


def _binary(binary: bool) -> dict[str, str]:
    return {"format": "binary"} if binary else {}


def _json(shape: Any) -> dict[str, Any]:
    return {"application/json": {"schema": shape}}


def _identifier(route: Route) -> str:
    words = [word.strip("{}").partition(".")[0] for word in route.path.strip("/").split("/")]
    return "_".join([route.method.lower(), *(re.sub(r"\W", "_", word) for word in words)])
