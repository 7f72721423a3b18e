"""A stand-in for `python -m lora_train train CONFIG --events`: the same events and exit codes, without torch.

What it does is written in the configuration's training_comment: words such as "steps=5 pause=0.1 crash".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def say(event: str, **values: object) -> None:
    sys.stdout.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")
    sys.stdout.flush()


def closed_stdin() -> threading.Event:
    closed = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        closed.set()

    threading.Thread(target=watch, daemon=True).start()
    return closed


def main() -> int:
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    orders = dict(word.partition("=")[::2] for word in config["training_comment"].split())
    if "pid" in orders:
        Path(orders["pid"]).write_text(str(os.getpid()))
    stop = threading.Event() if "deaf" in orders else closed_stdin()
    sys.stdout.write("a library's own words\n")
    sys.stderr.write("loading |##        |\rloading |##########|\n")
    if "bad" in orders:
        say("error", text="train_data_dir: no pictures. Add some")
        return 2
    if "crash" in orders:
        raise RuntimeError("the sky fell")
    steps, out = int(orders.get("steps", 3)), Path(config["output_dir"])
    out.mkdir(parents=True, exist_ok=True)
    say("warning", text="a caption is empty")
    say("start", steps=steps, epochs=steps, steps_per_epoch=1, pictures=1, device="cpu")
    for step in range(1, steps + 1):
        if "killed" in orders:
            os.kill(os.getpid(), signal.SIGKILL)
        if stop.wait(float(orders.get("pause", 0.01))):
            say("stopped", step=step, path=None)
            return 3
        say("progress", step=step, total=steps, epoch=step, loss=1 / step, loss_average=1.0, eta=0.5)
        path = out / f"{config['output_name']}-{step:06d}.safetensors"
        path.write_bytes(b"")
        say("saved", path=str(path), epoch=step, step=step)
    say("done", path=str(path), seconds=1.0, steps=steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
