from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.blocks import families
from lora_train.errors import UserError

vectors = st.sampled_from([("SD1.5", 17), ("SD2", 26), ("SDXL", 12), ("SDXL", 20)]).flatmap(
    lambda case: st.tuples(st.just(case[0]), st.lists(st.floats(-9, 9), min_size=case[1], max_size=case[1]))
)


def test_names_are_those_of_block_weight() -> None:
    assert " ".join(families.BLOCKS_12) == "BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05"
    assert " ".join(families.BLOCKS_20) == (
        "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08"
    )
    assert " ".join(families.BLOCKS_17) == (
        "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11"
    )
    assert len(families.BLOCKS_26) == 26
    assert families.names_for(17, "SD2") == families.BLOCKS_17
    assert families.blocks_of("SDXL")[-1] == "OTHER"


@pytest.mark.parametrize(
    ("count", "family", "problem"),
    [
        (16, "SD1.5", "16 numbers where SD1.5 has 17 (or 26)"),
        (12, "SD1.5", "12 numbers where SD1.5 has 17 (or 26); 12 are for SDXL"),
        (17, "SDXL", "17 numbers where SDXL has 12 (or 20); 17 are for SD1.5 and SD2"),
        (61, "SD2", "61 numbers where SD2 has 17 (or 26); 61 are for FLUX"),
        (1, None, "1 number where SD1.5 and SD2 have 17 (or 26) and SDXL has 12 (or 20)"),
    ],
)
def test_wrong_counts(count: int, family: str | None, problem: str) -> None:
    assert families.count_problem(count, family) == problem
    if family:
        with pytest.raises(UserError) as caught:
            families.names_for(count, family)
        assert caught.value.what == problem


def test_unknown_families() -> None:
    with pytest.raises(
        UserError, match=r"the blocks of FLUX are not known here\. Block weights are for SD1\.5, SD2 and SDXL"
    ):
        families.weights_by_block([1.0] * 61, family="FLUX")


def test_weights_are_by_name() -> None:
    weights = families.weights_by_block([n / 10 for n in range(17)])
    assert (weights["IN04"], weights["OUT11"], weights["IN03"], weights["OTHER"]) == (0.3, 1.6, 0, 1)
    assert families.weights_by_block([0.5] * 17, unlisted=1)["IN03"] == 1
    assert families.weights_by_block([float(n) for n in range(26)])["M00"] == 13
    assert set(families.flat_weights("SDXL").values()) == {1.0}


def test_what_a_short_list_does_not_name() -> None:
    weights = families.weights_by_block([0.5] * 12, family="SDXL")
    assert (weights["IN04"], weights["IN00"], weights["OUT08"], weights["OTHER"]) == (0.5, 0, 0, 1)
    assert families.weights_by_block([0.5] * 12, 1, "SDXL", other=0.25)["OUT08"] == 1
    assert families.weights_by_block([0.5] * 12, 1, "SDXL", other=0.25)["OTHER"] == 0.25
    assert families.unnamed([1.0] * 17, {"IN01", "OUT02", "IN03", "OTHER"}) == ["IN03", "OUT02"]
    assert families.unnamed([1.0] * 26, {"IN03"}) == []


@given(vectors, st.sampled_from([0.0, 1.0]))
def test_numbers_are_read_back(case: tuple[str, list[float]], unlisted: float) -> None:
    family, numbers = case
    weights = families.weights_by_block(numbers, unlisted, family)
    again = families.numbers_of(weights, family, unlisted)
    assert families.weights_by_block(again, unlisted, family) == weights
    assert len(families.numbers_of(weights, family, full=True)) in (20, 26)


def test_groups() -> None:
    groups = families.topology("SD1.5").groups
    assert list(groups) == ["BASE", "IN", "MID", "OUT", "64", "32", "16", "8"]
    assert groups["64"] == ("IN00", "IN01", "IN02", "OUT09", "OUT10", "OUT11")
    assert groups["16"] == ("IN06", "IN07", "IN08", "OUT03", "OUT04", "OUT05")
    assert groups["8"] == ("IN09", "IN10", "IN11", "M00", "OUT00", "OUT01", "OUT02")
    xl = families.topology("SDXL").groups
    assert xl["32"] == ("IN06", "IN07", "IN08", "M00", "OUT00", "OUT01", "OUT02")
    assert xl["128"] == ("IN00", "IN01", "IN02", "OUT06", "OUT07", "OUT08")
    for family in families.FAMILIES:
        topology = families.topology(family)
        tiers = [block for name, blocks in topology.groups.items() if name.isdigit() for block in blocks]
        assert sorted(["BASE", *tiers]) == sorted(topology.blocks)


def test_json() -> None:
    told = json.loads(json.dumps(families.topology("SDXL").as_dict()))
    assert (told["family"], told["attention"]) == ("SDXL", list(families.BLOCKS_12))
    assert (told["groups"]["MID"], told["partners"]["IN01"]) == (["M00"], "OUT07")


@pytest.mark.parametrize("family", families.FAMILIES)
def test_partners_are_the_ends_of_skip_connections(family: str) -> None:
    partners = families.topology(family).partners
    assert all(partners[partners[block]] == block for block in partners)
    assert partners["IN00"] == families.topology(family).blocks[-1]
