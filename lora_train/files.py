"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes `path`'s place in one step.

    On any failure, an interrupt included, the temporary file is removed and `path` is as it was.
    Raises UserError when the disk is full or the folder can't be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask gives; some writers make private files
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        _replace(temporary, path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _replace(source: Path, target: Path) -> None:
    """Rename over `target`; on Windows a virus scanner or a reader may hold the target for a moment."""
    for pause in (0.05, 0.2, 0.5, 1.0, 0.0):
        try:
            source.replace(target)
            return
        except PermissionError:
            if not pause or os.name != "nt":
                raise
            time.sleep(pause)


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno in _DISK_FULL:
        return UserError("the disk is full", where=path.parent, remedy="Free some space or choose another folder")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return UserError("the file can't be written", where=path, remedy="Check the folder's permissions")
    return error


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8 with Unix line ends."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_table(path: str | Path, remedy: str = "Check the path") -> Any:
    """What a .json file holds, or a TOML file of any other name. Raises UserError: missing, no text, not valid."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("there is no such file", where=path, remedy=remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the file can't be read as text ({error})", where=path, remedy="Save it as UTF-8") from None
    try:
        return json.loads(text) if path.suffix.lower() == ".json" else _toml(text)
    except ValueError as error:
        raise UserError(f"the file can't be understood: {error}", where=path, remedy="Mend that line") from None


def _toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(text)


def require_space(folder: str | Path, needed: int) -> None:
    """Raise UserError unless `needed` bytes are free where `folder` is or will be."""
    existing = next(p for p in (Path(folder).absolute(), *Path(folder).absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"the disk is full: {needed / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free",
            where=folder,
            remedy="Free some space or choose another folder",
        )


def check_output_name(name: str) -> str:
    """A name that is one plain file name on every system and in a prompt; raises UserError otherwise."""
    problem = None
    if not name or name != name.strip() or name.startswith("."):
        problem = "is empty or begins or ends with a space or dot"
    elif any(c in '/\\:*?"<>|,' or ord(c) < 32 for c in name):
        problem = 'contains one of / \\ : * ? " < > | , or a control character'
    elif name.endswith(".") or name.split(".")[0].lower() in _WINDOWS_DEVICES:
        problem = "can't be a file name on Windows"
    elif len(name.encode()) > 100:
        problem = "is longer than 100 bytes"
    if problem:
        raise UserError(f"{name!r} {problem}", where="output_name", remedy="Use letters, digits, - and _")
    return name
