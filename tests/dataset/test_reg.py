from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.dataset import reg

from .tables import table


@pytest.mark.parametrize("case", table("reg")["cases"])
def test_uses_are_those_of_sd_scripts(case: dict[str, Any]) -> None:
    assert sum(pictures * repeats for pictures, repeats in case["train"]) == case["num_train_images"]
    assert reg.balance(case["num_train_images"], [tuple(folder) for folder in case["reg"]]) == case["repeats"]


FOLDERS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 20)), max_size=5)


@given(st.integers(0, 500), FOLDERS)
def test_regularisation_is_as_much_as_what_is_learnt(images: int, folders: list[tuple[int, int]]) -> None:
    uses = reg.balance(images, folders)
    assert [len(counts) for counts in uses] == [pictures for pictures, _ in folders]
    total = sum(map(sum, uses))
    if not any(pictures for pictures, _ in folders):
        assert total == 0
    else:
        assert images <= total < images + max(repeats for _, repeats in folders)
