"""What a training process tells: one JSON object a line on standard output.

The first word of every event is its name; times are seconds since the epoch (UTC).

stage     text: what it is doing before the first step
cache     what ("pictures", "captions"), done, total: what is encoded for the whole run
start     steps, epochs, steps_per_epoch, done, pictures, held_out, buckets, estimate, device, processes
progress  step, total, epoch, loss, loss_average, lr, rates (the same by group: unet, textencoder…), grad_norm, seconds,
          eta, seconds_per_step (on average), memory (bytes that it holds now)
saved     path, epoch, step
state     path (a folder to resume from), epoch, step
validation  step, epoch, within (an epoch), train, held_out (or null), band (first and last candidate epoch, or null)
preview   paths, epoch (null within one), step
measured  seconds_per_step, memory (bytes at most): to be held against the start's estimate
advice    lines
warning   text
error     text: what is wrong and what to do about it
done      path, steps, seconds
stopped   path (nothing saved: null), steps, seconds
resumed   path, step: written by the job among a child's events; what was told after that step is told again
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

Event = dict[str, Any]
Listener = Callable[[Event], None]


def event(name: str, **values: Any) -> Event:
    """One event, stamped with the time."""
    return {"event": name, "time": round(time.time(), 3), **values}


def json_lines(stream: TextIO | None = None) -> Listener:
    """A listener that writes each event as one line and flushes it.

    Once nobody reads standard output any more, events go nowhere: a run whose starter is gone still saves its state.
    """
    out = stream or sys.stdout

    def write(e: Event) -> None:
        try:
            out.write(json.dumps(e, ensure_ascii=True) + "\n")
            out.flush()
        except OSError:
            if stream is not None:
                raise
            _silence()

    return write


def _silence() -> None:
    """Send standard output nowhere, and standard error where it is a pipe: libraries write there too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    if stat.S_ISFIFO(os.fstat(sys.stderr.fileno()).st_mode):
        os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)


def parse(line: str) -> Event | None:
    """The event of one line, or None where the line is something else (a library's own print)."""
    if not line.startswith('{"event"'):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None
