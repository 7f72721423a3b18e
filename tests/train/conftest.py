"""Narrow checkpoints, written once for all tests of runs."""

import pytest

from lora_train.model.checkpoint import Family
from tests import support


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A narrow checkpoint of each family, and another SD1.5."""
    folder = tmp_path_factory.mktemp("narrow")
    made = {family: support.checkpoint(folder / f"{family.name}.safetensors", family=family) for family in Family}
    return {**made, "other": support.checkpoint(folder / "other.safetensors", seed=1)}
