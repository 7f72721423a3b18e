"""The engine's packages for a host whose environment isn't ours: a folder that only training processes see.

Standard library only: this runs in the WebUI's process, in its installer and in launch.py. Torch and numpy always come
from the surrounding Python; diffusers, peft and their kin too where they work there, from our folder otherwise.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from ..errors import UserError
from ..files import require_space, write_text
from ..paths import ROOT

PACKAGES = ROOT / "packages"
LOCKS = ROOT / "requirements"
ENGINE = (
    *("diffusers", "peft", "transformers", "accelerate", "safetensors", "tokenizers", "huggingface-hub"),
    *("dadaptation", "lion-pytorch", "prodigyopt", "schedulefree", "tensorboardx", "ftfy"),
)
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
OLDEST_TORCH, NEW_TORCH = (2, 1), (2, 6)

_SPACE_NEEDED = 1000 * 2**20
_PROBE_SECONDS = 300
_ABANDONED_AFTER = 24 * 3600
_PROBED, _LOCKED = "probed.txt", "locked.txt"

_PIP = ("install", "--disable-pip-version-check", "--no-input")
_TO_FOLDER = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--upgrade", "--progress-bar=off")
_IMPATIENT = ("--retries=1", "--timeout=20")
_ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_CONSTRAINT", "PIP_REQUIREMENT")

_CAUSES = (
    (r"No space left|not enough space|Errno 28", "the disk is full", "Free some space, then start again"),
    (
        r"Permission denied|Read-only file system|Errno 13|Errno 30|WinError 5|Access is denied",
        "a folder can't be written",
        "Check the permissions of the extension's folder, then start again",
    ),
    (
        r"NameResolution|NewConnection|Failed to establish|Max retries|(Connect|Read)Timeout|(Proxy|SSL)Error",
        "the packages can't be downloaded",
        "Check the internet connection and pip's proxy and index settings, then start again",
    ),
    (
        r"DO NOT MATCH THE HASHES",
        "a downloaded package isn't the one that was locked",
        "Check pip's index settings, or try again later",
    ),
    (
        r"(?:No matching distribution found for|Cannot install) ([^\s;,]+)",
        r"pip finds no {0} for this machine",
        "Connect to the internet, and check pip's index settings",
    ),
    (r"No module named pip", "this Python has no pip", "Run: python -m ensurepip"),
)


@dataclass(frozen=True)
class Status:
    """Whether a training process can start, and with which folder in front of its path (None: nothing needed)."""

    ready: bool
    missing: list[str] = field(default_factory=list)
    folder: Path | None = None
    message: str = ""


def required(torch_version: str, python_version: tuple[int, int]) -> Path:
    """The lock file for a host's torch and Python. Raises UserError where there is none."""
    if not OLDEST_PYTHON <= python_version <= NEWEST_PYTHON:
        raise UserError(
            f"Python {python_version[0]}.{python_version[1]} is not supported",
            remedy="Use Python 3.10, 3.11, 3.12 or 3.13",
        )
    found = re.match(r"(\d+)\.(\d+)", torch_version)
    release = (int(found[1]), int(found[2])) if found else (0, 0)
    if release < OLDEST_TORCH:
        raise UserError(f"PyTorch {torch_version} is too old for training", remedy="It needs PyTorch 2.1 or newer")
    return LOCKS / ("engine-new-torch.txt" if release >= NEW_TORCH else "engine-old-torch.txt")


def status() -> Status:
    """Whether training can start here. What worked once is remembered, so that only the first call takes time."""
    try:
        lock = _lock()
    except UserError as error:
        return Status(False, [] if _version("torch") else ["torch"], None, str(error))
    missing, folder = _missing(), _folder(lock)
    current = folder.is_dir() and _read(folder / _LOCKED) == _digest(lock)
    candidates = [place for place, there in ((None, not missing), (folder, current)) if there]
    if not candidates:
        what = "are those of an older version" if folder.is_dir() else "are not installed yet"
        reason = failed_before()
        tried = f". The last try failed: {reason}" if reason else ""
        return Status(False, missing, folder, f"The training packages {what}{tried}")
    problems = [_problem(candidate, lock) for candidate in candidates]
    if "" in problems:
        return Status(True, [], candidates[problems.index("")])
    absent = re.findall(r"No module named '([\w.]+)'", problems[-1])
    return Status(False, absent, folder, f"The training packages don't work here: {problems[-1]}")


def install(progress: Callable[[str], None]) -> None:
    """Fill the folder for this host and prove that it works; what was there stays until then. Raises UserError."""
    lock = _lock()
    folder = _folder(lock)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    _sweep(PACKAGES)
    try:
        PACKAGES.mkdir(exist_ok=True)
        require_space(PACKAGES, _SPACE_NEEDED)
        run_pip(pip_command(), [*_TO_FOLDER, *_IMPATIENT, f"--target={temporary}", f"--requirement={lock}"], progress)
        progress("Trying one training step with the new packages.")
        problem = _probe(temporary)
        if problem:
            raise UserError(f"the training packages don't work here: {problem}", remedy="Please report this")
        write_text(temporary / _PROBED, _fingerprint(lock, temporary))
        write_text(temporary / _LOCKED, _digest(lock))
        _swap(temporary, folder)
    except OSError as error:
        refusal = UserError(
            f"the folder can't be written or is in use ({error.strerror or error})",
            where=folder,
            remedy="Let a running training end, check the folder's permissions, then try again",
        )
        _remember(_failure(folder), f"{_fingerprint(lock, folder)}\n{refusal}")
        raise refusal from error
    except UserError as error:
        _remember(_failure(folder), f"{_fingerprint(lock, folder)}\n{error}")
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _problem.cache_clear()
    _failure(folder).unlink(missing_ok=True)


def failed_before() -> str:
    """Why the last installation failed, "" where nothing is known or something has changed since.

    No start of a WebUI tries the same again by itself: somebody offline would wait for it each time.
    """
    try:
        lock = _lock()
    except UserError as error:
        return str(error)
    folder = _folder(lock)
    fingerprint, _, text = _read(_failure(folder)).partition("\n")
    return text if fingerprint == _fingerprint(lock, folder) else ""


def wanted() -> int:
    """How many packages an installation here brings."""
    try:
        text = _lock().read_text(encoding="utf-8")
    except UserError:
        return 0
    return len(set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE)))


def versions(folder: Path | None) -> dict[str, str]:
    """What a training process would find: the name and version of each of ENGINE, "" where it is absent."""
    if folder is None:
        return {name: _version(name) for name in ENGINE}
    found = {d.metadata["Name"]: d.version for d in metadata.distributions(path=[str(folder)]) if d.metadata["Name"]}
    known = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}
    return {name: known.get(name, "") for name in ENGINE} | {
        name: version for name, version in known.items() if name == "bitsandbytes"
    }


def environment() -> dict[str, str]:
    """What a training process gets as its environment. Raises UserError unless the packages are ready."""
    found = status()
    if not found.ready:
        raise UserError(found.message, remedy="Install the training packages in the Train LoRA tab")
    return _environment(found.folder)


def clean_environment() -> dict[str, str]:
    """Our own environment without what would lead another Python, or pip, astray."""
    astray = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH", "__PYVENV_LAUNCHER__", *_ELSEWHERE}
    return {name: value for name, value in os.environ.items() if name not in astray}


def pip_command(python: str | Path = sys.executable) -> list[str]:
    """How to run pip: as this Python's module or, where an environment was made without it, from Python's own wheel."""
    bundled: list[Path] = []
    if Path(python) == Path(sys.executable) and not _version("pip"):
        try:
            import ensurepip
        except ImportError:  # Debian leaves it out
            raise UserError(
                "this Python has no pip", where=sys.executable, remedy="Install pip for it, such as python3-pip"
            ) from None
        bundled = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    return [str(python), str(bundled[-1] / "pip")] if bundled else [str(python), "-m", "pip"]


def run_pip(pip: list[str], arguments: Iterable[str], progress: Callable[[str], None] | None = None) -> None:
    """Run `pip install`; its lines go to `progress`, or to the terminal where there is none. Raises UserError."""
    command = [*pip, *_PIP, *arguments]
    to_terminal = progress is None
    lines = []
    with subprocess.Popen(
        command,
        env=clean_environment() | {"PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if to_terminal else subprocess.PIPE,
        stderr=subprocess.PIPE if to_terminal else subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        for line in process.stderr or process.stdout or ():
            lines.append(line.rstrip())
            (progress or _to_stderr)(line.rstrip())
    if process.returncode:
        raise explain("\n".join(lines), f"pip failed with code {process.returncode}")


def explain(output: str, otherwise: str) -> UserError:
    """What a failed command's output means in plain words."""
    for pattern, what, remedy in _CAUSES:
        found = re.search(pattern, output)
        if found:
            return UserError(what.format(found[found.re.groups]), remedy=remedy)
    last = next((line for line in reversed(output.splitlines()) if line.startswith("ERROR")), "")
    return UserError(f"{otherwise}: {last}" if last else otherwise, remedy="See the lines above")


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _lock() -> Path:
    torch = _version("torch")
    if not torch:
        raise UserError("PyTorch is not installed in this Python", where=sys.executable)
    return required(torch, sys.version_info[:2])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _missing() -> list[str]:
    return [name for name in ENGINE if not _version(name)]


def _failure(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.failed")


def _folder(lock: Path) -> Path:
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    return PACKAGES / f"{python}-{lock.stem.removeprefix('engine-')}"


def _environment(folder: Path | None) -> dict[str, str]:
    """`folder` and our root in front; no download at run time; no TensorFlow or JAX that the host may have."""
    path = [str(place) for place in (folder, ROOT) if place]
    ours = {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUTF8": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "USE_TORCH": "1",
    }
    return clean_environment() | ours


def _digest(lock: Path) -> str:
    """Tells one version of the lock file from another."""
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _fingerprint(lock: Path, folder: Path | None) -> str:
    """Changes whenever what was tried is no longer what would run."""
    surroundings = [sys.prefix, sys.version, platform.machine(), _version("torch"), _version("numpy")]
    packages = [lock.read_text(encoding="utf-8")] if folder else [_version(name) for name in ENGINE]
    return hashlib.sha256("\n".join(surroundings + packages).encode()).hexdigest()


@cache
def _problem(folder: Path | None, lock: Path) -> str:
    """Why a training process would fail with `folder` in front, or "". Disk remembers success, memory failure."""
    stamp = folder / _PROBED if folder else PACKAGES / f"own-{_PROBED}"
    fingerprint = _fingerprint(lock, folder)
    if _read(stamp) == fingerprint:
        return ""
    problem = _probe(folder)
    if not problem:
        _remember(stamp, fingerprint)
    return problem


def _remember(stamp: Path, fingerprint: str) -> None:
    """A place that can't be written only means that the next start tries again."""
    try:
        write_text(stamp, fingerprint)
    except (OSError, UserError):
        return


def _probe(folder: Path | None) -> str:
    """Train two steps of something tiny in another process: the last line of its error, or ""."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lora_train.jobs.probe"],
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROBE_SECONDS} seconds"
    lines = done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"]
    return lines[-1] if done.returncode else ""


def _swap(temporary: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _sweep(packages: Path) -> None:
    """Remove what an interrupted installation left behind, unless it may still be running."""
    for leftover in (*packages.glob(".*.tmp"), *packages.glob(".*.old")):
        if time.time() - leftover.stat().st_mtime > _ABANDONED_AFTER:
            shutil.rmtree(leftover, ignore_errors=True)
