"""Run by the WebUI before it starts: prepares the training processes' own packages, and never touches the host's.

Whatever goes wrong here, the WebUI starts: the Train LoRA tab says what is missing and offers to try again. This file
keeps to what Python 3.6 can parse, so that an older Python is told what is wrong.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
OLDEST = (3, 10)


def prepare() -> str:
    """How the training packages stand, for the terminal; installs them where that has not been tried before."""
    if sys.version_info[:2] < OLDEST:
        found = ".".join(map(str, sys.version_info[:2]))
        return f"not installed: Python {found} is not supported. Use Python 3.10, 3.11, 3.12 or 3.13"
    from lora_train.jobs import packages

    if packages.status().ready:
        return "ready"
    if "--skip-install" in os.environ.get("COMMANDLINE_ARGS", "").split():
        return "not installed (--skip-install). See the tab Train LoRA"
    reason = packages.failed_before()
    if reason:
        return f"not installed: {reason.rstrip('.')}. See the tab Train LoRA"
    say("installing the training packages into its own folder (once, about 200 MB)")
    packages.install(lambda line: None)
    return "installed"


def say(text: str) -> None:
    """A line for the user, whatever the terminal's encoding."""
    encoding = sys.stdout.encoding or "ascii"
    print(f"Train LoRA: {text}.".encode(encoding, "replace").decode(encoding), flush=True)


if __name__ == "__main__":
    try:
        say(f"training packages {prepare()}")
    except Exception as error:  # noqa: BLE001 (nothing of ours may keep the WebUI from starting)
        say(f"training packages not installed: {str(error).rstrip('.')}")
