"""Who may use the routes of a WebUI with a login, for its page or for its API."""

from __future__ import annotations

import base64
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.webui.server import API, WebUI

ANNA = {"Authorization": "Basic " + base64.b64encode(b"anna:secret").decode()}
WRONG = {"Authorization": "Basic " + base64.b64encode(b"anna:wrong").decode()}
ROUTES = [
    *((f"{API}/{path}", None) for path in ("status", "jobs", "grids", "schema", "report", "openapi.json")),
    *((f"{API}/{path}", {}) for path in ("jobs", "plan", "install", "jobs/x/stop", "merge", "grids")),
]


@pytest.fixture(scope="module")
def guarded(start_webui: Callable[..., WebUI], tmp_path_factory: pytest.TempPathFactory) -> WebUI:
    """With a login for its page and another one for its API."""
    flags = ("--gradio-auth", "bob:hidden", "--api-auth", "anna:secret", "--skip-load-model-at-start")
    return start_webui(tmp_path_factory.mktemp("guarded"), *flags, login="anna:secret")


def cookies(webui: WebUI, name: str, password: str) -> str:
    """What the login of the page gives."""
    data = urllib.parse.urlencode({"username": name, "password": password}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{webui.address}login", data), timeout=60) as answer:
        return "; ".join(cookie.partition(";")[0] for cookie in answer.headers.get_all("Set-Cookie"))


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_strangers_are_refused(guarded: WebUI, path: str, body: dict[str, str] | None) -> None:
    assert guarded.refusal(path, body) == 401
    assert guarded.refusal(path, body, **WRONG) == 401
    assert guarded.refusal(path, body, Cookie="access-token=guessed") == 401
    assert guarded.refusal(path, body, **ANNA) != 401


def test_the_password_of_the_api_or_the_login_of_the_page(guarded: WebUI) -> None:
    assert guarded.refusal(f"{API}/status", **ANNA) == 200
    session = cookies(guarded, "bob", "hidden")
    assert guarded.refusal(f"{API}/status", Cookie=session) == 200
    assert guarded.refusal(f"{API}/jobs", {}, Cookie=session) == 422


def test_another_sites_page_may_change_nothing(guarded: WebUI) -> None:
    session = cookies(guarded, "bob", "hidden")
    for headers in ({"Origin": "http://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert guarded.refusal(f"{API}/jobs", {}, Cookie=session, **headers) == 403
    assert guarded.refusal(f"{API}/jobs", {}, Cookie=session, **{"Content-Type": "text/plain"}) == 415


def test_the_report_keeps_the_passwords(guarded: WebUI) -> None:
    report = guarded.read(f"{API}/report").decode()
    assert "api_auth is given" in report and "gradio_auth is given" in report
    assert not [word for word in ("anna", "secret", "bob", "hidden") if word in report]


def test_a_subpath_is_honoured(start_webui: Callable[..., WebUI], tmp_path: Path) -> None:
    """A proxy passes on what comes to /sd/; our page asks for what lies beside it."""
    server = start_webui(tmp_path, "--subpath", "sd", "--skip-load-model-at-start")
    try:
        assert server.get("/config")["root"].endswith("/sd")
        assert server.get(f"{API}/status")["state"]
        assert server.get(f"{API}/openapi.json")["servers"] == [{"url": f"/sd{API}"}]
    finally:
        server.close()
