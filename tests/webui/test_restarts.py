"""What survives a WebUI that goes away, and one that is updated while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.webui.conftest import FOLDER
from tests.webui.server import API, WebUI


@pytest.fixture
def updated() -> Iterator[Path]:
    """A module that an update of the extension would bring; gone when the test is over."""
    extension = next(path.parent.parent for path in Path(FOLDER).glob("extensions/*/scripts/train_lora.py"))
    new = extension / "lora_train" / "brought_by_the_test.py"
    yield new
    new.unlink(missing_ok=True)


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_job_is_resumable_after_its_webui_went_away(
    start_webui: Callable[..., WebUI], settings: Callable[..., dict[str, Any]], tmp_path: Path, end: str
) -> None:
    first = start_webui(tmp_path)
    first.ready()
    id = first.start(settings(f"webui-{end}", max_train_epochs=40))
    first.until(id, lambda record: record["step"] >= 2)
    getattr(first, end)()
    time.sleep(3)
    second = start_webui(tmp_path)
    try:
        left = second.until(id, lambda record: record["resumable"], 180)
        assert left["state"] == "interrupted", left
        assert 2 <= left["step"] < 160
        assert id in [job["id"] for job in second.get(f"{API}/status")["queue"]]
        second.ready()
        assert second.post(f"{API}/jobs/{id}/resume", {})["id"] == id
        done = second.ended(id)
        assert (done["state"], done["step"]) == ("done", 160), done
        assert len({step for step, _ in done["losses"]}) == len(done["losses"])
    finally:
        second.post(f"{API}/jobs/{id}/remove", {})
        second.close()


def test_an_update_under_a_running_webui_asks_for_a_restart(
    webui: WebUI,
    settings: Callable[..., dict[str, Any]],
    forget: Callable[[str], str],
    updated: Path,
) -> None:
    """Its job goes on, and the tab is back when the old files are."""
    id = forget(webui.start(settings("webui-updated", max_train_epochs=30)))
    webui.until(id, lambda record: record["step"] >= 1)
    updated.write_text("NEW = True\n", encoding="utf-8")
    webui.reload_ui()
    page = json.dumps(webui.get("/config"))
    assert "Train LoRA was updated" in page and "train_lora_steps" not in page
    assert "restart the WebUI" in webui.read(f"{API}/report").decode()
    updated.unlink()
    webui.reload_ui()
    assert "train_lora_steps" in json.dumps(webui.get("/config"))
    assert webui.ended(id)["state"] == "done"
