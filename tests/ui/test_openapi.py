"""openapi.json: a document that tools can read, true to the routes and the settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("gradio")
pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")

from lora_train.settings import schema
from lora_train.ui import routes

from .web import V1

METHODS = {"get", "post"}


@pytest.fixture
def document(client) -> dict[str, Any]:
    return client.get(f"{V1}/openapi.json").json()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def schemas_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object below."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from schemas_in(inner)


def test_it_names_every_route(document, manager) -> None:
    told = {(method.upper(), path) for path, method, _ in operations(document)}
    assert told == {(route.method, route.path) for route in routes.declared(manager)}
    assert document["servers"] == [{"url": V1}]


def test_it_has_the_form_of_openapi_3(document) -> None:
    assert re.fullmatch(r"3\.0\.\d", document["openapi"])
    assert {"title", "version"} <= document["info"].keys()
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for path, method, operation in operations(document):
        placed = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert placed == set(re.findall(r"{(\w+)}", path)), path
        assert all(p["required"] for p in operation.get("parameters", ()) if p["in"] == "path")
        assert ("requestBody" in operation) == (method == "post"), path
        assert method in METHODS
        for code, answer in operation["responses"].items():
            assert re.fullmatch(r"\d{3}", code)
            assert answer["description"]


def test_every_reference_leads_somewhere(document) -> None:
    known = document["components"]["schemas"]
    references = {found["$ref"] for found in schemas_in(document) if "$ref" in found}
    assert references
    assert {reference.rpartition("/")[2] for reference in references} <= known.keys()


def test_every_schema_is_one(document) -> None:
    types = {"string", "integer", "number", "boolean", "array", "object"}
    for name, shape in document["components"]["schemas"].items():
        assert shape.get("type") in types or "allOf" in shape, name
        for inner in schemas_in(shape):
            if inner.get("type") == "array":
                assert "items" in inner
            if isinstance(inner.get("required"), list):
                assert set(inner["required"]) <= inner["properties"].keys(), name


def test_settings_have_their_types_ranges_defaults_and_help(document) -> None:
    told = document["components"]["schemas"]["Settings"]["properties"]
    assert list(told) == [row["name"] for row in schema()]
    dim = told["network_dim"]
    assert (dim["type"], dim["minimum"], dim["maximum"], dim["default"]) == ("integer", 1, 1024, 16)
    assert told["unet_lr"]["nullable"] is True
    assert told["resolution"] == {
        **told["resolution"],
        "type": "array",
        "items": {"type": "integer", "minimum": 64, "maximum": 4096},
        "default": [512, 512],
    }
    assert told["network_module"]["enum"] == ["networks.lora", "lycoris.kohya", "lycoris.locon"]
    assert all(shape["description"] for shape in told.values())


def test_defaults_are_of_the_type_that_is_told(document) -> None:
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list}
    for name, shape in document["components"]["schemas"]["Settings"]["properties"].items():
        if shape["default"] is None:
            assert shape["nullable"], name
        else:
            assert isinstance(shape["default"], kinds[shape["type"]]), name
        assert shape["default"] in shape.get("enum", [shape["default"]]), name


def test_it_is_plain_json(document) -> None:
    assert "NaN" not in json.dumps(document)
