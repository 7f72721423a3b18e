"""SD2 of the v kind, and SDXL: effects and tuning, from the command line to measure.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.blocks.families import flat_weights, topology
from lora_train.cli import main
from lora_train.errors import DONE
from lora_train.model.checkpoint import Family
from lora_train.network.kohya import write_lora
from tests import support

FAMILIES = {"SD2": Family.SD2, "SDXL": Family.SDXL}
UNET = ("input_blocks.5.1", "middle_block.1", "output_blocks.4.1")
FOUND = ["IN05", "M00", "OUT04"]
QUERY = "text_model_encoder_layers_0_self_attn_q_proj"
TEXT = {"SD2": (f"lora_te_{QUERY}",), "SDXL": (f"lora_te1_{QUERY}", f"lora_te2_{QUERY}")}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors and, in loras, thing.safetensors and other.safetensors, which has no text encoder."""
    folder = tmp_path_factory.mktemp(family)
    support.checkpoint(folder / "model.safetensors", family=FAMILIES[family])
    shapes = {name: shape for name, shape, _ in support.entries(family=FAMILIES[family])}
    keys = [f"{place}.transformer_blocks.0.attn2.to_k" for place in UNET]
    if family == "SDXL":
        keys.append("middle_block.1.transformer_blocks.1.attn2.to_k")  # what tells it from the others, being narrow
    layers = {f"lora_unet_{key.replace('.', '_')}": shapes[f"model.diffusion_model.{key}.weight"] for key in keys}
    widths = support.NARROW[FAMILIES[family]]
    texts = {name: (widths.text2 if "te2" in name else widths.text,) * 2 for name in TEXT[family]}
    (folder / "loras").mkdir()
    _lora(folder / "loras" / "thing.safetensors", {**texts, **layers}, family)
    _lora(folder / "loras" / "other.safetensors", layers, family)
    return folder


def _lora(path: Path, layers: dict[str, Any], family: str) -> None:
    g = torch.Generator().manual_seed(len(layers))
    state = {}
    for name, (out, wide) in layers.items():
        state[f"{name}.lora_up.weight"] = torch.randn((out, 2), generator=g) / 4
        state[f"{name}.lora_down.weight"] = torch.randn((2, wide), generator=g) / 4
    about = {"modelspec.prediction_type": "v"} if family == "SD2" else {"ss_base_model_version": "sdxl_base_v1-0"}
    write_lora(path, state, {"ss_resolution": "(64, 64)", "ss_v2": str(family == "SD2"), **about}, torch.float32)


def test_effects(family: str, folder: Path, tmp_path: Path, capsys) -> None:
    size = ("--steps", "1", "--timesteps", "500", "--width", "64", "--height", "64", "--cfg-scale", "1")
    numbers = ",".join("1" for _ in topology(family).attention)
    recipe, more = (f"thing:0.8:{numbers}", ()) if family == "SD2" else ("thing:0.8,other:-0.5", ("--each",))
    command = ["effects", recipe, "--lora-dir", str(folder / "loras"), "--prompt", "a cat", *more, *size]
    assert main([*command, "--checkpoint", str(folder / "model.safetensors"), "--out", str(tmp_path)]) == DONE
    found = json.loads((tmp_path / "measure.json").read_text(encoding="utf-8"))
    assert [one["block"] for one in found["blocks"]] == ["BASE", *FOUND]
    assert all(one["effect"] > 0 for one in found["blocks"])
    assert found["blocks"][0]["modules"] == len(TEXT[family])
    assert [one["block"] for one in found["by_lora"] if one["lora"] == 1] == (FOUND if more else [])
    maps = {path.stem for path in (tmp_path / "maps").glob("*.png")}
    assert maps >= {"BASE", "picture", "M00"} and ({"M00-1", "M00-2"} <= maps) == bool(more)
    told = capsys.readouterr().out
    assert "BASE " in told and ("other alone" in told) == bool(more)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tuning(family: str, folder: Path, tmp_path: Path, capsys) -> None:
    support.pictures(tmp_path / "image" / "1_thing", 3)
    lora = {"name": "thing", "path": str(folder / "loras" / "thing.safetensors"), "te": 1.0, "unet": 1.0}
    mix = [{**lora, "weights": flat_weights(family)}]
    shot = {"prompt": "", "negative_prompt": "", "cfg_scale": 3.0, "clip_skip": 1, "width": 64, "height": 64}
    task = {"kind": "tune", "checkpoint": str(folder / "model.safetensors"), "mix": mix, "shot": shot, "name": "MINE"}
    task |= {"pictures": str(tmp_path / "image"), "prompts": ["a dog", "a house"], "keep": 0.5, "rows": 2}
    (tmp_path / "task.json").write_text(json.dumps(task), encoding="utf-8")
    assert main(["tune", "--task", str(tmp_path / "task.json"), "--out", str(tmp_path / "out")]) == DONE
    found = json.loads((tmp_path / "out" / "measure.json").read_text(encoding="utf-8"))
    (preset,) = found["presets"]
    assert len(preset["numbers"]) == len(topology(family).attention)
    assert [row["name"] for row in found["table"]][-1] == "MINE"
    assert found["table"][0]["drift"] == pytest.approx(0, abs=1e-6)
    assert f"MINE:{preset['numbers'][0]:g}" in capsys.readouterr().out
