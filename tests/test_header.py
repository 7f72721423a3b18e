"""What a checkpoint's header tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_train.header import usual_side
from lora_train.paths import MINI_CHECKPOINT


def test_the_side_that_a_checkpoint_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual_side(tmp_path / "none.safetensors") == 512
    (tmp_path / "old.ckpt").write_bytes(b"PK\3\4" + bytes(64))
    assert usual_side(tmp_path / "old.ckpt") == 512
    if MINI_CHECKPOINT.is_file():
        monkeypatch.chdir(MINI_CHECKPOINT.parent)
        assert usual_side(MINI_CHECKPOINT) == usual_side(Path(MINI_CHECKPOINT.name)) == 64
