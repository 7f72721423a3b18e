"""The routes: who may, with what, and to what end."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")
pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")

import gradio as gr
from fastapi import FastAPI
from starlette.testclient import TestClient

from lora_train.errors import UserError
from lora_train.ui import routes

V1 = "/lora-train/v1"
GETS = ("status", "history", "schema", "jobs/job-1/chart.svg", "jobs/job-1/grid.png")
POSTS = ("start", "stop", "install")


@lru_cache
def gradio_app(auth) -> FastAPI:
    from gradio.routes import App

    with gr.Blocks() as page:
        gr.Markdown("page")
    page.auth, page.auth_message = auth, None
    app = App.create_app(page)
    app.auth = dict([auth]) if auth else None
    return app


def client_of(manager, auth=None) -> TestClient:
    """Of gradio's own app, with our routes for this manager."""
    app = gradio_app(auth)
    app.router.routes[:] = [route for route in app.router.routes if not getattr(route, "path", "").startswith(V1)]
    routes.add(app, manager)
    return TestClient(app)


@pytest.fixture
def client(manager) -> TestClient:
    return client_of(manager)


@pytest.fixture
def api_auth(monkeypatch):
    def set_to(value: str) -> None:
        monkeypatch.setitem(sys.modules, "modules.shared", SimpleNamespace(cmd_opts=SimpleNamespace(api_auth=value)))

    return set_to


def test_status_tells_host_packages_and_job(client, manager) -> None:
    status = client.get(f"{V1}/status").json()
    assert status["state"] == "idle"
    assert status["host"]["checkpoint"] == manager.host.checkpoint().title
    assert status["packages"]["state"] in ("checking", "ready")


def test_adding_twice_makes_no_second_set(manager) -> None:
    app = FastAPI()
    routes.add(app, manager)
    before = len(app.routes)
    routes.add(app, manager)
    assert len(app.routes) == before


@pytest.mark.parametrize("path", GETS)
def test_strangers_read_nothing_where_the_page_asks_for_a_password(manager, path) -> None:
    assert client_of(manager, ("me", "secret")).get(f"{V1}/{path}").status_code == 401


@pytest.mark.parametrize("path", POSTS)
def test_strangers_do_nothing_where_the_page_asks_for_a_password(manager, path) -> None:
    assert client_of(manager, ("me", "secret")).post(f"{V1}/{path}", json={}).status_code == 401
    assert not manager.started
    assert not manager.stopped


def test_who_is_logged_in_may(manager) -> None:
    client = client_of(manager, ("me", "secret"))
    assert client.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
    assert client.get(f"{V1}/status").status_code == 401
    assert client.post("/login", data={"username": "me", "password": "secret"}).status_code == 200
    # the login's cookie is "secure" where the server can't be sure of a plain connection
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)
    assert client.get(f"{V1}/status", headers={"cookie": cookies}).status_code == 200


def test_the_api_password_lets_scripts_in(manager, api_auth) -> None:
    api_auth("a:b,script:pass:word")
    client = client_of(manager, ("me", "secret"))
    assert client.get(f"{V1}/status", auth=("script", "pass:word")).status_code == 200
    for wrong in (("script", "pass"), ("a", "pass:word"), ("", "")):
        assert client.get(f"{V1}/status", auth=wrong).status_code == 401
    assert client.get(f"{V1}/status", headers={"authorization": "Basic !!!"}).status_code == 401


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
    assert TestClient(app).get(f"{V1}/status", auth=("a", "b")).status_code == 200


@pytest.mark.parametrize("path", POSTS)
def test_no_get_has_an_effect(client, manager, path) -> None:
    assert client.get(f"{V1}/{path}").status_code in (404, 405)
    assert not manager.started
    assert not manager.stopped


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("application/x-www-form-urlencoded", "settings=1", 415),
        ("text/plain", "{}", 415),
        ("application/json", "{", 400),
        ("application/json", "[]", 400),
        ("application/json", "{}", 422),
        ("application/json", '{"settings": {}, "grid": 3}', 422),
        ("application/json", '{"settings": "' + "x" * (1 << 20) + '"}', 413),
    ],
)
def test_only_json_objects_of_the_right_kind_start(client, manager, kind, body, code) -> None:
    answer = client.post(f"{V1}/start", content=body, headers={"content-type": kind})
    assert answer.status_code == code
    assert not manager.started


def test_start_and_stop(client, manager) -> None:
    answer = client.post(f"{V1}/start", json={"settings": {"network_dim": 4}, "grid": None})
    assert answer.json() == {"id": "job-1"}
    assert manager.started == [({"network_dim": 4}, None)]
    assert client.post(f"{V1}/stop", json={}).status_code == 200
    assert manager.stopped == 1


def test_all_problems_come_back_with_their_fields(client, manager) -> None:
    manager.problems = [
        UserError("no folder", where="train_data_dir"),
        UserError("bad", where="seed", remedy="Mend it"),
    ]
    answer = client.post(f"{V1}/start", json={"settings": {}})
    assert answer.status_code == 422
    assert [problem["where"] for problem in answer.json()["detail"]] == ["train_data_dir", "seed"]


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_another_sites_page_may_not_start(client, manager, headers) -> None:
    assert client.post(f"{V1}/start", json={"settings": {}}, headers=headers).status_code == 403
    assert not manager.started


def test_the_own_page_may_start(client) -> None:
    headers = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    assert client.post(f"{V1}/start", json={"settings": {}}, headers=headers).status_code == 200


def test_nothing_is_installed_where_strangers_may_come(client, manager) -> None:
    manager.host.restricted = lambda: True
    assert client.post(f"{V1}/install", json={}).status_code == 403


def test_the_grid_of_a_job(client, manager) -> None:
    assert client.get(f"{V1}/jobs/job-1/grid.png").status_code == 404
    (manager.job / "grid.png").write_bytes(b"png")
    answer = client.get(f"{V1}/jobs/job-1/grid.png")
    assert (answer.content, answer.headers["content-type"]) == (b"png", "image/png")


@pytest.mark.parametrize("job", ["other", "..", "%2e%2e", "..%2f..", "job-1%2f..%2f..", "/etc", "job-1%00"])
def test_no_other_path_is_read(client, manager, job) -> None:
    (manager.job.parent / "grid.png").write_bytes(b"secret")
    assert b"secret" not in client.get(f"{V1}/jobs/{job}/grid.png").content


def test_the_chart_is_of_that_job(client, manager) -> None:
    manager.now |= {"id": "job-1", "losses": [[1, 0.5], [2, 0.25]], "step": 2, "total": 4, "epochs": 2}
    answer = client.get(f"{V1}/jobs/job-1/chart.svg")
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert answer.text.startswith("<svg")


def test_the_script_never_inserts_html(root: Path) -> None:
    script = (root / "javascript" / "train_lora.js").read_text(encoding="utf-8")
    assert not [
        word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in script
    ]
