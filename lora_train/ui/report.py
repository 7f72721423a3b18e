"""What to paste into an issue: versions, packages, flags and the last problems, as text. No passwords, no captions."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from .. import __version__
from ..jobs import packages
from ..jobs.manager import Manager
from ..paths import ROOT
from .installer import INSTALLER

_HOSTS = ("torch", "numpy", "Pillow", "gradio", "fastapi", "pydantic", "starlette")
_GIB = 1 << 30


def report(manager: Manager) -> str:
    """The report, lines of `name: value`."""
    return "\n".join(line for part in (_own, _host, _surroundings, _packages, _jobs) for line in part(manager)) + "\n"


def _own(manager: Manager) -> Iterator[str]:
    yield f"Train LoRA {__version__}, commit {_commit()}"
    yield f"host: {manager.host.name}"
    yield f"capabilities: {', '.join(sorted(getattr(manager.host, 'capabilities', frozenset)())) or 'none'}"


def _host(manager: Manager) -> Iterator[str]:
    checkpoint = manager.host.checkpoint()
    yield f"checkpoint: {checkpoint.title if checkpoint else 'none'}"
    options = getattr(sys.modules.get("modules.shared"), "cmd_opts", None)
    given = sorted(name for name, value in vars(options).items() if value is True) if options else []
    if options:
        yield f"flags that are on: {', '.join(given) or 'none'}"


def _surroundings(manager: Manager) -> Iterator[str]:
    yield f"system: {platform.platform()}, {os.cpu_count()} processor cores"
    yield f"Python: {platform.python_version()} ({'in' if sys.prefix != sys.base_prefix else 'not in'} a venv)"
    yield "packages of the host: " + ", ".join(f"{name} {_version(name)}" for name in _HOSTS)
    gpu = "; ".join(_gpus())
    yield f"GPU: {gpu or 'none that PyTorch can use'}"
    for name, folder in (("extension", ROOT), ("LoRA folder", manager.host.lora_dir())):
        yield f"{name}: {_free(folder)}"


def _packages(manager: Manager) -> Iterator[str]:
    view = INSTALLER.view()
    yield f"training packages: {view['state']}{', ' + view['message'] if view['message'] else ''}"
    found = packages.status() if view["state"] in ("ready", "missing", "failed") else None
    if found and found.folder:
        yield f"their folder: {found.folder.name}"
    if found and found.missing:
        yield f"missing: {', '.join(found.missing)}"
    yield from (f"  {line}" for line in view["lines"])


def _jobs(manager: Manager) -> Iterator[str]:
    failed = next((job for job in manager.history() if job["error"]), None)
    if failed:
        yield "the last job that failed:"
        yield from (f"  {line}" for line in str(failed["error"]).splitlines()[-20:])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _gpus() -> Iterator[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return
    for number in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(number)
        yield f"{known.name}, {known.total_memory / _GIB:.1f} GiB"


def _free(folder: Path) -> str:
    place = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    try:
        writable = "writable" if os.access(place, os.W_OK) else "not writable"
        return f"{shutil.disk_usage(place).free / _GIB:.1f} GiB free, {writable}"
    except OSError as error:
        return f"can't be looked at ({error.strerror})"


def _commit() -> str:
    """From .git, without running git."""
    try:
        head = (ROOT / ".git" / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head[:10]
        return (ROOT / ".git" / head[5:]).read_text(encoding="utf-8").strip()[:10]
    except OSError:
        return "unknown"
