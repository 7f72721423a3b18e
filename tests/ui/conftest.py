"""A manager that only remembers what it was told."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_train.errors import UserError, UserErrors
from lora_train.host.base import Checkpoint
from lora_train.jobs.record import Record
from lora_train.ui import installer

EVIL = '<img src=x onerror="alert(1)">'
IDLE: dict[str, Any] = {**Record("", "", "", state="idle").to_dict(), "log": []}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gradio leaves event loops behind wherever a page is built; that isn't ours to mend."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


class FakeHost:
    """A host of folders below `root`, without captioners. `open_to_all`: what restricted() says."""

    name = EVIL

    def __init__(self, root: Path) -> None:
        self.root, self.open_to_all, self.refreshed = root, False, 0
        self.known_captioners: list[Any] = []

    def checkpoint(self) -> Checkpoint | None:
        return Checkpoint(Path("m.safetensors"), EVIL)

    def checkpoints(self) -> list[Checkpoint]:
        return []

    def lora_dir(self) -> Path:
        return self._folder("loras")

    def data_dir(self) -> Path:
        return self._folder("data")

    def refresh_loras(self) -> None:
        self.refreshed += 1

    def capabilities(self) -> frozenset[str]:
        return frozenset({"upscale", "grid"})

    def captioners(self) -> list[Any]:
        return self.known_captioners

    def upscalers(self) -> list[str]:
        return ["Lanczos"]

    def language(self) -> str:
        return ""

    def busy(self) -> str:
        return ""

    def restricted(self) -> bool:
        return self.open_to_all

    def picture_folders(self) -> list[Path]:
        return [self.root]

    def environment(self) -> dict[str, str]:
        return {}

    def _folder(self, name: str) -> Path:
        (self.root / name).mkdir(exist_ok=True)
        return self.root / name


class FakeManager:
    """Has one job of the id "job-1", whose folder is `job`; `told` is what it was asked to do."""

    def __init__(self, folder: Path) -> None:
        self.host: Any = FakeHost(folder)
        self.job = folder / "data" / "jobs" / "job-1"
        self.job.mkdir(parents=True)
        self.now: dict[str, Any] = dict(IDLE)
        self.started: list[tuple[Any, Any]] = []
        self.told: list[tuple[Any, ...]] = []
        self.problems: list[UserError] = []

    def start(self, values: dict[str, Any], grid: dict[str, Any] | None = None, *, share_gpu: bool = False) -> str:
        self._tell("start", share_gpu)
        self.started.append((values, grid))
        return "job-1"

    def start_grid(self, values: dict[str, Any]) -> str:
        self._tell("start_grid", values)
        return "job-1"

    def start_measure(self, kind: str, values: dict[str, Any]) -> str:
        self._tell("start_measure", kind, values)
        return "job-1"

    def pause(self, id: str) -> None:
        self._tell("pause", id)

    def resume(self, id: str) -> None:
        self._tell("resume", id)

    def stop(self, id: str | None = None) -> None:
        self._tell("stop", id)

    def remove(self, id: str) -> None:
        self._tell("remove", id)

    def wait(self, timeout: float | None = None) -> bool:
        return True

    def status(self, id: str | None = None) -> dict[str, Any]:
        return {**self.now, "queue": []}

    def record(self, id: str) -> dict[str, Any] | None:
        return {**self.now, "id": id} if id == "job-1" else None

    def history(self) -> list[dict[str, Any]]:
        return [dict(self.now)]

    def folder(self, id: str) -> Path | None:
        return self.job if id == "job-1" else None

    def _tell(self, *what: Any) -> None:
        if self.problems:
            raise UserErrors(self.problems)
        self.told.append(what)


@pytest.fixture(autouse=True, scope="module")
def _tidy() -> Iterator[None]:
    """What gradio left behind goes here, not in another room's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def manager(tmp_path: Path) -> FakeManager:
    return FakeManager(tmp_path)


@pytest.fixture(autouse=True)
def _no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may look for packages in another process, or install them."""
    monkeypatch.setattr(installer.packages, "status", lambda: installer.packages.Status(True))
    monkeypatch.setattr(installer.packages, "install", lambda progress: pytest.fail("a test installs packages"))


@pytest.fixture
def client(manager: FakeManager) -> Any:
    """Of the routes, on gradio's own app without a login."""
    pytest.importorskip("httpx", reason="starlette's TestClient needs httpx")
    from .web import client_of

    return client_of(manager)


@pytest.fixture
def api_auth(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the WebUI's --api-auth."""

    def set_to(value: str) -> None:
        options = SimpleNamespace(api_auth=value)
        monkeypatch.setitem(sys.modules, "modules.shared", SimpleNamespace(cmd_opts=options))

    return set_to
