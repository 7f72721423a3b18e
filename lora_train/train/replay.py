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
from .noise import Draws
from .step import Batch, Step


def replay(case: Path, checkpoint: Path, settings: TrainSettings, out: Path) -> dict[str, Any]:
    """Replay `case` (inputs.json, inputs.safetensors, lora_init.safetensors).

    Writes into `out` ref.json (losses, lr, grad_norm, secs), grads0.safetensors (not clipped), lora_final.safetensors.
    """
    recorded = _json(case / "inputs.json")
    inputs, initial = load_file(case / "inputs.safetensors"), load_file(case / "lora_init.safetensors")
    model = load_model(checkpoint)
    network = LoraNetwork.from_state(model, initial)
    step = Step(model, network, settings, total_steps=settings.max_train_steps)
    out.mkdir(parents=True, exist_ok=True)
    results, seconds = [], []
    for i in range(recorded["steps"]):
        start = time.perf_counter()
        batch = Batch(inputs[f"s{i}.latents"], recorded["captions"][i], inputs[f"s{i}.weights"])
        draws = Draws(inputs[f"s{i}.noise"], inputs[f"s{i}.offset"], inputs[f"s{i}.timesteps"])
        keep = (lambda: save_file(_gradients(network), out / "grads0.safetensors")) if i == 0 else (lambda: None)
        results.append(step(batch, draws, on_gradients=keep))
        seconds.append(round(time.perf_counter() - start, 3))
    save_file(network.state_dict(), out / "lora_final.safetensors")
    report = {
        "losses": [r.loss for r in results],
        "lr": [r.rates for r in results],
        "grad_norm": [r.grad_norm for r in results],
        "secs": seconds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    (out / "ref.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


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
