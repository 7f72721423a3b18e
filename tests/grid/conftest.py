"""A narrow checkpoint, and LoRA files of a run on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lora_train.model.load import StableDiffusion, load_model
from lora_train.network.kohya import write_lora
from lora_train.network.lora import LoraNetwork, LoraSpec, Size
from tests.support import Widths, checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on busy cores wait for one another: narrow models are many times slower with them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("checkpoint") / "narrow.safetensors", Widths(text_layers=2))


@pytest.fixture(scope="session")
def model(narrow: Path) -> StableDiffusion:
    return load_model(narrow)


@pytest.fixture(scope="session")
def run_folder(narrow: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hina-000001, hina-000002 of rank 4, and hina-000003 of rank 2."""
    folder = tmp_path_factory.mktemp("loras")
    for epoch, rank in ((1, 4), (2, 4), (3, 2)):
        write(folder / f"hina-{epoch:06}.safetensors", load_model(narrow), rank, seed=epoch)
    return folder


def write(path: Path, model: StableDiffusion, rank: int, seed: int) -> None:
    """A LoRA file with random values in place of trained ones."""
    network = LoraNetwork.create(model, LoraSpec(Size(rank, rank)), seed=seed)
    torch.manual_seed(seed)
    state = {
        key: torch.randn_like(value) * 0.2 if "lora_up" in key else value for key, value in network.state_dict().items()
    }
    write_lora(path, state, {"ss_output_name": "hina"}, torch.float16)
