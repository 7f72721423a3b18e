"""The effect of a block is the change of the prediction when it is turned off, at the run's own noisy latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lora_train.blocks.families import flat_weights
from lora_train.errors import UserError
from lora_train.measure.dials import Dials, Mixed
from lora_train.measure.effects import Run, Stopped, measure
from lora_train.measure.heat import overlay
from lora_train.model.predict import predict
from lora_train.model.sample import sample_many
from lora_train.model.text import encode_prompts

RUN = Run("a red cat", seeds=(5, 6), steps=4, cfg_scale=3.0, sampler="Euler", width=64, height=64)


@pytest.fixture(scope="module")
def mix(lora_dir: Path) -> list[Mixed]:
    return [Mixed(lora_dir / "Few.safetensors", 0.5, 0.7), Mixed(lora_dir / "Style.safetensors", -0.3, -0.3)]


def test_effects_are_those_of_turning_each_block_off(model, mix: list[Mixed]) -> None:
    weights = [{**flat_weights(), "OUT03": 0.0}, {**flat_weights(), "OUT03": 0.0}]
    told = []
    found = measure(model, mix, weights, RUN, each=True, progress=lambda done, total, what: told.append((done, total)))
    blocks = [one.block for one in found.effects if one.lora is None]
    assert blocks == ["BASE", "IN05", "OUT03", "OUT11"]
    assert [one.block for one in found.effects if one.lora == 1] == ["IN05", "OUT03"]
    assert found.calls == 3 * (4 + 4 + 2 + 2)
    assert told[-1][0] == told[-1][1] and [done for done, _ in told] == sorted(done for done, _ in told)

    kept = {}
    dials = Dials(model, mix)
    dials.turn(weights)
    with torch.no_grad():
        pictures = sample_many(
            model,
            [RUN.prompt] * 2,
            [5, 6],
            steps=4,
            cfg_scale=3.0,
            sampler="Euler",
            width=64,
            height=64,
            on_step=lambda x, t: kept.update({float(t): x.clone()}),
        )
        times = [min(kept, key=lambda t: abs(t - wanted)) for wanted in (800, 500, 200)]

        def predictions() -> list[torch.Tensor]:
            text = encode_prompts(model, [RUN.prompt] * 2)
            return [predict(model, kept[t], torch.full((2,), t), text) for t in times]

        base = predictions()
        for block in ("BASE", "IN05", "OUT03"):
            dials.turn([{**its, block: 1.0 if block == "OUT03" else 0.0} for its in weights])
            parts = [float((a - b).norm() / a.norm()) for a, b in zip(base, predictions(), strict=True)]
            one = found.effects[blocks.index(block)]
            assert one.by_timestep == pytest.approx(parts, rel=1e-3)
            assert one.effect == pytest.approx(np.sqrt(np.square(parts).mean()), rel=1e-3)
            assert one.was_off == (block == "OUT03")
        dials.turn([{}, {}])
        parts = [float((a - b).norm() / a.norm()) for a, b in zip(base, predictions(), strict=True)]
        assert found.whole == pytest.approx(np.sqrt(np.square(parts).mean()), rel=1e-3)
    dials.remove()
    assert found.timesteps == tuple(times)
    assert [picture.tobytes() for picture in found.pictures] == [picture.tobytes() for picture in pictures]
    values = found.values()
    assert sum(one["share"] for one in values["blocks"]) == pytest.approx(1)
    assert {one["lora"] for one in values["by_lora"]} == {0, 1}


def test_the_map_is_where_the_prediction_moves(model, mix: list[Mixed]) -> None:
    (one,) = (e for e in measure(model, mix[:1], [flat_weights()], RUN, timesteps=(500,)).effects if e.block == "OUT11")
    assert one.field.shape == (8, 8) and one.field.min() >= 0
    assert float(np.sqrt(np.square(one.field).mean())) == pytest.approx(one.effect, rel=0.5)  # of one seed of the two
    spot = np.zeros((8, 8), np.float32)
    spot[2, 6] = 3.0
    picture = np.asarray(overlay(spot, 64, 32))
    assert picture.shape == (32, 64, 4)
    row, column = np.unravel_index(picture[..., 3].argmax(), (32, 64))
    assert (row // 4, column // 8) == (2, 6)
    assert picture[30, 4, 3] == 0
    assert np.asarray(overlay(np.zeros((8, 8), np.float32), 16, 16))[..., 3].max() == 0


def test_it_stops_and_leaves_the_model_bare(model, mix: list[Mixed]) -> None:
    calls = []
    with pytest.raises(Stopped):
        measure(model, mix, [flat_weights()] * 2, RUN, stop=lambda: calls.append(1) or len(calls) > 5)
    assert not any(layer._forward_hooks for layer in model.unet.modules())
    with pytest.raises(UserError, match="not a sampler"):
        measure(model, mix, [flat_weights()] * 2, Run("x", sampler="DDIMM"))
