"""docs/settings.md, from the declaration of the settings: `python -m tools.settings_page`."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from lora_train.paths import ROOT
from lora_train.settings import schema

PAGE = ROOT / "docs" / "settings.md"
_HEAD = """# Settings

Every setting of a training, under the name that a configuration file, the command line (`--name value`) and the API
use; names and meanings are kohya sd-scripts' where sd-scripts has the setting. This page is written from the
declaration in `lora_train/settings/options.py` by `python -m tools.settings_page`.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    for section, rows in groupby(schema(), key=lambda row: row["section"]):
        lines = [f"{_row(row)}" for row in rows]
        head = ["| setting | default | range | what it does |", "| --- | --- | --- | --- |"]
        parts.append("\n".join([f"## {section}", "", *head, *lines, ""]))
    return "\n".join(parts)


def _row(row: dict[str, Any]) -> str:
    return f"| `{row['name']}` | {_value(row['default'])} | {_range(row)} | {row['help'].replace('|', chr(92) + '|')} |"


def _value(value: Any) -> str:
    if value in ("", None, []):
        return "empty"
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _range(row: dict[str, Any]) -> str:
    if row["choices"]:
        return ", ".join(str(choice) for choice in row["choices"]) + (", an import path" if row["open"] else "")
    if row["low"] is not None:
        return f"{row['low']:g} to {row['high']:g}"
    return {"bool": "true, false"}.get(row["type"], "list" if row["type"].startswith("list") else "text")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
