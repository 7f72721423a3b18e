"""Block weights of the demo's LoRA, tuned and then measured in pictures: `python -m tools.toy.tuned LORA --out FOLDER`.

Nothing that is tuned on is measured: pictures of the subject are drawn anew (none of them was trained on), prompts are
of other characters, and the seeds of the pictures that are counted are others.
"""

import argparse
import json
import random
from pathlib import Path

from lora_train.blocks.families import flat_weights
from lora_train.blocks.presets import format_numbers
from lora_train.events import Event
from lora_train.measure.run import RESULT, run
from lora_train.paths import MINI_CHECKPOINT
from tools.toy.characters import Pose, caption_of, draw_subject, sample_character
from tools.toy.subject import TRIGGER, Figures, measure, read_weights

PICTURES, PROMPTS, KEEP = 36, 36, 0.5
_PICTURE_SEED, _PROMPT_SEED = 500, 7000  # far from those of the demo's set and of the measure


def task_for(lora: Path, out: Path, keep: float) -> dict:
    """Draws the pictures into `out` and says what to tune."""
    folder = out / "pictures" / "1_miro"
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(_PICTURE_SEED)
    for number in range(PICTURES):
        character = sample_character(rng)
        draw_subject(character, Pose.sample(rng)).save(folder / f"{number:02}.png")
        named = {name: tag for name, tag in character.items() if name != "hair"}
        (folder / f"{number:02}.txt").write_text(f"miro, {caption_of(named)}\n", encoding="utf-8")
    rng = random.Random(_PROMPT_SEED)
    return {
        "kind": "tune",
        "checkpoint": str(MINI_CHECKPOINT),
        "vae": None,
        "mix": [{"name": lora.stem, "path": str(lora), "te": 1.0, "unet": 1.0, "weights": flat_weights()}],
        "shot": {
            "prompt": TRIGGER,
            "negative_prompt": "",
            "cfg_scale": 5.0,
            "clip_skip": 1,
            "width": 64,
            "height": 64,
        },
        "name": "tuned",
        "pictures": str(folder.parent),
        "prompts": [caption_of(sample_character(rng)) for _ in range(PROMPTS)],
        "resolution": 64,
        "keep": keep,
        "rows": 128,
    }


def row(name: str, figures: Figures) -> str:
    shares = figures.attributes.values()
    mean = sum(shares) / len(shares)
    leak = figures.subject_without_trigger
    return f"| {name} | {figures.subject:.0%} | {leak:.0%} | {min(shares):.0%} | {mean:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lora", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=float, default=KEEP)
    parser.add_argument("--seeds", type=int, default=100)
    options = parser.parse_args()

    def tell(e: Event) -> None:
        if e["event"] == "measuring" and e["done"] % 10 == 0:
            print(f"{e['what']}: {e['done']} of {e['total']}", flush=True)

    run(task_for(options.lora, options.out, options.keep), options.out, tell, lambda: False)
    result = options.out / RESULT
    found = json.loads(result.read_text(encoding="utf-8"))
    print(f"\ntuned:{format_numbers(found['presets'][0]['numbers'])}\n")
    for told in found["table"]:
        print(f"{told['name']:16} subject {told['subject']:.3f}  drift {told['drift']:.3f}  loss {told['loss']:.5f}")
    print("\n| weights | the subject for its trigger | without it | worst attribute | mean of attributes |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(row("1 everywhere", measure(options.lora, options.seeds)), flush=True)
    print(row("tuned", measure(options.lora, options.seeds, weights=read_weights(result))))


if __name__ == "__main__":
    main()
