"""The bake against plain concatenation, SuperMerger's functions and kohya's: error of the result, time and memory.

Every method runs in a process of its own (this file as a script). The others' functions are imported from their
checkouts with stand-ins for what they import of a WebUI, and called as their own commands call them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

RECIPES = {
    "style less base": (("Test0", 1.0, "GP1"), ("BASE", -1.0, "GP2")),
    "half and half": (("Test0", 0.5, None), ("BASE", 0.5, None)),
}
WIDTHS = (320, 640, 1280)
State = dict[str, Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the measurement."""
    for name, variable in (("supermerger", "TRAIN_LORA_SUPERMERGER"), ("sd-scripts", "TRAIN_LORA_SD_SCRIPTS")):
        found = os.environ.get(variable)
        parser.add_argument(f"--{name}", type=Path, default=found and Path(found), help=f"its checkout ({variable})")
    parser.add_argument("--rank", type=int, default=128, help="of each LoRA in the measurement of speed")
    parser.add_argument("--error-rank", type=int, default=16, help="of each LoRA in the table of errors")
    parser.add_argument("--every", type=int, default=1, help="compress every Nth module alone: theirs takes minutes")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=["speed", "errors"], help="default: both")
    parser.add_argument("--json", type=Path, help="where to write all numbers")


def full_size() -> dict[str, tuple[int, ...]]:
    """kohya's names and shapes of SD1.5's 264 modules."""
    from tests.blocks import loras

    shapes: dict[str, tuple[int, ...]] = {}
    for name in loras.modules():
        if name.startswith("lora_te_"):
            shapes[name] = (3072, 768) if name.endswith("fc1") else (768, 3072) if name.endswith("fc2") else (768, 768)
            continue
        side, _, rest = name.removeprefix("lora_unet_").partition("_blocks_")
        width = 1280 if side not in ("down", "up") else WIDTHS[int(rest[0]) if side == "down" else 3 - int(rest[0])]
        inner = (
            768 if name.endswith(("attn2_to_k", "attn2_to_v")) else 4 * width if name.endswith("ff_net_2") else width
        )
        out = 8 * width if name.endswith("ff_net_0_proj") else width
        shapes[name] = (out, inner, 1, 1) if name.endswith(("proj_in", "proj_out")) else (out, inner)
    return shapes


def write_loras(folder: Path, shapes: Mapping[str, tuple[int, ...]], rank: int) -> None:
    """Two LoRAs in fp16 whose singular values fall as those of trained ones do, by about two powers of ten."""
    folder.mkdir(parents=True)
    for seed, name in enumerate(("Test0", "BASE")):
        g = torch.Generator().manual_seed(seed)
        state: State = {}
        decay = torch.logspace(0, -2, rank)
        for module, (out, *row) in shapes.items():
            up = torch.randn((out, rank), generator=g) * decay / out**0.5
            state[f"{module}.lora_up.weight"] = up.reshape(out, rank, *([1] * (len(row) - 1))).half()
            state[f"{module}.lora_down.weight"] = (torch.randn((rank, *row), generator=g) / row[0] ** 0.5).half()
            state[f"{module}.alpha"] = torch.tensor(float(rank)).half()
        save_file(state, folder / f"{name}.safetensors")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all; returns every number and prints Markdown tables."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        if args.only != "errors":
            found["speed"] = _speed(args, Path(place) / "speed")
        if args.only != "speed":
            found["errors"] = _errors(args, Path(place) / "errors")
    return found


def _speed(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    every = dict(list(full_size().items())[:: args.every])
    compression = [f"ours rank {args.rank}"] + ([f"sd-scripts svd_merge {args.rank}"] if args.sd_scripts else [])
    rows: list[dict[str, Any]] = []
    for title, shapes, methods in (
        ("exact", full_size(), ["concatenation", "ours"]),
        (f"rank {2 * args.rank} to {args.rank}", every, compression),
    ):
        write_loras(folder / title, shapes, args.rank)
        found = [
            _run(method, "style less base", folder / title, args) for _ in range(args.rounds) for method in methods
        ]
        print(f"\n**Speed, {title}: two LoRAs of rank {args.rank}, SD1.5, {len(shapes)} modules**\n")
        print("| method | wall s | CPU s | peak memory, GiB |\n| --- | ---: | ---: | ---: |")
        for method in methods:
            one = [row for row in found if row["method"] == method]
            wall, cpu, peak = (min(row[key] for row in one) for key in ("wall", "cpu", "peak"))
            print(f"| {method} | {wall:.1f} | {cpu:.1f} | {peak / 2**30:.2f} |", flush=True)
        rows += found
    return rows


def _errors(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A few modules of each width, since the others' singular value decompositions take minutes for all."""
    parts = ("attn1_to_q", "attn2_to_k", "proj_in", "mlp_fc1")
    shapes = {name: shape for name, shape in full_size().items() if name.endswith(parts)}
    few = dict(list(shapes.items())[:: max(1, len(shapes) // 6)])
    r = args.error_rank
    write_loras(folder, few, r)
    methods = ["ours", f"ours rank {r}", f"ours rank {2 * r}"]
    if args.supermerger:
        methods += ["SuperMerger", "SuperMerger same to Strength", f"SuperMerger dim {r}", f"SuperMerger dim {2 * r}"]
    if args.sd_scripts:
        methods += [
            "sd-scripts merge",
            "sd-scripts concat",
            f"sd-scripts svd_merge {r}",
            f"sd-scripts svd_merge {2 * r}",
        ]
    rows = []
    for case in RECIPES:
        print(f"\n**Error: {case}, two LoRAs of rank {r}, {len(few)} modules**\n")
        print("| method | relative error | cosine | norm | wall s |\n| --- | ---: | ---: | ---: | ---: |")
        for method in methods:
            row = {**_run(method, case, folder, args), **_compare(folder, case)}
            rows.append(row)
            shown = f"{row['error']:.1e} | {row['cosine']:.3f} | {row['norm']:.3f} | {row['wall']:.1f}"
            print(f"| {method} | {shown} |", flush=True)
    return rows


def _run(method: str, case: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    root = Path(__file__).resolve().parent.parent
    places = {"supermerger": str(args.supermerger or ""), "sd_scripts": str(args.sd_scripts or "")}
    command = [sys.executable, str(Path(__file__).resolve()), method, case, str(folder), json.dumps(places)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    if done.returncode:
        raise RuntimeError(f"{method}: {done.stderr[-2000:]}")
    return {"method": method, "case": case, **json.loads(done.stdout.splitlines()[-1])}


def _compare(folder: Path, case: str) -> dict[str, float]:
    """What the file does against the sum of dense matrices in float64."""
    from lora_train.blocks.layout import block_of

    sources = [
        (load_file(folder / f"{name}.safetensors"), strength, _weights(preset))
        for name, strength, preset in RECIPES[case]
    ]
    made = load_file(folder / "out.safetensors")
    error = size = product = wanted_size = 0.0
    for key in [key for key in sources[0][0] if key.endswith(".lora_up.weight")]:
        name = key.removesuffix(".lora_up.weight")
        wanted = sum(strength * weights[block_of(name)] * _dense(state, name) for state, strength, weights in sources)
        stored = _dense(made, name) if key in made else torch.zeros_like(wanted)
        error += float((stored - wanted).square().sum())
        size += float(stored.square().sum())
        wanted_size += float(wanted.square().sum())
        product += float((stored * wanted).sum())
    cosine = product / max((size * wanted_size) ** 0.5, 1e-30)
    return {"error": (error / wanted_size) ** 0.5, "cosine": cosine, "norm": (size / wanted_size) ** 0.5}


def _dense(state: State, name: str) -> Tensor:
    up, down = (state[f"{name}.lora_{part}.weight"].double().flatten(1) for part in ("up", "down"))
    return up @ down * (float(state[f"{name}.alpha"]) / down.shape[0])


def _weights(preset: str | None) -> dict[str, float]:
    from lora_train.blocks.families import flat_weights, weights_by_block
    from lora_train.blocks.presets import BUILTIN

    return weights_by_block(BUILTIN[preset]) if preset else flat_weights()


# In the child process


def _child(method: str, case: str, folder: Path, places: Mapping[str, str]) -> None:
    """Run one method and print what it took: from files to file, imports left out."""
    run = _method(method, case, folder, places)
    before = time.perf_counter(), time.process_time()
    with torch.no_grad():
        run()
    took = {"wall": time.perf_counter() - before[0], "cpu": time.process_time() - before[1]}
    print(json.dumps({**took, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def _method(method: str, case: str, folder: Path, places: Mapping[str, str]) -> Callable[[], object]:
    out, parts = folder / "out.safetensors", RECIPES[case]
    files = [str(folder / f"{name}.safetensors") for name, _, _ in parts]
    words = method.split()
    number = int(words[-1]) if words[-1].isdigit() else None
    if words[0] == "ours":
        from lora_train.blocks.bake import bake
        from lora_train.blocks.presets import BUILTIN

        recipe = ",".join(f"{name}:{strength}" + (f":{preset}" if preset else "") for name, strength, preset in parts)
        return lambda: bake(recipe, folder, BUILTIN, out, rank=number)
    weights = [_weights(preset) for _, _, preset in parts]
    ratios = [strength for _, strength, _ in parts]
    if words[0] == "concatenation":
        return lambda: _concatenate(files, ratios, weights, out)
    if words[0] == "SuperMerger":
        lists = [
            [ratio * value for block, value in one.items() if block != "OTHER"]
            for ratio, one in zip(ratios, weights, strict=True)
        ]
        module = _supermerger(Path(places["supermerger"]))
        sets = "same to Strength" if "Strength" in words else ""
        if number:
            merge = lambda: module.merge_lora_models_dim(files, lists, number, sets, "cpu", "float")  # noqa: E731
        else:
            merge = lambda: module.merge_lora_models(files, lists, sets, False, "float", "cpu")  # noqa: E731
        return lambda: _save(merge(), out)
    module = _sd_scripts(Path(places["sd_scripts"]), "svd_merge_lora" if number else "merge_lora")
    if number:
        from lora_train.blocks.presets import BUILTIN

        lists = [list(BUILTIN[preset or "ALL"]) for _, _, preset in parts]
        texts = [json.dumps(one) for one in lists]
        return lambda: _save(module.merge_lora_models(files, ratios, texts, number, number, "cpu", torch.float), out)
    return lambda: _save(module.merge_lora_models(files, ratios, torch.float, "concat" in words), out)


def _save(merged: Any, out: Path) -> None:
    state = merged[0] if isinstance(merged, tuple) else merged
    halves = {key: torch.as_tensor(value).half().contiguous() for key, value in state.items()}
    save_file(halves, out)


def _concatenate(files: list[str], ratios: list[float], weights: list[dict[str, float]], out: Path) -> None:
    """What anyone would write: √|k| on both sides, float32 in between, everything in memory, no report."""
    from lora_train.blocks.layout import block_of

    states = [load_file(file) for file in files]
    result: State = {}
    for key in [key for key in states[0] if key.endswith(".lora_up.weight")]:
        name, ups, downs = key.removesuffix(".lora_up.weight"), [], []
        for state, ratio, one in zip(states, ratios, weights, strict=True):
            up, down = state[key].float(), state[f"{name}.lora_down.weight"].float()
            k = ratio * one[block_of(name)] * float(state[f"{name}.alpha"]) / down.shape[0]
            ups.append(up * (abs(k) ** 0.5 * (-1 if k < 0 else 1)))
            downs.append(down * abs(k) ** 0.5)
        result[key], result[f"{name}.lora_down.weight"] = torch.cat(ups, 1).half(), torch.cat(downs).half()
        result[f"{name}.alpha"] = torch.tensor(float(result[key].shape[1])).half()
    save_file(result, out)


def _stand_in(*names: str) -> None:
    sys.modules.update({name: MagicMock() for name in names})


def _supermerger(checkout: Path) -> Any:
    for name in (
        "gradio",
        "launch",
        "modules",
        "modules.shared",
        "modules.ui",
        "scripts",
        "scripts.kohyas",
        "scripts.A1111",
    ):
        _stand_in(name)
    _stand_in("scripts.mergers", "scripts.mergers.components", "scripts.mergers.model_util", "scripts.mergers.mergers")
    return _module(checkout / "scripts/mergers/pluslora.py")


def _sd_scripts(checkout: Path, name: str) -> Any:
    _stand_in("library", "library.model_util", "library.utils", "library.train_util", "library.sai_model_spec", "lora")
    return _module(checkout / "networks" / f"{name}.py")


def _module(path: Path) -> Any:
    sys.path.insert(0, str(path.parent))
    sys.stdout = sys.stderr  # they print what they do
    try:
        return importlib.import_module(path.stem)
    finally:
        sys.stdout = sys.__stdout__


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
