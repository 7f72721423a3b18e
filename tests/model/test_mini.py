"""The embedded checkpoint in a WebUI's models folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from transformers import CLIPTextConfig, CLIPTokenizer

from lora_train.errors import UserError
from lora_train.model import mini
from lora_train.model.load import load_model
from tests.support import Widths, checkpoint


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("narrow") / "narrow.safetensors", Widths(text=96, text_inner=384))


def test_the_configuration_is_that_of_the_file(narrow: Path, tmp_path: Path) -> None:
    (tmp_path / "Stable-diffusion").mkdir()
    target = mini.install(tmp_path, narrow)
    assert target == tmp_path / "Stable-diffusion" / "train-lora-mini.safetensors"
    assert target.read_bytes() == narrow.read_bytes()

    params = yaml.safe_load(target.with_suffix(".yaml").read_text(encoding="utf-8"))["model"]["params"]
    unet, model = params["unet_config"]["params"], load_model(narrow)
    widths = tuple(unet["model_channels"] * factor for factor in unet["channel_mult"])
    assert widths == model.unet.config.block_out_channels
    assert unet["context_dim"] == model.unet.config.cross_attention_dim
    vae = params["first_stage_config"]["params"]["ddconfig"]
    assert tuple(vae["ch"] * factor for factor in vae["ch_mult"]) == model.vae.config.block_out_channels

    clip = Path(params["cond_stage_config"]["params"]["version"])
    assert clip.parent == target.parent
    config, ours = CLIPTextConfig.from_pretrained(clip), model.text_encoder.config
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"):
        assert getattr(config, name) == getattr(ours, name), name
    words = CLIPTokenizer.from_pretrained(clip, local_files_only=True)("a red cat")["input_ids"]
    assert words == model.tokenizer("a red cat")["input_ids"]


def test_a_second_time_changes_nothing(narrow: Path, tmp_path: Path) -> None:
    mini.install(tmp_path, narrow)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    mini.install(tmp_path, narrow)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_is_damaged_is_mended(narrow: Path, tmp_path: Path) -> None:
    target = mini.install(tmp_path, narrow)
    target.write_bytes(b"half")
    (tmp_path / "train-lora-mini-clip" / "config.json").write_text("{}", encoding="utf-8")
    target.with_suffix(".yaml").unlink()
    mini.install(tmp_path, narrow)
    assert target.read_bytes() == narrow.read_bytes()
    assert json.loads((tmp_path / "train-lora-mini-clip" / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    assert target.with_suffix(".yaml").is_file()


def test_wrong_folder(narrow: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        mini.install(tmp_path / "nowhere", narrow)
