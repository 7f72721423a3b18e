"""What to paste into an issue: versions, packages, flags and the last problems, as text.

No passwords, prompts, captions or names of pictures; the user's own folder is written ~.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from .. import __version__, stamp
from ..jobs import packages
from ..jobs.manager import Manager
from ..paths import ROOT
from .installer import INSTALLER

_HOSTS = (
    *("torch", "xformers", "numpy", "Pillow", "safetensors", "transformers", "accelerate", "diffusers"),
    *("gradio", "fastapi", "pydantic", "starlette"),
)
_TOLD = ("precision", "use_cpu", "device_id", "subpath", "opt_split_attention", "upcast_sampling")
_GIVEN = (
    *("server_name", "data_dir", "lora_dir", "ckpt_dir", "models_dir", "ui_settings_file", "tls_certfile"),
    *("gradio_auth", "gradio_auth_path", "api_auth"),
)
_GIB = 1 << 30
_HOMES = re.compile(r"(?:[A-Za-z]:)?[\\/]+(?:home|[Uu]sers|Documents and Settings)[\\/]+[^\\/\n\"':]+")


def report(manager: Manager) -> str:
    """The report, lines of `name: value`. What can't be found out is said, and the rest is there all the same."""
    lines: list[str] = []
    for part in (_own, _host, _surroundings, _folders, _packages, _jobs):
        try:
            lines.extend(part(manager))
        except Exception as error:  # noqa: BLE001 (the report is for broken installations)
            lines.append(f"{part.__name__.strip('_')}: {type(error).__name__}: {error}")
    return without_names("\n".join(lines)) + "\n"


def without_names(text: str) -> str:
    """Paths begin with ~ instead of somebody's own folder."""
    home = str(Path.home())
    if len(home) > 3:
        text = re.sub(rf"{re.escape(home)}(?=[\\/\s\"':]|$)", "~", text)
    return _HOMES.sub("~", text)


def _own(manager: Manager) -> Iterator[str]:
    old = "; its files were updated since it was loaded: restart the WebUI" if stamp.outdated() else ""
    yield f"Train LoRA {__version__}, commit {_commit()}, files {stamp.LOADED[:10]}{old}"


def _host(manager: Manager) -> Iterator[str]:
    yield f"host: {manager.host.name}"
    yield f"capabilities: {', '.join(sorted(manager.host.capabilities())) or 'none'}"
    options = getattr(sys.modules.get("modules.shared"), "cmd_opts", None)
    if options is not None:
        yield f"flags: {', '.join(_flags(vars(options))) or 'none'}"
    checkpoint = manager.host.checkpoint()
    yield f"checkpoint: {checkpoint.title if checkpoint else 'none'}"


def _flags(given: dict[str, Any]) -> Iterator[str]:
    """Those that aren't as usual and that matter; of paths and passwords, that they are given."""
    default = getattr(getattr(sys.modules.get("modules.shared_cmd_options"), "parser", None), "get_default", id)
    for name, value in sorted(given.items()):
        if not value or value == default(name):
            continue
        if value is True or name in _TOLD:
            yield name if value is True else f"{name} {value}"
        elif name in _GIVEN:
            yield f"{name} is given"


def _surroundings(manager: Manager) -> Iterator[str]:
    yield f"system: {platform.platform()}, {os.cpu_count()} processor cores{_memory()}"
    yield f"Python: {platform.python_version()} ({'in' if sys.prefix != sys.base_prefix else 'not in'} a venv)"
    yield "packages of the host: " + ", ".join(f"{name} {_version(name)}" for name in _HOSTS)
    yield f"GPU: {'; '.join(_gpus()) or 'none that PyTorch can use'}"


def _folders(manager: Manager) -> Iterator[str]:
    places = {
        "extension's folder": ROOT,
        "folder of the training packages": packages.PACKAGES,
        "folder of the jobs": manager.host.data_dir(),
        "LoRA folder": manager.host.lora_dir(),
    }
    for name, folder in places.items():
        yield f"{name}: {_free(folder)}"


def _packages(manager: Manager) -> Iterator[str]:
    view = INSTALLER.view()
    yield f"training packages: {view['state']}{', ' + view['message'] if view['message'] else ''}"
    if view["state"] in ("unknown", "checking", "installing"):
        return
    found = packages.status()
    if found.ready or (found.folder and found.folder.is_dir()):
        versions = packages.versions(found.folder)
        yield f"in {found.folder.name if found.folder else 'the Python that runs this'}: " + ", ".join(
            f"{name} {version or 'absent'}" for name, version in versions.items()
        )
    if found.missing:
        yield f"missing: {', '.join(found.missing)}"
    yield from (f"  {line}" for line in view["lines"])


def _jobs(manager: Manager) -> Iterator[str]:
    failed = next((job for job in manager.history() if job["error"]), None)
    if failed:
        yield f"the last {failed.get('kind', 'job')} that failed:"
        yield from (f"  {line}" for line in str(failed["error"]).splitlines()[-20:])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _memory() -> str:
    return f", {psutil.virtual_memory().total / _GIB:.0f} GiB"


def _gpus() -> Iterator[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return
    made_for = torch.version.cuda or torch.version.hip
    for number in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(number)
        yield f"{known.name}, {known.total_memory / _GIB:.1f} GiB, PyTorch made for {made_for}"


def _free(folder: Path) -> str:
    """Where the folder isn't there yet, of the one that it would be made in."""
    place = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    try:
        writable = "writable" if os.access(place, os.W_OK) else "NOT writable"
        there = "" if folder.exists() else ", not there yet"
        return f"{shutil.disk_usage(place).free / _GIB:.1f} GiB free, {writable}{there}"
    except OSError as error:
        return f"can't be looked at ({error.strerror})"


def _commit() -> str:
    """From .git, without running git."""
    try:
        git = ROOT / ".git"
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head[:10]
        if (git / head[5:]).is_file():
            return (git / head[5:]).read_text(encoding="utf-8").strip()[:10]
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line[:10] for line in packed if line.endswith(f" {head[5:]}")), "unknown")
    except OSError:
        return "unknown"
