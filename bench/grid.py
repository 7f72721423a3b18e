"""The time of a grid against that of its pictures alone: no LoRA read, no sheet, nothing saved.

Without --webui in this process on the embedded checkpoint; with it in a running WebUI, by its own API (the same
pictures in the same order, so that it switches LoRAs as often) and by the extension's. In seconds of the processor, as
other programs change those of the clock; of a WebUI on another machine in seconds of the clock.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import psutil

from lora_train.grid.plan import Grid, series
from lora_train.paths import MINI_CHECKPOINT

ALLOWED = 1.05
_PROMPT = "1girl, black hair, smile"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is measured."""
    parser.add_argument("--size", type=int, default=64, help="pixels of a cell's side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--weights", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--webui", help="address of a WebUI with the extension, such as http://127.0.0.1:7860")
    parser.add_argument(
        "--lora-dir", type=Path, help="with --webui: a folder in its LoRA folder, with files of the run"
    )
    parser.add_argument("--name", default="bench", help="with --webui: the run's name")
    parser.add_argument("--json", help="write the result there too")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a grid and of its pictures, and how one stands to the other."""
    rounds = _webui(args) if args.webui else _here(args)
    grids, alone = (median(times) for times in zip(*rounds, strict=True))
    found = {"cells": args.epochs * args.weights * args.prompts, "rounds": rounds}
    found |= {"grid": round(grids, 3), "alone": round(alone, 3), "ratio": round(grids / alone, 4), "allowed": ALLOWED}
    print(json.dumps(found))
    return found


def _grid(args: argparse.Namespace, loras: tuple[str, ...]) -> Grid:
    prompts = tuple(f"{_PROMPT}, {number}" for number in range(args.prompts))
    weights = tuple((number + 1) / args.weights for number in range(args.weights))
    return Grid(loras, prompts, weights, steps=args.steps, width=args.size, height=args.size)


def _here(args: argparse.Namespace) -> list[tuple[float, float]]:
    import torch

    from lora_train.grid import record, run
    from lora_train.model.load import load_model
    from lora_train.network.kohya import write_lora
    from lora_train.network.lora import LoraNetwork, LoraSpec, Size

    torch.set_num_threads(1)
    model = load_model(MINI_CHECKPOINT)
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        network = LoraNetwork.create(model, LoraSpec(Size(args.rank, args.rank)))
        for epoch in range(1, args.epochs + 1):
            write_lora(folder / f"bench-{epoch:06}.safetensors", network.state_dict(), {}, torch.float16)
        network.remove()
        grid = _grid(args, series(folder, "bench"))

        rounds = []
        run.pictures(model, replace(grid, steps=1))
        for _ in range(args.rounds):
            alone = [0.0]
            with patch.object(run, "pictures", _timed(run.pictures, alone)):
                rounds.append((_seconds(lambda: record.save(folder, grid, run.make(model, grid))), alone[0]))
    return rounds


def _timed(action: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The same function; adds up what it takes. Both are of one run: a busy machine slows them alike."""

    def timed(*args: Any) -> Any:
        start = time.process_time()
        result = action(*args)
        seconds[0] += time.process_time() - start
        return result

    return timed


def _seconds(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def _webui(args: argparse.Namespace) -> list[tuple[float, float]]:
    grid = _grid(args, series(args.lora_dir, args.name)[: args.epochs])
    base = {
        name: value for name, value in asdict(grid).items() if name not in ("loras", "prompts", "weights", "clip_skip")
    }
    picture = {**{k: v for k, v in base.items() if k != "sampler"}, "sampler_name": grid.sampler}
    wanted = {**base, "loras": list(grid.loras), "prompts": list(grid.prompts), "weights": list(grid.weights)}

    def alone() -> None:
        for prompt in grid.prompts:
            for lora in grid.loras:
                for weight in grid.weights:
                    text = f"{prompt} <lora:{Path(lora).stem}:{weight:g}>"
                    _post(args.webui, "/sdapi/v1/txt2img", {**picture, "prompt": text, "save_images": False})

    def together() -> None:
        _follow(args.webui, _post(args.webui, "/lora-train/v1/grids", wanted)["id"])

    clock = _clock_of(args.webui)
    alone()  # reads every file once
    rounds = []
    for number in range(args.rounds):
        taken = {}
        for action in (alone, together)[:: 1 if number % 2 else -1]:
            start = clock()
            action()
            taken[action] = clock() - start
        rounds.append((taken[together], taken[alone]))
        print(f"round {number + 1}: {taken[together]:.2f} s, alone {taken[alone]:.2f} s", file=sys.stderr)
    return rounds


def _clock_of(address: str) -> Callable[[], float]:
    """Seconds of the processor that the program behind an address has taken; else those of the clock."""
    url = urlsplit(address)
    if url.hostname in ("127.0.0.1", "localhost"):
        for found in psutil.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr.port == url.port and found.pid:
                process = psutil.Process(found.pid)
                return lambda: sum(process.cpu_times()[:2])
    return time.perf_counter


def _follow(address: str, job: str) -> None:
    while True:
        with _OPENER.open(f"{address}/lora-train/v1/status?job={job}", timeout=60) as answer:
            status = json.load(answer)
        if status["state"] == "done" and not status["warnings"]:
            return
        if status["state"] not in ("queued", "starting", "training", "grid"):
            raise RuntimeError(f"the grid was not drawn: {status['error']} {status['warnings']}")
        time.sleep(1)  # as the page asks


def _post(address: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with _OPENER.open(request, timeout=900) as answer:
        return json.load(answer)
