"""Edits that may take for ever, a regular expression's: done in a process of their own, which is ended in time.

A thread won't do: Python's `re` lets no other thread run while it searches, so a whole WebUI would stand still.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError, UserErrors
from ..paths import ROOT
from . import edits
from .edits import Edit, Replace

SECONDS = 5.0
"""What the expressions of one preview may take."""

_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows
_START = "import sys; sys.path.insert(0, sys.argv[1]); from lora_train.studio.limited import serve; serve()"


def is_slow(chain: Sequence[Edit]) -> bool:
    """Whether one of the edits may take for ever."""
    return any(isinstance(edit, Replace) and edit.regex for edit in chain)


def texts(
    chain: Sequence[Edit], before: Sequence[str], known: Mapping[str, int], seconds: float = SECONDS
) -> list[str]:
    """What the edits make of these captions. Raises UserError, also when it takes longer than `seconds`."""
    sent = {"edits": [edits.as_dict(edit) for edit in chain], "texts": list(before), "known": dict(known)}
    command = [sys.executable, "-I", "-S", "-c", _START, str(ROOT)]  # of Python itself alone: it starts at once
    try:
        done = subprocess.run(
            command,
            input=json.dumps(sent).encode("ascii"),
            capture_output=True,
            timeout=seconds,
            creationflags=_NO_WINDOW,
            check=False,
        )
    except subprocess.TimeoutExpired:
        what = f"the expression takes longer than {seconds:g} seconds"
        remedy = "Write it without repeats inside of repeats, such as (a+)+, or choose fewer captions"
        raise UserError(what, where="find", remedy=remedy) from None
    except OSError as error:
        what = f"Python can't be started for it ({error.strerror})"
        raise UserError(what, where="find", remedy="Replace plain text instead") from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        what = f"it ended without an answer ({told[-1] if told else f'exit code {done.returncode}'})"
        raise UserError(what, where="find", remedy="Please report this") from None
    if "problem" in answer:
        what, where, remedy = answer["problem"]
        raise UserError(what, where=where, remedy=remedy or "")
    made: list[str] = answer["texts"]
    return made


def serve() -> None:
    """The other process: one request on stdin, its answer on stdout."""
    given = json.load(sys.stdin.buffer)
    chain = [edits.from_dict(one) for one in given["edits"]]
    known = Counter(given["known"])
    answer: dict[str, Any] = {}
    try:
        answer["texts"] = [edits.done(chain, text, known) for text in given["texts"]]
    except UserErrors as error:
        answer["problem"] = [str(error), None, ""]
    except UserError as error:
        answer["problem"] = [error.what, error.where, error.remedy]
    sys.stdout.buffer.write(json.dumps(answer).encode("ascii"))
