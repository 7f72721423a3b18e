"""CLIP's tokenizer."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer

from .vocabulary import MAX_LENGTH, write_files

__all__ = ["MAX_LENGTH", "load_tokenizer"]


def load_tokenizer() -> CLIPTokenizer:
    """The tokenizer of every family: 49408 tokens, padded with <|endoftext|>; text.tokenize pads for OpenCLIP."""
    with TemporaryDirectory() as folder:
        write_files(Path(folder))
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
