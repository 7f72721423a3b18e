"""Prompts that don't ask for the subject: pictures that weights shall leave as they are.

Captions leave out what the trigger stands for, hair of a colour, say. Prompts made of them alone would not tell whether
other hair is still drawn as it is asked for. So each is one caption without some of its tags, and with others for what
it leaves open.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median

NEUTRAL_TAGS = (
    ("1girl", "1girl", "1girl", "1boy"),
    ("black hair", "blonde hair", "brown hair", "red hair", "blue hair", "green hair", "pink hair", "white hair"),
    ("short hair", "long hair", "twintails", "ponytail"),
    ("blue eyes", "brown eyes", "green eyes", "red eyes", "yellow eyes"),
    ("white shirt", "red shirt", "blue shirt", "green shirt", "yellow shirt", "black dress", "school uniform", "coat"),
    ("hat", "glasses", "ribbon", "scarf"),
    ("smile", "open mouth", "closed mouth"),
    ("white background", "blue background", "green background", "pink background", "outdoors", "indoors", "night"),
)
"""Common tags of drawings, by what they are about; one of each at most is put into a prompt."""
NEUTRAL_SENTENCES = (
    "a photo of a man in a street",
    "a landscape with mountains and a lake",
    "portrait of a woman, studio light",
    "a cat sleeping on a sofa",
    "a bowl of fruit on a table, still life",
    "a city at night, rain, neon lights",
    "1girl, solo, school uniform, outdoors",
    "1boy, solo, armor, forest",
)
_KEPT, _ADDED = 0.7, 0.7  # shares of a caption's tags, of what it leaves open
_TAG_WORDS, _TAG_COUNT = 3, 3  # captions of more and shorter parts than these are lists of tags


def neutral(captions: Sequence[str], trigger: str, count: int, seed: int) -> list[str]:
    """At most `count` prompts, each once; trigger: empty where none is known, captions are not used then."""
    plain = without_trigger(captions, trigger)
    rng = random.Random(seed)
    if not are_tags(captions):
        rng.shuffle(plain)
        return list(dict.fromkeys([*NEUTRAL_SENTENCES, *plain]))[:count]
    found = (composed(plain[n % len(plain)] if plain else "", rng) for n in range(2 * count))
    kept = list(dict.fromkeys(text for text in found if text and not (trigger and trigger in text)))[:count]
    return kept or list(NEUTRAL_SENTENCES)[:count]  # a trigger such as "i" is in most words


def composed(caption: str, rng: random.Random) -> str:
    """Some of a caption's tags, and of what they leave open others."""
    tags = [tag for tag in map(str.strip, caption.split(",")) if tag]
    kept = [tag for n, tag in enumerate(tags) if n == 0 or rng.random() < _KEPT]
    about = {n: tag for n, its in enumerate(NEUTRAL_TAGS) for tag in kept if tag in its}
    for n, its in enumerate(NEUTRAL_TAGS):
        if n not in about and (n == 0 or rng.random() < _ADDED):
            about[n] = rng.choice(its)
    known = {tag for its in NEUTRAL_TAGS for tag in its}
    return ", ".join([*(about[n] for n in sorted(about)), *(tag for tag in kept if tag not in known)])


def are_tags(captions: Sequence[str]) -> bool:
    """Whether captions are lists of tags, not sentences."""
    parts = [[part for part in caption.split(",") if part.strip()] for caption in captions]
    words = [len(part.split()) for its in parts for part in its]
    return bool(words) and median(words) <= _TAG_WORDS and median(map(len, parts)) >= _TAG_COUNT


def trigger_of(captions: Sequence[str]) -> str:
    """The tag that all captions begin with; empty where there is none."""
    tags = {caption.partition(",")[0].strip() for caption in captions}
    return tags.pop() if len(tags) == 1 and len(captions) > 1 else ""


def without_trigger(captions: Sequence[str], trigger: str) -> list[str]:
    """What else the captions say, each once; nothing where no trigger is known: they all name the subject then."""
    if not trigger:
        return []
    kept = (", ".join(t for t in map(str.strip, c.split(",")) if t and t != trigger) for c in captions)
    return list(dict.fromkeys(text for text in kept if text and trigger not in text))
