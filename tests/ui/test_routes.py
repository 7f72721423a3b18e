"""Who may use the routes, and in what form."""

from __future__ import annotations

import inspect
import re

import pytest

pytest.importorskip("gradio")
pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")

from fastapi import FastAPI
from starlette.testclient import TestClient

from lora_train.jobs.manager import Manager
from lora_train.ui import guard, routes

from .conftest import FakeManager
from .web import V1, client_of

ALL = [(route.method, route.path) for route in routes.declared(FakeManager.__new__(FakeManager))]  # type: ignore[arg-type]
GETS = [path for method, path in ALL if method == "GET"]
POSTS = [path for method, path in ALL if method == "POST"]


def filled(path: str, **own: str) -> str:
    """With a value in each place."""
    values = {"job": "job-1", "grid": "job-1", "task": "t-1", "code": "en", **own}
    return re.sub(r"\{(\w+)\}", lambda place: values.get(place[1], "0"), path)


def test_the_routes_are_there() -> None:
    assert "/status" in GETS
    assert "/jobs/{job}/stop" in POSTS
    assert len(set(ALL)) == len(ALL)


def test_the_fake_manager_is_as_the_real_one() -> None:
    for name, method in inspect.getmembers(Manager, inspect.isfunction):
        if not name.startswith("_"):
            fake = inspect.signature(getattr(FakeManager, name)).parameters
            assert list(fake) == list(inspect.signature(method).parameters), name


def test_adding_twice_makes_no_second_set(manager) -> None:
    app = FastAPI()
    routes.add(app, manager)
    before = len(app.routes)
    routes.add(app, manager)
    assert len(app.routes) == before


def test_strangers_read_nothing_where_the_page_asks_for_a_password(manager) -> None:
    client = client_of(manager, ("me", "secret"))
    assert {path: client.get(V1 + filled(path)).status_code for path in GETS} == dict.fromkeys(GETS, 401)


def test_strangers_do_nothing_where_the_page_asks_for_a_password(manager) -> None:
    client = client_of(manager, ("me", "secret"))
    assert {path: client.post(V1 + filled(path), json={}).status_code for path in POSTS} == dict.fromkeys(POSTS, 401)
    assert not manager.told


def test_strangers_read_nothing_where_scripts_need_a_password(manager, api_auth) -> None:
    api_auth("a:b")
    client = client_of(manager)
    assert {path: client.get(V1 + filled(path)).status_code for path in GETS} == dict.fromkeys(GETS, 401)


def test_strangers_do_nothing_where_scripts_need_a_password(manager, api_auth) -> None:
    api_auth("a:b")
    client = client_of(manager)
    assert {path: client.post(V1 + filled(path), json={}).status_code for path in POSTS} == dict.fromkeys(POSTS, 401)
    assert not manager.told


def test_the_open_page_itself_may_where_scripts_need_a_password(manager, api_auth) -> None:
    api_auth("a:b")
    client = client_of(manager)
    assert client.get(f"{V1}/status", headers={"cookie": guard.page_cookie()}).status_code == 200
    name = guard.page_cookie().partition("=")[0]
    for wrong in (f"{name}=", f"{name}=é".encode(), f"{name}=x", "train_lora=1"):
        assert client.get(f"{V1}/status", headers={"cookie": wrong}).status_code == 401


def test_the_pages_cookie_is_no_login(manager, api_auth) -> None:
    api_auth("a:b")
    client = client_of(manager, ("me", "secret"))
    assert client.get(f"{V1}/status", headers={"cookie": guard.page_cookie()}).status_code == 401


def test_a_page_needs_no_cookie_where_there_is_no_api_password() -> None:
    assert guard.page_cookie() == ""


def test_who_is_logged_in_may(manager, api_auth) -> None:
    client = client_of(manager, ("me", "secret"))
    assert client.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
    assert client.get(f"{V1}/status").status_code == 401
    assert client.post("/login", data={"username": "me", "password": "secret"}).status_code == 200
    # the login's cookie is "secure" where the server can't be sure of a plain connection
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)
    assert client.get(f"{V1}/status", headers={"cookie": cookies}).status_code == 200
    api_auth("a:b")
    assert client.get(f"{V1}/status", headers={"cookie": cookies}).status_code == 200


def test_the_api_password_lets_scripts_in(manager, api_auth) -> None:
    api_auth("a:b,script:pass:word")
    client = client_of(manager, ("me", "secret"))
    assert client.get(f"{V1}/status", auth=("script", "pass:word")).status_code == 200
    for wrong in (("script", "pass"), ("a", "pass:word"), ("", "")):
        assert client.get(f"{V1}/status", auth=wrong).status_code == 401
    assert client.get(f"{V1}/status", headers={"authorization": "Basic !!!"}).status_code == 401


def test_only_scripts_are_asked_for_the_password(manager, api_auth) -> None:
    api_auth("a:b")
    client = client_of(manager)
    assert client.get(f"{V1}/status").headers["www-authenticate"] == "Basic"
    for headers in ({"referer": "http://testserver/"}, {"sec-fetch-mode": "cors"}):
        assert "www-authenticate" not in client.get(f"{V1}/status", headers=headers).headers


def test_a_login_that_is_not_found_lets_nobody_in(manager) -> None:
    app = FastAPI()
    app.auth = {"me": "secret"}  # type: ignore[attr-defined]
    routes.add(app, manager)
    assert TestClient(app).get(f"{V1}/status").status_code == 401


def test_without_a_page_the_api_password_is_needed_if_there_is_one(manager, api_auth) -> None:
    app = FastAPI()
    routes.add(app, manager)
    assert TestClient(app).get(f"{V1}/status").status_code == 200
    api_auth("a:b")
    assert TestClient(app).get(f"{V1}/status").status_code == 401
    assert TestClient(app).get(f"{V1}/status", headers={"cookie": guard.page_cookie()}).status_code == 401
    assert TestClient(app).get(f"{V1}/status", auth=("a", "b")).status_code == 200


def test_no_get_has_an_effect(client, manager) -> None:
    for path in set(POSTS) - set(GETS):
        assert client.get(V1 + filled(path)).status_code in (404, 405), path
    assert not manager.told


def test_reading_changes_nothing(client, manager) -> None:
    manager.host.lora_dir()
    before = set(manager.host.root.rglob("*"))
    for path in GETS:
        assert client.get(V1 + filled(path)).status_code in (200, 404, 422), path
    assert not manager.told
    assert set(manager.host.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("application/x-www-form-urlencoded", "settings=1", 415),
        ("text/plain", "{}", 415),
        ("application/json", "{", 400),
        ("application/json", "[]", 400),
        ("application/json", '{"settings": "' + "x" * (1 << 20) + '"}', 413),
    ],
)
def test_only_json_objects_are_taken(client, manager, kind, body, code) -> None:
    for path in POSTS:
        answer = client.post(V1 + filled(path), content=body, headers={"content-type": kind})
        assert answer.status_code == code, path
    assert not manager.told


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://testserver"},
    ],
)
def test_another_sites_page_may_do_nothing(client, manager, headers) -> None:
    for path in POSTS:
        assert client.post(V1 + filled(path), json={}, headers=headers).status_code == 403, path
    assert not manager.told


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://testserver"},
        {"origin": "http://testserver", "sec-fetch-site": "same-origin"},
        {"origin": "https://behind.a.proxy", "sec-fetch-site": "same-origin"},
    ],
)
def test_the_own_page_may(client, headers) -> None:
    assert client.post(f"{V1}/jobs", json={"settings": {}}, headers=headers).status_code == 200


@pytest.mark.parametrize("job", ["other", "..", "%2e%2e", "..%2f..", "job-1%2f..%2f..", "/etc", "job-1%00"])
def test_no_other_path_is_read(client, manager, job) -> None:
    for name in ("grid.png", "record.json", "events.jsonl", "grid.json"):
        (manager.job.parent / name).write_bytes(b'{"secret": 1}\n')
    for path in GETS:
        if "{job}" in path or "{grid}" in path:
            answer = client.get(V1 + filled(path, job=job, grid=job))
            assert b"secret" not in answer.content, path
            assert answer.status_code in (404, 405), path


def test_everything_is_fresh_and_of_its_own_kind(client) -> None:
    answer = client.get(f"{V1}/status")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_below_a_path_of_a_proxy(manager) -> None:
    """--subpath: the proxy takes the path away, and the app knows of it."""
    app = FastAPI()
    routes.add(app, manager)
    client = TestClient(app, root_path="/sd")
    assert client.get(f"{V1}/status").status_code == 200
    assert client.get(f"{V1}/openapi.json").json()["servers"] == [{"url": "/sd" + V1}]
    assert client.post(f"{V1}/jobs", json={"settings": {}}).status_code == 200


def test_no_script_inserts_html(root) -> None:
    for file in sorted((root / "javascript").glob("*.js")):
        script = file.read_text(encoding="utf-8")
        words = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
        assert not [word for word in words if word in script], file.name
