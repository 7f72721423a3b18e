"""Installing in the background: what the tab can show meanwhile, and the report of how it stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_train import stamp
from lora_train.errors import UserError
from lora_train.jobs import packages
from lora_train.ui import installer as installing
from lora_train.ui import report as reports
from lora_train.ui.installer import Installer


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_view_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def install(progress: Callable[[str], None]) -> None:
        for line in ("Collecting diffusers==1", "", "Collecting peft==2", "Downloading peft (76 MB)"):
            progress(line)
        assert go_on.wait(10)

    monkeypatch.setattr(packages, "install", install)
    monkeypatch.setattr(packages, "wanted", lambda: 20)
    monkeypatch.setattr(packages, "status", lambda: packages.Status(True))
    installer = Installer()
    installer.install()
    until(lambda: len(installer.view()["lines"]) == 4)
    view = installer.view()
    assert view["state"] == "installing"
    assert view["lines"][0] == "package 2 of about 20, 0:00 minutes …"
    installer.install()  # pressed again
    go_on.set()
    until(lambda: installer.view()["state"] == "ready")
    assert "minutes" not in str(installer.view()["lines"])


def test_what_is_missing_stays_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the status asks for a check: the button to install must not go away with it."""
    asked: list[int] = []
    found = [packages.Status(False, message="not installed")]
    monkeypatch.setattr(packages, "status", lambda: (asked.append(1), time.sleep(0.05), found[0])[2])
    installer = Installer()
    installer.check()
    assert installer.view()["state"] == "checking"
    until(lambda: installer.view()["state"] == "missing")
    for _ in range(3):
        installer.check()
        assert installer.view() == {"state": "missing", "message": "not installed", "lines": []}
    assert len(asked) == 1
    found[0] = packages.Status(True)  # installed by hand
    monkeypatch.setattr(installing, "_LOOK_AGAIN", 0.0)
    installer.check()
    assert installer.view()["state"] == "missing"
    until(lambda: installer.view()["state"] == "ready")


@pytest.mark.parametrize("error", [UserError("the disk is full", remedy="Free some space"), ValueError("odd")])
def test_after_a_failure_it_can_be_tried_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(progress: Callable[[str], None]) -> None:
        raise error

    monkeypatch.setattr(packages, "install", fail)
    installer = Installer()
    installer.install()
    until(lambda: installer.view()["state"] == "failed")
    installer.check()
    assert installer.view()["state"] == "failed"
    assert ("disk is full" if isinstance(error, UserError) else "ValueError: odd") in installer.view()["message"]
    monkeypatch.setattr(packages, "install", lambda progress: None)
    monkeypatch.setattr(packages, "status", lambda: packages.Status(True))
    installer.install()
    until(lambda: installer.view()["state"] == "ready")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/home/alice/webui/x.py", "~/webui/x.py"),
        ("/Users/bob b/webui", "~/webui"),
        (r"C:\Users\Al Ice\webui\x.py", r"~\webui\x.py"),
        (r"'C:\\Users\\alice\\webui'", r"'~\\webui'"),
        ('File "/home/alice/x.py", line 3', 'File "~/x.py", line 3'),
        ("/mnt/homes/models", "/mnt/homes/models"),
    ],
)
def test_nobodys_name_is_in_a_path(path: str, told: str) -> None:
    assert reports.without_names(path) == told


def test_the_own_folder_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert reports.without_names(f"at {tmp_path}/webui: {tmp_path}") == "at ~/webui: ~"
    assert reports.without_names(f"{tmp_path}less") == f"{tmp_path}less"


class Broken:
    """A manager of which nothing can be told."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("broken")


def test_of_a_broken_installation_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "LOADED", "0123456789abcdef")
    text = reports.report(Broken())  # type: ignore[arg-type]
    assert "host: RuntimeError: broken" in text
    assert "torch " in text and "training packages" in text
    assert "files 0123456789; its files were updated since it was loaded: restart the WebUI" in text


def test_flags_that_matter_without_their_secrets() -> None:
    options = {
        "xformers": True,
        "listen": False,
        "precision": "half",
        "api_auth": "anna:secret",
        "lora_dir": "/l",
        "gradio_auth": None,
        "port": 7860,
        "subpath": "sd",
    }
    told = list(reports._flags(options))
    assert told == ["api_auth is given", "lora_dir is given", "precision half", "subpath sd", "xformers"]


def test_usual_flags_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = SimpleNamespace(get_default={"gradio_queue": True, "precision": "autocast"}.get)
    monkeypatch.setitem(reports.sys.modules, "modules.shared_cmd_options", SimpleNamespace(parser=parser))
    assert list(reports._flags({"gradio_queue": True, "precision": "autocast", "api": True})) == ["api"]
