"""Values for each block, against what sd-scripts makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from lora_train.errors import UserError
from lora_train.network.blocks import SD, XL, per_block, rate_factors
from lora_train.settings import TrainSettings
from tests.network.conftest import table

CASES = table("blocks.json")


def settings_of(args: dict) -> TrainSettings:
    values = {key: float(value) if key == "block_lr_zero_threshold" else value for key, value in args.items()}
    return TrainSettings(**values)


@pytest.mark.parametrize("case", CASES["lr_weights"], ids=lambda case: f"{case['sdxl']} {case['args']}")
def test_rate_factors_are_kohyas(case: dict) -> None:
    """Where sd-scripts ignores the end of a list that is too long, or fails, there is an error for the user."""
    layout = XL if case["sdxl"] else SD
    lengths = {"down_lr_weight": layout.side, "mid_lr_weight": layout.middle, "up_lr_weight": layout.side}
    too_long = any(value.count(",") >= lengths.get(key, 99) for key, value in case["args"].items())
    if too_long or "unknown" in case["args"].values():
        with pytest.raises(UserError, match=r"the most|not a list of numbers"):
            rate_factors(settings_of(case["args"]), layout)
    elif case["args"] == {"down_lr_weight": "0.5"}:  # sd-scripts fails
        assert rate_factors(settings_of(case["args"]), layout) == [
            *[1.0] * layout.ends,
            0.5,
            *[1.0] * (layout.count - 1 - layout.ends),
        ]
    else:
        expected = case["weights"]
        assert rate_factors(settings_of(case["args"]), layout) == (expected and pytest.approx(expected, abs=1e-15))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"down_lr_weight": "bell"}, r"down_lr_weight: 'bell' is not a list of numbers.*cosine, sine, linear"),
        ({"up_lr_weight": "sine+x"}, "up_lr_weight: 'x' is not a list of numbers"),
        (
            {"mid_lr_weight": "sine"},
            "mid_lr_weight: 'sine' is not a list of numbers. Write numbers with commas between$",
        ),
        ({"mid_lr_weight": "1,1"}, "mid_lr_weight: 2 values are given, 1 are the most"),
        ({"up_lr_weight": "nan"}, "up_lr_weight: 'nan' is not"),
    ],
)
def test_unreadable_factors_are_named(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rate_factors(TrainSettings(**values), SD)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4,4", r"block_dims: 2 values are given, 25 are needed. Give one for each of the 25 blocks"),
        ("4," * 25, "26 values are given, 25 are needed"),
        (",".join(["-1"] * 25), "a value is below 0. 0 leaves a block out"),
        (",".join(["1.5"] * 25), "is not a list of numbers. Write whole numbers"),
    ],
)
def test_wrong_dims_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        per_block(TrainSettings(block_dims=text), "block_dims", SD, int)


@given(st.lists(st.integers(0, 999), min_size=23, max_size=23), st.sampled_from([",", " , "]))
def test_lists_are_read_as_written(values: list[int], comma: str) -> None:
    settings = TrainSettings(conv_block_dims=comma.join(map(str, values)))
    assert per_block(settings, "conv_block_dims", XL, int) == values


@example_settings(max_examples=200)
@given(st.text(alphabet="0123456789.,+-einfacosl ", max_size=40))
def test_no_text_brings_anything_but_factors_or_a_user_error(text: str) -> None:
    try:
        factors = rate_factors(TrainSettings(down_lr_weight=text), SD)
    except UserError as error:
        assert error.where == "down_lr_weight"
    else:
        assert factors is None or len(factors) == 25
