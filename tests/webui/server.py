"""A real WebUI, started for the tests: TRAIN_LORA_WEBUI names its folder, TRAIN_LORA_WEBUI_PYTHON its Python."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

FLAGS = (
    *("--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-python-version-check", "--api"),
    *("--use-cpu", "all", "--no-half", "--no-download-sd-model", "--do-not-download-clip"),
    "--disable-console-progressbars",
)
_START_SECONDS = 600
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "OMP_WAIT_POLICY": "PASSIVE"}
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class WebUI:
    """One running WebUI."""

    def __init__(self, folder: Path, python: str, log: Path, checkpoint: Path, flags: tuple[str, ...] = ()) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log, self.python = log, python
        command = [python, "-u", "launch.py", *FLAGS, "--port", str(self.port), "--ckpt", str(checkpoint), *flags]
        environment = {**os.environ, **_ENVIRONMENT}
        self._handle = log.open("wb")
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=self._handle, stderr=self._handle
        )
        self._wait()

    def _wait(self) -> None:
        """Callbacks of extensions run after the first routes answer: the log tells when all is there."""
        end = time.monotonic() + _START_SECONDS
        while b"Startup time" not in self.log.read_bytes():
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

    def get(self, path: str) -> Any:
        """The JSON at `path`."""
        return json.loads(self.read(path))

    def read(self, path: str) -> bytes:
        """The bytes at `path`."""
        with _OPENER.open(f"http://127.0.0.1:{self.port}{path}", timeout=300) as answer:
            return answer.read()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer; the body of a refusal too."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
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

    def freeze(self) -> str:
        """The packages in its environment."""
        command = [self.python, "-m", "pip", "freeze", "--all"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def digest(picture: Image.Image) -> str:
    """Of the pixels alone."""
    return hashlib.sha256(picture.tobytes()).hexdigest()
