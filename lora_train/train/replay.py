"""Run the engine's own step on recorded draws, to be compared with another trainer number by number."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import UserError
from ..model.load import load_model
from ..network.lora import LoraNetwork
from ..settings import TrainSettings
from .batch import Batch
from .noise import Draws
from .prepare import prepare
from .step import Step


def replay(case: Path, checkpoint: Path, settings: TrainSettings, out: Path) -> dict[str, Any]:
    """Replay `case` (inputs.json, inputs.safetensors, lora_init.safetensors).

    Writes into `out` ref.json (losses, lr, grad_norm, secs), grads0.safetensors (not clipped), lora_final.safetensors.
    """
    recorded = _json(case / "inputs.json")
    inputs, initial = load_file(case / "inputs.safetensors"), load_file(case / "lora_init.safetensors")
    model = load_model(checkpoint)
    prepare(model, settings)
    network = LoraNetwork.from_state(model, initial)
    step = Step(model, network, settings, total_steps=settings.max_train_steps)
    out.mkdir(parents=True, exist_ok=True)
    results, seconds = [], []
    for i in range(recorded["steps"]):
        start = time.perf_counter()
        batch, draws = _recorded(inputs, recorded["captions"][i], i)
        keep = (lambda: save_file(_gradients(network), out / "grads0.safetensors")) if i == 0 else (lambda: None)
        results.append(step([batch], [draws], on_gradients=keep))
        seconds.append(round(time.perf_counter() - start, 3))
    save_file(network.state_dict(), out / "lora_final.safetensors")
    report = {
        "losses": [float(r.loss) for r in results],
        "lr": [r.rates for r in results],
        "grad_norm": [float(r.grad_norm) for r in results],
        "secs": seconds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    (out / "ref.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


def _recorded(inputs: dict[str, Tensor], captions: list[str], i: int) -> tuple[Batch, Draws]:
    """Step `i` of a recording; s{i}.masks [B, H, W] at pixel size and s{i}.ip where they were used."""
    latents, masks = inputs[f"s{i}.latents"], inputs.get(f"s{i}.masks")
    if masks is not None:
        masks = torch.nn.functional.interpolate(masks[:, None], size=latents.shape[2:], mode="area")
    batch = Batch(latents, captions, inputs[f"s{i}.weights"], masks)
    drawn = {name: inputs[f"s{i}.{name}"] for name in ("noise", "offset", "timesteps")}
    return batch, Draws(**drawn, ip=inputs.get(f"s{i}.ip"))


def _gradients(network: LoraNetwork) -> dict[str, Tensor]:
    """Gradient of every parameter; zero where it took no part (layers past clip_skip)."""
    return {
        key: (torch.zeros_like(p) if p.grad is None else p.grad).contiguous().clone()
        for key, p in network.named_parameters()
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"not a recorded case ({error})", where=path, remedy="Name a folder made by the recording tool"
        ) from None
