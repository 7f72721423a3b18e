"""How many of CLIP's tokens a caption has, counted where transformers isn't: the tokenizer's rules in plain Python."""

from __future__ import annotations

import html
import unicodedata
from functools import lru_cache
from itertools import pairwise

from ..model.vocabulary import byte_letters, merges

CHUNK = 75
LIMITS = (75, 150, 225)
"""What max_token_length may be."""

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def count(caption: str) -> int:
    """Tokens of one line as a training reads it, without start and end."""
    return sum(map(_count_of, unicodedata.normalize("NFC", _mended(caption)).lower().split()))


@lru_cache(maxsize=65536)
def _count_of(run: str) -> int:
    """Tokens of a run without spaces."""
    return sum(map(_length, words(run)))


def words(text: str) -> list[str]:
    """What is split into tokens by itself: runs of letters, single digits, runs of other characters, endings as 's.

    text: without spaces, in lower case.
    """
    found: list[str] = []
    place = 0
    while place < len(text):
        whole = next((w for w in (*_SPECIAL, *_CONTRACTIONS) if text.startswith(w, place)), None)
        end = place + len(whole) if whole else _end(text, place)
        found.append(text[place:end])
        place = end
    return found


def _end(text: str, place: int) -> int:
    kind = _kind(text[place])
    end = place + 1
    while kind != "N" and end < len(text) and _kind(text[end]) == kind:
        end += 1
    return end


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    """ "L" for letters, "N" for numbers, "" for the rest."""
    kind = unicodedata.category(character)[0]
    return kind if kind in "LN" else ""


def _length(word: str) -> int:
    """Tokens of a word: the pair of pieces that was learnt first is joined, until none is left."""
    if word in _SPECIAL:
        return 1
    letters, ranks = _tables()
    pieces = [letters[byte] for byte in word.encode("utf-8", "replace")]
    pieces[-1] += "</w>"
    while len(pieces) > 1:
        rank, first = min((ranks.get((a, b), len(ranks)), at) for at, (a, b) in enumerate(pairwise(pieces)))
        if rank == len(ranks):
            break
        pair = pieces[first], pieces[first + 1]
        joined: list[str] = []
        for piece in pieces:
            if joined and (joined[-1], piece) == pair:
                joined[-1] += piece
            else:
                joined.append(piece)
        pieces = joined
    return len(pieces)


@lru_cache(maxsize=1)
def _tables() -> tuple[dict[int, str], dict[tuple[str, str], int]]:
    """The letter of each byte; the place of each pair in the vocabulary."""
    pairs = (merge.split() for merge in merges())
    return byte_letters(), {(first, second): rank for rank, (first, second) in enumerate(pairs)}


def _mended(text: str) -> str:
    """As training mends it first: curly quotes, full-width letters, HTML entities."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    try:
        from ftfy import fix_text
    except ImportError:  # every host has it; without it captions with such characters may be off by a few
        return html.unescape(text)
    return fix_text(text)
