"""One trainer, run as a process of its own, and what it cost."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lora_train.errors import UserError
from lora_train.model.checkpoint import Family, recognise

_PROBE = Path(__file__).with_name("probe.py")
_ROOT = _PROBE.parent.parent
OURS, THEIRS = "Train LoRA", "sd-scripts"


@dataclass(frozen=True)
class Trainer:
    """command: what the probe runs; span: the function that makes the latents; extra: settings of its own."""

    name: str
    python: str
    folder: Path
    script: Path | str
    arguments: tuple[str, ...]
    span: str
    extra: dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """Of one run. Seconds; a step's are medians over the steps after the second; rss and gpu in bytes.

    first_step and whole begin with the process; whole ends with the last file written. caching_* are those of the
    call that makes the latents of all pictures.
    """

    step_cpu: float
    step_wall: float
    first_step: float
    first_step_cpu: float
    whole: float
    whole_cpu: float
    caching_wall: float
    caching_cpu: float
    rss: float
    gpu: float


def ours(python: str = sys.executable) -> Trainer:
    """This repository."""
    return Trainer(OURS, python, _ROOT, "lora_train", ("train",), "lora_train.train.run:prepare_latents", {})


def sd_scripts(folder: Path | None, python: str | None, checkpoint: Path, tokenizer: str | None) -> Trainer:
    """A checkout of sd-scripts. Its data loader runs in its own process, which is its fastest way on a CPU."""
    if not (folder and python):
        raise UserError(
            "not given",
            where="sd-scripts",
            remedy="Name its checkout with --sd-scripts or TRAIN_LORA_SD_SCRIPTS, "
            "and its Python with --python or TRAIN_LORA_SD_SCRIPTS_PYTHON",
        )
    family = recognise(checkpoint)
    script = folder / ("sdxl_train_network.py" if family is Family.SDXL else "train_network.py")
    extra = {"network_module": "networks.lora", "sdpa": True, "max_data_loader_n_workers": 0}
    extra |= {"tokenizer_cache_dir": tokenizer} if tokenizer else {}
    extra |= {"v2": True} if family is Family.SD2 else {}
    span = "library.train_util:DatasetGroup.new_cache_latents"
    return Trainer(THEIRS, python, folder, script, ("--config_file",), span, extra)


def run(trainer: Trainer, settings: dict[str, Any], steps: int, gpu: bool) -> Cost:
    """Train with `settings` (sd-scripts' names) in a new process, with one thread for arithmetic on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        output, marks, config = work / "output", work / "marks", work / "settings.toml"
        everything = {**settings, **trainer.extra, "output_dir": str(output), "output_name": "measured"}
        config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in everything.items()))
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if not gpu:
            environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if trainer.name == OURS:
            environment.pop("PYTHONPATH", None)  # may hold what only sd-scripts needs
        command = [trainer.python, str(_PROBE), str(marks), str(steps), trainer.span, str(trainer.script)]
        command += [*trainer.arguments, str(config)]
        with open(work / "log", "w+b") as log:
            began, began_clock = time.monotonic(), time.time()
            child = subprocess.Popen(
                command, cwd=trainer.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                log.seek(0)
                text = log.read().decode(errors="replace")[-3000:]
                raise RuntimeError(f"{trainer.name} ended with {child.returncode}:\n{text}")
        lines = [json.loads(line) for line in marks.read_text().splitlines()]
        written = max(file.stat().st_mtime for file in output.rglob("*"))
        unit = 1 if sys.platform == "darwin" else 1024
        return _cost(lines, began, written - began_clock, used.ru_utime + used.ru_stime, used.ru_maxrss * unit)


def _cost(lines: Sequence[dict[str, Any]], began: float, whole: float, cpu: float, rss: float) -> Cost:
    steps = [line for line in lines if line["name"] == "step"]
    named = {line["name"]: line for line in lines}
    spans = [line for line in lines if line["name"].startswith("span")]
    later = list(pairwise(steps[1:])) or [(named["begin"], named["begin"])]

    def lasted(clock: str) -> float:
        return sum(b[clock] - a[clock] for a, b in zip(spans[::2], spans[1::2], strict=True))

    return Cost(
        step_cpu=statistics.median(b["cpu"] - a["cpu"] for a, b in later),
        step_wall=statistics.median(b["wall"] - a["wall"] for a, b in later),
        first_step=steps[0]["wall"] - began,
        first_step_cpu=steps[0]["cpu"],
        whole=whole,
        whole_cpu=cpu,
        caching_wall=lasted("wall"),
        caching_cpu=lasted("cpu"),
        rss=rss,
        gpu=named.get("gpu", {}).get("bytes", 0),
    )
