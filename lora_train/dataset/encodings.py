"""Which encoding a text file has. One answer everywhere: what a panel shows is what a training reads.

A general detector is no help here: of captions a line long it takes most for something else.
"""

from __future__ import annotations

import re

from ..errors import UserError

BOM = "UTF-8-BOM"
CODECS = {"GBK": "gbk", "Shift-JIS": "cp932", "cp1252": "cp1252", "UTF-16": "utf-16", "UTF-8": "utf-8-sig"}
"""The names that a user may give for an encoding, and Python's."""

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8", BOM),
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
# Half-width kana and private characters: signs of Chinese read as Shift-JIS rather than of a Japanese caption.
_UNLIKELY = re.compile("[\uff61-\uff9f\ue000-\uf8ff]")


def decode(data: bytes, where: object = None) -> tuple[str, str]:
    """(text, encoding): "" for UTF-8, else "UTF-8-BOM", "UTF-16", "UTF-32", "GBK", "Shift-JIS" or "cp1252".

    The last three are guesses, as several may fit. Raises UserError where none does.
    """
    for bom, codec, name in _BOMS:
        if data.startswith(bom):
            return _strict(data[len(bom) :], codec, name, where), name
    if wide := _wide_without_bom(data):
        return _strict(data, wide, "UTF-16", where), "UTF-16"
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        return _legacy(data, where)


def decode_as(data: bytes, encoding: str) -> str | None:
    """The text as one of CODECS; None where it can't be that."""
    try:
        text = data.decode(CODECS[encoding])
    except UnicodeError:
        return None
    return None if _UNLIKELY.search(text) else text


def is_guess(encoding: str) -> bool:
    """Whether a file of this encoding may as well be of another."""
    return encoding in ("GBK", "Shift-JIS", "cp1252")


def _strict(data: bytes, codec: str, name: str, where: object) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        what = f"it begins as {name.removesuffix('-BOM')}, but isn't"
        raise UserError(what, where=where, remedy="Save it as UTF-8") from None


def _wide_without_bom(data: bytes) -> str:
    """UTF-16 without a mark shows as text whose every second byte is mostly zero."""
    pairs = len(data) // 2
    if not pairs or len(data) % 2:
        return ""
    if data[1::2].count(0) > 0.6 * pairs and data[::2].count(0) == 0:
        return "utf-16-le"
    return "utf-16-be" if data[::2].count(0) > 0.6 * pairs and data[1::2].count(0) == 0 else ""


def _legacy(data: bytes, where: object) -> tuple[str, str]:
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
    raise UserError("its encoding isn't known", where=where, remedy="Save it as UTF-8")


def _looks_western(data: bytes) -> bool:
    """Whether the bytes above ASCII are those of accents and quotation marks, and stand as these do in words."""
    return _WESTERN.issuperset(byte for byte in data if byte >= 0x80) and not _WIDE_RUN.search(data)
