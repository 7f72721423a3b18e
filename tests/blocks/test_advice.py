from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_train.blocks import advice
from lora_train.blocks.advice import MAIN, OWN, SYMPTOMS, Mix
from lora_train.blocks.edit import Range
from lora_train.blocks.families import BLOCKS_17, weights_by_block
from lora_train.blocks.presets import BUILTIN
from lora_train.errors import UserError

MIX = Mix(weights_by_block(BUILTIN["GP1"]), weights_by_block(BUILTIN["GP2"]))
STEPS = [(key, n) for key, symptom in SYMPTOMS.items() for n in range(len(symptom.steps))]
values = st.floats(-1, 3).map(lambda value: round(value, 4))
numbers = st.tuples(*[values] * 17).map(weights_by_block)
mixes = st.builds(Mix, numbers, st.none() | numbers, st.floats(0, 2), st.just(-1.0))


def moved(symptom: str, step: int) -> dict[tuple[str, int], float]:
    """(GP, number 1 … 17) -> by how much, as the method's table counts."""
    changes = advice.propose(symptom, MIX, step).changes
    place = {block: n for n, block in enumerate(BLOCKS_17, start=1)}
    return {(c.target, place[c.block] if c.block else 0): round(c.new - c.old, 6) for c in changes}


def blocks(target: str, first: int, last: int, by: float) -> dict[tuple[str, int], float]:
    return {(target, n): by for n in range(first, last + 1)}


def test_the_methods_table() -> None:
    assert moved("style_weak", 0) == blocks(OWN, 1, 1, 0.1)
    assert moved("style_weak", 1) == blocks(MAIN, 13, 17, 0.1) | blocks(OWN, 13, 17, 0.1)
    assert moved("limbs", 0) == blocks(MAIN, 1, 1, -0.1)
    assert moved("limbs", 1) == blocks(MAIN, 6, 11, -0.1)
    assert moved("hands", 0) == blocks(MAIN, 4, 7, -0.1) | blocks(OWN, 4, 7, -0.05)
    assert moved("face_weak", 0) == blocks(MAIN, 6, 11, 0.1)
    assert moved("clothes", 0) == blocks(MAIN, 3, 5, -0.1)
    assert moved("chaotic", 0) == blocks(MAIN, 3, 5, -0.1)
    assert moved("chaotic", 1) == {(MAIN, 0): -0.2}
    assert moved("chaotic", 2) == blocks(OWN, 1, 17, -0.05)
    assert moved("chaotic", 3) == blocks(OWN, 1, 17, 0.1)
    assert [symptom.label for symptom in SYMPTOMS.values()] == [
        "Style too weak",
        "Limbs deformed",
        "Hands deformed",
        "Face not distinct",
        "Clothes ragged",
        "Picture chaotic",
    ]


def test_what_a_step_says() -> None:
    steps = SYMPTOMS["hands"].steps
    assert steps[0].text == "GP1 04–07 down and GP2 04–07 down"
    assert SYMPTOMS["style_weak"].steps[0].text == "GP2 01 up"
    assert SYMPTOMS["chaotic"].steps[1].text == "GP1's strength down"
    assert advice.propose("limbs", MIX).more
    assert not advice.propose("limbs", MIX, 1).more
    proposal = advice.propose("chaotic", MIX, 1)
    assert (proposal.changes[0].old, proposal.changes[0].new, proposal.changes[0].block) == (1, 0.8, None)
    assert all(change.reason for change in proposal.changes)


@given(mixes, st.sampled_from(STEPS), st.floats(0.01, 1), st.sets(st.tuples(st.just(MAIN), st.sampled_from(BLOCKS_17))))
def test_proposals_are_undone_and_keep_to_limits(
    mix: Mix, step: tuple[str, int], amount: float, locked: set[tuple[str, str]]
) -> None:
    proposal = advice.propose(*[step[0], mix, step[1], amount], locked=locked)
    after = proposal.apply(mix)
    assert proposal.undo(after) == mix
    for change in proposal.changes:
        assert change.old != change.new
        assert (change.target, change.block) not in locked
        assert 0 <= change.new <= 2 or abs(change.new - 1) < abs(change.old - 1)
    touched = {(c.target, c.block) for c in proposal.changes}
    assert all(after.main[b] == v for b, v in mix.main.items() if (MAIN, b) not in touched)
    if mix.own is not None and after.own is not None:
        assert all(after.own[b] == v for b, v in mix.own.items() if (OWN, b) not in touched)
    assert after.own_strength == mix.own_strength


def test_what_cannot_go_further_is_said() -> None:
    proposal = advice.propose("chaotic", MIX, 2, 0.4, locked={(OWN, "IN02")})
    assert proposal.held["GP2 IN02"] == "locked"
    assert {c.new for c in proposal.changes} == {0.1, 0.0}, "the text encoder's 0.3 − 0.2, and what was less than 0.2"
    again = advice.propose("chaotic", proposal.apply(MIX), 2, 0.4)
    assert again.held["GP2 IN01"] == "at its limit, 0"
    alone = replace(MIX, own=None)
    assert advice.propose("style_weak", alone).changes == ()
    assert advice.propose("style_weak", alone).held == {"GP2": "there is no LoRA of the checkpoint's own style"}
    assert len(advice.propose("style_weak", alone, 1).changes) == 5
    beyond = replace(MIX, main={**MIX.main, "IN07": 2.5, "OUT05": 1.95})
    proposal = advice.propose("face_weak", beyond)
    assert proposal.held == {"GP1 IN07": "at its limit, 2.5"}, "up is not down to 2"
    assert [c.new for c in proposal.changes if c.block == "OUT05"] == [2]
    assert advice.propose("limbs", MIX, limits=Range(1.0, 2.0)).held == {"GP1 BASE": "at its limit, 1"}


def test_a_mix_that_was_changed_meanwhile() -> None:
    proposal = advice.propose("limbs", MIX)
    changed = replace(MIX, main={**MIX.main, "BASE": 0.5})
    with pytest.raises(UserError, match=r"GP1 BASE: it is 0\.5 and no longer 1\. Ask for the step again"):
        proposal.apply(changed)
    with pytest.raises(UserError, match=r"GP1 BASE: it is 0\.5 and no longer 0\.9"):
        proposal.undo(changed)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match=r"there is no symptom 'feet'\. Known are style_weak, limbs"):
        advice.propose("feet", MIX)
    with pytest.raises(UserError, match="Hands deformed: it has 1 step, and no step 2"):
        advice.propose("hands", MIX, 1)
    with pytest.raises(UserError, match="amount: 0 is not between 0 and 2"):
        advice.propose("hands", MIX, 0, 0.0)
    with pytest.raises(UserError, match="the method says nothing of SDXL"):
        advice.propose("hands", MIX, family="SDXL")
