"""That training works, measured in pictures: the whole demo, then what its LoRA draws."""

import os
import re

import pytest
from PIL import Image

from lora_train.demo.run import run
from lora_train.grid.files import read_recipe
from lora_train.network.kohya import read_lora
from tools.toy.characters import shows_subject
from tools.toy.subject import measure

SEEDS = 100

pytestmark = [pytest.mark.demo, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run as a user runs it, on all cores."""
    threads = os.environ.pop("OMP_NUM_THREADS", None)
    told = []
    try:
        result = run(tmp_path_factory.mktemp("demo"), told.append)
    finally:
        if threads:
            os.environ["OMP_NUM_THREADS"] = threads
    return result, told


def test_the_demo_teaches_its_subject(demo):
    result, _ = demo
    figures = measure(result.epochs[-1], SEEDS)
    assert figures.subject >= 0.8
    assert figures.subject_without_lora <= 0.2
    assert min(figures.attributes.values()) >= 0.7, figures.attributes


def test_everything_is_where_it_says(demo):
    result, told = demo
    assert [re.search(r"-(\d{6})\.safetensors$", path.name)[1] for path in result.epochs[:-1]] == [
        f"{n:06d}" for n in range(1, len(result.epochs))
    ]
    assert all(len(read_lora(path)[0]) == 792 for path in result.epochs)
    assert "lora_train_recipe" in read_lora(result.baked)[1]
    assert result.chart.read_text(encoding="utf-8").startswith("<svg")
    recipe = read_recipe(result.grid)
    assert recipe.width == 64 and len(recipe.loras) == len(result.epochs) - 1
    cells = sorted(result.grid.with_suffix("").glob("*.png"))
    assert len(cells) == len(recipe.loras) * len(recipe.weights)
    states = [status["state"] for status in told]
    assert {"training", "grid", "bake"} <= set(states)


def test_the_grid_shows_the_subject_appear(demo):
    result, _ = demo
    cells = result.grid.with_suffix("")
    last = max(cells.glob("epoch-*_weight-1.00.png"))
    assert shows_subject(Image.open(last).convert("RGB"))
    assert not shows_subject(Image.open(min(cells.glob("epoch-*_weight-0.20.png"))).convert("RGB"))
