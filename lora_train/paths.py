"""Where things are."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
"""The extension's folder: what a WebUI calls extensions/<name>."""

ASSETS = PACKAGE / "assets"
MINI_CHECKPOINT = ASSETS / "mini" / "mini.safetensors"
"""The embedded Stable Diffusion 1.5 checkpoint, narrow and trained on drawn characters."""

CLIP_VOCABULARY = ASSETS / "clip" / "bpe_simple_vocab_16e6.txt.gz"
DEMO_PICTURES = ASSETS / "demo" / "image"
FACES = ASSETS / "faces"
"""What our own face detector reads; README.md in it says where that is from."""

HASHES = ROOT / "cache" / "hashes.json"
"""sha256 of checkpoints that were read once, by path, size and time of change."""
