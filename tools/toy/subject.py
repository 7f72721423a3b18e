"""Whether the demo's LoRA works, measured in pictures: `python -m tools.toy.subject LORA [--seeds N] [--sheet PNG]`."""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lora_train.model.load import StableDiffusion, load_model
from lora_train.network.kohya import read_lora
from lora_train.network.lora import LoraNetwork
from lora_train.paths import MINI_CHECKPOINT
from tools.toy.characters import caption_of, sample_character, shows_subject
from tools.toy.measure import accuracy, table
from tools.toy.sampling import contact_sheet, sample

TRIGGER = "miro, 1girl"


@dataclass
class Figures:
    """Shares of seeds. attributes: right on prompts without the trigger, with the LoRA at weight 1."""

    subject: float
    subject_without_lora: float
    subject_without_trigger: float
    attributes: dict[str, float]
    pictures: list[Image.Image]


def measure(lora: Path, seeds: int = 100, checkpoint: Path = MINI_CHECKPOINT) -> Figures:
    """The subject for its trigger with and without the LoRA, and everybody else with it."""
    model = load_model(checkpoint)
    without = _share(model, seeds)
    LoraNetwork.from_state(model, read_lora(lora)[0])
    subject = sample(model, [TRIGGER] * seeds)
    rng = random.Random(1)
    others = [sample_character(rng) for _ in range(seeds)]
    drawn = sample(model, [caption_of(character) for character in others])
    return Figures(
        subject=sum(map(shows_subject, subject)) / seeds,
        subject_without_lora=without,
        subject_without_trigger=sum(map(shows_subject, drawn)) / seeds,
        attributes=accuracy(others, drawn),
        pictures=[*subject[:20], *drawn[:20]],
    )


def _share(model: StableDiffusion, seeds: int) -> float:
    return sum(map(shows_subject, sample(model, [TRIGGER] * seeds))) / seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lora", type=Path)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--sheet", type=Path, help="write some of the pictures to this PNG")
    options = parser.parse_args()
    figures = measure(options.lora, options.seeds)
    print(f"shows the subject, prompt {TRIGGER!r}, LoRA at 1: {figures.subject:.0%}")
    print(f"the same prompt without the LoRA: {figures.subject_without_lora:.0%}")
    print(f"prompts without the trigger, LoRA at 1: {figures.subject_without_trigger:.0%}\n")
    print("Attributes named in prompts without the trigger, LoRA at 1:\n")
    print(table(figures.attributes))
    if options.sheet:
        contact_sheet(figures.pictures).save(options.sheet)


if __name__ == "__main__":
    main()
