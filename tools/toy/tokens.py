"""CLIP's byte pair encoding, for captions that are lists of tags."""

from functools import cache

import torch
from torch import Tensor

from lora_train.model.tokenizer import load_tokenizer

LENGTH, BOS, EOS = 77, 49406, 49407
load_tokenizer = cache(load_tokenizer)


@cache
def token_ids(tag: str) -> tuple[int, ...]:
    """`#123` stands for the token of that number."""
    if tag.startswith("#"):
        return (int(tag[1:]),)
    return tuple(load_tokenizer()(tag, add_special_tokens=False)["input_ids"])


def encode(captions: list[str]) -> Tensor:
    """Token numbers [B, 77]; tags are looked up one by one, which is quick when they recur."""
    comma = token_ids(",")
    rows = []
    for caption in captions:
        tags = caption.split(", ") if caption else []
        ids = [number for tag in tags for number in (*comma, *token_ids(tag))][len(comma) :]
        row = [BOS, *ids[: LENGTH - 2], EOS]
        rows.append(row + [EOS] * (LENGTH - len(row)))
    return torch.tensor(rows)
