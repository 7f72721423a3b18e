"""Comparing a replay with a recorded run of sd-scripts, from full recordings or from small sketches of them.

    python -m tests.parity shrink CASE OUT    a recorded case as test data: gradients and weights as random projections
    python -m tests.parity compare CASE OUT   relative differences of a replay in OUT from the full recording in CASE

A sketch of a tensor x is (|x|, g_1·x, …, g_8·x) with fixed Gaussian g_i: since E (g·(x - y))² = |x - y|², eight of them
for each of 528 tensors tell the relative difference of two states to a few per cent, in a hundredth of the space.
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PROJECTIONS = 8
State = dict[str, Tensor]


def weights(state: State) -> State:
    """The state without its alphas."""
    return {key: value.double() for key, value in state.items() if not key.endswith(".alpha")}


def difference(state: State, initial: State) -> State:
    """What training changed."""
    return {key: value - initial[key].double() for key, value in weights(state).items()}


def sketch(state: State) -> State:
    """[1 + PROJECTIONS] float64 for each tensor: its norm and its projections."""
    return {key: _sketch_one(key, value.double().flatten()) for key, value in state.items()}


def _sketch_one(key: str, x: Tensor) -> Tensor:
    g = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    directions = torch.randn(PROJECTIONS, x.numel(), generator=g, dtype=torch.float64)
    return torch.cat([x.norm()[None], directions @ x])


def sketched_difference(reference: State, other: State) -> float:
    """Estimate of |x - y| / |x| from two sketches; the key sets must be equal."""
    assert reference.keys() == other.keys()
    squares = sum(((reference[k][1:] - other[k][1:]) ** 2).mean() for k in reference)
    return float((squares / sum(s[0] ** 2 for s in reference.values())) ** 0.5)


def relative_difference(reference: State, other: State) -> float:
    """|x - y| / |x| over all tensors."""
    assert reference.keys() == other.keys()
    squares = sum(((reference[k] - other[k]) ** 2).sum() for k in reference)
    return float((squares / sum((x**2).sum() for x in reference.values())) ** 0.5)


def largest(reference: list[float], values: list[float]) -> float:
    """The largest relative difference of two lists of numbers."""
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(reference, values, strict=True))


def shrink(case: Path, out: Path) -> None:
    """Write the test data of a recorded case. The up weights of a fresh LoRA are zero: only their shapes are kept."""
    out.mkdir(parents=True, exist_ok=True)
    initial = load_file(case / "lora_init.safetensors")
    for name in ("config.toml", "inputs.json", "inputs.safetensors"):
        shutil.copy(case / name, out / name)
    shutil.copy(case / "ref" / "ref.json", out / "ref.json")
    zero = {key: list(value.shape) for key, value in initial.items() if not value.count_nonzero()}
    (out / "zeros.json").write_text(json.dumps(zero, indent=0), encoding="utf-8")
    save_file({key: value for key, value in initial.items() if key not in zero}, out / "lora_init.safetensors")
    save_file(sketch(weights(load_file(case / "ref" / "grads0.safetensors"))), out / "grads0.sketch.safetensors")
    final = difference(load_file(case / "ref" / "lora_final.safetensors"), initial)
    save_file(sketch(final), out / "delta.sketch.safetensors")


def compare(case: Path, out: Path) -> dict[str, float]:
    """Relative differences of losses, gradient norms, first gradients and the change of the weights."""
    reference, report = (json.loads((folder / "ref.json").read_text("utf-8")) for folder in (case / "ref", out))
    initial = load_file(case / "lora_init.safetensors")

    def pair(name: str) -> tuple[State, State]:
        return load_file(case / "ref" / name), load_file(out / name)

    gradients, finals = pair("grads0.safetensors"), pair("lora_final.safetensors")
    return {
        "losses": largest(reference["losses"], report["losses"]),
        "grad_norm": largest(reference["grad_norm"], report["grad_norm"]),
        "gradients at step 0": relative_difference(*map(weights, gradients)),
        "LoRA delta": relative_difference(*(difference(state, initial) for state in finals)),
    }


if __name__ == "__main__":
    verb, first, second = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if verb == "shrink":
        shrink(first, second)
    else:
        for what, value in compare(first, second).items():
            print(f"{what:>20}  {value:.2e}")
