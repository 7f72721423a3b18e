"""The lock of the device that jobs run on."""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..process_lock import ProcessLock


def device_lock(data_dir: Path, device: str) -> ProcessLock:
    """The lock of the device that jobs run on: one a GPU for all programs of this user, one a data folder on a CPU.

    device: as `device_name` gives it.
    """
    if not device:
        return ProcessLock(data_dir / "jobs" / "lock")
    user = re.sub(r"[^\w.-]", "_", _user())
    return ProcessLock(
        Path(tempfile.gettempdir()) / f"train-lora-{user}" / f"{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock"
    )


def device_name(environment: Mapping[str, str]) -> str:
    """The GPU that a child of this environment trains on, such as "cuda-0"; empty for a CPU."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", environment.get("HIP_VISIBLE_DEVICES"))
    first = None if visible is None else visible.split(",")[0].strip()
    if first in ("", "-1"):
        return ""
    try:
        import torch
    except ImportError:
        return ""
    if torch.cuda.is_available():
        return f"cuda-{first or 0}"
    return "mps" if torch.backends.mps.is_available() else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user, as in some containers
        return str(getattr(os, "getuid", lambda: "user")())
