"""A real WebUI, started for the tests: TRAIN_LORA_WEBUI names its folder, TRAIN_LORA_WEBUI_PYTHON its Python."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

FLAGS = (
    *("--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-python-version-check", "--api"),
    *("--use-cpu", "all", "--no-half", "--no-download-sd-model", "--do-not-download-clip"),
    "--disable-console-progressbars",
)
RUNNING = ("queued", "starting", "training", "pausing", "grid")
API = "/lora-train/v1"
_START_SECONDS = 600
_STARTED = b"Startup time"
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "OMP_WAIT_POLICY": "PASSIVE"}
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class WebUI:
    """One running WebUI. login: name and password that its API asks for."""

    def __init__(
        self, folder: Path, python: str, log: Path, checkpoint: Path, flags: tuple[str, ...] = (), login: str = ""
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log, self.python = log, python
        self._headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
        command = [python, "-u", "launch.py", *FLAGS, "--port", str(self.port), "--ckpt", str(checkpoint), *flags]
        environment = {**os.environ, **_ENVIRONMENT}
        self._handle = log.open("wb")
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=self._handle, stderr=self._handle
        )
        self._wait(1)

    @property
    def address(self) -> str:
        """Of its page, with a slash at the end."""
        return f"http://127.0.0.1:{self.port}/"

    def _wait(self, starts: int) -> None:
        """Callbacks of extensions run after the first routes answer: the log tells when all is there."""
        end = time.monotonic() + _START_SECONDS
        while self.log.read_bytes().count(_STARTED) < starts:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
            assert self._process.poll() is None and time.monotonic() < end, tail
            time.sleep(0.5)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._handle.close()

    def kill(self) -> None:
        """End it as a crash does, without a word."""
        self._process.kill()
        self._process.wait()
        self._handle.close()

    def reload_ui(self) -> None:
        """What the button Reload UI in the settings does; returns when the page is there again."""
        page = self.get("/config")
        button = next(c["id"] for c in page["components"] if c["props"].get("elem_id") == "settings_restart_gradio")
        number = next(n for n, event in enumerate(page["dependencies"]) if button in event["targets"])
        starts = self.log.read_bytes().count(_STARTED)
        with contextlib.suppress(OSError, http.client.HTTPException):  # its server goes away meanwhile
            self.post("/run/predict", {"fn_index": number, "data": [], "session_hash": "reload"})
        self._wait(starts + 1)

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        return json.loads(self.read(path))

    def read(self, path: str) -> bytes:
        """The bytes at `path`."""
        request = urllib.request.Request(self.address + path.lstrip("/"), headers=self._headers)
        with _OPENER.open(request, timeout=300) as answer:
            return answer.read()

    def refusal(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> int:
        """The HTTP status of a request without any login but that in `headers`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path.lstrip("/"), data, {"Content-Type": "application/json", **headers}
        )
        try:
            with _OPENER.open(request, timeout=300) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer; the body of a refusal too."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **self._headers}
        request = urllib.request.Request(self.address + path.lstrip("/"), data, headers)
        try:
            with _OPENER.open(request, timeout=900) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def draw(self, prompt: str, seed: int = 1) -> Image.Image:
        """A picture of the WebUI's own."""
        wanted = {"prompt": prompt, "seed": seed, "steps": 3, "width": 64, "height": 64, "cfg_scale": 5}
        answer = self.post("/sdapi/v1/txt2img", {**wanted, "sampler_name": "Euler"})
        return Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).convert("RGB")

    def ready(self) -> None:
        """Have the engine's packages: installed once, then remembered on disk."""
        packages: dict[str, Any] = {}
        for _ in range(900):
            packages = self.get(f"{API}/status")["packages"]
            if packages["state"] == "ready":
                return
            assert packages["state"] != "failed", packages
            if packages["state"] == "missing":
                self.post(f"{API}/install", {})
            time.sleep(1)
        raise AssertionError(packages)

    def start(self, settings: dict[str, Any], grid: dict[str, Any] | None = None) -> str:
        """Start a job; its id."""
        answer = self.post(f"{API}/jobs", {"settings": settings, "grid": grid})
        assert "id" in answer, answer
        return answer["id"]

    def job(self, id: str) -> dict[str, Any]:
        """How a job stands."""
        return self.get(f"{API}/jobs/{id}")

    def until(self, id: str, reached: Callable[[dict[str, Any]], bool], seconds: float = 900) -> dict[str, Any]:
        """A job's record as soon as it is `reached`."""
        end = time.monotonic() + seconds
        while not reached(record := self.job(id)):
            assert time.monotonic() < end and record["state"] != "failed", record
            time.sleep(0.3)
        return record

    def ended(self, id: str) -> dict[str, Any]:
        """A job's record at its end."""
        return self.until(id, lambda record: record["state"] not in RUNNING)

    def freeze(self) -> str:
        """The packages in its environment."""
        command = [self.python, "-m", "pip", "freeze", "--all"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def digest(picture: Image.Image) -> str:
    """Of the pixels alone."""
    return hashlib.sha256(picture.tobytes()).hexdigest()
