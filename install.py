"""Run by the WebUI before it starts: prepares the training processes' own packages, and never touches the host's.

Whatever goes wrong here, the WebUI starts: the Train LoRA tab says what is missing and offers to try again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def prepare() -> str:
    """What to tell the user about the training packages, installing them if need be."""
    from lora_train.jobs import packages

    if packages.status().ready:
        return "ready"
    if "--skip-install" in os.environ.get("COMMANDLINE_ARGS", "").split():
        return "not installed (--skip-install); the tab can do it"
    print("Train LoRA: installing the training packages into its own folder (once, about 200 MB).", flush=True)
    packages.install(lambda line: None)
    return "installed"


if __name__ == "__main__":
    try:
        print(f"Train LoRA: training packages {prepare()}.")
    except Exception as error:  # noqa: BLE001 (nothing of ours may keep the WebUI from starting)
        print(f"Train LoRA: training packages not installed: {error}")
