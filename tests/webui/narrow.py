"""Narrow checkpoints of every family, and what a WebUI has to be told of them: widths that no full model has.

Values that aren't widths are those of the WebUI's v1-inference.yaml, v2-inference.yaml and sd_xl_base.yaml.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_train.model import mini
from lora_train.model.checkpoint import Family
from lora_train.model.vocabulary import write_files
from tests import support

# The WebUI's OpenCLIP knows inner layers of four times the width alone; SD2's heads have 64 values.
WIDTHS = {
    Family.SD15: support.Widths(),
    Family.SD2: support.Widths(unet=64, text_inner=256, text_layers=4),
    Family.SDXL: support.Widths(text=32, text_inner=64, text_layers=3, text2_inner=256),
}
_ENCODERS = "sgm.modules.encoders.modules"
_DIFFUSION = "sgm.modules.diffusionmodules"


def install(folder: Path, family: Family) -> Path:
    """Write a checkpoint and its description into `folder`, OpenCLIP's sizes into folder/open_clip; its path."""
    widths = WIDTHS[family]
    # Under a name that the WebUI's own folder hasn't got: of two alike it loads its own, whatever --ckpt says.
    path = support.checkpoint(folder / f"train-lora-test-{family.name.lower()}.safetensors", widths, family=family)
    if family is Family.SD15:
        installed = mini.install(folder, path)
        installed.with_suffix(".yaml").rename(path.with_suffix(".yaml"))
        installed.unlink()
        return path
    sizes = (widths.text, widths.text_layers) if family is Family.SD2 else (widths.text2, widths.text2_layers)
    (folder / "open_clip").mkdir()
    _write(folder / "open_clip" / "narrow.json", _open_clip(*sizes))
    described = _sd2(widths) if family is Family.SD2 else _sdxl(widths, folder / "clip")
    _write(path.with_suffix(".yaml"), {"model": described})
    return path


def _write(path: Path, values: dict[str, Any]) -> None:
    """JSON is YAML too."""
    path.write_text(json.dumps(values), encoding="utf-8")


def _part(target: str, **params: Any) -> dict[str, Any]:
    return {"target": target, "params": params}


def _open_clip(width: int, layers: int) -> dict[str, Any]:
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": layers}
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16}
    return {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}


def _unet(widths: support.Widths, context: int) -> dict[str, Any]:
    shape = {"in_channels": 4, "out_channels": 4, "model_channels": widths.unet, "context_dim": context}
    kind = {"use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False}
    return {**shape, **kind, "num_res_blocks": 2, "num_head_channels": 64}


def _vae(target: str, widths: support.Widths) -> dict[str, Any]:
    shape = {"in_channels": 3, "out_ch": 3, "z_channels": 4, "ch": widths.vae, "ch_mult": [1, 2, 4, 4]}
    kind = {"double_z": True, "resolution": 256, "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    loss = {"target": "torch.nn.Identity"}
    return _part(target, embed_dim=4, monitor="val/rec_loss", ddconfig={**shape, **kind}, lossconfig=loss)


def _sd2(widths: support.Widths) -> dict[str, Any]:
    levels = {"channel_mult": [1, 2, 4, 4], "attention_resolutions": [4, 2, 1], "transformer_depth": 1}
    return _part(
        "ldm.models.diffusion.ddpm.LatentDiffusion",
        linear_start=0.00085,
        linear_end=0.012,
        timesteps=1000,
        num_timesteps_cond=1,
        first_stage_key="jpg",
        cond_stage_key="txt",
        conditioning_key="crossattn",
        image_size=64,
        channels=4,
        cond_stage_trainable=False,
        scale_factor=0.18215,
        use_ema=False,
        unet_config=_part(
            "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            image_size=32,
            **levels,
            **_unet(widths, widths.text),
        ),
        first_stage_config=_vae("ldm.models.autoencoder.AutoencoderKL", widths),
        cond_stage_config=_part(
            "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder", arch="narrow", layer="penultimate"
        ),
    )


def _sdxl(widths: support.Widths, clip: Path) -> dict[str, Any]:
    clip.mkdir()
    write_files(clip)
    config = {"hidden_size": widths.text, "intermediate_size": widths.text_inner, "projection_dim": widths.text}
    layers = {"num_hidden_layers": widths.text_layers, "num_attention_heads": 8, "hidden_act": "quick_gelu"}
    _write(clip / "config.json", {"model_type": "clip_text_model", **config, **layers})
    levels = {"channel_mult": [1, 2, 4], "attention_resolutions": [4, 2], "transformer_depth": [1, *widths.depths[1:]]}
    sizes = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    embedders = [
        ("txt", _part(f"{_ENCODERS}.FrozenCLIPEmbedder", version=str(clip), layer="hidden", layer_idx=2)),
        (
            "txt",
            _part(
                f"{_ENCODERS}.FrozenOpenCLIPEmbedder2",
                arch="narrow",
                version="none",
                layer="penultimate",
                always_return_pooled=True,
                legacy=False,
            ),
        ),
        *((size, _part(f"{_ENCODERS}.ConcatTimestepEmbedderND", outdim=256)) for size in sizes),
    ]
    return _part(
        "sgm.models.diffusion.DiffusionEngine",
        scale_factor=0.13025,
        denoiser_config=_part(
            f"{_DIFFUSION}.denoiser.DiscreteDenoiser",
            num_idx=1000,
            weighting_config={"target": f"{_DIFFUSION}.denoiser_weighting.EpsWeighting"},
            scaling_config={"target": f"{_DIFFUSION}.denoiser_scaling.EpsScaling"},
            discretization_config={"target": f"{_DIFFUSION}.discretizer.LegacyDDPMDiscretization"},
        ),
        network_config=_part(
            f"{_DIFFUSION}.openaimodel.UNetModel",
            adm_in_channels=widths.text2 + 6 * 256,
            num_classes="sequential",
            **levels,
            **_unet(widths, widths.text + widths.text2),
        ),
        conditioner_config=_part(
            "sgm.modules.GeneralConditioner",
            emb_models=[{"is_trainable": False, "input_key": key, **embedder} for key, embedder in embedders],
        ),
        first_stage_config=_vae("sgm.models.autoencoder.AutoencoderKLInferenceWrapper", widths),
    )
