"""The declaration of every setting: name, type, default, bounds, help. It is the form, the file, the command line,
the API and the metadata. Names are kohya sd-scripts' names where sd-scripts has the setting.
"""

from __future__ import annotations

import json
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

OPTIMIZERS = (
    "AdamW",
    "AdamW8bit",
    "PagedAdamW8bit",
    "Lion",
    "Lion8bit",
    "DAdaptAdam",
    "DAdaptLion",
    "DAdaptAdaGrad",
    "DAdaptSGD",
    "Prodigy",
    "AdaFactor",
    "AdamWScheduleFree",
)
SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "cosine_with_min_lr",
    "adafactor",
)

SECTIONS = {  # the first setting of each: title
    "pretrained_model_name_or_path": "Files",
    "network_module": "Network",
    "learning_rate": "Learning rate and optimizer",
    "max_train_epochs": "Length and saving",
    "resolution": "Pictures",
    "caption_extension": "Captions",
    "noise_offset": "Noise and loss",
    "mixed_precision": "Precision and memory",
    "validation_split": "Validation",
    "sample_prompts": "Previews and logs",
}


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple = (),
    open: bool = False,
) -> Any:
    """Declare one setting: its default, one line of help, and its bounds (inclusive) or choices.

    open: besides the choices, any dotted import path is taken.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "open": open}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class TrainSettings:
    """Everything a training run is told. Units: pixels, optimizer steps, epochs, learning rate per step."""

    pretrained_model_name_or_path: str = option("", "Checkpoint file to train on (.safetensors or .ckpt)")
    vae: str = option("", "Another VAE to encode the pictures with; empty: the checkpoint's own")
    train_data_dir: str = option("", "Folder that holds <repeats>_<name> folders of pictures")
    reg_data_dir: str = option("", "Folder that holds <repeats>_<name> folders of regularisation pictures")
    dataset_config: str = option("", "sd-scripts' dataset file (.toml or .json) in place of the folders")
    output_dir: str = option("", "Folder for the LoRA files")
    output_name: str = option("lora", "Name of the LoRA files")

    network_module: str = option(
        "networks.lora", "Kind of network", choices=("networks.lora", "lycoris.kohya", "lycoris.locon")
    )
    algo: str = option("lora", "Form of the weights: LoRA, LoHa or LoKr", choices=("lora", "locon", "loha", "lokr"))
    network_dim: int = option(
        16, "Rank of the LoRA: larger holds more detail and makes a larger file", low=1, high=1024
    )
    network_alpha: float = option(8.0, "Scale of the LoRA is alpha / dim; half of dim is common", low=1e-3, high=1024)
    conv_dim: int = option(0, "Rank for the 3x3 convolutions (LoCon); 0 leaves them out", low=0, high=1024)
    conv_alpha: float = option(1.0, "Alpha for the 3x3 convolutions", low=1e-3, high=1024)
    network_dropout: float = option(0.0, "Share of the LoRA's inner values left out at each step", low=0, high=0.99)
    rank_dropout: float = option(0.0, "Share of ranks left out for each picture", low=0, high=0.99)
    module_dropout: float = option(0.0, "Share of modules left out at each step", low=0, high=0.99)
    block_dims: str = option("", "25 ranks, one for each block of the UNet (SDXL: 23), with commas between")
    block_alphas: str = option("", "25 alphas, one for each block; empty: network_alpha")
    conv_block_dims: str = option("", "25 ranks for the 3x3 convolutions of each block")
    conv_block_alphas: str = option("", "25 alphas for the 3x3 convolutions of each block")
    factor: int = option(-1, "LoKr: size of the small factor; -1 chooses the most even split", low=-1, high=1024)
    dora_wd: bool = option(False, "Split weights into size and direction (DoRA)")
    rs_lora: bool = option(False, "Scale by alpha / sqrt(dim), which suits high ranks (rsLoRA)")
    network_weights: str = option("", "A LoRA file to begin with")
    dim_from_weights: bool = option(False, "Take ranks and alphas from network_weights")
    base_weights: list[str] = option([], "LoRA files merged into the checkpoint before the training")
    base_weights_multiplier: list[float] = option([], "Strength of each of base_weights; empty: 1", low=-10, high=10)
    network_train_unet_only: bool = option(False, "Train the UNet alone")
    network_train_text_encoder_only: bool = option(False, "Train the text encoder alone")
    scale_weight_norms: float | None = option(
        None, "Keep the norm of each module's weights below this; 1 is common", low=1e-6, high=1000
    )

    learning_rate: float = option(1e-4, "Learning rate where no other is given", low=0, high=10)
    unet_lr: float | None = option(None, "Learning rate of the UNet; empty: learning_rate", low=0, high=10)
    text_encoder_lr: float | None = option(
        None, "Learning rate of the text encoder; empty: learning_rate", low=0, high=10
    )
    text_encoder2_lr: float | None = option(
        None, "Learning rate of SDXL's second text encoder; empty: as the first", low=0, high=10
    )
    loraplus_lr_ratio: float | None = option(
        None, "LoRA+: the up weights learn this many times faster; 16 is common", low=0, high=1000
    )
    loraplus_unet_lr_ratio: float | None = option(None, "LoRA+ for the UNet alone", low=0, high=1000)
    loraplus_text_encoder_lr_ratio: float | None = option(None, "LoRA+ for the text encoder alone", low=0, high=1000)
    down_lr_weight: str = option("", "Factors on the rate of the 12 down blocks, or cosine, sine, linear… +base")
    mid_lr_weight: str = option("", "Factor on the rate of the middle block")
    up_lr_weight: str = option("", "Factors on the rate of the 12 up blocks, or cosine, sine, linear… +base")
    block_lr_zero_threshold: float = option(0.0, "Blocks whose factor is at most this are left out", low=0, high=1)
    optimizer_type: str = option("AdamW", "Optimizer, or the import path of one", choices=OPTIMIZERS, open=True)
    optimizer_args: list[str] = option([], "Arguments of the optimizer, each name=value")
    optimizer_fallback: bool = option(
        False, "Where an 8-bit optimizer can't run, use the plain one of the same name instead of stopping"
    )
    lr_scheduler: str = option("constant", "How the learning rate goes over the run", choices=SCHEDULERS)
    lr_scheduler_type: str = option("", "Import path of another scheduler; lr_scheduler_args are its arguments")
    lr_scheduler_args: list[str] = option([], "Arguments of lr_scheduler_type, each name=value")
    lr_warmup_steps: float = option(0, "Steps of warm-up; below 1: that share of all steps", low=0, high=1e9)
    lr_scheduler_num_cycles: int = option(1, "Cycles of cosine_with_restarts", low=1, high=1000)
    lr_scheduler_power: float = option(1.0, "Power of polynomial", low=0, high=100)
    lr_scheduler_min_lr_ratio: float | None = option(
        None, "cosine_with_min_lr ends at this share of the rate; empty: 0", low=0, high=1
    )
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; 0: never", low=0, high=1e9)

    max_train_epochs: int | None = option(None, "Epochs; when given, max_train_steps is ignored", low=1, high=100_000)
    max_train_steps: int = option(1600, "Steps, when no epochs are given", low=1, high=100_000_000)
    train_batch_size: int = option(1, "Pictures a step", low=1, high=1024)
    gradient_accumulation_steps: int = option(1, "Batches whose gradients make one step", low=1, high=1024)
    seed: int = option(42, "The same seed gives the same run", low=0, high=2**32 - 1)
    save_every_n_epochs: int | None = option(
        1, "A LoRA file every n epochs; empty: at the end only", low=1, high=100_000
    )
    save_every_n_steps: int | None = option(None, "A LoRA file every n steps", low=1, high=100_000_000)
    save_last_n_epochs: int | None = option(None, "Keep the files of the last n epochs only", low=1, high=100_000)
    save_last_n_steps: int | None = option(
        None, "Of files saved by step, keep those of the last n steps only", low=1, high=100_000_000
    )
    save_precision: str = option("fp16", "Precision of the saved file", choices=("fp16", "bf16", "float"))
    save_state: bool = option(False, "With every file, save what is needed to go on from there")
    save_state_on_train_end: bool = option(False, "Save at the end what is needed to go on")
    save_last_n_epochs_state: int | None = option(
        None, "Keep the states of the last n epochs only", low=1, high=100_000
    )
    save_last_n_steps_state: int | None = option(
        None, "Of states saved by step, keep those of the last n steps only", low=1, high=100_000_000
    )
    resume: str = option("", "Folder of a saved state to go on from")
    ema_decay: float | None = option(
        None, "Save a running average of the weights: the share kept at each step, such as 0.999", low=0, high=0.999999
    )
    training_comment: str = option("", "A note kept in the file's metadata")
    no_metadata: bool = option(False, "Write only the metadata that a WebUI needs")

    resolution: tuple[int, int] = option(
        (512, 512), "Width and height of the training in pixels; one number is a square", low=64, high=4096
    )
    enable_bucket: bool = option(False, "Train pictures in shapes near their own instead of cropping them to one")
    min_bucket_reso: int = option(256, "Shortest side of a bucket", low=64, high=4096)
    max_bucket_reso: int = option(1024, "Longest side of a bucket", low=64, high=8192)
    bucket_reso_steps: int = option(64, "Sides of buckets are multiples of this", low=8, high=512)
    bucket_no_upscale: bool = option(False, "Never enlarge a picture; buckets are made from the pictures' sizes")
    flip_aug: bool = option(False, "Half of the time, use the mirrored picture")
    random_crop: bool = option(False, "Cut at a random place instead of the centre; latents can't be cached then")
    alpha_mask: bool = option(False, "Use the pictures' transparency as a mask of the loss")
    masked_loss: bool = option(False, "Use masks: transparency, or the pictures in conditioning_data_dir")
    conditioning_data_dir: str = option("", "Folder of masks, named like the pictures; white is trained")
    prior_loss_weight: float = option(1.0, "Weight of regularisation pictures in the loss", low=0, high=100)
    cache_latents: bool = option(True, "Encode every picture once, before the training")
    cache_latents_to_disk: bool = option(False, "Keep the encoded pictures beside the pictures for the next run")
    vae_batch_size: int = option(4, "Pictures encoded at once", low=1, high=64)
    cache_text_encoder_outputs: bool = option(
        True, "Encode every caption once where the text encoder isn't trained and captions don't change"
    )

    caption_extension: str = option(".txt", "Ending of the caption file beside a picture")
    caption_prefix: str = option("", "Put before every caption")
    caption_suffix: str = option("", "Put behind every caption")
    caption_separator: str = option(",", "Stands between tags")
    keep_tokens: int = option(0, "This many tags at the start stay in place", low=0, high=1000)
    keep_tokens_separator: str = option("", "What lies before this mark stays in place, such as |||")
    secondary_separator: str = option("", "Tags joined by this mark are shuffled and dropped together, such as ;;;")
    shuffle_caption: bool = option(False, "Shuffle the tags of a caption at each use")
    enable_wildcard: bool = option(False, "Choose one line of a caption, and one of {a|b}, at each use")
    caption_dropout_rate: float = option(0.0, "Share of captions left empty", low=0, high=1)
    caption_dropout_every_n_epochs: int = option(0, "In every n-th epoch all captions are empty", low=0, high=100_000)
    caption_tag_dropout_rate: float = option(0.0, "Share of tags left out", low=0, high=1)
    token_warmup_min: int = option(1, "Tags at the start of the token warm-up", low=1, high=1000)
    token_warmup_step: float = option(
        0, "Steps until all tags are used; below 1: that share of all steps; 0: from the start", low=0, high=1e9
    )
    max_token_length: int | None = option(
        None, "Tokens of a caption that count: 75, 150 or 225", choices=(75, 150, 225)
    )
    weighted_captions: bool = option(False, "Read (word:1.2) in captions as a weight")
    clip_skip: int | None = option(None, "Use the text encoder's n-th layer from the end", low=1, high=12)

    noise_offset: float = option(
        0.0, "Shifts the noise of a channel as a whole, for darker and lighter pictures", low=0, high=1
    )
    noise_offset_random_strength: bool = option(False, "noise_offset is the most: each step draws its own")
    adaptive_noise_scale: float | None = option(
        None, "Adds this times the latents' mean to noise_offset", low=-10, high=10
    )
    multires_noise_iterations: int = option(0, "Layers of ever coarser noise; 6 to 10 are common", low=0, high=32)
    multires_noise_discount: float = option(0.3, "Each coarser layer is weaker by this factor", low=0, high=1)
    ip_noise_gamma: float | None = option(
        None, "Disturbs the noisy picture that the model sees; 0.1 is common", low=0, high=1
    )
    ip_noise_gamma_random_strength: bool = option(False, "ip_noise_gamma is the most: each step draws its own")
    min_timestep: int = option(0, "First timestep that is drawn", low=0, high=999)
    max_timestep: int = option(1000, "First timestep that is not drawn any more", low=1, high=1000)
    v_parameterization: bool = option(False, "The model predicts v instead of the noise (SD2 768 and others)")
    zero_terminal_snr: bool = option(False, "The last timestep is pure noise; for v-prediction")
    min_snr_gamma: float | None = option(None, "Weighs the loss by min(SNR, gamma) / SNR; 5 is common", low=0, high=100)
    debiased_estimation_loss: bool = option(False, "Weighs the loss by 1 / sqrt(SNR)")
    scale_v_pred_loss_like_noise_pred: bool = option(False, "Weighs a v-prediction's loss as if it were the noise's")
    v_pred_like_loss: float | None = option(None, "Adds this times a loss weighted as v-prediction's", low=0, high=100)
    loss_type: str = option("l2", "Measure of the error", choices=("l2", "l1", "huber", "smooth_l1"))
    huber_schedule: str = option(
        "snr", "How the huber loss's threshold goes with the timestep", choices=("snr", "exponential", "constant")
    )
    huber_c: float = option(0.1, "Threshold of the huber loss: smaller forgives outliers more", low=1e-6, high=10)
    huber_scale: float = option(1.0, "Factor on the threshold", low=1e-6, high=100)

    mixed_precision: str = option("no", "Precision of the frozen model", choices=("no", "fp16", "bf16"))
    full_fp16: bool = option(False, "The LoRA and its gradients are fp16 too")
    full_bf16: bool = option(False, "The LoRA and its gradients are bf16 too")
    fp8_base: bool = option(False, "Keep the frozen model in 8 bits")
    no_half_vae: bool = option(False, "Encode pictures in full precision")
    gradient_checkpointing: bool = option(False, "Compute activations again instead of keeping them: less memory")
    xformers: bool = option(False, "Attention by xformers where it is installed; else PyTorch's own")
    torch_compile: bool = option(False, "Compile the UNet: slow to start, faster steps on a GPU")

    validation_split: float = option(0.0, "Share of the pictures held out to measure with", low=0, high=0.5)
    validation_data_dir: str = option("", "Folder of pictures to measure with, instead of a share")
    validation_seed: int | None = option(None, "Seed of the held-out choice and its noise", low=0, high=2**32 - 1)
    validate_every_n_epochs: int | None = option(None, "Measure every n epochs; empty: every one", low=1, high=100_000)
    validate_every_n_steps: int | None = option(None, "Measure every n steps", low=1, high=100_000_000)
    max_validation_steps: int = option(8, "Pictures measured of each set", low=1, high=1000)
    early_stop_epochs: int | None = option(
        None, "Stop when the held-out loss hasn't fallen for n epochs", low=1, high=1000
    )
    stop_on_blow_up: bool = option(True, "Stop when the loss leaves all bounds")

    sample_prompts: str = option("", "A prompt file of sd-scripts, or the prompt itself")
    sample_every_n_epochs: int | None = option(None, "Preview pictures every n epochs", low=1, high=100_000)
    sample_every_n_steps: int | None = option(None, "Preview pictures every n steps", low=1, high=100_000_000)
    sample_at_first: bool = option(False, "Preview pictures before the first step too")
    sample_sampler: str = option(
        "ddim", "Sampler of previews that name none", choices=("ddim", "euler", "euler_a", "dpmsolver++")
    )
    logging_dir: str = option("", "Folder for TensorBoard's logs; empty: none")
    log_with: str = option("tensorboard", "Where logs go", choices=("tensorboard", "wandb", "all"))
    log_prefix: str = option("", "Begins the name of the log's folder")

    @property
    def unet_rate(self) -> float:
        """Learning rate of the UNet; 0 where it isn't trained."""
        return 0.0 if self.network_train_text_encoder_only else _either(self.unet_lr, self.learning_rate)

    @property
    def text_encoder_rate(self) -> float:
        """Learning rate of the (first) text encoder; 0 where it isn't trained."""
        return 0.0 if self.network_train_unet_only else _either(self.text_encoder_lr, self.learning_rate)

    @property
    def text_encoder2_rate(self) -> float:
        """Learning rate of SDXL's second text encoder; 0 where it isn't trained."""
        return 0.0 if self.network_train_unet_only else _either(self.text_encoder2_lr, self.text_encoder_rate)

    def rate_of(self, part: str) -> float:
        """Learning rate of 'unet', 'te', 'te1' or 'te2'; 0 where it isn't trained."""
        return {"unet": self.unet_rate, "te2": self.text_encoder2_rate}.get(part, self.text_encoder_rate)

    @property
    def trains_text_encoder(self) -> bool:
        """Whether captions are encoded anew at every step because the encoder changes."""
        return self.text_encoder_rate > 0 or self.text_encoder2_rate > 0

    @property
    def has_masks(self) -> bool:
        """Whether the loss is masked."""
        return self.alpha_mask or self.masked_loss or bool(self.conditioning_data_dir)

    def warmup_steps(self, total: int) -> int:
        """Steps of warm-up in a run of `total` steps."""
        return int(self.lr_warmup_steps * total) if self.lr_warmup_steps < 1 else int(self.lr_warmup_steps)

    def to_json(self) -> str:
        """The settings as the JSON text that `load` reads."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def _either(value: float | None, default: float) -> float:
    return default if value is None else value


TYPES = typing.get_type_hints(TrainSettings)


def schema() -> list[dict[str, Any]]:
    """One row a setting: name, section, type, default, help, low, high, choices, open."""
    rows, section = [], ""
    for f in fields(TrainSettings):
        section = SECTIONS.get(f.name, section)
        kind = _type_name(TYPES[f.name])
        rows.append({"name": f.name, "section": section, "type": kind, "default": _default(f), **f.metadata})
    return rows


def _default(f: Any) -> Any:
    return f.default if f.default is not MISSING else f.default_factory()


def _type_name(kind: Any) -> str:
    is_class = isinstance(kind, type) and not typing.get_args(kind)
    return kind.__name__ if is_class else str(kind).replace("typing.", "")
