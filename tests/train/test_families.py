"""Whole runs on each family of models: kohya's keys, the metadata, and a file that changes pictures."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lora_train.model.checkpoint import Family
from lora_train.model.sample import sample
from lora_train.network.lora import LoraNetwork
from tests.train import runs

TABLE = Path(__file__).parent.parent / "data" / "tables" / "modules.tsv.gz"
WHOLE = {"network_train_unet_only": False, "block_dims": "", "max_train_steps": 2, "train_batch_size": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    runs.drawn(folder / "set" / "2_a thing")
    return folder


def modules_of(family, layers, conv=False, text=True):
    """sd-scripts' modules of a network on a model of full size, as far as a narrow one has them: the list is of
    networks with convolutions; without, the UNet's are those of its transformers."""
    found = set()
    for network, module, _ in (line.split("\t") for line in gzip.decompress(TABLE.read_bytes()).decode().splitlines()):
        layer = re.search(r"encoder_layers_(\d+)_", module)
        block = re.search(r"transformer_blocks_(\d+)", module)
        if network != f"{family.name.lower()} conv" or (layer and (not text or int(layer[1]) >= layers)):
            continue
        if family is Family.SDXL and block and int(block[1]) >= xl_depth(module):
            continue
        if layer or conv or re.search("transformer_blocks|attentions|proj_in|proj_out", module):
            found.add(module)
    return found


def xl_depth(module):
    """Transformer blocks of the narrow SDXL where the module is."""
    return 1 if re.match(r"lora_unet_(input_blocks_[45]|output_blocks_[345])_", module) else 2


def modules_in(state):
    return {key.partition(".")[0] for key in state}


def trained(place, checkpoint, name, **changes):
    run = runs.train(runs.settings_for(place, checkpoint, output_name=name, **{**WHOLE, **changes}))
    path = place / "out" / f"{name}.safetensors"
    return run, runs.tensors(path), runs.metadata(path)


CASES = {
    "sd15": (Family.SD15, {}, 12, "sd_v1", "stable-diffusion-v1/lora"),
    "sd15conv": (Family.SD15, {"conv_dim": 2, "clip_skip": 2}, 12, "sd_v1", "stable-diffusion-v1/lora"),
    "sd2": (Family.SD2, {"v_parameterization": True}, 3, "sd_v2", "stable-diffusion-v2-768-v/lora"),
    "sdxl": (Family.SDXL, {}, 3, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    "sdxlunet": (
        Family.SDXL,
        {"network_train_unet_only": True},
        3,
        "sdxl_base_v1-0",
        "stable-diffusion-xl-v1-base/lora",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_of_each_family(place, checkpoints, name):
    family, changes, layers, version, architecture = CASES[name]
    run, state, about = trained(place, checkpoints[family], name, **changes)
    assert run.of("done") and run.outcome.steps == 2 and not run.of("warning")
    has_text = not changes.get("network_train_unet_only")
    assert modules_in(state) == modules_of(family, layers, "conv_dim" in changes, has_text)
    tensors = {"alpha", "lora_down.weight", "lora_up.weight"}
    assert {key.partition(".")[2] for key in state} == tensors and len(state) == 3 * len(modules_in(state))

    assert about["ss_base_model_version"] == version and about["modelspec.architecture"] == architecture
    assert about["ss_v2"] == str(family is Family.SD2)
    assert about["modelspec.prediction_type"] == ("v" if changes.get("v_parameterization") else "epsilon")
    assert (about["ss_network_dim"], about["ss_network_alpha"], about["ss_steps"]) == ("2", "1.0", "2")
    assert json.loads(about.get("ss_network_args", "{}")) == ({"conv_dim": "2"} if "conv_dim" in changes else {})
    assert re.fullmatch("[0-9a-f]{64}", about["sshs_model_hash"]) and len(about["ss_new_sd_model_hash"]) == 64

    texts = {key.split("_")[1] for key in modules_in(state)} - {"unet"}
    cached = {e["what"] for e in run.of("cache")}
    assert cached == ({"pictures"} if texts else {"pictures", "captions"})
    assert texts == (set() if not has_text else {"te1", "te2"} if family is Family.SDXL else {"te"})
    for part in {"unet", *texts}:  # every part has learnt: up weights begin at 0
        ups = [value for key, value in state.items() if key.startswith(f"lora_{part}_") and "lora_up" in key]
        assert any(float(value.abs().max()) > 1e-4 for value in ups), part

    model = runs.pristine(checkpoints[family])
    options = {"seed": 1, "steps": 1, "width": 64, "height": 64}
    plain = np.array(sample(model, "a thing", **options), dtype=int)
    adapters = LoraNetwork.from_state(model, state)
    assert adapters.fits(state) and runs.same(adapters.state_dict(), dict(sorted(state.items())))
    adapters.set_weight(1, 1)
    changed = np.array(sample(model, "a thing", **options), dtype=int)
    adapters.set_weight(0, 0)
    again = np.array(sample(model, "a thing", **options), dtype=int)
    assert np.abs(changed - plain).max() > 2 and np.array_equal(again, plain)


def test_kept_captions_train_as_captions_encoded_at_each_step(place, checkpoints):
    """SDXL's states and pooled states come from the cache as they would from the encoders."""
    kept, encoded = (
        trained(
            place,
            checkpoints[Family.SDXL],
            f"cache{on}",
            network_train_unet_only=True,
            cache_text_encoder_outputs=on,
        )
        for on in (True, False)
    )
    assert kept[0].losses == pytest.approx(encoded[0].losses, rel=1e-5)


def test_v_prediction_is_another_target(place, checkpoints):
    def first_loss(**changes):
        given = {"max_train_steps": 1, "network_train_unet_only": True, "block_dims": runs.LAST_BLOCK, **changes}
        return trained(place, checkpoints[Family.SD2], "v", **given)[0].losses[0]

    assert first_loss() != first_loss(v_parameterization=True)
