"""The embedded checkpoint for a WebUI: its file, and a configuration, since a WebUI takes every SD1.5 for full width.

Runs in the WebUI's process too: standard library only.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import shutil
import sys
from pathlib import Path

from ..errors import UserError
from ..files import replace_file, require_space, write_text
from ..paths import MINI_CHECKPOINT
from .vocabulary import write_files

NAME = "train-lora-mini"


def install(models_dir: Path, checkpoint: Path = MINI_CHECKPOINT) -> Path:
    """Put the checkpoint into a WebUI's models folder (models, or models/Stable-diffusion); its path there.

    Everything that it needs lies beside it, so that the extension may move. What is there and right is left alone;
    otherwise each file is replaced in one step, the checkpoint last. Raises UserError.
    """
    template = checkpoint.parent / "mini.yaml"
    text_config = checkpoint.parent / "config" / "text_encoder.json"
    for needed in (checkpoint, template, text_config):
        if not needed.is_file():
            raise UserError("the embedded checkpoint isn't complete", where=needed, remedy="Install the extension anew")
    folder = _checkpoints_folder(models_dir)
    require_space(folder, checkpoint.stat().st_size + 4 * 2**20)
    clip = folder / f"{NAME}-clip"
    _write_clip(clip, text_config)
    yaml = template.read_text(encoding="utf-8").replace("{clip_folder}", json.dumps(clip.resolve().as_posix()))
    _write(folder / f"{NAME}.yaml", yaml)
    target = folder / f"{NAME}.safetensors"
    if not (target.is_file() and filecmp.cmp(checkpoint, target, shallow=False)):
        with replace_file(target) as temporary:
            shutil.copyfile(checkpoint, temporary)
    return target


def _checkpoints_folder(models_dir: Path) -> Path:
    """models/Stable-diffusion for models, else the folder as given. Raises UserError where there is none."""
    inner = models_dir / "Stable-diffusion"
    folder = inner if inner.is_dir() else models_dir
    if not folder.is_dir():
        raise UserError(
            "there is no such folder", where=models_dir, remedy="Name a WebUI's models/Stable-diffusion folder"
        )
    return folder.absolute()
