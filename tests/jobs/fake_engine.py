"""A stand-in for `python -m lora_train train CONFIG --events`: the same events, states and exit codes, without torch.

What it does is written in the configuration's training_comment: words such as "steps=5 pause=0.1 crash".
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def say(event: str, **values: object) -> None:
    try:
        sys.stdout.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")
        sys.stdout.flush()
    except OSError:  # nobody listens any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def closed_stdin() -> threading.Event:
    closed = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            pass
        closed.set()

    threading.Thread(target=watch, daemon=True).start()
    return closed


def save_state(config: dict, step: int) -> None:
    folder = Path(config["output_dir"]) / f"{config['output_name']}-step{step:08d}-state"
    folder.mkdir(exist_ok=True)
    texts = {
        "settings.json": json.dumps(config),
        "train_state.json": json.dumps({"current_epoch": step, "current_step": step}),
        "network.tensors": "weights",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    files = {name: {"size": len(t), "sha256": hashlib.sha256(t.encode()).hexdigest()} for name, t in texts.items()}
    manifest = {"state": "train-lora", "version": 1, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    say("state", path=str(folder), epoch=step, step=step)


def resumed(config: dict) -> int:
    if not config["resume"]:
        return 0
    return json.loads((Path(config["resume"]) / "train_state.json").read_text(encoding="utf-8"))["current_step"]


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
    steps, out, done = int(orders.get("steps", 3)), Path(config["output_dir"]), resumed(config)
    out.mkdir(parents=True, exist_ok=True)
    say("warning", text="a caption is empty")
    say("start", steps=steps, epochs=steps, steps_per_epoch=1, done=done, pictures=1, device="cpu")
    for step in range(done + 1, steps + 1):
        if step == int(orders.get("killed", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        if stop.wait(float(orders.get("pause", 0.01))):
            if "unwritable" in orders:
                say("error", text="the state can't be written")
                return 2
            time.sleep(float(orders.get("saving", 0)))
            save_state(config, step - 1)
            say("stopped", steps=step - 1, path=None, seconds=1.0)
            return 3
        rates = {"unet": 1e-4 / step, "textencoder": 5e-5}
        told = {"loss": 1 / step, "loss_average": 1.0, "rates": rates, "memory": 1000 + step, "eta": 0.5}
        say("progress", step=step, total=steps, epoch=step, **told)
        path = out / f"{config['output_name']}-{step:06d}.safetensors"
        path.write_bytes(b"")
        say("saved", path=str(path), epoch=step, step=step)
        if step == int(orders.get("state", 0)):
            save_state(config, step)
        say("validation", step=step, epoch=step, within=False, train=0.1, held_out=0.2, band=[1, 2])
        say("preview", paths=[str(out / f"{step}.png")], epoch=step, step=step)
    path = out / f"{config['output_name']}.safetensors"
    header = json.dumps({"__metadata__": {"ss_epoch": str(steps)}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    say("saved", path=str(path), epoch=steps, step=steps)
    say("done", path=str(path), seconds=1.0, steps=steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
