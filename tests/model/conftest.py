"""A narrow model of each family, shared by all tests here; they leave it as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_train.model.checkpoint import Family
from lora_train.model.load import StableDiffusion, load_model
from tests import support


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {family: support.checkpoint(folder / f"{family.name}.safetensors", family=family) for family in Family}


@pytest.fixture(scope="session")
def model_of(files: dict[Family, Path]) -> Callable[[Family], StableDiffusion]:
    models = {family: load_model(path) for family, path in files.items()}
    return models.__getitem__


@pytest.fixture(scope="session")
def model(model_of: Callable[[Family], StableDiffusion]) -> StableDiffusion:
    """Stable Diffusion 1.5."""
    return model_of(Family.SD15)
