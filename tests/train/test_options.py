"""Every option changes what it should and nothing else: a run with it is held against the same run without.

A row says how: `value` is given on top of `given`, and exactly the aspects in `shows` differ. `by` names a test that
shows it instead. An option without a row fails.
"""

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.model.checkpoint import Family
from lora_train.paths import ROOT
from lora_train.settings import TrainSettings
from lora_train.train.latents import Encoder
from tests.train import runs

# Aspects of a run that may differ:
#   loss, norm     of the first step: what is drawn and computed; the gradient
#   rates          of every group at every step
#   steps          how many
#   weights        the last file's values;  shapes: its keys, shapes and precision;  about: what its metadata tells
#   files          names of everything on disk
#   cached         what was encoded before the first step
#   measured       validation's numbers;  pictures: the previews' bytes;  warnings: that there are others
BLOCKS = ",".join(["0", "2", *["0"] * 10, "2", *["0"] * 11, "2"])  # one on the way down, the middle, the last
BF16 = {"mixed_precision": "bf16"}
EPOCHS = {"max_train_epochs": 3, "save_every_n_epochs": 1}
STATES = {**EPOCHS, "save_state": True}
STEPS = {"max_train_steps": 3, "save_every_n_steps": 1}
HELD_OUT = {"validation_split": 0.34}
PREVIEW = {"sample_prompts": "a thing --w 64 --h 64 --s 1"}
EACH_STEP = {**PREVIEW, "sample_every_n_steps": 1}
BUCKETS = {"resolution": (128, 128), "enable_bucket": True, "min_bucket_reso": 64}
V = {"v_parameterization": True}
HUBER = {"loss_type": "huber"}
SHUFFLED = {"shuffle_caption": True, "caption_separator": ",", "train_batch_size": 3}
REG = {"reg_data_dir": "DATA/reg", "max_train_steps": 3}
LONG = {"caption_prefix": "word, " * 50}
BOTH = {"network_train_unet_only": False}
WHOLE = {"block_dims": ""}
TRAINED = "DATA/trained.safetensors"

LEARNED = "loss norm weights"
LATER = "norm weights"


@dataclass(frozen=True)
class Row:
    name: str
    value: Any = None
    shows: str = ""
    given: dict = field(default_factory=dict)
    also: dict = field(default_factory=dict)
    """also: what must change with it."""
    by: str = ""


def by(test: str, *names: str) -> list[Row]:
    return [Row(name, by=test) for name in names]


ROWS = [
    # Files
    Row("pretrained_model_name_or_path", "OTHER", LEARNED + " about"),
    Row("vae", "OTHER", LEARNED),
    Row("train_data_dir", "DATA/set2", LEARNED),
    Row("reg_data_dir", "DATA/reg", LEARNED + " cached files", {"max_train_steps": 3}),
    Row("dataset_config", "DATA/set.toml", LEARNED, also={"train_data_dir": ""}),
    Row("output_dir", "HERE/elsewhere", "files"),
    Row("output_name", "other", "files"),
    # Network
    Row("network_module", "lycoris.kohya", "about"),
    Row("algo", "loha", "norm shapes weights about", WHOLE),
    Row("network_dim", 3, "norm shapes weights", WHOLE),
    Row("network_alpha", 2.0, "norm weights"),
    Row("conv_dim", 2, "norm shapes weights"),
    Row("conv_alpha", 2.0, "norm weights", {"conv_dim": 2}),
    Row("network_dropout", 0.5, LATER),
    Row("rank_dropout", 0.5, LATER),
    Row("module_dropout", 0.5, LATER),
    Row("block_dims", BLOCKS, "norm shapes weights"),
    Row("block_alphas", ",".join("3" * 25), LATER),
    Row("conv_block_dims", runs.LAST_BLOCK, "norm shapes weights"),
    Row("conv_block_alphas", ",".join("3" * 25), LATER, {"conv_block_dims": runs.LAST_BLOCK}),
    Row("factor", 2, "norm shapes weights", {**WHOLE, "algo": "lokr"}),
    Row("dora_wd", True, "about norm shapes weights"),
    Row("rs_lora", True, LATER),
    Row("network_weights", TRAINED, LEARNED),
    Row("dim_from_weights", True, "loss norm shapes weights", WHOLE, also={"network_weights": TRAINED}),
    Row("base_weights", [TRAINED], LEARNED),
    Row("base_weights_multiplier", [0.5], LEARNED, {"base_weights": [TRAINED]}),
    Row("network_train_unet_only", False, "norm rates shapes weights cached"),
    Row("network_train_text_encoder_only", True, "norm shapes weights cached", also=BOTH),
    Row("scale_weight_norms", 0.01, "weights"),
    # Learning rate and optimizer
    Row("learning_rate", 1e-3, "rates weights"),
    Row("unet_lr", 1e-3, "rates weights"),
    Row("text_encoder_lr", 1e-3, "rates weights", BOTH),
    *by("test_sdxls_text_encoders_share_a_group_unless_their_rates_differ", "text_encoder2_lr"),
    Row("loraplus_lr_ratio", 4.0, "rates weights"),
    Row("loraplus_unet_lr_ratio", 4.0, "rates weights", BOTH),
    Row("loraplus_text_encoder_lr_ratio", 4.0, "rates weights", BOTH),
    Row("down_lr_weight", ",".join(["0.5"] * 12), "rates weights", {"block_dims": BLOCKS}),
    Row("mid_lr_weight", "0.5", "rates weights", {"block_dims": BLOCKS}),
    Row("up_lr_weight", ",".join(["0.5"] * 12), "rates weights", {"block_dims": BLOCKS}),
    Row("block_lr_zero_threshold", 0.6, "norm rates shapes weights", {"block_dims": BLOCKS, "mid_lr_weight": "0.5"}),
    Row("optimizer_type", "Lion", "weights"),
    Row("optimizer_args", ["betas=0.5,0.9"], "weights"),
    *by("test_where_eight_bits_do_not_run", "optimizer_fallback"),
    Row("lr_scheduler", "linear", "rates weights"),
    Row(
        "lr_scheduler_type",
        "torch.optim.lr_scheduler.StepLR",
        "rates weights",
        also={"lr_scheduler_args": ["step_size=1"]},
    ),
    Row(
        "lr_scheduler_args",
        ["step_size=1", "gamma=0.5"],
        "rates weights",
        {"lr_scheduler_type": "StepLR", "lr_scheduler_args": ["step_size=1"]},
    ),
    Row("lr_warmup_steps", 2, "rates weights", {"lr_scheduler": "constant_with_warmup"}),
    Row("lr_scheduler_num_cycles", 2, "rates weights", {"lr_scheduler": "cosine_with_restarts", "max_train_steps": 3}),
    Row("lr_scheduler_power", 2.0, "rates weights", {"lr_scheduler": "polynomial"}),
    Row("lr_scheduler_min_lr_ratio", 0.5, "rates weights", {"lr_scheduler": "cosine_with_min_lr"}),
    Row("max_grad_norm", 1e-9, "weights"),
    # Length and saving
    Row("max_train_epochs", 2, "steps rates weights files"),
    Row("max_train_steps", 3, "steps rates weights files"),
    Row("train_batch_size", 1, LEARNED),
    Row("gradient_accumulation_steps", 2, LEARNED + " files"),
    Row("seed", 2, LEARNED),
    Row("save_every_n_epochs", 1, "files", {"max_train_epochs": 2}),
    Row("save_every_n_steps", 1, "files"),
    Row("save_last_n_epochs", 1, "files", EPOCHS),
    Row("save_last_n_steps", 1, "files", STEPS),
    Row("save_precision", "bf16", "shapes weights"),
    Row("save_state", True, "files"),
    Row("save_state_on_train_end", True, "files"),
    Row("save_last_n_epochs_state", 1, "files", STATES),
    Row("save_last_n_steps_state", 1, "files", {**STEPS, "save_state": True}),
    *by("test_interrupted_and_resumed_is_uninterrupted", "resume"),
    Row("ema_decay", 0.9, "weights"),
    Row("training_comment", "a note", "about"),
    Row("no_metadata", True, "about"),
    # Pictures
    Row("resolution", (64, 128), LEARNED),
    Row("enable_bucket", True, LEARNED, {"resolution": (128, 128), "min_bucket_reso": 64}),
    Row("min_bucket_reso", 128, LEARNED, BUCKETS),
    Row("max_bucket_reso", 128, LEARNED, BUCKETS),
    Row("bucket_reso_steps", 32, LEARNED, BUCKETS),
    Row("bucket_no_upscale", True, LEARNED, BUCKETS),
    Row("flip_aug", True, LEARNED),
    Row("random_crop", True, LEARNED + " cached"),
    Row("alpha_mask", True, LEARNED),
    Row("masked_loss", True, LEARNED),
    Row("conditioning_data_dir", "DATA/masks", LEARNED),
    Row("prior_loss_weight", 0.1, LEARNED, REG),
    Row("cache_latents", False, LEARNED + " cached"),
    Row("cache_latents_to_disk", True, "files"),
    *by("test_more_pictures_at_once_are_encoded_on_a_gpu", "vae_batch_size"),
    Row("cache_text_encoder_outputs", False, "cached"),
    # Captions
    Row("caption_extension", ".words", LEARNED + " cached"),
    Row("caption_prefix", "good", LEARNED),
    Row("caption_suffix", "good", LEARNED),
    Row("caption_separator", "o", LEARNED, SHUFFLED),
    Row("keep_tokens", 3, LEARNED, SHUFFLED),
    Row("keep_tokens_separator", "|||", LEARNED, SHUFFLED),
    Row("secondary_separator", ";;;", LEARNED, SHUFFLED),
    Row("shuffle_caption", True, LEARNED + " cached", {"train_batch_size": 3}),
    Row("enable_wildcard", True, LEARNED + " cached", {"train_batch_size": 3}),
    Row("caption_dropout_rate", 1.0, LEARNED + " cached"),
    Row("caption_dropout_every_n_epochs", 1, LEARNED + " cached"),
    Row("caption_tag_dropout_rate", 0.9, LEARNED + " cached"),
    Row("token_warmup_min", 2, LEARNED, {"token_warmup_step": 10}),
    Row("token_warmup_step", 10, LEARNED + " cached"),
    Row("max_token_length", 150, LEARNED, LONG),
    Row("weighted_captions", True, LEARNED, {"train_batch_size": 3}),
    Row("clip_skip", 2, LEARNED),
    # Noise and loss
    Row("noise_offset", 0.1, LEARNED),
    Row("noise_offset_random_strength", True, LEARNED, {"noise_offset": 0.1}),
    Row("adaptive_noise_scale", 1.0, LEARNED, {"noise_offset": 0.1}),
    Row("multires_noise_iterations", 4, LEARNED),
    Row("multires_noise_discount", 0.8, LEARNED, {"multires_noise_iterations": 4}),
    Row("ip_noise_gamma", 0.1, LEARNED),
    Row("ip_noise_gamma_random_strength", True, LEARNED, {"ip_noise_gamma": 0.1}),
    Row("min_timestep", 900, LEARNED),
    Row("max_timestep", 100, LEARNED),
    Row("v_parameterization", True, LEARNED),
    Row("zero_terminal_snr", True, LEARNED, V),
    Row("min_snr_gamma", 0.01, LEARNED),
    Row("debiased_estimation_loss", True, LEARNED),
    Row("scale_v_pred_loss_like_noise_pred", True, LEARNED, V),
    Row("v_pred_like_loss", 1.0, LEARNED),
    Row("loss_type", "huber", LEARNED),
    Row("huber_schedule", "constant", LEARNED, HUBER),
    Row("huber_c", 0.5, LEARNED, HUBER),
    Row("huber_scale", 2.0, LEARNED, {**HUBER, "huber_schedule": "constant"}),
    # Precision and memory
    Row("mixed_precision", "bf16", LEARNED),
    *by("test_gradients_of_full_fp16_are_unscaled", "full_fp16"),
    Row("full_bf16", True, "norm weights", BF16),
    Row("fp8_base", True, LEARNED, BF16),
    Row("no_half_vae", True, LEARNED, BF16),
    *by("test_gradient_checkpointing_keeps_less_for_the_same_gradient", "gradient_checkpointing"),
    Row("xformers", True, "warnings"),
    *by("test_a_compiled_unet_computes_the_same", "torch_compile"),
    # Validation
    Row("validation_split", 0.34, LEARNED + " measured files"),
    Row("validation_data_dir", "DATA/set2", "measured cached"),
    Row("validation_seed", 7, LEARNED + " measured", HELD_OUT),
    Row("validate_every_n_epochs", 2, "measured", {**HELD_OUT, **EPOCHS}),
    Row("validate_every_n_steps", 1, "measured", HELD_OUT),
    Row("max_validation_steps", 1, "measured", HELD_OUT),
    *by("test_a_run_ends_early_where_the_held_out_loss_has_stalled", "early_stop_epochs"),
    *by("test_a_blow_up_leaves_the_weights_alone", "stop_on_blow_up"),
    # Previews and logs
    Row("sample_prompts", "a thing --w 64 --h 64 --s 1", "files pictures", {"sample_every_n_epochs": 1}),
    Row("sample_every_n_epochs", 1, "files pictures", PREVIEW),
    Row("sample_every_n_steps", 1, "files pictures", PREVIEW),
    Row("sample_at_first", True, "files pictures", {**PREVIEW, "sample_every_n_epochs": 1}),
    Row("sample_sampler", "euler_a", "pictures", EACH_STEP),
    Row("logging_dir", "HERE/log", "files"),
    Row("log_with", "wandb", "files warnings", {"logging_dir": "HERE/log"}),
    Row("log_prefix", "x", "files", {"logging_dir": "HERE/log"}),
]


@dataclass
class Lab:
    """Where runs are made; equal ones once."""

    folder: Path
    checkpoints: dict
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self, **changes: Any) -> dict[str, Any]:
        """The aspects of a run."""
        key = json.dumps(changes, sort_keys=True)
        if key not in self.done:
            here = self.folder / f"run{next(self.numbers)}"
            shutil.copytree(self.folder / "set", here / "set")
            self.done[key] = observed(runs.train(self.settings(here, **changes)), here)
        return self.done[key]

    def settings(self, here: Path, **changes: Any) -> TrainSettings:
        words = {
            "DATA": str(self.folder),
            "HERE": str(here),
            "OTHER": str(self.checkpoints["other"]),
        }

        def placed(value: Any) -> Any:
            if isinstance(value, list):
                return [placed(one) for one in value]
            return re.sub("DATA|HERE|OTHER", lambda m: words[m[0]], value) if isinstance(value, str) else value

        base = {"train_batch_size": 2, "max_train_steps": 2, "save_every_n_epochs": None}
        changes = {name: placed(value) for name, value in changes.items()}
        return runs.settings_for(here, self.checkpoints[Family.SD15], **{**base, **changes})


@pytest.fixture(scope="module")
def lab(tmp_path_factory, checkpoints):
    folder = tmp_path_factory.mktemp("options")
    runs.drawn(folder / "set" / "1_thing")
    runs.drawn(folder / "set2" / "1_thing", shift=77)
    runs.drawn(folder / "reg" / "1_any", sizes=((64, 64),), shift=33)
    masks = runs.drawn(folder / "masks")
    for text in (*masks.glob("*.txt"), *masks.glob("*.words")):
        text.unlink()
    (folder / "set.toml").write_text(
        f'[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = "{folder / "set2" / "1_thing"}"\n',
        encoding="utf-8",
    )
    made = Lab(folder, checkpoints)
    runs.train(made.settings(folder / "trained", train_data_dir=str(folder / "set"), max_train_steps=1))
    shutil.copy(folder / "trained" / "out" / "run.safetensors", folder / "trained.safetensors")
    return made


def observed(run: runs.Run, here: Path) -> dict[str, Any]:
    """What may differ between two runs, by aspect."""
    progress = run.of("progress")
    last = Path(run.of("done")[0]["path"])
    weights, about = runs.tensors(last), runs.metadata(last)
    found = sorted(re.sub(r"\d{14}|events\.out.*", "*", str(p.relative_to(here))) for p in here.rglob("*"))
    return {
        "loss": progress[0]["loss"],
        "norm": progress[0]["grad_norm"],
        "rates": [e["lr"] for e in progress],
        "steps": len(progress),
        "weights": hashlib.sha256(
            b"".join(bytes(v.view(-1).view(torch.uint8).numpy()) for v in weights.values())
        ).hexdigest(),
        "shapes": [(key, tuple(value.shape), value.dtype) for key, value in sorted(weights.items())],
        "about": [
            about.get("ss_training_comment"),
            about["ss_network_module"],
            about.get("ss_sd_model_name"),
            sorted(about),
        ],
        "files": found,
        "cached": [(e["what"], e["total"]) for e in run.of("cache")],
        "measured": [(e["step"], e["within"], e["train"], e["held_out"]) for e in run.of("validation")],
        "pictures": [
            hashlib.sha256(Path(path).read_bytes()).hexdigest() for e in run.of("preview") for path in e["paths"]
        ],
        "warnings": sorted(e["text"].replace(str(here), "") for e in run.of("warning")),
    }


def test_every_option_has_a_row():
    named = [row.name for row in ROWS]
    assert sorted(named) == sorted(f.name for f in fields(TrainSettings))


def test_the_tests_that_are_named_exist():
    written = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for row in ROWS:
        assert not row.by or f"def {row.by}(" in written, row


@pytest.mark.parametrize("row", [row for row in ROWS if not row.by], ids=lambda row: row.name)
def test_an_option_changes_what_it_should(lab, row):
    before = lab.run(**row.given)
    after = lab.run(**{**row.given, **row.also, row.name: row.value})
    assert {aspect for aspect in before if before[aspect] != after[aspect]} == set(row.shows.split())


def test_more_pictures_at_once_are_encoded_on_a_gpu(lab, checkpoints):
    settings = lab.settings(lab.folder, vae_batch_size=3)
    model = runs.pristine(checkpoints[Family.SD15])
    assert Encoder(model, settings, print).at_once == 1  # faster on a processor
    model.vae.to("meta")
    assert Encoder(model, settings, print).at_once == 3
