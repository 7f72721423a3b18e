"""Run a trainer's own script and note the times of its optimizer steps: python -m bench runs either trainer through it.

python probe.py MARKS STEPS SPAN SCRIPT [arguments]. MARKS: file for one JSON object a line. STEPS: after so many a GPU
is waited for. SPAN: module:function (or module:Class.method) whose calls are timed. SCRIPT: a .py file, or a module.
Needs nothing but what the trainer itself imports, since the trainer's own Python runs it.
"""

import functools
import importlib
import json
import resource
import runpy
import sys
import time
from pathlib import Path


def now() -> dict:
    """CPU seconds of this process and its ended children; wall seconds of the machine's own clock."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "wall": time.monotonic(),
        "cpu": sum(used.ru_utime + used.ru_stime for used in both),
        "rss": max(used.ru_maxrss for used in both),
    }


def main() -> None:
    marks_file, steps, span, script, *arguments = sys.argv[1:]
    marks = open(marks_file, "w", buffering=1)  # noqa: SIM115 (open until the process ends)

    def mark(name: str) -> None:
        marks.write(json.dumps({"name": name, **now()}) + "\n")

    is_file = script.endswith(".py")
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent if is_file else Path.cwd())
    mark("begin")

    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    done = 0

    def after_step(*_: object) -> None:
        nonlocal done
        done += 1
        if done == int(steps) and torch.cuda.is_available():
            torch.cuda.synchronize()
        mark("step")

    module_name, _, path = span.partition(":")
    owner, *middle, name = [importlib.import_module(module_name), *path.split(".")]
    for part in middle:
        owner = getattr(owner, part)
    timed = getattr(owner, name)

    @functools.wraps(timed)
    def around(*args: object, **kwargs: object) -> object:
        register_optimizer_step_post_hook(after_step)  # from here on: earlier steps are trials
        mark("span begins")
        try:
            return timed(*args, **kwargs)
        finally:
            mark("span ends")

    setattr(owner, name, around)
    try:
        if is_file:
            runpy.run_path(script, run_name="__main__")
        else:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
    finally:
        mark("end")
        if torch.cuda.is_available():
            marks.write(json.dumps({"name": "gpu", "bytes": torch.cuda.max_memory_allocated()}) + "\n")


if __name__ == "__main__":
    main()
