"""What a folder's pictures and captions are made into; each may have its own."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import TrainSettings


@dataclass(frozen=True)
class CaptionOptions:
    """How a caption changes from use to use: kohya's options of a subset, without the word `caption`.

    token_warmup_step below 1 is a share of all steps. every_n_epochs counts epochs from 1.
    """

    prefix: str = ""
    suffix: str = ""
    separator: str = ","
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    secondary_separator: str = ""
    shuffle: bool = False
    wildcard: bool = False
    dropout_rate: float = 0.0
    dropout_every_n_epochs: int = 0
    tag_dropout_rate: float = 0.0
    token_warmup_min: int = 1
    token_warmup_step: float = 0.0

    @classmethod
    def of(cls, s: TrainSettings) -> CaptionOptions:
        """Those of a run's settings."""
        return cls(
            prefix=s.caption_prefix,
            suffix=s.caption_suffix,
            separator=s.caption_separator or ",",
            keep_tokens=s.keep_tokens,
            keep_tokens_separator=s.keep_tokens_separator,
            secondary_separator=s.secondary_separator,
            shuffle=s.shuffle_caption,
            wildcard=s.enable_wildcard,
            dropout_rate=s.caption_dropout_rate,
            dropout_every_n_epochs=s.caption_dropout_every_n_epochs,
            tag_dropout_rate=s.caption_tag_dropout_rate,
            token_warmup_min=s.token_warmup_min,
            token_warmup_step=s.token_warmup_step,
        )

    @property
    def vary(self) -> bool:
        """Whether a caption may be another one at its next use."""
        return bool(
            self.shuffle
            or self.wildcard
            or self.dropout_rate
            or self.dropout_every_n_epochs
            or self.tag_dropout_rate
            or self.token_warmup_step
        )


@dataclass(frozen=True)
class Frame:
    """The size that pictures are trained at, in pixels, and how many of them make a batch."""

    width: int = 512
    height: int = 512
    batch_size: int = 1
    buckets: bool = False
    min_side: int = 256
    max_side: int = 1024
    step: int = 64
    no_upscale: bool = False

    @classmethod
    def of(cls, s: TrainSettings) -> Frame:
        """That of a run's settings."""
        return cls(
            width=s.resolution[0],
            height=s.resolution[1],
            batch_size=s.train_batch_size,
            buckets=s.enable_bucket,
            min_side=s.min_bucket_reso,
            max_side=s.max_bucket_reso,
            step=s.bucket_reso_steps,
            no_upscale=s.bucket_no_upscale,
        )
