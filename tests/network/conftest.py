"""Narrow checkpoints of each family, loaded once; each test finds them bare."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora_train.model.checkpoint import Family
from lora_train.model.load import StableDiffusion, load_model
from lora_train.network.names import roots
from tests import support

TABLES = Path(__file__).parent.parent / "data" / "tables"


def table(name: str) -> dict:
    """Recorded from sd-scripts."""
    return json.loads((TABLES / name).read_text(encoding="utf-8"))


def shaken(state: dict[str, Tensor], scale: float = 0.05) -> dict[str, Tensor]:
    """The state with noise on its weights."""
    g = torch.Generator().manual_seed(1)
    return {k: v if k.endswith(".alpha") else v + scale * torch.randn(v.shape, generator=g) for k, v in state.items()}


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], StableDiffusion]:
    """Loads a family's narrow checkpoint, once."""
    models: dict[Family, StableDiffusion] = {}

    def load(family: Family) -> StableDiffusion:
        if family not in models:
            path = tmp_path_factory.mktemp("narrow") / f"{family.name}.safetensors"
            models[family] = load_model(support.checkpoint(path, support.NARROW[family], family=family))
        return models[family]

    return load


@pytest.fixture
def bare(loaded: Callable[[Family], StableDiffusion]) -> Iterator[Callable[[Family], StableDiffusion]]:
    """A model without adapters, and none afterwards."""
    used = []

    def get(family: Family) -> StableDiffusion:
        used.append(loaded(family))
        return used[-1]

    yield get
    for model in used:
        for root in roots(model).values():
            strip(root)


@pytest.fixture
def model(bare: Callable[[Family], StableDiffusion]) -> StableDiffusion:
    """SD1.5."""
    return bare(Family.SD15)


def strip(root: torch.nn.Module) -> None:
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "get_base_layer"):
                setattr(parent, name, child.get_base_layer())
    vars(root).pop("peft_config", None)
