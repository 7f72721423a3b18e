"""`train` and `replay` on the command line. torch is imported once the arguments are known to be right."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import stat
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from .. import settings as settings_module
from ..errors import BAD_INPUT, DONE, STOPPED, UserError
from ..events import Event, Listener, event, json_lines
from ..lean import without
from ..settings import cli as settings_cli

_PATIENCE = 120.0
"""Seconds after which a process that was told to stop is ended by force. Files appear whole or not at all."""
_LINE_EVERY = 10.0
"""Seconds between two lines of progress in a log."""


def add_arguments(verbs: argparse._SubParsersAction) -> None:
    """Declare both verbs."""
    train = verbs.add_parser("train", help="train a LoRA as a configuration file says")
    train.add_argument("config", type=Path, help=".toml or .json with kohya's option names")
    train.add_argument("--events", action="store_true", help="one JSON object a line on standard output")
    settings_cli.add_arguments(train)
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
    emit: Listener = _both(json_lines(), Lines()) if args.events else Bar()
    if rank := int(os.environ.get("RANK", "0")):  # one of several processes, and not the one that speaks
        emit = _errors_only(rank)
    try:
        settings, notes = settings_cli.given(args, args.config)
        for note in notes:
            emit(event("warning", text=note))
        stop = StopSignal()
        with without("bitsandbytes"):  # diffusers would load it, and torch's compiler with it: more than a second
            from .processes import lost
            from .run import run

        outcome = run(settings, emit, stop.is_set)
    except UserError as error:
        emit(event("error", text=str(error)))
        return BAD_INPUT
    except MemoryError:
        emit(event("error", text="out of memory. Choose a smaller resolution, batch or network_dim"))
        return BAD_INPUT
    except Exception as error:  # noqa: BLE001 (the outermost edge: whoever listens must hear of it)
        if (gone := lost(error)) is not None:
            emit(event("error", text=str(gone)))
            return 1
        if not _out_of_gpu_memory(error):
            traceback.print_exc()
            emit(event("error", text=f"unexpected: {type(error).__name__}: {error}. Please report it with the log"))
            return 1
        emit(event("error", text="the GPU is out of memory. Choose a smaller resolution, batch or network_dim"))
        return BAD_INPUT
    return STOPPED if outcome.stopped else DONE


def _both(*listeners: Listener) -> Listener:
    def tell(e: Event) -> None:
        for listener in listeners:
            listener(e)

    return tell


def _errors_only(rank: int) -> Listener:
    def tell(e: Event) -> None:
        if e["event"] == "error":
            print(f"process {rank}: {e['text']}", file=sys.stderr)

    return tell


def _out_of_gpu_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"


class StopSignal:
    """Set once the standard input closes, where it is a pipe: whoever started us is gone or wants us to end.

    SIGTERM and Ctrl-C set it too; a second one ends the process at once.
    """

    def __init__(self) -> None:
        from .processes import signalled

        self._event, self._signalled = threading.Event(), signalled()
        if _is_pipe():
            self._descriptor = sys.stdin.fileno()
            threading.Thread(target=self._watch, name="stdin", daemon=True).start()

    def is_set(self) -> bool:
        """Whether to stop after the present step."""
        return self._event.is_set() or self._signalled()

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
        self._estimate: dict[str, Any] = {}

    def __call__(self, e: Event) -> None:
        handler = getattr(self, f"_on_{e['event']}", None)
        if handler:
            handler(e)

    def _say(self, text: str) -> None:
        self._tqdm.write(text, file=sys.stderr)

    def _on_stage(self, e: Event) -> None:
        self._say(e["text"])

    def _on_cache(self, e: Event) -> None:
        self._advance(e["done"], e["total"], e["what"])
        if e["done"] == e["total"]:
            self.close()

    def _on_start(self, e: Event) -> None:
        self._estimate = e["estimate"]
        held_out = f" ({e['held_out']} more held out)" if e["held_out"] else ""
        resumed = f", {e['done']} of them done" if e["done"] else ""
        self._say(
            f"{e['pictures']} pictures{held_out}, {e['steps_per_epoch']} steps an epoch, {e['epochs']} epochs, "
            f"{e['steps']} steps in all{resumed}"
        )

    def _on_progress(self, e: Event) -> None:
        self._advance(e["step"], e["total"], f"epoch {e['epoch']}", f"loss {e['loss_average']:.4f}")

    def _on_saved(self, e: Event) -> None:
        self._say(f"saved {e['path']}")

    def _on_state(self, e: Event) -> None:
        self._say(f"saved {e['path']}; to go on from it: --resume {shlex.quote(e['path'])}")

    def _on_validation(self, e: Event) -> None:
        held_out = "" if e["held_out"] is None else f", held out {e['held_out']:.4f}"
        band = f"; candidates so far: epochs {e['band'][0]} to {e['band'][1]}" if e["band"] else ""
        self._say(f"validation after step {e['step']}: training pictures {e['train']:.4f}{held_out}{band}")

    def _on_preview(self, e: Event) -> None:
        for path in e["paths"]:
            self._say(f"preview {path}")

    def _on_measured(self, e: Event) -> None:
        low, high = self._estimate["seconds_per_step"]
        least, most = (size / 2**30 for size in self._estimate["memory"])
        self._say(
            f"a step took {e['seconds_per_step']:.3g} s (estimated {low:.3g} to {high:.3g}); "
            f"memory at most {e['memory'] / 2**30:.2f} GiB (estimated {least:.2f} to {most:.2f})"
        )

    def _on_advice(self, e: Event) -> None:
        for line in e["lines"]:
            self._say(line)

    def _on_warning(self, e: Event) -> None:
        self._say(f"warning: {e['text']}")

    def _on_error(self, e: Event) -> None:
        self.close()
        self._say(f"error: {e['text']}")

    def _on_stopped(self, e: Event) -> None:
        self.close()
        self._say(f"stopped after {e['steps']} steps; files saved so far: {e['path'] or 'none'}")

    def _on_done(self, e: Event) -> None:
        self.close()
        self._say(f"done in {e['seconds']:.0f} s: {e['path']}")

    def _advance(self, done: int, total: int, text: str, more: str = "") -> None:
        bar = self._bar = self._bar or self._tqdm(total=total, file=sys.stderr, dynamic_ncols=True)
        bar.set_description_str(text, refresh=False)
        bar.set_postfix_str(more, refresh=False)
        bar.update(done - bar.n)

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines(Bar):
    """The same lines without a bar, with a line every few steps: a log beside the events."""

    def __init__(self) -> None:
        super().__init__()
        self._told = 0.0

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # whoever started us may be gone, and the state isn't saved yet
            print(text, file=sys.stderr, flush=True)

    def _advance(self, done: int, total: int, text: str, more: str = "") -> None:
        if done < total and time.monotonic() - self._told < _LINE_EVERY:
            return
        self._told = time.monotonic()
        self._say(", ".join(filter(None, (f"{text}: {done} of {total}", more))))
