"""Captions: the text beside a picture, and what becomes of it each time it is used."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from ..errors import UserError
from .options import CaptionOptions

if TYPE_CHECKING:
    from .pictures import Dataset

MAX_BYTES = 2**20
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8", ""),
    (b"\xff\xfe\0\0", "utf-32-le", "UTF-32"),
    (b"\0\0\xfe\xff", "utf-32-be", "UTF-32"),
    (b"\xff\xfe", "utf-16-le", "UTF-16"),
    (b"\xfe\xff", "utf-16-be", "UTF-16"),
)
# What West European text uses of the upper half of cp1252: accented letters, dashes, quotation marks.
_WESTERN_MARKS = frozenset(b"\x80\x85\x91\x92\x93\x94\x96\x97\xa0\xa1\xab\xb0\xb4\xb7\xbb\xbf")
_WESTERN = frozenset(range(0xC0, 0x100)) - {0xD7, 0xF7} | _WESTERN_MARKS
# Runs of bytes above ASCII that accents don't make: three in a row, or a pair that touches no letter.
_WIDE_RUN = re.compile(rb"[\x80-\xff]{3}|(?<![A-Za-z\x80-\xff])[\x80-\xff]{2}(?![A-Za-z\x80-\xff])")

_WILDCARD = re.compile(r"\{([^}]+)\}")
_OPENING, _CLOSING = "⦅", "⦆"  # in place of {{ and }} while the wildcards are replaced

# Half-width kana and private characters: signs of Chinese read as Shift-JIS rather than of a Japanese caption.
_UNLIKELY = re.compile("[\uff61-\uff9f\ue000-\uf8ff]")


def read(path: str | Path, all_lines: bool = False) -> tuple[str, str]:
    """(caption, note): the first line of a caption file, stripped, as kohya takes it; the note says what to look at.

    all_lines: every line that isn't empty, stripped and joined by line ends, for wildcards to choose among.
    UTF-8 is read as it is; UTF-16, GBK, Shift-JIS and cp1252 are recognised and noted.
    Raises UserError where none fits.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError("it is no regular file", where=path, remedy="Put a text file in its place")
        with open(path, "rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"it can't be opened ({error.strerror})", where=path, remedy="Check its permissions") from error
    if len(data) > MAX_BYTES:
        raise UserError("it is larger than 1 MiB", where=path, remedy="A caption is one line of text")
    text, encoding = _decoded(data, path)
    notes = [f"not UTF-8, read as {encoding}: look whether it reads right, and save it as UTF-8"] if encoding else []
    if "\0" in text:
        notes.append("NUL characters left out")
    lines = re.split(r"\r\n|\r|\n", text.replace("\0", ""))
    if all_lines:
        return "\n".join(line.strip() for line in lines if line.strip()), "; ".join(notes)
    if any(line.strip() for line in lines[1:]):
        notes.append("only the first line counts")
    return lines[0].strip(), "; ".join(notes)


def _decoded(data: bytes, path: Path) -> tuple[str, str]:
    """(text, name of the encoding where it isn't UTF-8)."""
    for bom, codec, name in _BOMS:
        if data.startswith(bom):
            return _strict(data[len(bom) :], codec, name or "UTF-8", path), name
    if wide := _wide_without_bom(data):
        return _strict(data, wide, "UTF-16", path), "UTF-16"
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        return _legacy(data, path)


def _strict(data: bytes, codec: str, name: str, path: Path) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        raise UserError(f"it begins as {name}, but isn't", where=path, remedy="Save it as UTF-8") from None


def _wide_without_bom(data: bytes) -> str:
    """UTF-16 without a mark shows as text whose every second byte is mostly zero."""
    pairs = len(data) // 2
    if not pairs or len(data) % 2:
        return ""
    if data[1::2].count(0) > 0.6 * pairs and data[::2].count(0) == 0:
        return "utf-16-le"
    return "utf-16-be" if data[::2].count(0) > 0.6 * pairs and data[1::2].count(0) == 0 else ""


def _legacy(data: bytes, path: Path) -> tuple[str, str]:
    """Text of one of the older encodings. The likely one is tried first, since several may decode without an error."""
    candidates = [("gb2312", "GBK"), ("cp932", "Shift-JIS"), ("gbk", "GBK"), ("cp1252", "cp1252")]
    if _looks_western(data):
        candidates.insert(0, candidates.pop())
    for codec, name in candidates:
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        if not _UNLIKELY.search(text):
            return text, name
    raise UserError("its encoding isn't known", where=path, remedy="Save it as UTF-8")


def _looks_western(data: bytes) -> bool:
    """Whether the bytes above ASCII are those of accents and quotation marks, and stand as these do in words."""
    return _WESTERN.issuperset(byte for byte in data if byte >= 0x80) and not _WIDE_RUN.search(data)


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
