"""The live view in a real browser, over real trainings: charts that tell their values, pause, queue, a hidden page."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_train.paths import DEMO_PICTURES

MINUTES = 60_000
LONG = 4 * MINUTES
HIDE = """hidden => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
STATE = "document.querySelector('#train_lora .train-lora-job')?.dataset.state"
VALUES: dict[str, Any] = {
    "resolution": 64,
    "network_dim": 4,
    "network_alpha": 4,
    "unet_lr": 1e-3,
    "text_encoder_lr": 1e-4,
    "seed": 1,
    "train_batch_size": 1,
    "save_every_n_epochs": 1,
    "max_train_epochs": 3,
}
RUNNING = ("starting", "training", "pausing", "grid")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Four pictures, each twice: of the demo where it is there, drawn ones otherwise."""
    folder = tmp_path_factory.mktemp("live") / "2_thing"
    if not DEMO_PICTURES.is_dir():
        from ..support import pictures

        return pictures(folder, 4).parent
    folder.mkdir()
    for path in sorted(DEMO_PICTURES.rglob("*.png"))[:4]:
        shutil.copy(path, folder)
        shutil.copy(path.with_suffix(".txt"), folder)
    return folder.parent


class Server:
    """The app's routes, asked from outside the browser."""

    def __init__(self, address: str) -> None:
        self._routes = address + "lora-train/v1/"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self._routes + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._routes + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            pytest.fail(f"{path}: {error.read().decode()}")

    def start(self, pictures: Path, name: str, **more: Any) -> str:
        values = {**VALUES, "train_data_dir": str(pictures), "output_name": name, **more}
        return self.post("jobs", {"settings": values, "grid": None})["id"]

    def end_all(self) -> None:
        """No job is left under way, waiting or to be resumed."""
        for job in self.get("status")["queue"]:
            if job["state"] not in ("queued", "paused", "interrupted"):
                self.post(f"jobs/{job['id']}/stop", {})
        for _ in range(120):
            if not any(
                job["state"] in ("starting", "training", "pausing", "grid") for job in self.get("status")["queue"]
            ):
                break
            time.sleep(0.5)
        for job in self.get("jobs"):
            self.post(f"jobs/{job['id']}/remove", {})


@pytest.fixture
def server(address) -> Iterator[Server]:
    server = Server(address)
    yield server
    server.end_all()


def training_step(page: Any) -> None:
    page.evaluate("trainLora.step('training')")
    page.wait_for_selector("#train_lora_live", state="attached", timeout=30_000)


def wait_for_state(page: Any, *states: str) -> None:
    page.wait_for_function(f"{json.dumps(states)}.includes({STATE})", timeout=LONG)


def test_the_charts_tell_their_values_and_the_end_what_was_saved(page, server, pictures) -> None:
    training_step(page)
    prompt = "1girl --s 1 --w 64 --h 64"
    server.start(pictures, "curves", validation_split=0.25, sample_prompts=prompt, sample_every_n_epochs=1)
    wait_for_state(page, "done")
    chart = page.locator(".train-lora-chart")
    assert chart.locator("svg.area").count() == 3  # loss, validation, learning rates
    for area in chart.locator("svg.area").all():
        assert "." in (area.get_attribute("aria-label") or "")
    chart.locator("svg.area").first.hover()
    chart.locator(".tip").wait_for()
    told = chart.locator(".tip").inner_text()
    job = server.get("status")
    step = int(told.split("Step ")[1].split(",")[0])
    assert f"epoch {-(-step // job['steps_per_epoch'])}" in told
    assert f"{dict(map(tuple, job['losses']))[step]:.4f}" in told
    assert f"{dict(map(tuple, job['smoothed']))[step]:.4f}" in told
    for name in ("held-out pictures", "training pictures", "UNet", "text encoder"):
        assert name in told
    page.mouse.move(0, 0)
    assert chart.locator(".tip").is_hidden()
    chart.locator(".plots").focus()
    page.keyboard.press("Home")
    assert chart.locator(".tip b").inner_text() == "Step 1, epoch 1"

    chart.locator("[data-log=loss]").click()
    assert chart.locator("[data-log=loss]").get_attribute("aria-pressed") == "true"
    chart.locator("[data-log=loss]").click()

    live = page.locator("#train_lora_live")
    assert "The training is done." in live.inner_text()
    assert "curves-000003.safetensors" in live.inner_text()
    assert f"{job['total']} of {job['total']}" in live.inner_text()
    pictures_shown = page.locator(".train-lora-previews img")
    assert pictures_shown.count() == 3
    pictures_shown.last.click()
    page.locator("dialog").get_by_text("Compare with the epoch before").click()
    page.wait_for_function("[...document.querySelectorAll('dialog img')].every(image => image.naturalWidth > 0)")
    assert page.locator("dialog figcaption").all_inner_texts() == ["Epoch 2", "Epoch 3"]
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")


@pytest.mark.one_gradio
def test_a_training_pauses_and_goes_on_while_another_one_waits(page, server, pictures) -> None:
    training_step(page)
    first = server.start(pictures, "first", max_train_epochs=12)
    server.start(pictures, "second", max_train_epochs=1)
    queue = page.locator(".train-lora-waiting li", has_text="second")  # the first may wait for a moment, too
    queue.first.wait_for(timeout=MINUTES)
    wait_for_state(page, "training")
    page.wait_for_function("trainLora.status().step > 2", timeout=LONG)
    queue.first.get_by_text("Remove").click()
    page.locator("#train_lora_queue .train-lora-box button:visible", has_text="Remove").first.click()
    page.wait_for_selector(".train-lora-waiting", state="hidden", timeout=30_000)

    page.locator(".train-lora-job [data-verb=pause]").click()
    wait_for_state(page, "paused")
    paused = server.get(f"jobs/{first}")["step"]
    page.locator(".train-lora-job [data-verb=resume]").click()
    wait_for_state(page, "starting", "training")
    page.wait_for_function(f"trainLora.status().step > {paused}", timeout=LONG)
    losses = server.get(f"jobs/{first}")["losses"]
    assert [step for step, _ in losses] == list(range(1, losses[-1][0] + 1))
    page.locator(".train-lora-job [data-verb=stop]").click()
    box = page.locator(".train-lora-job .train-lora-box", has_text="Nothing has been saved yet")
    if not server.get(f"jobs/{first}")["files"]:
        box.get_by_text("Stop", exact=True).click()
    wait_for_state(page, "stopped")
    assert "The training was stopped at step" in page.locator("#train_lora_live").inner_text()


def test_nothing_is_asked_while_the_page_is_hidden(page, server, pictures) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/lora-train/" in request.url else None)
    page.evaluate(HIDE, True)
    page.wait_for_timeout(1000)
    asked.clear()
    page.wait_for_timeout(6000)
    assert not asked
    page.evaluate(HIDE, False)
    page.wait_for_timeout(1500)
    assert len(asked) >= 1


@pytest.mark.one_gradio
def test_a_running_job_changes_no_node_of_the_page(page, server, pictures) -> None:
    """A1111 tells every extension of each node that comes or goes; and a slow click must not lose its button."""
    training_step(page)
    server.start(pictures, "quiet", max_train_epochs=12, save_every_n_epochs=12)
    page.wait_for_function("trainLora.status().step > 2", timeout=LONG)
    page.evaluate(
        """() => {
          window.changes = [];
          const tell = list => list.forEach(one => window.changes.push(one.target.id || one.target.className));
          const live = document.getElementById("train_lora_live");
          new MutationObserver(tell).observe(live, { childList: true, subtree: true });
        }"""
    )
    step = page.evaluate("trainLora.status().step")
    page.wait_for_function(f"trainLora.status().step > {step + 2}", timeout=LONG)
    assert page.evaluate("window.changes") == []
    scale = page.locator(".train-lora-chart [data-log=loss]")
    scale.click(delay=2500)
    assert scale.get_attribute("aria-pressed") == "true"


def test_the_page_finds_its_job_again(page, server, pictures) -> None:
    """After Reload UI, and where gradio has drawn our element anew."""
    training_step(page)
    server.start(pictures, "again", max_train_epochs=12)
    page.wait_for_function("trainLora.status().step > 2", timeout=LONG)
    page.reload()
    page.wait_for_function("window.trainLora && trainLora.status() && trainLora.status().step > 2", timeout=MINUTES)
    training_step(page)
    wait_for_state(page, "training")
    page.evaluate(
        """() => {
          const old = document.getElementById("train_lora_live"), fresh = document.createElement("div");
          fresh.id = old.id;
          old.replaceWith(fresh);
        }"""
    )
    wait_for_state(page, "training")
    assert page.locator(".train-lora-chart svg.area").count() >= 1
