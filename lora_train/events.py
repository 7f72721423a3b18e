"""What a training process tells: one JSON object a line on standard output.

The first word of every event is its name; times are seconds since the epoch (UTC).

stage     text: what it is doing before the first step
cache     what ("pictures", "captions"), done, total: what is encoded for the whole run
start     steps, epochs, steps_per_epoch, done, pictures, held_out, buckets, estimate, device, processes
progress  step, total, epoch, loss, loss_average, lr, grad_norm, seconds, eta
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
"""

from __future__ import annotations

import json
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
    """A listener that writes each event as one line and flushes it."""
    out = stream or sys.stdout

    def write(e: Event) -> None:
        out.write(json.dumps(e, ensure_ascii=True) + "\n")
        out.flush()

    return write


def parse(line: str) -> Event | None:
    """The event of one line, or None where the line is something else (a library's own print)."""
    if not line.startswith('{"event"'):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None
