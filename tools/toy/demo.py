"""Draws the demo's data set, a character that the checkpoint has never seen: `python -m tools.toy.demo`."""

import random
import shutil
from itertools import cycle, islice

from lora_train.paths import DEMO_PICTURES
from tools.toy.characters import ATTRIBUTES, Character, Pose, caption_of, draw_subject

TRIGGER = "miro"
REPEATS = 20
PICTURES = 10


def varied_characters(rng: random.Random) -> list[Character]:
    """Each tag of an attribute about as often as the others, in no order."""
    columns = {name: list(islice(cycle(tags), PICTURES)) for name, tags in ATTRIBUTES.items()}
    for column in columns.values():
        rng.shuffle(column)
    return [{name: column[row] for name, column in columns.items()} for row in range(PICTURES)]


def main() -> None:
    """Everything but the hair's colour varies and is named, so that the trigger comes to mean the hair."""
    folder = DEMO_PICTURES / f"{REPEATS}_{TRIGGER}"
    shutil.rmtree(DEMO_PICTURES, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = random.Random(4)
    for number, character in enumerate(varied_characters(rng), 1):
        draw_subject(character, Pose.sample(rng)).save(folder / f"{number:02}.png", optimize=True)
        named = {name: tag for name, tag in character.items() if name != "hair"}
        (folder / f"{number:02}.txt").write_text(f"{TRIGGER}, {caption_of(named)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
