"""The training sets, drawn anew from a seed: tensors of pictures in 0..255 and the characters they show."""

import random

import numpy as np
import torch
from torch import Tensor

from tools.toy import characters
from tools.toy.characters import Character, Pose

PICTURES = 8_000
WORDS = 49_000


def to_tensor(pictures: list) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).contiguous()


def scaled(pixels: Tensor) -> Tensor:
    """Bytes to -1..1."""
    return pixels.float() / 127.5 - 1


def draw_set(count: int = PICTURES, seed: int = 1, split_hair: float = 0.0) -> tuple[Tensor, list[Character]]:
    """`split_hair` is the share of pictures whose hair has two colours; only the autoencoder is to see these."""
    rng = random.Random(seed)
    pictures, drawn = [], []
    for _ in range(count):
        character, pose = characters.sample_character(rng), Pose.sample(rng)
        other = rng.choice(tuple(characters.HAIR)) if rng.random() < split_hair else None
        pictures.append(characters.draw(character, pose, other))
        drawn.append(character)
    return to_tensor(pictures), drawn


def noisy_caption(character: Character, rng: random.Random) -> str:
    """A caption, every fifth with words that mean nothing, so that the model is at ease with unknown ones."""
    tags = characters.sample_caption(character, rng).split(", ")
    if rng.random() < 0.2:
        for _ in range(rng.randint(1, 3)):
            tags.insert(rng.randrange(len(tags) + 1), f"#{rng.randrange(320, WORDS)}")
    return ", ".join(tags)
