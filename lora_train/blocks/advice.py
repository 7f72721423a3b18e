"""What to change when a picture shows a fault: the symptom table of the style method, as proposals that can be undone.

The method merges a style (GP1, strength 1) with the checkpoint's own style (GP2, strength −1). Its numbers 01 … 17 are
SD1.5's blocks with attention. Each symptom has steps: where the first isn't enough, the next one follows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ..errors import UserError
from .edit import Range, tidy
from .families import BLOCKS_17

MAIN, OWN = "GP1", "GP2"
FAMILIES = ("SD1.5", "SD2")
LIMITS = Range(0.0, 2.0, 0.05)
"""Below 0 a block would do the opposite of what the LoRA learnt, which no step of the method wants."""
STRENGTH_STEP = 0.2
AMOUNT = 0.1


@dataclass(frozen=True)
class Mix:
    """The weights of the two sets, by block, and their strengths. own: None where nothing is taken away."""

    main: Mapping[str, float]
    own: Mapping[str, float] | None = None
    main_strength: float = 1.0
    own_strength: float = -1.0


@dataclass(frozen=True)
class Move:
    """A set's blocks, by their numbers 1 … 17 from first to last, up (1) or down (-1).

    GP2 goes down by half of the amount: its numbers are that small.
    """

    target: str
    first: int
    last: int
    way: int

    @property
    def blocks(self) -> tuple[str, ...]:
        return BLOCKS_17[self.first - 1 : self.last]

    def by(self, amount: float) -> float:
        """How far each of its numbers goes."""
        return self.way * amount * (0.5 if self.target == OWN and self.way < 0 else 1.0)

    @property
    def text(self) -> str:
        """`GP1 04–07 down`."""
        places = f"{self.first:02}" if self.first == self.last else f"{self.first:02}–{self.last:02}"
        return f"{self.target} {places} {'up' if self.way > 0 else 'down'}"


@dataclass(frozen=True)
class Step:
    """Moves that belong together, why, and how far the whole strength of GP1 goes with them, in units of 0.2."""

    reason: str
    moves: tuple[Move, ...] = ()
    strength: int = 0

    @property
    def text(self) -> str:
        """What it changes, for people."""
        return " and ".join(move.text for move in self.moves) or "GP1's strength down"


@dataclass(frozen=True)
class Symptom:
    key: str
    label: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Change:
    """One number, before and after. block: None for the strength of the set."""

    target: str
    block: str | None
    old: float
    new: float
    reason: str


@dataclass(frozen=True)
class Proposal:
    """A step's changes for one mix. held: what can't go further (`GP1 IN04`), by why. more: whether a step follows."""

    symptom: str
    step: int
    changes: tuple[Change, ...]
    held: Mapping[str, str]
    more: bool

    def apply(self, mix: Mix) -> Mix:
        """The mix with the new numbers. Raises UserError when one of the old ones is another by now."""
        return _set(mix, [(c.target, c.block, c.old, c.new) for c in self.changes])

    def undo(self, mix: Mix) -> Mix:
        """The mix as it was. Raises UserError when one of the new numbers was changed since."""
        return _set(mix, [(c.target, c.block, c.new, c.old) for c in self.changes])


def _move(target: str, first: int, last: int, way: int) -> tuple[Move, ...]:
    return (Move(target, first, last, way),)


_SYMPTOMS = (
    Symptom(
        "style_weak",
        "Style too weak",
        (
            Step(
                "The style is underfit: take more of the checkpoint's own away, first in the words", _move(OWN, 1, 1, 1)
            ),
            Step(
                "The style is underfit: the last blocks give more of it, and take more of the checkpoint's own away",
                _move(MAIN, 13, 17, 1) + _move(OWN, 13, 17, 1),
            ),
        ),
    ),
    Symptom(
        "limbs",
        "Limbs deformed",
        (
            Step("Limbs are overfit: less of the LoRA in the words", _move(MAIN, 1, 1, -1)),
            Step("Limbs are overfit: less of the LoRA in the deep blocks", _move(MAIN, 6, 11, -1)),
        ),
    ),
    Symptom(
        "hands",
        "Hands deformed",
        (
            Step(
                "Hands are overfit: less of the LoRA in these blocks, and less taken away there",
                _move(MAIN, 4, 7, -1) + _move(OWN, 4, 7, -1),
            ),
        ),
    ),
    Symptom(
        "face_weak",
        "Face not distinct",
        (Step("The face is underfit: more of the LoRA in the deep blocks", _move(MAIN, 6, 11, 1)),),
    ),
    Symptom(
        "clothes",
        "Clothes ragged",
        (Step("Clothes are overfit: less of the LoRA in these early blocks", _move(MAIN, 3, 5, -1)),),
    ),
    Symptom(
        "chaotic",
        "Picture chaotic",
        (
            Step("Many faults at once: less of the LoRA in these early blocks first", _move(MAIN, 3, 5, -1)),
            Step("Many faults at once: less of the LoRA as a whole", strength=-1),
            Step("Many faults at once: take less of the checkpoint's own style away", _move(OWN, 1, 17, -1)),
            Step("Many faults at once: take more of the checkpoint's own style away", _move(OWN, 1, 17, 1)),
        ),
    ),
)
SYMPTOMS: Mapping[str, Symptom] = MappingProxyType({symptom.key: symptom for symptom in _SYMPTOMS})


def propose(
    symptom: str,
    mix: Mix,
    step: int = 0,
    amount: float = AMOUNT,
    limits: Range = LIMITS,
    locked: Collection[tuple[str, str]] = (),
    family: str = "SD1.5",
) -> Proposal:
    """The changes of a step, 0 the first. amount: how far each block goes; the strength goes twice as far.

    limits: what no number leaves; one that is beyond already stays. locked: (GP1 or GP2, block) that stay.
    Raises UserError: unknown symptom or step, an amount that isn't above 0, a family that the method isn't for.
    """
    the = _step_of(symptom, step, family)
    if not 0 < amount <= limits.high - limits.low:
        raise UserError(f"{amount:g} is not between 0 and {limits.high - limits.low:g}", where="amount")
    changes: list[Change] = []
    held: dict[str, str] = {}
    for move in the.moves:
        weights = mix.main if move.target == MAIN else mix.own
        if weights is None:
            held[move.target] = "there is no LoRA of the checkpoint's own style"
            continue
        for block in move.blocks:
            name = f"{move.target} {block}"
            if (move.target, block) in locked:
                held[name] = "locked"
                continue
            old = weights[block]
            new = _moved(old, move.by(amount), limits)
            if new == old:
                held[name] = f"at its limit, {old:g}"
            else:
                changes.append(Change(move.target, block, old, new, the.reason))
    if the.strength:
        old, by = mix.main_strength, the.strength * amount * STRENGTH_STEP / AMOUNT
        new = _moved(old, by, limits)
        if new == old:
            held[MAIN] = f"its strength is at its limit, {old:g}"
        else:
            changes.append(Change(MAIN, None, old, new, the.reason))
    return Proposal(symptom, step, tuple(changes), held, step + 1 < len(SYMPTOMS[symptom].steps))


def _step_of(symptom: str, step: int, family: str) -> Step:
    if family not in FAMILIES:
        remedy = "Its numbers are for the 17 blocks of SD1.5 and SD2"
        raise UserError(f"the method says nothing of {family}", where=symptom, remedy=remedy)
    if symptom not in SYMPTOMS:
        raise UserError(f"there is no symptom {symptom!r}", remedy=f"Known are {', '.join(SYMPTOMS)}")
    steps = SYMPTOMS[symptom].steps
    if not 0 <= step < len(steps):
        count = len(steps)
        what = f"it has {count} step{'' if count == 1 else 's'}, and no step {step + 1}"
        raise UserError(what, where=SYMPTOMS[symptom].label)
    return steps[step]


def _moved(old: float, by: float, limits: Range) -> float:
    """Never against the way of the move: a number beyond the limits stays where it is."""
    new = limits.clamp(tidy(old + by))
    return new if (new - old) * by > 0 else old


def _set(mix: Mix, changes: list[tuple[str, str | None, float, float]]) -> Mix:
    main, own = dict(mix.main), None if mix.own is None else dict(mix.own)
    strength = mix.main_strength
    for target, block, old, new in changes:
        weights = main if target == MAIN else own
        present = strength if block is None else None if weights is None else weights.get(block)
        if present != old:
            name = f"{target} {block or 'strength'}"
            raise UserError(f"it is {present} and no longer {old:g}", where=name, remedy="Ask for the step again")
        if block is None:
            strength = new
        elif weights is not None:
            weights[block] = new
    return replace(mix, main=main, own=own, main_strength=strength)
