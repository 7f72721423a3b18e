"""Buckets: the shapes that pictures are trained in, so that little is cut off (aspect ratio bucketing).

kohya's arithmetic to the pixel: `make_bucket_resolutions` and `BucketManager.select_bucket` of sd-scripts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import UserError
from .options import Frame

if TYPE_CHECKING:
    from .pictures import Dataset, Use

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Fit:
    """How a picture of `size` gets into a bucket: scaled to `resized`, then cut to `bucket`.

    ar_error: width / height of the bucket minus that of the picture.
    """

    bucket: Size
    resized: Size
    ar_error: float
    size: Size


@dataclass(frozen=True)
class Bucket:
    """The uses of one epoch that share a size, and so may share a batch. group: the dataset that they belong to."""

    group: int
    size: Size
    batch_size: int
    uses: tuple[Use, ...]

    @property
    def count(self) -> int:
        """Pictures of one epoch."""
        return sum(use.repeats for use in self.uses)

    @property
    def batches(self) -> int:
        """Batches of one epoch; the last one may be short."""
        return math.ceil(self.count / self.batch_size)


@lru_cache(maxsize=64)
def resolutions(frame: Frame) -> list[Size]:
    """The buckets that pictures may get into, sorted; empty where the pictures' own sizes make them (no_upscale)."""
    if not frame.buckets:
        return [(frame.width, frame.height)]
    if frame.no_upscale:
        return []
    step = frame.step
    low, high = frame.min_side - frame.min_side % step, frame.max_side + -frame.max_side % step
    area = frame.width * frame.height
    side = int(math.sqrt(area) // step) * step
    sizes = {(side, side)}
    for width in range(low, high + 1, step):
        height = min(high, area // width // step * step)
        if height >= low:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


@lru_cache(maxsize=4096)
def fit(size: Size, frame: Frame) -> Fit:
    """The bucket for a picture of `size`. Raises UserError where it is too small for one (no_upscale only)."""
    if frame.buckets and frame.no_upscale:
        return _shrunk(size, frame)
    aspect = size[0] / size[1]
    known = resolutions(frame)
    bucket = size if size in known else min(known, key=lambda s: abs(s[0] / s[1] - aspect))
    by_height = aspect > bucket[0] / bucket[1]
    scale = bucket[1] / size[1] if by_height else bucket[0] / size[0]
    return Fit(bucket, (int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)), bucket[0] / bucket[1] - aspect, size)


def _shrunk(size: Size, frame: Frame) -> Fit:
    """The picture at most at the frame's area, cut to multiples of the step."""
    aspect = size[0] / size[1]
    resized = size
    if size[0] * size[1] > frame.width * frame.height:
        resized = _to_area(aspect, frame) or _too_small(size, frame)
    bucket = (resized[0] - resized[0] % frame.step, resized[1] - resized[1] % frame.step)
    if not all(bucket):
        _too_small(size, frame)
    return Fit(bucket, resized, bucket[0] / bucket[1] - aspect, size)


def _to_area(aspect: float, frame: Frame) -> Size | None:
    """The frame's area in this shape, one side rounded to the step: the side that keeps the shape better."""

    def rounded(value: float) -> int:
        return int(value + 0.5) // frame.step * frame.step

    area = frame.width * frame.height
    whole_width = math.sqrt(area * aspect)
    width = rounded(whole_width)
    height = rounded(area / whole_width)
    height_then, width_then = rounded(width / aspect), rounded(height * aspect)
    if not (height_then and height):
        return None
    if abs(width / height_then - aspect) < abs(width_then / height - aspect):
        return width, int(width / aspect + 0.5)
    return int(height * aspect + 0.5), height


def _too_small(size: Size, frame: Frame) -> Size:
    what = f"{size[0]} x {size[1]} is too small or too long for buckets in steps of {frame.step} without enlarging"
    raise UserError(what, where="bucket_no_upscale", remedy="Switch it off, or remove the picture")


def fill(dataset: Dataset) -> list[Bucket]:
    """The uses of one epoch by bucket: sorted by dataset and size. Buckets without a picture don't appear."""
    found: dict[tuple[int, Size], list[Use]] = {}
    for use in dataset.uses():
        size = fit((use.picture.width, use.picture.height), use.concept.frame).bucket
        found.setdefault((use.concept.group, size), []).append(use)
    return [
        Bucket(group, size, uses[0].concept.frame.batch_size, tuple(uses))
        for (group, size), uses in sorted(found.items(), key=lambda item: item[0])
    ]


def sdxl_sizes(size: Size, bucket: Size, flipped: bool = False) -> tuple[int, int, int, int, int, int]:
    """SDXL's size conditioning as kohya gives it: original (height, width), crop (top, left), target (height, width).

    The crop is not the one that was cut: it is where a picture that fits inside the bucket would lie.
    """
    aspect = size[0] / size[1]
    if bucket[0] / bucket[1] > aspect:
        inner: tuple[float, float] = (bucket[1] * aspect, bucket[1])
    else:
        inner = (bucket[0], bucket[0] / aspect)
    left, top = (bucket[0] - inner[0]) // 2, (bucket[1] - inner[1]) // 2
    if flipped:
        left = bucket[0] - (left + inner[0])
    return size[1], size[0], int(top), int(left), bucket[1], bucket[0]


def mean_ar_error(dataset: Dataset) -> float:
    """Mean of |width / height of the bucket - that of the picture| over the used pictures, repeats not counted."""
    errors = [abs(fit((u.picture.width, u.picture.height), u.concept.frame).ar_error) for u in dataset.uses()]
    return sum(errors) / len(errors) if errors else 0.0
