"""Packages that are hidden for a while."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lora_train.lean import without


def test_hidden_and_back() -> None:
    sys.modules.pop("wave", None)
    with without("wave", "json"), pytest.raises(ImportError):
        import wave
    import wave

    assert wave.open
    assert sys.modules["json"], "what is imported already stays"


def test_training_does_not_load_bitsandbytes() -> None:
    code = """
import sys
from lora_train.lean import without
with without("bitsandbytes"):
    import lora_train.train.run
assert "bitsandbytes" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
