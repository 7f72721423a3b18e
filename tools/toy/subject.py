"""Whether the demo's LoRA works, measured in pictures: `python -m tools.toy.subject LORA [--seeds N] [--sheet PNG]`.

--weights FILE draws with block weights: those of a measure.json (`python -m lora_train tune`), or of a line NAME:17
numbers.
"""

import argparse
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lora_train.blocks.families import weights_by_block
from lora_train.blocks.layout import block_of
from lora_train.blocks.presets import open_presets
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
    """Shares of seeds. attributes: right on prompts without the trigger, with the LoRA."""

    subject: float
    subject_without_lora: float
    subject_without_trigger: float
    attributes: dict[str, float]
    pictures: list[Image.Image]


def measure(
    lora: Path,
    seeds: int = 100,
    checkpoint: Path = MINI_CHECKPOINT,
    weights: Mapping[str, float] | None = None,
    first_seed: int = 0,
) -> Figures:
    """The subject for its trigger with and without the LoRA, and everybody else with it.

    weights: by block, 1 everywhere unless given; other seeds have other characters too.
    """
    model = load_model(checkpoint)
    without = _share(model, seeds, first_seed)
    state = read_lora(lora)[0]
    if weights is not None:
        for key in state:
            if key.endswith(".lora_up.weight"):
                state[key] = state[key] * weights[block_of(key.partition(".")[0])]
    LoraNetwork.from_state(model, state)
    subject = sample(model, [TRIGGER] * seeds, first_seed)
    rng = random.Random(1 + first_seed)
    others = [sample_character(rng) for _ in range(seeds)]
    drawn = sample(model, [caption_of(character) for character in others], first_seed)
    return Figures(
        subject=sum(map(shows_subject, subject)) / seeds,
        subject_without_lora=without,
        subject_without_trigger=sum(map(shows_subject, drawn)) / seeds,
        attributes=accuracy(others, drawn),
        pictures=[*subject[:20], *drawn[:20]],
    )


def read_weights(path: Path) -> dict[str, float]:
    """Of a measure.json the first LoRA's; of a preset file the first line's."""
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))["weights"][0]
    return weights_by_block(next(iter(open_presets(path).file.presets.values())))


def _share(model: StableDiffusion, seeds: int, first_seed: int) -> float:
    return sum(map(shows_subject, sample(model, [TRIGGER] * seeds, first_seed))) / seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lora", type=Path)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, help="block weights: measure.json, or a line NAME:17 numbers")
    parser.add_argument("--sheet", type=Path, help="write some of the pictures to this PNG")
    options = parser.parse_args()
    weights = read_weights(options.weights) if options.weights else None
    figures = measure(options.lora, options.seeds, weights=weights, first_seed=options.first_seed)
    at = options.weights.name if options.weights else "1"
    print(f"shows the subject, prompt {TRIGGER!r}, LoRA at {at}: {figures.subject:.0%}")
    print(f"the same prompt without the LoRA: {figures.subject_without_lora:.0%}")
    print(f"prompts without the trigger, LoRA at {at}: {figures.subject_without_trigger:.0%}\n")
    print(f"Attributes named in prompts without the trigger, LoRA at {at}:\n")
    print(table(figures.attributes))
    if options.sheet:
        contact_sheet(figures.pictures).save(options.sheet)


if __name__ == "__main__":
    main()
