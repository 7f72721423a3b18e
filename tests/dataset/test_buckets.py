from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.dataset import buckets
from lora_train.dataset.options import Frame
from lora_train.dataset.pictures import Concept, Dataset, Picture
from lora_train.errors import UserError

from .tables import table

TABLE = table("buckets")
SIDES = st.integers(16, 4000)


def frame(options: dict[str, Any], **more: Any) -> Frame:
    width, height = options["resolution"]
    given = {"min_side": options["min"], "max_side": options["max"], "step": options["steps"]}
    return Frame(width, height, **{"buckets": True, **given, **more})


@pytest.mark.parametrize("row", TABLE["resolutions"], ids=lambda row: f"{row['resolution']} {row['steps']}")
def test_resolutions_are_those_of_sd_scripts(row: dict[str, Any]) -> None:
    assert buckets.resolutions(frame(row)) == [tuple(size) for size in row["buckets"]]


@pytest.mark.parametrize("name", ["select_512", "select_768", "select_1024"])
def test_every_picture_gets_into_the_bucket_that_sd_scripts_chooses(name: str) -> None:
    known, free = (frame(TABLE["select_options"][name], no_upscale=free) for free in (False, True))
    for width, height, bucket, resized, error, *unscaled in TABLE[name]:
        fit = buckets.fit((width, height), known)
        assert (list(fit.bucket), list(fit.resized), fit.ar_error) == (bucket, resized, error), (width, height)
        if unscaled[0] is None or 0 in unscaled[0]:  # sd-scripts fails here, or goes on with a bucket of no pixels
            with pytest.raises(UserError, match="too small"):
                buckets.fit((width, height), free)
        else:
            fit = buckets.fit((width, height), free)
            assert [list(fit.bucket), list(fit.resized), fit.ar_error] == unscaled, (width, height)


def test_without_buckets_there_is_one() -> None:
    for width, height, bucket, resized in TABLE["no_buckets_512"]:
        fit = buckets.fit((width, height), Frame())
        assert [list(fit.bucket), list(fit.resized)] == [bucket, resized]


@pytest.mark.parametrize("row", TABLE["min_max_by_steps"])
def test_bounds_are_widened_to_the_step(row: list[Any]) -> None:
    (width, height), low, high, step, adjusted = row
    if adjusted:  # else the settings refuse it
        wide = Frame(width, height, buckets=True, min_side=low, max_side=high, step=step)
        exact = Frame(width, height, buckets=True, min_side=adjusted[0], max_side=adjusted[1], step=step)
        assert buckets.resolutions(wide) == buckets.resolutions(exact)


FRAMES = st.builds(
    lambda width, height, step, low, high, free: Frame(
        width, height, 1, True, min(low, width, height), max(high, width, height), step, free
    ),
    st.integers(2, 24).map(lambda n: n * 64),
    st.integers(2, 24).map(lambda n: n * 64),
    st.sampled_from([32, 64]),
    st.integers(64, 600),
    st.integers(600, 2048),
    st.booleans(),
)


@given(SIDES, SIDES, FRAMES)
def test_a_fit_covers_its_bucket_which_is_no_larger_than_the_frame(width: int, height: int, frame: Frame) -> None:
    try:
        fit = buckets.fit((width, height), frame)
    except UserError:
        assert frame.no_upscale
        return
    assert all(side % frame.step == 0 and side > 0 for side in fit.bucket)
    assert all(whole >= cut for whole, cut in zip(fit.resized, fit.bucket, strict=True))
    if frame.no_upscale:
        # One side is rounded to the step, to the nearest one below; the other follows.
        assert fit.resized[0] <= width
        assert fit.resized[1] <= height
    else:
        assert fit.bucket in buckets.resolutions(frame)
        assert fit.resized[0] == fit.bucket[0] or fit.resized[1] == fit.bucket[1]
    if fit.bucket != (width, height):
        assert fit.bucket[0] * fit.bucket[1] <= max(frame.width * frame.height, 0)


def dataset(pictures: list[list[int]], frame: Frame) -> Dataset:
    """One folder for each [width, height, repeats]."""
    concepts = [
        Concept(Path(f"{n}"), "a", repeats, (Picture(Path(f"{n}.png"), "", width, height),), frame=frame)
        for n, (width, height, repeats) in enumerate(pictures)
    ]
    return Dataset(Path(), tuple(concepts), ())


@pytest.mark.parametrize("case", table("steps")["cases"])
def test_buckets_of_an_epoch_and_their_batches_are_those_of_sd_scripts(case: dict[str, Any]) -> None:
    frame = Frame(batch_size=case["batch_size"], buckets=case["enable_bucket"], no_upscale=case["bucket_no_upscale"])
    filled = buckets.fill(dataset(case["pictures"], frame))
    assert [[list(bucket.size), bucket.count] for bucket in filled] == case["buckets"]
    assert sum(bucket.batches for bucket in filled) == case["batches"]
    if case["mean_img_ar_error"] is not None:
        assert buckets.mean_ar_error(dataset(case["pictures"], frame)) == pytest.approx(case["mean_img_ar_error"])


def test_datasets_do_not_share_batches() -> None:
    one = dataset([[512, 512, 3]], Frame(batch_size=2))
    (first,) = one.concepts
    two = Concept(Path("b"), "b", 1, first.pictures, frame=Frame(batch_size=4), group=1)
    filled = buckets.fill(Dataset(Path(), (first, two), ()))
    assert [(b.group, b.count, b.batch_size, b.batches) for b in filled] == [(0, 3, 2, 2), (1, 1, 4, 1)]


@given(SIDES, SIDES, st.sampled_from([(512, 512), (1024, 768), (640, 1536)]))
def test_sdxls_sizes_are_mirrored_with_the_picture(width: int, height: int, bucket: tuple[int, int]) -> None:
    sizes = buckets.sdxl_sizes((width, height), bucket)
    flipped = buckets.sdxl_sizes((width, height), bucket, flipped=True)
    assert sizes[:2] == (height, width)
    assert sizes[4:] == bucket[::-1]
    assert sizes[:3] == flipped[:3]
    assert 0 <= flipped[3] - sizes[3] <= 1
    assert sizes[2] == 0 or sizes[3] == 0


def test_sdxls_sizes_of_known_pictures() -> None:
    # kohya's get_crop_ltrb: (832, 1216) of 1000 x 1500 gives left 10, top 0
    assert buckets.sdxl_sizes((1000, 1500), (832, 1216)) == (1500, 1000, 0, 10, 1216, 832)
    assert buckets.sdxl_sizes((1024, 1024), (1024, 1024), flipped=True) == (1024, 1024, 0, 0, 1024, 1024)
