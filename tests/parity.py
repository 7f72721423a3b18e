"""Comparing a replay with a recorded run of sd-scripts, from full recordings or from small sketches of them.

    python -m tests.parity lay NAME CASE                lay a case out in the folder CASE, to replay or record it
    python -m tests.parity shrink NAME CASE RECORDED    keep a full recording of CASE as the test data NAME
    python -m tests.parity compare CASE OUT [RECORDED]  compare a replay in OUT with a full recording (CASE/ref)
    python -m tests.parity table                        replay every case and print the differences

A sketch of a tensor x is (|x|, g_1·x, …, g_8·x) with fixed Gaussian g_i: since E (g·(x - y))² = |x - y|², eight of them
for each of 528 tensors tell the relative difference of two states to a few per cent, in a hundredth of the space.

tests/data/parity holds what the cases share (inputs.safetensors, captions.json, networks/) and, for each case, its
config.toml, ref.json (what was recorded, and which captions, network and extras it takes) and sketch.safetensors:
`grads0` and `delta`, one row for each LoRA tensor in the order of the sorted keys.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parent / "data" / "parity"
PROJECTIONS = 8
UP_STD = 0.02
State = dict[str, Tensor]


def names() -> list[str]:
    """The recorded cases."""
    return sorted(folder.name for folder in (DATA / "cases").iterdir())


def load_case(name: str, folder: Path) -> Path:
    """Lay a case out in `folder` as `replay` reads it: config.toml, inputs.json, inputs.safetensors, lora_init."""
    source = DATA / "cases" / name
    case = _json(source / "ref.json")
    steps, batch = case["steps"], 2
    shared = load_file(DATA / "inputs.safetensors")
    inputs = {key: value for key, value in shared.items() if int(key.split(".")[0][1:]) < steps}
    for step in range(steps):
        inputs[f"s{step}.weights"] = torch.tensor(case["loss_weights"])
        alpha = inputs.pop(f"s{step}.alpha", None)
        if case["masks"]:
            assert alpha is not None, "masks are recorded for fewer steps"
            inputs[f"s{step}.masks"] = alpha.float() / 255
    folder.mkdir(parents=True, exist_ok=True)
    captions = _json(DATA / "captions.json")[case["captions"]][:steps]
    about = {"steps": steps, "batch": batch, "height": 64, "width": 64, "captions": captions}
    (folder / "inputs.json").write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
    save_file(inputs, folder / "inputs.safetensors")
    save_file(initial(load_network(case["network"]), fresh=case["fresh"]), folder / "lora_init.safetensors")
    for file in ("config.toml", "ref.json"):
        shutil.copyfile(source / file, folder / file)
    return folder


def load_network(name: str) -> dict[str, list]:
    """Recorded modules of a network: name -> [rank, alpha, *shape of the base weight]."""
    network = _json(DATA / "networks" / f"{name}.json")
    assert isinstance(network, dict)
    return network


def initial(network: dict[str, list], *, fresh: bool = False, seed: int = 1) -> State:
    """A LoRA's state with uniform weights, which `torch.rand` draws alike everywhere. Where `fresh`, up is zero."""
    state = {}
    for module, (rank, alpha, out, inner, *kernel) in network.items():
        g = torch.Generator().manual_seed(zlib.crc32(f"{seed} {module}".encode()))
        down, up = (rank, inner, *kernel), (out, rank, *(1 for _ in kernel))
        state[f"{module}.lora_down.weight"] = _uniform(down, 1 / math.sqrt(math.prod(down[1:])), g)
        state[f"{module}.lora_up.weight"] = torch.zeros(up) if fresh else _uniform(up, UP_STD * math.sqrt(3), g)
        state[f"{module}.alpha"] = torch.tensor(float(alpha))
    return state


def _uniform(shape: Iterable[int], bound: float, g: torch.Generator) -> Tensor:
    return (2 * torch.rand(tuple(shape), generator=g) - 1) * bound


def weights(state: State) -> State:
    """The state without its alphas, fp64."""
    return {key: value.double() for key, value in state.items() if not key.endswith(".alpha")}


def difference(state: State, initial: State) -> State:
    """What training changed."""
    return {key: value - initial[key].double() for key, value in weights(state).items()}


def sketch(state: State) -> Tensor:
    """[n, 1 + PROJECTIONS] fp64: for each tensor, by sorted key, its norm and its projections."""
    return torch.stack([_sketch_one(key, state[key].double().flatten()) for key in sorted(state)])


def _sketch_one(key: str, x: Tensor) -> Tensor:
    g = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    directions = torch.randn(PROJECTIONS, x.numel(), generator=g, dtype=torch.float64)
    return torch.cat([x.norm()[None], directions @ x])


def sketched_difference(reference: Tensor, other: Tensor) -> float:
    """Estimate of |x - y| / |x| from the sketches of two states with the same keys."""
    assert reference.shape == other.shape
    squares = ((reference.double()[:, 1:] - other.double()[:, 1:]) ** 2).mean(dim=1).sum()
    return float((squares / (reference.double()[:, 0] ** 2).sum()).sqrt())


def relative_difference(reference: State, other: State) -> float:
    """|x - y| / |x| over all tensors."""
    assert reference.keys() == other.keys()
    squares = sum(((reference[k] - other[k]) ** 2).sum() for k in reference)
    return float((squares / sum((x**2).sum() for x in reference.values())) ** 0.5)


def largest(reference: list[float], values: list[float]) -> float:
    """The largest relative difference of two lists of numbers."""
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(reference, values, strict=True))


def key_hash(keys: Iterable[str]) -> str:
    """A short hash of the sorted keys, to tell that two sketches are of the same tensors."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]


def shrink(name: str, case: Path, recorded: Path) -> None:
    """Keep a full recording of `case` as the numbers and the sketches of the test data `name`."""
    ref, target = _json(recorded / "ref.json"), DATA / "cases" / name
    gradients, delta = _states(case, recorded)
    numbers = {key: ref[key] for key in ("losses", "lr", "lr_desc", "grad_norm", "groups")}
    about = {**_json(target / "ref.json"), **numbers, "keys": key_hash(delta)}
    lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in about.items())
    (target / "ref.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    save_file({"grads0": sketch(gradients).float(), "delta": sketch(delta).float()}, target / "sketch.safetensors")


def compare_sketches(name: str, case: Path, out: Path) -> dict[str, float]:
    """Relative differences of a replay in `out` from the recorded case `name`, laid out in `case`."""
    reference, report = _json(case / "ref.json"), _json(out / "ref.json")
    recorded = load_file(DATA / "cases" / name / "sketch.safetensors")
    gradients, delta = _states(case, out)
    assert key_hash(gradients) == key_hash(delta) == reference["keys"]
    return {
        "losses": largest(reference["losses"], report["losses"]),
        "grad_norm": largest(reference["grad_norm"], report["grad_norm"]),
        "gradients at step 0": sketched_difference(recorded["grads0"], sketch(gradients)),
        "LoRA delta": sketched_difference(recorded["delta"], sketch(delta)),
    }


def compare(case: Path, out: Path, recorded: Path | None = None) -> dict[str, float]:
    """Relative differences of losses, gradient norms, first gradients and the change of the weights."""
    recorded = recorded or case / "ref"
    reference, report = _json(recorded / "ref.json"), _json(out / "ref.json")
    gradients, deltas = zip(_states(case, recorded), _states(case, out), strict=True)
    return {
        "losses": largest(reference["losses"], report["losses"]),
        "grad_norm": largest(reference["grad_norm"], report["grad_norm"]),
        "gradients at step 0": relative_difference(*gradients),
        "LoRA delta": relative_difference(*deltas),
    }


def _states(case: Path, out: Path) -> tuple[State, State]:
    """First gradients and the change of the weights in the results `out` of a case."""
    start, final = load_file(case / "lora_init.safetensors"), load_file(out / "lora_final.safetensors")
    return weights(load_file(out / "grads0.safetensors")), difference(final, start)


def table() -> list[str]:
    """A Markdown row for each case: the four relative differences of a replay of it, run now."""
    from lora_train import settings
    from lora_train.train.replay import replay
    from tests import support

    rows = ["| case | losses | gradient norms | first gradients | LoRA delta |", "| --- | --- | --- | --- | --- |"]
    with TemporaryDirectory() as folder:
        checkpoint = support.checkpoint(Path(folder) / "narrow.safetensors", support.PARITY)
        for name in names():
            case, out = load_case(name, Path(folder) / name), Path(folder) / f"{name}-out"
            replay(case, checkpoint, settings.load(case / "config.toml")[0], out)
            found = compare_sketches(name, case, out)
            rows.append(f"| {name} | " + " | ".join(f"{value:.1e}" for value in found.values()) + " |")
    return rows


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    verb, first, *folders = sys.argv[1:] if len(sys.argv) > 2 else [sys.argv[1], ""]
    if verb == "lay":
        load_case(first, Path(folders[0]))
    elif verb == "shrink":
        shrink(first, Path(folders[0]), Path(folders[1]))
    elif verb == "table":
        print("\n".join(table()))
    else:
        for what, value in compare(Path(first), *map(Path, folders)).items():
            print(f"{what:>20}  {value:.2e}")
