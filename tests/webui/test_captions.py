"""Captions by the WebUI's deepbooru, from the tab in a browser: written, the trigger word first, and kept there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.webui.conftest import FOLDER, PYTHON
from tests.webui.server import WebUI
from tests.webui.test_page import CHROMIUM, MINUTES, fill, new_page, open_step

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or name it in the variable CHROMIUM"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

__all__ = ["new_page"]  # the fixture, on the WebUI of this module

MODEL = """
import sys, torch
target = sys.argv.pop()
from modules import deepbooru_model
torch.manual_seed(0)
net = deepbooru_model.DeepDanbooruModel().eval()
head = list(net.children())[-1]
features = []
head.register_forward_pre_hook(lambda module, given: features.append(given[0].mean((0, 2, 3))))
with torch.no_grad():
    net(torch.rand(1, 512, 512, 3))
    head.weight.zero_()
    head.weight[:3] += 6 * features[0][:, None, None] / features[0].square().sum()
    head.weight[3:] -= 6 * features[0][:, None, None] / features[0].square().sum()
names = ["long_hair", "red_hat", "smile", *(f"tag_{number}" for number in range(9173))]
torch.save({**{name: value.half() for name, value in net.state_dict().items()}, "tags": names}, target)
"""
"""A file in deepbooru's format that sees the same three tags in every picture."""


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI], tmp_path_factory: pytest.TempPathFactory) -> WebUI:
    """One whose folder of models holds a deepbooru."""
    work = tmp_path_factory.mktemp("captions")
    models = work / "models"
    (models / "torch_deepdanbooru").mkdir(parents=True)
    file = models / "torch_deepdanbooru" / "model.pt"
    command = [PYTHON, "-c", MODEL, "--skip-torch-cuda-test", str(file)]
    subprocess.run(command, check=True, cwd=FOLDER, env={**os.environ, "PYTHONPATH": FOLDER}, capture_output=True)
    server = start_webui(work, "--models-dir", str(models))
    server.ready()
    return server


def test_deepbooru_writes_captions_with_the_trigger_word_first(
    new_page: Callable[..., Any],
    tmp_path: Path,
) -> None:
    concept = tmp_path / "2_miro"
    concept.mkdir()
    for number in range(2):
        Image.new("RGB", (96, 80), (200, 40 * number, 90)).save(concept / f"{number}.png")
    page = new_page()
    open_step(page, "Pictures")
    fill(page, train_data_dir=str(tmp_path))
    open_step(page, "Captions")
    fill(page, caption_trigger="miro, 1girl")
    page.click("#train_lora_write_captions")
    page.locator("#train_lora_captions_view", has_text="Captions are written").wait_for(timeout=5 * MINUTES)
    texts = {path.stem: path.read_text(encoding="utf-8") for path in concept.glob("*.txt")}
    assert texts == dict.fromkeys(("0", "1"), "miro, 1girl, long hair, red hat, smile")
    page.locator("#train_lora_captions_view", has_text="Keep tokens is 2 now").wait_for(timeout=MINUTES)
    assert page.locator("#train_lora_keep_tokens input").first.input_value() == "2"
    page.locator("#train_lora_captions_view button", has_text="former captions").click()
    page.wait_for_timeout(2000)
    assert not list(concept.glob("*.txt"))
