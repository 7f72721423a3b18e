"""How often a checkpoint draws what the prompt names: `python -m tools.toy.measure [FILE] [--seeds N]`."""

import argparse
import random
from collections import Counter
from pathlib import Path

from PIL import Image

from lora_train.model.load import load_model
from lora_train.paths import MINI_CHECKPOINT
from tools.toy.characters import ATTRIBUTES, Character, caption_of, read, sample_character
from tools.toy.sampling import contact_sheet, sample


def accuracy(wanted: list[Character], pictures: list[Image.Image]) -> dict[str, float]:
    """The share of pictures that show each attribute as wanted."""
    pairs = list(zip(wanted, map(read, pictures), strict=True))
    return {name: sum(want[name] == show[name] for want, show in pairs) / len(pairs) for name in ATTRIBUTES}


def confusions(wanted: list[Character], pictures: list[Image.Image]) -> Counter[tuple[str, str]]:
    """Tags that were named and the ones drawn in their place."""
    pairs = zip(wanted, map(read, pictures), strict=True)
    return Counter((want[name], show[name]) for want, show in pairs for name in ATTRIBUTES if want[name] != show[name])


def table(shares: dict[str, float]) -> str:
    mean = sum(shares.values()) / len(shares)
    rows = [f"| {name} | {share:.0%} |" for name, share in shares.items()]
    return "\n".join(["| attribute | right |", "| --- | ---: |", *rows, f"| mean | {mean:.1%} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=MINI_CHECKPOINT)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--sheet", type=Path, help="write the pictures to this PNG")
    options = parser.parse_args()
    rng = random.Random(0)
    wanted = [sample_character(rng) for _ in range(options.seeds)]
    pictures = sample(load_model(options.checkpoint), [caption_of(character) for character in wanted])
    print(table(accuracy(wanted, pictures)))
    for (want, show), count in confusions(wanted, pictures).most_common(8):
        print(f"{count} x {want or 'none'} drawn as {show or 'none'}")
    if options.sheet:
        contact_sheet(pictures).save(options.sheet)


if __name__ == "__main__":
    main()
