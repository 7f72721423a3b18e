"""The extension in a real AUTOMATIC1111 WebUI on a CPU: its tab, a training, the LoRA in a picture, the grid."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_train.header import read_header
from tests.webui.conftest import PROMPT
from tests.webui.server import API, WebUI, digest

GRID = {"prompt": PROMPT, "weights": "0, 1", "steps": 3, "cfg_scale": 5, "seed": 1}
STEPS = ("pictures", "captions", "training", "grid", "blocks")


def log_of(webui: WebUI) -> str:
    return webui.log.read_text(encoding="utf-8", errors="replace")


def ours(text: str) -> list[str]:
    """The tracebacks that name us."""
    return [part for part in text.split("Traceback")[1:] if "lora_train" in part[:8000]]


def test_the_tab_is_there_with_its_steps(webui: WebUI) -> None:
    page = webui.get("/config")
    ids = {component["props"].get("elem_id") for component in page["components"]}
    assert {f"train_lora_step_{step}" for step in STEPS} <= ids
    assert "Train LoRA" in json.dumps(page)
    assert webui.get(f"{API}/status")["host"]["checkpoint"].startswith("train-lora-test-a1111")
    assert "1.10" in webui.get(f"{API}/status")["host"]["name"]
    assert not ours(log_of(webui))


def test_wrong_fields_are_named(webui: WebUI, settings: Callable[..., dict[str, Any]]) -> None:
    given = settings("webui-wrong", network_dim=0, resolution=1)
    answer = webui.post(f"{API}/jobs", {"settings": given, "grid": None})
    assert {problem["where"] for problem in answer["detail"]} == {"network_dim", "resolution"}


def test_train_draw_and_leave_everything_else_alone(
    webui: WebUI, settings: Callable[..., dict[str, Any]], forget: Callable[[str], str], work: Path
) -> None:
    name = "webui-test"
    packages, plain, options = webui.freeze(), digest(webui.draw(PROMPT)), webui.get("/sdapi/v1/options")
    files = {file: file.read_bytes() for file in work.glob("*config.json")}
    id = forget(webui.start(settings(name), GRID))
    waiting = forget(webui.start(settings("webui-next", max_train_epochs=1)))
    assert webui.job(waiting)["state"] == "queued"
    record = webui.ended(id)
    assert (record["state"], record["error"]) == ("done", None), record
    assert record["step"] == record["total"] == 8
    names = [f"{name}-000001", f"{name}-000002", name]
    assert [Path(file).stem for file in record["files"]] == names
    assert webui.ended(waiting)["state"] == "done"

    grid = webui.get(f"{API}/grids/{id}")
    (page,) = grid["pages"]
    sheet = Image.open(io.BytesIO(webui.read(f"{API}/{page['sheet']}")))
    assert sheet.width > 2 * 64 and sheet.height > 2 * 64
    cells = [[Image.open(io.BytesIO(webui.read(f"{API}/{cell}"))) for cell in row] for row in page["cells"]]
    pixels = [[digest(cell.convert("RGB")) for cell in row] for row in cells]
    assert [len(row) for row in pixels] == [2] * len(grid["rows"])
    assert {row[0] for row in pixels} == {plain}
    assert len({row[1] for row in pixels} | {plain}) == len(pixels) + 1

    assert len({key.partition(".")[0] for key in read_header(Path(record["files"][-1]), "LoRA").entries}) == 264
    assert digest(webui.draw(f"{PROMPT} <lora:{name}-000001:1>")) == pixels[0][1]
    assert digest(webui.draw(f"{PROMPT} <lora:{name}:1>")) == pixels[-1][1]
    assert digest(webui.draw(PROMPT)) == plain
    assert "didn't match keys" not in log_of(webui)
    assert webui.freeze() == packages
    assert webui.get("/sdapi/v1/options") == options
    assert {file: file.read_bytes() for file in work.glob("*config.json")} == files
    assert not ours(log_of(webui))


def test_none_of_our_fields_is_among_the_webuis_defaults(webui: WebUI, work: Path) -> None:
    """A WebUI would fill them in at its next start, over the defaults of a newer version of ours."""
    saved = json.loads((work / "ui-config.json").read_text(encoding="utf-8"))
    assert saved
    assert not [key for key in saved if "train_lora" in key.lower() or "train lora" in key.lower()]


def test_a_file_replaced_under_its_name_is_drawn_anew(
    webui: WebUI, settings: Callable[..., dict[str, Any]], forget: Callable[[str], str]
) -> None:
    """The WebUI itself would go on drawing with the old one."""
    prompt = f"{PROMPT} <lora:webui-again:1>"
    seen = []
    for seed in (1, 7):
        webui.ended(forget(webui.start(settings("webui-again", seed=seed, max_train_epochs=1))))
        seen.append(digest(webui.draw(prompt)))
    assert seen[0] != seen[1]


def test_stop(webui: WebUI, settings: Callable[..., dict[str, Any]], forget: Callable[[str], str]) -> None:
    id = forget(webui.start(settings("webui-stop", max_train_epochs=1000)))
    webui.until(id, lambda record: record["step"] >= 2)
    webui.post(f"{API}/jobs/{id}/stop", {})
    record = webui.ended(id)
    assert (record["state"], record["error"]) == ("stopped", None)


def test_pause_and_resume(webui: WebUI, settings: Callable[..., dict[str, Any]], forget: Callable[[str], str]) -> None:
    id = forget(webui.start(settings("webui-pause", max_train_epochs=8)))
    webui.until(id, lambda record: record["step"] >= 2)
    webui.post(f"{API}/jobs/{id}/pause", {})
    paused = webui.ended(id)
    assert (paused["state"], paused["resumable"]) == ("paused", True), paused
    webui.draw(PROMPT)
    webui.post(f"{API}/jobs/{id}/resume", {})
    done = webui.ended(id)
    assert (done["state"], done["step"]) == ("done", 32), done
    assert [step for step, _ in done["losses"]] == list(range(1, 33))


def test_reload_ui_twice_during_a_job(
    webui: WebUI, settings: Callable[..., dict[str, Any]], forget: Callable[[str], str]
) -> None:
    """The package stays loaded, and so does the job; its routes belong to the new app."""
    id = forget(webui.start(settings("webui-reload", max_train_epochs=30), {**GRID, "epochs": "30"}))
    webui.until(id, lambda record: record["step"] >= 1)
    for _ in range(2):
        webui.reload_ui()
        assert webui.get(f"{API}/status")["id"] == id
        ids = [component["props"].get("elem_id") for component in webui.get("/config")["components"]]
        assert ids.count("train_lora_steps") == 1
    assert webui.job(id)["step"] < 120, "it was over before the reload"
    record = webui.ended(id)
    assert (record["state"], record["step"]) == ("done", 120), record
    assert webui.get(f"{API}/grids/{id}")["pages"]
    assert not ours(log_of(webui))


def test_our_axes_in_the_webuis_plot(
    webui: WebUI, settings: Callable[..., dict[str, Any]], forget: Callable[[str], str]
) -> None:
    """Also after a reload each is there once, and a plot over them draws."""
    webui.ended(forget(webui.start(settings("webui-axes"))))
    info = next(
        script
        for script in webui.get("/sdapi/v1/script-info")
        if script["name"] == "x/y/z plot" and not script["is_img2img"]
    )
    labels = info["args"][0]["choices"]
    axes = ("LoRA weight", "LoRA epoch")
    assert [labels.count(name) for name in axes] == [1, 1]
    column, row = map(labels.index, axes)
    names = ["webui-axes-000001", "webui-axes-000002"]
    answer = webui.post(
        "/sdapi/v1/txt2img",
        {
            "prompt": f"{PROMPT} <lora:webui-axes:1>",
            "seed": 1,
            "steps": 2,
            "width": 64,
            "height": 64,
            "script_name": "x/y/z plot",
            "script_args": [
                *(column, "0, 1", [], row, ", ".join(names), names, 0, "", []),
                *(True, True, False, False, False, False, False, 0, False),
            ],
        },
    )
    assert len(answer["images"]) == 5, answer
    drawn = set(answer["images"][1:])
    assert len(drawn) >= 3  # weight 0 is the same twice


def test_cells_are_there_one_by_one_and_stay_when_it_is_paused(
    webui: WebUI, settings: Callable[..., dict[str, Any]], forget: Callable[[str], str]
) -> None:
    """The same grid gone on with has them all, and none is another picture than before."""
    record = webui.ended(forget(webui.start(settings("webui-cells", max_train_epochs=1))))
    wanted = {"loras": record["files"][-1:], "prompts": [PROMPT], "weights": [0.2, 0.4, 0.6, 0.8, 1], "steps": 20}
    id = forget(webui.post(f"{API}/grids", {**wanted, "width": 64, "height": 64})["id"])

    def cells() -> list[str]:
        (page,) = webui.get(f"{API}/grids/{id}")["pages"]
        return [cell for row in page["cells"] for cell in row if cell]

    webui.until(id, lambda record: (record["grid"] or {"done": 0})["done"] >= 2)
    assert len(cells()) in (1, 2, 3)
    webui.post(f"{API}/jobs/{id}/pause", {})
    assert webui.ended(id)["state"] == "paused"
    first = {cell: webui.read(f"{API}/{cell}") for cell in cells()}
    assert 0 < len(first) < 5
    assert id in [grid["id"] for grid in webui.get(f"{API}/grids")]
    webui.post(f"{API}/jobs/{id}/resume", {})
    assert webui.ended(id)["state"] == "done"
    assert len(cells()) == 5
    for cell, before in first.items():
        one, other = (Image.open(io.BytesIO(data)).convert("RGB") for data in (before, webui.read(f"{API}/{cell}")))
        assert digest(one) == digest(other)


def test_two_at_once_are_drawn_in_turn(
    webui: WebUI, settings: Callable[..., dict[str, Any]], forget: Callable[[str], str]
) -> None:
    """A generation while a grid is drawn waits, and both are right."""
    plain = digest(webui.draw(PROMPT))
    id = forget(webui.start(settings("webui-turns", max_train_epochs=1), {**GRID, "weights": "0, 0.5, 1"}))
    webui.until(
        id, lambda record: record["state"] == "grid" or record["state"] not in ("queued", "starting", "training")
    )
    drawn: list[str] = []
    thread = threading.Thread(target=lambda: drawn.append(digest(webui.draw(PROMPT))))
    thread.start()
    assert webui.ended(id)["grid"]["error"] is None
    thread.join(600)
    assert drawn == [plain]


@pytest.mark.parametrize("path", ["/status", "/jobs", "/grids", "/schema", "/presets", "/report", "/openapi.json"])
def test_whoever_reads_changes_nothing(webui: WebUI, path: str) -> None:
    before = webui.get("/sdapi/v1/options")
    assert webui.read(API + path)
    assert webui.refusal(API + path, {}) in (405, 422)
    assert webui.get("/sdapi/v1/options") == before
