"""How often a checkpoint draws what the prompt names: `python -m tools.toy.measure [FILE] [--seeds 100] [--sheet PNG]`."""

import argparse
import random
from collections import Counter
from pathlib import Path

from PIL import Image

from tools.toy.characters import ATTRIBUTES, Character, caption_of, read, sample_character
from tools.toy.export import read_checkpoint
from tools.toy.sampling import contact_sheet, sample

MINI = Path(__file__).parents[2] / "lora_train/assets/mini/mini.safetensors"


def accuracy(wanted: list[Character], pictures: list[Image.Image]) -> dict[str, float]:
    """The share of pictures that show each attribute as wanted."""
    shown = [read(picture) for picture in pictures]
    return {
        name: sum(want[name] == show[name] for want, show in zip(wanted, shown)) / len(wanted) for name in ATTRIBUTES
    }


def confusions(wanted: list[Character], pictures: list[Image.Image]) -> Counter[tuple[str, str]]:
    pairs = [(want[name], show[name]) for want, show in zip(wanted, map(read, pictures)) for name in ATTRIBUTES]
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def table(shares: dict[str, float]) -> str:
    mean = sum(shares.values()) / len(shares)
    rows = [f"| {name} | {share:.0%} |" for name, share in shares.items()]
    return "\n".join(["| attribute | right |", "| --- | ---: |", *rows, f"| mean | {mean:.1%} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=MINI)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--sheet", type=Path, help="write the pictures to this PNG")
    options = parser.parse_args()
    rng = random.Random(0)
    wanted = [sample_character(rng) for _ in range(options.seeds)]
    pictures = sample(*read_checkpoint(options.checkpoint), [caption_of(character) for character in wanted])
    print(table(accuracy(wanted, pictures)))
    for (want, show), count in confusions(wanted, pictures).most_common(8):
        print(f"{count} x {want or 'none'} drawn as {show or 'none'}")
    if options.sheet:
        contact_sheet(pictures).save(options.sheet)


if __name__ == "__main__":
    main()
