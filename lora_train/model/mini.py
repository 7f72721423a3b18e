"""The embedded checkpoint for a WebUI, which takes every SD1.5 for full width unless a file beside it says otherwise.

Runs in the WebUI's process too, so it imports nothing that isn't there.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import replace_file, require_space, write_text
from ..paths import MINI_CHECKPOINT
from .checkpoint import TEXT, UNET, VAE, read_shapes, text_heads
from .vocabulary import write_files

NAME = "train-lora-mini"
_CLIP = TEXT + "transformer.text_model."
Shapes = dict[str, tuple[int, ...]]


def add_arguments(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `mini`."""
    parser = verbs.add_parser("mini", help="put the embedded checkpoint into a WebUI's models folder")
    parser.add_argument("models_dir", type=Path, help="the WebUI's models folder, or its models/Stable-diffusion")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Install and say where; the exit code. Raises UserError."""
    sys.stdout.write(f"{install(args.models_dir)}\nPress the refresh button beside the WebUI's checkpoint list.\n")
    return 0


def install(models_dir: Path, checkpoint: Path = MINI_CHECKPOINT) -> Path:
    """Put a narrow checkpoint into a WebUI's models folder (models, or models/Stable-diffusion); its path there.

    All that it needs lies beside it, so that the extension may move. What is right is left alone; every other file is
    replaced in one step, the checkpoint last. Raises UserError.
    """
    if not checkpoint.is_file():
        raise UserError("the embedded checkpoint is missing", where=checkpoint, remedy="Install the extension anew")
    shapes = read_shapes(checkpoint)
    folder = _checkpoints_folder(Path(models_dir))
    require_space(folder, checkpoint.stat().st_size + 4 * 2**20)
    clip = folder / f"{NAME}-clip"
    _write_clip(clip, text_config(shapes))
    _write(folder / f"{NAME}.yaml", json.dumps(webui_config(shapes, clip), indent=2) + "\n")
    target = folder / f"{NAME}.safetensors"
    if not (target.is_file() and filecmp.cmp(checkpoint, target, shallow=False)):
        with replace_file(target) as temporary:
            shutil.copyfile(checkpoint, temporary)
    return target


def webui_config(shapes: Shapes, clip: Path) -> dict[str, Any]:
    """What the WebUI has to know of a checkpoint with these shapes: widths, and where its text encoder is described.

    It is JSON, and so YAML. Everything that isn't a width is as in the WebUI's v1-inference.yaml.
    """
    return {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "linear_start": 0.00085,
                "linear_end": 0.012,
                "num_timesteps_cond": 1,
                "timesteps": 1000,
                "first_stage_key": "jpg",
                "cond_stage_key": "txt",
                "image_size": 64,
                "channels": 4,
                "cond_stage_trainable": False,
                "conditioning_key": "crossattn",
                "scale_factor": 0.18215,
                "use_ema": False,
                "unet_config": {
                    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                    "params": _unet(shapes),
                },
                "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": _vae(shapes)},
                "cond_stage_config": {
                    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
                    "params": {"version": clip.as_posix()},
                },
            },
        }
    }


def text_config(shapes: Shapes) -> dict[str, Any]:
    """The text encoder's config.json, as transformers reads it."""
    positions = shapes[f"{_CLIP}embeddings.position_embedding.weight"][0]
    vocabulary, width = shapes[f"{_CLIP}embeddings.token_embedding.weight"]
    layers = {name[len(_CLIP) :].split(".")[2] for name in shapes if name.startswith(f"{_CLIP}encoder.layers.")}
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "quick_gelu",
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": shapes[f"{_CLIP}encoder.layers.0.mlp.fc1.weight"][0],
        "num_attention_heads": text_heads(width),
        "num_hidden_layers": len(layers),
        "max_position_embeddings": positions,
        "vocab_size": vocabulary,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def _unet(shapes: Shapes) -> dict[str, Any]:
    first = shapes[f"{UNET}input_blocks.0.0.weight"][0]
    widths = [shapes[f"{UNET}input_blocks.{1 + 3 * level}.0.in_layers.2.weight"][0] for level in range(4)]
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": first,
        "attention_resolutions": [4, 2, 1],
        "num_res_blocks": 2,
        "channel_mult": [width // first for width in widths],
        "num_heads": 8,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": shapes[f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_checkpoint": False,
        "legacy": False,
    }


def _vae(shapes: Shapes) -> dict[str, Any]:
    first = shapes[f"{VAE}encoder.conv_in.weight"][0]
    widths = [shapes[f"{VAE}encoder.down.{level}.block.0.conv1.weight"][0] for level in range(4)]
    sizes = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": first,
        "ch_mult": [width // first for width in widths],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return {"embed_dim": 4, "ddconfig": sizes, "lossconfig": {"target": "torch.nn.Identity"}}


def _checkpoints_folder(models_dir: Path) -> Path:
    """models/Stable-diffusion for models, else the folder as given. Raises UserError where there is none."""
    inner = models_dir / "Stable-diffusion"
    folder = inner if inner.is_dir() else models_dir
    if not folder.is_dir():
        remedy = "Name a WebUI's models/Stable-diffusion folder"
        raise UserError("there is no such folder", where=models_dir, remedy=remedy)
    return folder.absolute()


def _write_clip(folder: Path, config: dict[str, Any]) -> None:
    """The text encoder's description and the tokenizer's files; config.json, the last, marks the folder as whole."""
    text = json.dumps(config, indent=2) + "\n"
    marker = folder / "config.json"
    if marker.is_file() and marker.read_text(encoding="utf-8") == text:
        return
    folder.mkdir(exist_ok=True)
    write_files(folder)
    write_text(marker, text)


def _write(path: Path, text: str) -> None:
    if not (path.is_file() and path.read_text(encoding="utf-8") == text):
        write_text(path, text)
