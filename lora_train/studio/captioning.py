"""Captions that a program makes, written beside the pictures of a set as one change of its journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Protocol

from ..dataset.tagging import Tagged, TagOptions, Writer, Writing
from ..errors import UserError
from .captions import TITLE, Row, Table


class Captioner(Protocol):
    """As much of host.base.Captioner as is used."""

    @property
    def title(self) -> str:
        """For people."""

    def tag(
        self,
        pictures: Sequence[Path],
        options: TagOptions,
        on_done: Callable[[int, int, Path, str], None],
        stop: Event,
        /,
    ) -> Tagged:
        """Caption pictures; calls on_done(done, total, picture, caption), "" for what can't be read."""


@dataclass
class Written:
    """counts: of captions "written", "kept" and the "same" as before; entry: its id in the journal, None for none."""

    counts: dict[str, int] = field(default_factory=lambda: {"written": 0, "kept": 0, "same": 0})
    problems: list[UserError] = field(default_factory=list)
    stopped: bool = False
    entry: int | None = None


def write(
    table: Table,
    captioner: Captioner,
    options: TagOptions,
    writing: Writing,
    rows: Iterable[Row] | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
) -> Written:
    """Let `captioner` describe the pictures of `rows` (all but those of regularisation). Raises UserError."""
    done = Written()
    pictures = [row.picture for row in (table.own if rows is None else rows)]
    with table.journal.change(f"{TITLE}written by {captioner.title}") as change:
        writer = Writer(writing, change.write)

        def on_done(count: int, total: int, picture: Path, caption: str) -> None:
            if progress:
                progress(count, total)
            if not caption:
                return
            try:
                done.counts[writer.write(picture, caption)] += 1
            except UserError as error:
                done.problems.append(error)

        tagged = captioner.tag(pictures, options, on_done, stop or Event())
    done.problems += tagged.problems
    done.stopped = tagged.stopped
    done.entry = change.number if change.steps else None
    return done
