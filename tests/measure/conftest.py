"""A narrow checkpoint, two LoRAs for it, and a model that every test leaves as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_train.model.load import StableDiffusion, load_model
from lora_train.network.kohya import write_lora
from lora_train.network.lora import LoraNetwork, LoraSpec, Size
from tests import support

FEW = (
    "lora_te_text_model_encoder_layers_0_",
    "lora_unet_down_blocks_1_attentions_1_",
    "lora_unet_up_blocks_1_attentions_0_",
    "lora_unet_up_blocks_3_attentions_2_",
)
"""BASE, IN05, OUT03, OUT11."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.checkpoint(tmp_path_factory.mktemp("measure") / "narrow.safetensors")


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> StableDiffusion:
    return load_model(checkpoint)


@pytest.fixture(scope="session")
def lora_dir(model: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test0 and BASE: rank 2, BASE without a text encoder; Few: Test0 in four blocks alone, Style: two of BASE's."""
    folder = tmp_path_factory.mktemp("loras")
    for name, seed, text in (("Test0", 1, True), ("BASE", 2, False)):
        spec = LoraSpec(size=Size(2, 2.0), text_encoder=text)
        network = LoraNetwork.create(model, spec)
        g = torch.Generator().manual_seed(seed)
        state = {
            key: tensor if key.endswith(".alpha") else torch.randn(tensor.shape, generator=g) * 0.15
            for key, tensor in network.state_dict().items()
        }
        network.remove()
        write_lora(folder / f"{name}.safetensors", state, {"ss_output_name": name}, torch.float32)
        few, words = ("Few", FEW) if text else ("Style", FEW[1:3])
        kept = {key: tensor for key, tensor in state.items() if key.startswith(words)}
        write_lora(folder / f"{few}.safetensors", kept, {"ss_resolution": "(64, 64)"}, torch.float32)
    return folder
