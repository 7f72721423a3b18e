"""CLIP's vocabulary, from OpenAI's file (MIT) that ships with the project, as the files that a tokenizer reads.

Standard library only: a WebUI's process writes these files too.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from ..paths import CLIP_VOCABULARY

MAX_LENGTH = 77
_START, _END = "<|startoftext|>", "<|endoftext|>"


def write_files(folder: Path) -> None:
    """Write the vocabulary in the form of a Hugging Face tokenizer folder."""
    learnt = merges()
    letters = byte_letters().values()
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(merge.split()) for merge in learnt),
        _START,
        _END,
    ]
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    config = {**special, "model_max_length": MAX_LENGTH, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"}
    _write(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    _write(folder / "special_tokens_map.json", special)
    _write(folder / "tokenizer_config.json", config)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *learnt]) + "\n", encoding="utf-8", newline="\n")


def merges() -> list[str]:
    """The pairs of pieces that are joined, "a b", in the order in which they were learnt."""
    lines = gzip.decompress(CLIP_VOCABULARY.read_bytes()).decode("utf-8").split("\n")
    return lines[1 : 49152 - 256 - 2 + 1]


def _write(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def byte_letters() -> dict[int, str]:
    """A printable letter for each of the 256 bytes, printable ones first (GPT-2's byte-level BPE)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(256 + index) for index, byte in enumerate(others)}
