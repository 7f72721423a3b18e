"""The smallest repeats of a style's folders, against the rules as written and against trying everything."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_train.errors import UserError, UserErrors
from lora_train.studio.style_plan import Counts, Rules, StylePlan, evaluate, plan

COUNTS = st.builds(
    Counts,
    main=st.integers(1, 400),
    face=st.integers(1, 120),
    others=st.dictionaries(st.sampled_from(["full", "back", "hands"]), st.integers(0, 60), max_size=3),
    variants=st.lists(st.integers(1, 8), max_size=6).map(tuple),
    flipped=st.booleans(),
)


def broken(counts: Counts, repeats: dict[str, int]) -> set[str]:
    """The rules that these repeats break, written down from the seed once more."""
    main, face = counts.main * repeats["main"], counts.face * repeats["face"]
    size = max(counts.variants, default=1)
    rest = [n * repeats[name] for name, n in counts.others.items() if n]
    rest += [len(counts.variants) * size * repeats["variants"]] if counts.variants else []
    found = set()
    if not (12 * main >= 40 * face and 10 * main <= 48 * face):  # 4 ÷ 1.2 to 4 × 1.2
        found.add("ratio")
    if any(uses >= face for uses in rest):
        found.add("others")
    if not 1000 <= (main + face + sum(rest)) * (2 if counts.flipped else 4) <= 2000:
        found.add("sum")
    if counts.variants and repeats["variants"] * size != repeats["main"]:
        found.add("variants")
    return found


def repeats_of(made: StylePlan) -> dict[str, int]:
    return {one.name: one.repeats for one in made.classes}


@settings(max_examples=300, deadline=None)
@given(COUNTS)
def test_a_solution_keeps_every_rule_and_the_rules_say_what_is_broken(counts: Counts) -> None:
    made = plan(counts)
    repeats = repeats_of(made)
    assert broken(counts, repeats) == {rule.name for rule in made.rules if not rule.kept}
    assert made.solved == (not broken(counts, repeats))
    assert made.total == sum(one.files * one.repeats for one in made.classes) * (2 if counts.flipped else 4)
    assert made.folders == tuple(f"{one.repeats}_{one.name}" for one in made.classes)


@settings(max_examples=100, deadline=None)
@given(COUNTS)
def test_every_mend_mends(counts: Counts) -> None:
    made = plan(counts)
    assert bool(made.mends) != made.solved
    for mend in made.mends:
        assert mend.counts is not None
        again = plan(mend.counts)
        assert again.solved, mend.text
        assert not broken(mend.counts, repeats_of(again))


def by_trying(counts: Counts) -> int | None:
    """The least sum of repeats that keeps all rules."""
    most = 2000 // (2 if counts.flipped else 4)
    size = max(counts.variants, default=1)
    best = None
    names = [name for name, n in counts.others.items() if n]
    for main in range(1, most // counts.main + 1):
        if main % size:
            continue
        for face in range(1, most // counts.face + 1):
            spaces = [range(1, most // counts.others[name] + 1) for name in names]
            for rest in product(*spaces):
                repeats = {"main": main, "face": face, **dict(zip(names, rest, strict=True))}
                if counts.variants:
                    repeats["variants"] = main // size
                total = sum(repeats.values())
                if (best is None or total < best) and not broken(counts, repeats):
                    best = total
    return best


@settings(max_examples=40, deadline=None)
@given(
    st.builds(
        Counts,
        main=st.integers(40, 200),
        face=st.integers(15, 60),
        others=st.dictionaries(st.sampled_from(["full", "back"]), st.integers(30, 60), max_size=2),
        variants=st.lists(st.integers(1, 4), max_size=3).map(tuple),
        flipped=st.booleans(),
    )
)
def test_no_smaller_repeats_keep_the_rules(counts: Counts) -> None:
    made = plan(counts)
    assert (sum(repeats_of(made).values()) if made.solved else None) == by_trying(counts)


def test_variants_count_as_one_picture_and_are_made_equal() -> None:
    """The seed's example: groups of two and four; the two are copied once; a quarter of main's repeats."""
    made = plan(Counts(40, 10, variants=(2, 4)))
    repeats = repeats_of(made)
    assert made.solved
    assert made.copies == ((2, 2), (1, 1, 1, 1))
    assert repeats["variants"] * 4 == repeats["main"]
    own = next(one for one in made.classes if one.name == "variants")
    assert (own.pictures, own.files, own.uses) == (6, 8, 2 * repeats["main"])
    assert plan(Counts(40, 10, variants=(3, 5))).copies[0] == (2, 2, 1)


@pytest.mark.parametrize(
    ("counts", "rule", "mend"),
    [
        (Counts(30, 0), "ratio", "8 more faces"),
        (Counts(0, 10), "ratio", "40 more main visuals"),
        (Counts(40, 10, {"full": 900}), "others", "of full, keep"),
        (Counts(1000, 300), "sum", "keep 760 of main, 228 of face"),
        (Counts(400, 60, flipped=False), "ratio", "leave out 10 faces, keep 50"),
        (Counts(100, 25, variants=(9, 2)), "variants", "keep at most 8 pictures of each group"),
        (Counts(40, 10, variants=(4,) * 20), "others", "leave out 9 groups"),
        (Counts(20, 5, {"full": 3}, grey=20), "grey", "leave out 12 grey pictures"),
    ],
)
def test_what_fails_and_what_mends_it(counts: Counts, rule: str, mend: str) -> None:
    made = plan(counts)
    assert not made.solved
    assert rule in {r.name for r in made.rules if not r.kept}
    assert any(mend in m.text for m in made.mends), made.mends
    assert made.classes


def test_grey_may_be_as_many_as_colour_and_all_of_it_in_a_grey_style() -> None:
    assert plan(Counts(40, 10, grey=25)).solved
    assert not plan(Counts(40, 10, grey=26)).solved
    assert plan(Counts(40, 10, grey=50, colour=False)).solved


def test_own_repeats_are_judged_with_numbers() -> None:
    made = evaluate(Counts(40, 10, {"full": 5}), {"main": 10, "face": 10, "full": 30}, names={"main": "anima main"})
    assert made.folders == ("10_anima main", "10_face", "30_full")
    assert {rule.name: rule.kept for rule in made.rules} == {"ratio": True, "others": False, "sum": True, "grey": True}
    assert "full 150: each less than face, 100" in [rule.text for rule in made.rules]
    assert made.as_dict()["folders"][0] == "10_anima main"


def test_the_seeds_ratio_exactly() -> None:
    strict = plan(Counts(40, 10), Rules(tolerance=0))
    assert strict.solved
    assert strict.ratio == 4


def test_counts_from_a_form() -> None:
    counts = Counts.from_dict({"main": 3, "face": 1, "full": 2, "variants": [2, 2], "discard": 9, "flipped": False})
    assert counts == Counts(3, 1, {"full": 2}, (2, 2), flipped=False)
    with pytest.raises(UserErrors) as caught:
        Counts.from_dict({"main": "3", "face": -1, "flipped": 1, "variants": "2,4", "full": True, "grey": 1e308})
    assert {error.where for error in caught.value.errors} == {"main", "face", "flipped", "variants", "full", "grey"}


@pytest.mark.parametrize(
    ("counts", "rules"),
    [
        (Counts(0, 0), Rules()),
        (Counts(1, 1, grey=3), Rules()),
        (Counts(1, 1, {"face": 2}), Rules()),
        (Counts(1, 1), Rules(tolerance=-1)),
        (Counts(1, 1), Rules(low=5, high=2)),
    ],
)
def test_nonsense_is_refused(counts: Counts, rules: Rules) -> None:
    with pytest.raises(UserError):
        plan(counts, rules)


@pytest.mark.parametrize("repeats", [{"main": 0}, {"face": 10**9}, {"face": "2"}])
def test_wrong_repeats_are_refused(repeats: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        evaluate(Counts(1, 1), repeats)
