"""Sets that the WebUI's checkpoint draws, and the checkpoint's own style trained on one of them, in a real WebUI."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.studio.drawn import loaded
from tests.webui.conftest import PROMPT, STEM
from tests.webui.server import API, WebUI, digest


def task(webui: WebUI, id: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    for _ in range(1200):
        found: dict[str, Any] = next(one for one in webui.get(f"{API}/status")["tasks"] if one["id"] == id)
        if found["state"] != "running" or until(found):
            return found
        time.sleep(0.25)
    raise AssertionError("the task doesn't end")


def ended(webui: WebUI, id: str) -> dict[str, Any]:
    return task(webui, id, lambda found: False)


def test_a_regularisation_set_is_drawn_stopped_and_gone_on_with(webui: WebUI, tmp_path: Path) -> None:
    options, plain = webui.get("/sdapi/v1/options"), digest(webui.draw(PROMPT))
    project = webui.post(f"{API}/pictures/make", {"folder": str(tmp_path / "hina")})["id"]
    about = webui.get(f"{API}/sets/{project}/made")
    assert about["can"] and about["side"] == 64 and about["checkpoint"].startswith(STEM)
    body = {"name": "hina girl", "prompts": ["1girl, {smile|serious}"], "count": 12, "repeats": 3, "steps": 4}
    started = webui.post(f"{API}/sets/{project}/make", body)
    task(webui, started["task"], lambda found: found["done"] >= 2)
    webui.post(f"{API}/tasks/{started['task']}/stop", {})
    stopped = ended(webui, started["task"])
    assert stopped["state"] == "stopped" and 2 <= stopped["result"]["made"] < 12, stopped
    again = webui.post(f"{API}/sets/{project}/go-on", {"set": started["set"]})
    assert ended(webui, again["task"])["result"]["whole"]
    folder = tmp_path / "hina" / "reg" / "3_hina girl"
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == 12
    assert {path.read_text() for path in folder.glob("*.txt")} == {"1girl, smile", "1girl, serious"}
    assert {loaded(path).size for path in pictures} == {(64, 64)}
    assert len({digest(loaded(path)) for path in pictures}) == 12
    shown = webui.post("/sdapi/v1/png-info", {"image": encoded(pictures[3])})["info"]
    assert "Seed: 4" in shown and f"Model: {about['checkpoint']}" in shown
    assert digest(webui.draw(PROMPT)) == plain
    assert webui.get("/sdapi/v1/options") == options
    webui.post(f"{API}/pictures/{project}/undo", {})
    webui.post(f"{API}/pictures/{project}/undo", {})
    assert not list((tmp_path / "hina" / "reg").iterdir())


def test_the_checkpoints_own_style_becomes_a_lora(webui: WebUI, forget: Callable[[str], str]) -> None:
    plain = digest(webui.draw(PROMPT))
    short = {"network_dim": 4, "network_alpha": 4, "max_train_epochs": 1, "learning_rate": 0.01}
    started = webui.post(f"{API}/sets/base-style", {"count": 12, "side": 64, "steps": 4, "settings": short})
    done = ended(webui, started["task"])
    assert done["state"] == "done", done
    job = forget(done["result"]["job"])
    record = webui.ended(job)
    assert (record["state"], record["error"]) == ("done", None), record
    about = webui.get(f"{API}/sets/base-style")
    assert about["lora"] == done["result"]["lora"] == f"{about['name']}/{about['name']}"
    assert about["name"] == f"{STEM}_BASE"
    drawn = digest(webui.draw(f"{PROMPT} <lora:{about['name']}:-1>"))
    assert drawn != plain and digest(webui.draw(PROMPT)) == plain


def encoded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
