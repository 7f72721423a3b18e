"""Captions: the text beside a picture, and what becomes of it each time it is used."""

from __future__ import annotations

import math
import os
import re
import stat
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from ..errors import UserError
from . import encodings
from .options import CaptionOptions

if TYPE_CHECKING:
    from .pictures import Dataset

MAX_BYTES = 2**20

_WILDCARD = re.compile(r"\{([^}]+)\}")
_OPENING, _CLOSING = "⦅", "⦆"  # in place of {{ and }} while the wildcards are replaced


def read(path: str | Path, all_lines: bool = False) -> tuple[str, str]:
    """(caption, note): the first line of a caption file, stripped, as kohya takes it; the note says what to look at.

    all_lines: every line that isn't empty, stripped and joined by line ends, for wildcards to choose among.
    UTF-8 is read as it is; UTF-16, GBK, Shift-JIS and cp1252 are recognised and noted.
    Raises UserError where none fits.
    """
    text, encoding = encodings.decode(read_bytes(path), path)
    notes = []
    if encoding not in ("", encodings.BOM):
        notes.append(f"not UTF-8, read as {encoding}: look whether it reads right, and save it as UTF-8")
    if "\0" in text:
        notes.append("NUL characters left out")
    lines = re.split(r"\r\n|\r|\n", text.replace("\0", ""))
    if all_lines:
        return "\n".join(line.strip() for line in lines if line.strip()), "; ".join(notes)
    if any(line.strip() for line in lines[1:]):
        notes.append("only the first line counts")
    return lines[0].strip(), "; ".join(notes)


def read_bytes(path: str | Path) -> bytes:
    """What a caption file holds. Raises UserError where it can't be read or is no caption file."""
    try:
        found = os.stat(path)  # noqa: PTH116 - faster, and there may be 10,000
        if not stat.S_ISREG(found.st_mode):
            raise UserError("it is no regular file", where=path, remedy="Put a text file in its place")
        too_large = found.st_size > MAX_BYTES
        with open(path, "rb", buffering=0) as handle:
            data = b"" if too_large else handle.readall()
    except OSError as error:
        raise UserError(f"it can't be opened ({error.strerror})", where=path, remedy="Check its permissions") from error
    if too_large or len(data) > MAX_BYTES:
        raise UserError("it is larger than 1 MiB", where=path, remedy="A caption is one line of text")
    return data


def process(
    caption: str, options: CaptionOptions, random: Random, *, epoch: int = 1, step: int = 0, max_steps: int = 0
) -> str:
    """The caption as one use of it reads: kohya's `process_caption`, its draws in the same number and order.

    epoch counts from 1; step is the number of optimizer steps done. Tags are shuffled, left out and counted only where
    an option asks for it; then they are joined by ", ", whatever the separator. Otherwise the caption stays verbatim.
    """
    if options.prefix:
        caption = options.prefix + " " + caption
    if options.suffix:
        caption = caption + " " + options.suffix
    if _is_dropped(options, random, epoch):
        return ""
    caption = _chosen(caption, random) if options.wildcard else caption.split("\n")[0]
    warmup = options.token_warmup_step
    if warmup < 1:
        warmup = math.floor(warmup * max_steps)
    if options.shuffle or warmup > 0 or options.tag_dropout_rate > 0:
        first, free, last = _parts(caption, options)
        if step < warmup:
            rise = step * ((len(free) - options.token_warmup_min) / warmup)
            free = free[: math.floor(rise) + options.token_warmup_min]
        if options.shuffle:
            random.shuffle(free)
        if options.tag_dropout_rate > 0:
            free = [tag for tag in free if random.random() >= options.tag_dropout_rate]
        caption = ", ".join(first + free + last)
    if options.secondary_separator:
        caption = caption.replace(options.secondary_separator, options.separator)
    return caption


def _is_dropped(options: CaptionOptions, random: Random, epoch: int) -> bool:
    if options.dropout_rate > 0 and random.random() < options.dropout_rate:
        return True
    return options.dropout_every_n_epochs > 0 and epoch % options.dropout_every_n_epochs == 0


def _chosen(caption: str, random: Random) -> str:
    """One of the lines, and one of each {a|b|c}; {{ and }} stand for braces."""
    if "\n" in caption:
        caption = random.choice(caption.split("\n"))
    opening, closing = _OPENING, _CLOSING
    while opening in caption or closing in caption:
        opening, closing = opening + _OPENING, closing + _CLOSING
    caption = caption.replace("{{", opening).replace("}}", closing)
    caption = _WILDCARD.sub(lambda match: random.choice(match[1].split("|")), caption)
    return caption.replace(opening, "{").replace(closing, "}")


def _parts(caption: str, options: CaptionOptions) -> tuple[list[str], list[str], list[str]]:
    """The tags that stay at the start, those that may move and be left out, and those that stay at the end.

    keep_tokens_separator, where the caption has it, divides the three: first ||| free ||| last.
    """
    mark = options.keep_tokens_separator
    if mark and mark in caption:
        parts = caption.split(mark, 2)
        first, free, last = ([t.strip() for t in p.split(options.separator) if t.strip()] for p in [*parts, ""][:3])
        return first, free, last
    tags = [tag.strip() for tag in caption.strip().split(options.separator)]
    return tags[: options.keep_tokens], tags[options.keep_tokens :], []


def tags_of(caption: str) -> list[str]:
    """The tags of a caption as kohya's metadata count them: stripped, in lower case, without empty ones."""
    return [tag.strip().lower() for tag in caption.split(",") if tag.strip()]


def tag_frequency(dataset: Dataset) -> dict[str, dict[str, int]]:
    """{folder name: {tag: number of uses}}, repeats not counted, as in kohya's ss_tag_frequency.

    Folders of one name, as in training and regularisation, are counted together; a second [[datasets]] isn't.
    """
    found: dict[str, tuple[int, Counter[str]]] = {}
    for concept in dataset.concepts:
        group, tags = found.setdefault(concept.folder.name, (concept.group, Counter()))
        if group == concept.group:
            tags.update(tag for picture in concept.pictures for tag in tags_of(picture.caption))
    return {name: dict(tags) for name, (_, tags) in found.items()}
