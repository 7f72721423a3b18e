"""`train` and `replay` on the command line. torch is imported once the arguments are known to be right."""

from __future__ import annotations

import argparse
import dataclasses
import os
import stat
import sys
import threading
import time
import traceback
from pathlib import Path

from .. import settings as settings_module
from ..errors import BAD_INPUT, DONE, STOPPED, UserError
from ..events import Event, Listener, event, json_lines
from ..settings import TrainSettings

_PATIENCE = 120.0
"""Seconds after which a process that was told to stop is ended by force. Files appear whole or not at all."""


def add_arguments(verbs: argparse._SubParsersAction) -> None:
    """Declare both verbs."""
    train = verbs.add_parser("train", help="train a LoRA as a configuration file says")
    train.add_argument("config", type=Path, help=".toml or .json with kohya's option names")
    train.add_argument("--events", action="store_true", help="one JSON object a line on standard output")
    for field in dataclasses.fields(TrainSettings):
        train.add_argument(f"--{field.name}", default=argparse.SUPPRESS, metavar="VALUE", help=argparse.SUPPRESS)
    train.epilog = "Every setting of the file can be given as an option too, such as --max_train_epochs 5."
    train.set_defaults(run=_train)

    replay = verbs.add_parser("replay", help="run the training step on recorded draws")
    replay.add_argument("case", type=Path, help="folder with inputs.json, inputs.safetensors, lora_init.safetensors")
    replay.add_argument("--checkpoint", type=Path, required=True)
    replay.add_argument("--config", type=Path, required=True)
    replay.add_argument("--out", type=Path, required=True, help="folder for ref.json, grads0 and lora_final")
    replay.set_defaults(run=_replay)


def _replay(args: argparse.Namespace) -> int:
    settings, _ = settings_module.load(args.config)
    from .replay import replay

    report = replay(args.case, args.checkpoint, settings, args.out)
    for i, (loss, norm) in enumerate(zip(report["losses"], report["grad_norm"], strict=True)):
        print(f"step {i}  loss {loss:.8f}  grad_norm {norm:.8f}")
    print(f"written to {args.out}")
    return DONE


def _train(args: argparse.Namespace) -> int:
    emit: Listener = json_lines() if args.events else Bar()
    try:
        values = settings_module.read_config(args.config)
        given = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainSettings) if hasattr(args, f.name)}
        settings, notes = settings_module.from_dict({**values, **given})
        for note in notes:
            emit(event("warning", text=note))
        stop = StopSignal()
        from .run import run

        outcome = run(settings, emit, stop.is_set)
    except UserError as error:
        emit(event("error", text=str(error)))
        return BAD_INPUT
    except MemoryError:
        emit(event("error", text="out of memory. Choose a smaller resolution, batch or network_dim"))
        return BAD_INPUT
    except Exception as error:  # noqa: BLE001 (the outermost edge: whoever listens must hear of it)
        if not _out_of_gpu_memory(error):
            traceback.print_exc()
            emit(event("error", text=f"unexpected: {type(error).__name__}: {error}. Please report it with the log"))
            return 1
        emit(event("error", text="the GPU is out of memory. Choose a smaller resolution, batch or network_dim"))
        return BAD_INPUT
    return STOPPED if outcome.stopped else DONE


def _out_of_gpu_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"


class StopSignal:
    """Set once the standard input closes, where it is a pipe: whoever started us is gone or wants us to end."""

    def __init__(self) -> None:
        self._event = threading.Event()
        if _is_pipe():
            self._descriptor = sys.stdin.fileno()
            threading.Thread(target=self._watch, name="stdin", daemon=True).start()

    def is_set(self) -> bool:
        """Whether to stop after the present step."""
        return self._event.is_set()

    def _watch(self) -> None:
        while os.read(self._descriptor, 4096):  # not through sys.stdin: its lock would abort Python's own end
            pass
        self._event.set()
        time.sleep(_PATIENCE)  # as a daemon: the process ends before, unless it hangs in one long call
        os._exit(STOPPED)


def _is_pipe() -> bool:
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # no standard input at all
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class Bar:
    """Events as a progress bar and lines for people."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._tqdm = tqdm
        self._bar: tqdm | None = None

    def __call__(self, e: Event) -> None:
        handler = getattr(self, f"_on_{e['event']}", None)
        if handler:
            handler(e)

    def _say(self, text: str) -> None:
        self._tqdm.write(text, file=sys.stderr)

    def _on_stage(self, e: Event) -> None:
        self._say(e["text"])

    def _on_cache(self, e: Event) -> None:
        self._advance(e["done"], e["total"], "latents")
        if e["done"] == e["total"]:
            self._close()

    def _on_start(self, e: Event) -> None:
        self._say(
            f"{e['pictures']} pictures, {e['steps_per_epoch']} steps an epoch, {e['epochs']} epochs, "
            f"{e['steps']} steps in all"
        )

    def _on_progress(self, e: Event) -> None:
        self._advance(e["step"], e["total"], f"epoch {e['epoch']}", f"loss {e['loss_average']:.4f}")

    def _on_saved(self, e: Event) -> None:
        self._say(f"saved {e['path']}")

    def _on_warning(self, e: Event) -> None:
        self._say(f"warning: {e['text']}")

    def _on_error(self, e: Event) -> None:
        self._close()
        self._say(f"error: {e['text']}")

    def _on_stopped(self, e: Event) -> None:
        self._close()
        self._say(f"stopped after {e['steps']} steps; files saved so far: {e['path'] or 'none'}")

    def _on_done(self, e: Event) -> None:
        self._close()
        self._say(f"done in {e['seconds']:.0f} s: {e['path']}")

    def _advance(self, done: int, total: int, text: str, more: str = "") -> None:
        bar = self._bar = self._bar or self._tqdm(total=total, file=sys.stderr, dynamic_ncols=True)
        bar.set_description_str(text, refresh=False)
        bar.set_postfix_str(more, refresh=False)
        bar.update(done - bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
