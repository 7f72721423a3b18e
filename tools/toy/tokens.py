"""CLIP's byte pair encoding, for captions that are lists of tags."""

import gzip
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

VOCABULARY = Path(__file__).parents[2] / "lora_train/assets/clip/bpe_simple_vocab_16e6.txt.gz"
LENGTH, BOS, EOS = 77, 49406, 49407
MERGES = 48894


def byte_symbols() -> list[str]:
    """One printable character per byte, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


@cache
def load_tokenizer() -> CLIPTokenizer:
    merges = gzip.decompress(VOCABULARY.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    symbols = byte_symbols()
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(merge.replace(" ", "") for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge.split()) for merge in merges])


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
