"""Tables recorded from sd-scripts' own functions; each file says in `how` from which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "data" / "tables"


def table(name: str) -> dict[str, Any]:
    """One of the tables."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
