"""CLIP's byte pair encoding, for captions that are lists of tags."""

import gzip
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

VOCABULARY = Path(__file__).parents[2] / "lora_train/assets/clip/bpe_simple_vocab_16e6.txt.gz"
LENGTH, BOS, EOS = 77, 49406, 49407
