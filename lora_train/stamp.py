"""Whether the package that this process has loaded is still the one on disk.

A WebUI that reloads its UI keeps the package loaded; an update of the extension changes the files only.
"""

from __future__ import annotations

import hashlib

from .paths import PACKAGE


def stamp() -> str:
    """Changes whenever a module on disk does."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def outdated() -> bool:
    """Whether the files are no longer those that were there when this was loaded."""
    try:
        return stamp() != LOADED
    except OSError:  # in the middle of an update
        return True


LOADED = stamp()
"""Of the files at the time when this module was loaded: the first of them, in a WebUI."""
