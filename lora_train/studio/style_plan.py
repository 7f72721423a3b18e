"""Repeats of a style's folders: the smallest that keep the rules of balance, or which rule fails and what mends it.

Pictures are sorted into main visuals, faces, other classes (full body…) and variants: near-duplicates in groups, each
of which counts as one picture. `uses` are pictures × repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import combinations
from typing import Any

from ..dataset.folders import MAX_REPEATS
from ..errors import UserError, raise_all

MAIN, FACE, FULL, VARIANTS, DISCARD = "main", "face", "full", "variants", "discard"
_MOST = 100_000


@dataclass(frozen=True)
class Rules:
    """ratio: of main to face, met within `tolerance` (0.2: 4 ÷ 1.2 to 4 × 1.2). The sum is to be in [low, high]."""

    ratio: int = 4
    tolerance: float = 0.2
    low: int = 1000
    high: int = 2000

    def bounds(self) -> tuple[Fraction, Fraction]:
        """The least and the most main:face."""
        slack = 1 + Fraction(str(self.tolerance))
        return self.ratio / slack, self.ratio * slack


@dataclass(frozen=True)
class Counts:
    """Pictures of each class; what is discarded isn't counted.

    others: {class: pictures}. variants: the size of each group. grey: how many of all pictures (of groups, each once)
    have no colour. flipped: whether mirrored copies are made beside the pictures. colour: the style is for colour.
    """

    main: int
    face: int
    others: Mapping[str, int] = field(default_factory=dict)
    variants: tuple[int, ...] = ()
    grey: int = 0
    flipped: bool = True
    colour: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Counts:
        """From a form or a request: {"main": 40, "face": 10, "full": 8, "variants": [2, 4], "flipped": true, …}.

        A number of an unknown name is a class of its own; "discard" is left out. Raises UserError naming each field.
        """
        known: dict[str, Any] = {MAIN: 0, FACE: 0}
        others: dict[str, int] = {}
        problems: list[UserError] = []
        for name, value in values.items():
            try:
                if name in ("flipped", "colour"):
                    known[name] = _flag(name, value)
                elif name == VARIANTS:
                    known[name] = _sizes(value)
                elif name in (MAIN, FACE, "grey"):
                    known[name] = _count(name, value)
                elif name != DISCARD:
                    others[name] = _count(name, value)
            except UserError as error:
                problems.append(error)
        raise_all(problems)
        return cls(others=others, **known)

    @property
    def factor(self) -> int:
        """What the sum counts each use by."""
        return 2 if self.flipped else 4

    @property
    def group_size(self) -> int:
        """Pictures of each group of variants after copying; 1 without variants."""
        return max(self.variants, default=1)

    @property
    def pictures(self) -> int:
        """All, each group of variants as one."""
        return self.main + self.face + sum(self.others.values()) + len(self.variants)


@dataclass(frozen=True)
class Class:
    """A folder to be. pictures: files that are there; files: with the copies of variants; uses: files × repeats."""

    name: str
    folder: str
    pictures: int
    files: int
    repeats: int
    uses: int


@dataclass(frozen=True)
class Rule:
    """name: "ratio", "others", "sum", "variants" or "grey"; text: the rule with these numbers."""

    name: str
    kept: bool
    text: str


@dataclass(frozen=True)
class Mend:
    """One change after which all rules can be kept. counts: with it; None where it may be of any class."""

    text: str
    counts: Counts | None = None


@dataclass(frozen=True)
class StylePlan:
    """solved: all rules are kept, by the smallest sum of repeats. Otherwise classes are as near as it goes.

    ratio: main to face. total: the sum that is to be in [low, high]. copies: for each group of variants how often each
    of its pictures is to lie in the folder.
    """

    solved: bool
    classes: tuple[Class, ...]
    ratio: float
    total: int
    factor: int
    rules: tuple[Rule, ...]
    mends: tuple[Mend, ...] = ()
    copies: tuple[tuple[int, ...], ...] = ()

    @property
    def folders(self) -> tuple[str, ...]:
        """<repeats>_<name> of each."""
        return tuple(one.folder for one in self.classes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "mends": [mend.text for mend in self.mends], "folders": list(self.folders)}


def plan(counts: Counts, rules: Rules | None = None, names: Mapping[str, str] | None = None) -> StylePlan:
    """The smallest repeats: the least sum of them; of equal ones, main:face nearest the rule, then the fewest uses.

    names: {class: words of its folder's name}. Where not all rules can be kept, `rules` of the plan say which and
    `mends` what helps. Raises UserError where there is nothing to plan.
    """
    rules = rules or Rules()
    _check(counts, rules)
    repeats = _smallest(counts, rules)
    if repeats is not None:
        made = evaluate(counts, repeats, rules, names)
        return replace(made, mends=_grey_mends(counts))
    nearest = next(found for found in _nearest(counts, rules) if found is not None)
    made = evaluate(counts, nearest, rules, names)
    return replace(made, mends=(*_mends(counts, rules), *_grey_mends(counts)))


def evaluate(
    counts: Counts, repeats: Mapping[str, int], rules: Rules | None = None, names: Mapping[str, str] | None = None
) -> StylePlan:
    """The plan with the user's own repeats, {class: repeats}, a class that isn't named having one."""
    rules = rules or Rules()
    _check(counts, rules)
    chosen = {name: _count(name, repeats.get(name, 1), 1, MAX_REPEATS) for name, _, _ in _classes(counts)}
    classes = tuple(
        Class(name, f"{chosen[name]}_{(names or {}).get(name) or name}", n, files, chosen[name], files * chosen[name])
        for name, n, files in _classes(counts)
    )
    judged = _judge(counts, rules, {one.name: one for one in classes})
    uses = {one.name: one.uses for one in classes}
    return StylePlan(
        solved=all(rule.kept for rule in judged),
        classes=classes,
        ratio=round(uses[MAIN] / uses[FACE], 3) if uses.get(MAIN) and uses.get(FACE) else 0.0,
        total=sum(uses.values()) * counts.factor,
        factor=counts.factor,
        rules=judged,
        copies=tuple(_copies(size, counts.group_size) for size in counts.variants),
    )


def _classes(counts: Counts) -> list[tuple[str, int, int]]:
    """(name, pictures, files) of each class that has pictures."""
    found = [(MAIN, counts.main, counts.main), (FACE, counts.face, counts.face)]
    found += [(name, n, n) for name, n in counts.others.items()]
    found.append((VARIANTS, sum(counts.variants), len(counts.variants) * counts.group_size))
    return [one for one in found if one[1]]


def _copies(size: int, wanted: int) -> tuple[int, ...]:
    return tuple(wanted // size + (index < wanted % size) for index in range(size))


# The rules


def _judge(counts: Counts, rules: Rules, classes: Mapping[str, Class]) -> tuple[Rule, ...]:
    """Every rule, whether kept or not, in words."""
    main, face = (classes[name].uses if name in classes else 0 for name in (MAIN, FACE))
    low, high = rules.bounds()
    if main and face:
        kept = low <= Fraction(main, face) <= high
        is_now, least, most = f"{main / face:.2f}", f"{float(low):.2f}", f"{float(high):.2f}"
        words = f"main {main} : face {face} = {is_now}, wanted {rules.ratio} ({least} to {most})"
    else:
        kept, words = False, f"main {main} : face {face}: both are needed"
    found = [Rule("ratio", kept, words)]
    rest = [one for one in classes.values() if one.name not in (MAIN, FACE)]
    if rest:
        shown = ", ".join(f"{one.name} {one.uses}" for one in rest)
        found.append(Rule("others", all(one.uses < face for one in rest), f"{shown}: each less than face, {face}"))
    total = sum(one.uses for one in classes.values())
    words = f"{total} uses × {counts.factor} = {total * counts.factor}, wanted {rules.low} to {rules.high}"
    found.append(Rule("sum", rules.low <= total * counts.factor <= rules.high, words))
    if VARIANTS in classes:
        size, own = counts.group_size, classes[VARIANTS].repeats
        mains = classes[MAIN].repeats if MAIN in classes else 0
        words = f"variants {own} repeats, wanted main's {mains} ÷ {size} pictures of a group"
        found.append(Rule("variants", own * size == mains, words))
    if counts.colour:
        rest_of = counts.pictures - counts.grey
        found.append(Rule("grey", counts.grey <= rest_of, f"grey {counts.grey}, in colour {rest_of}"))
    return tuple(found)


# The solver


def _smallest(counts: Counts, rules: Rules, without: Iterable[str] = ()) -> dict[str, int] | None:
    """{class: repeats}; None where there are none. without: names of rules that needn't be kept."""
    if not counts.main or not counts.face:
        return None
    without = frozenset(without)
    least = 0 if "sum" in without else -(-rules.low // counts.factor)
    most = 10**9 if "sum" in without else rules.high // counts.factor
    low, high = (Fraction(1, 10**6), Fraction(10**6)) if "ratio" in without else rules.bounds()
    others = sorted(((n, name) for name, n in counts.others.items() if n), reverse=True)
    size = counts.group_size if "variants" not in without else 1
    limited = "others" not in without
    floor = max([n for n, _ in others] + [0]) + 1 if limited else 1  # uses that faces have at least
    first = max(1, math.ceil(floor * low / counts.main)) if limited else 1
    best: tuple[Any, ...] | None = None
    for main in range(-(-first // size) * size, min(most // counts.main, MAX_REPEATS) + 1, size):
        own = _of_variants(counts, main)
        if best and main + 1 + own + len(others) > best[0]:
            break
        used = counts.main * main
        groups = len(counts.variants) * counts.group_size * own
        lowest = max(math.ceil(used / high), floor, groups + 1 if limited else 1)
        for face in range(-(-lowest // counts.face), min(math.floor(used / low) // counts.face, MAX_REPEATS) + 1):
            faces = counts.face * face
            if used + faces + groups + sum(n for n, _ in others) > most:
                break
            if best and main + face + own + len(others) > best[0]:
                break
            more = _fill(others, faces if limited else most, least - used - faces - groups)
            if more is None:
                continue
            uses = used + faces + groups + sum(n * more[name] for n, name in others)
            if uses > most:
                continue
            ratio = Fraction(used, faces) / rules.ratio
            key = (main + face + own + sum(more.values()), max(ratio, 1 / ratio), uses)
            if best is None or key < best[:3]:
                best = (*key, {MAIN: main, FACE: face, **more, **({VARIANTS: own} if counts.variants else {})})
    return None if best is None else best[3]


def _of_variants(counts: Counts, main: int) -> int:
    """Repeats of the variants; 0 where there are none."""
    return max(1, round(main / counts.group_size)) if counts.variants else 0


def _fill(others: list[tuple[int, str]], below: int, missing: int) -> dict[str, int] | None:
    """The least repeats of `others`, each below `below` uses, that together have `missing` uses; None if too few.

    others: (pictures, name), the largest first: a repeat of the largest class brings most.
    """
    repeats = {name: 1 for _, name in others}
    missing -= sum(n for n, _ in others)
    for n, name in others:
        if missing <= 0:
            break
        more = min(-(-missing // n), (below - 1) // n - 1)
        if more > 0:
            repeats[name] += more
            missing -= more * n
    return repeats if missing <= 0 else None


# Where there is no solution


def _nearest(counts: Counts, rules: Rules) -> Iterator[dict[str, int] | None]:
    """Repeats that keep as many rules as it goes; the last one is never None."""
    if counts.main and counts.face:
        names = ("others", "variants", "ratio", "sum")
        for number in range(1, len(names) + 1):
            for without in combinations(names, number):
                yield _smallest(counts, rules, without)
    wanted = -(-rules.low // counts.factor)
    each = min(max(1, -(-wanted // sum(files for _, _, files in _classes(counts)))), MAX_REPEATS)
    yield {name: each for name, _, _ in _classes(counts)}


def _mends(counts: Counts, rules: Rules) -> tuple[Mend, ...]:
    """Changes of one number after which there is a solution, the smallest first; else of all in proportion."""
    found: list[tuple[float, Mend]] = []

    def search(values: Iterable[int], now: int, change: Callable[[int], Counts], text: Callable[[int], str]) -> None:
        for value in values:
            if _smallest(changed := change(value), rules) is not None:
                found.append((abs(value - now) / max(now, 1), Mend(text(value), changed)))
                return

    main, face, groups = counts.main, counts.face, len(counts.variants)
    enough = max(1, round(main / rules.ratio))
    start = face + 1 if face else enough
    search(
        _up(start, 4 * max(main, face, 1)),
        face or enough,
        lambda n: replace(counts, face=n),
        lambda n: f"{n - face} more faces, {n} in all: crop them out of the main visuals",
    )
    search(_down(face - 1), face, lambda n: replace(counts, face=n), lambda n: f"leave out {face - n} faces, keep {n}")
    search(
        _up(main + 1 if main else face * rules.ratio, 8 * max(main, face, 1)),
        main or face * rules.ratio,
        lambda n: replace(counts, main=n),
        lambda n: f"{n - main} more main visuals, {n} in all",
    )
    search(
        _down(main - 1),
        main,
        lambda n: replace(counts, main=n),
        lambda n: f"leave out {main - n} main visuals, keep {n}",
    )
    for name, n in counts.others.items():
        search(
            _down(n - 1, 0),
            n,
            lambda value, name=name: replace(counts, others={**counts.others, name: value}),  # type: ignore[misc]
            lambda value, name=name, n=n: f"leave out {n - value} of {name}, keep {value}",  # type: ignore[misc]
        )
    if groups:
        size = counts.group_size
        search(
            _down(size - 1),
            size,
            lambda n: replace(counts, variants=tuple(min(n, each) for each in counts.variants)),
            lambda n: f"keep at most {n} pictures of each group of variants",
        )
        search(
            _down(groups - 1, 0),
            groups,
            lambda n: replace(counts, variants=tuple(sorted(counts.variants)[:n])),
            lambda n: f"leave out {groups - n} groups of variants, the largest first, keep {n}",
        )
    if not found:
        search(range(99, 0, -1), 100, lambda n: _scaled(counts, n), lambda n: _kept(_scaled(counts, n)))
    return tuple(mend for _, mend in sorted(found, key=lambda pair: pair[0]))


def _scaled(counts: Counts, percent: int) -> Counts:
    def part(n: int) -> int:
        return max(1, n * percent // 100) if n else 0

    main, face = part(counts.main), part(counts.face)
    others = {name: min(part(n), face - 1) for name, n in counts.others.items()}
    groups = tuple(sorted(counts.variants)[: min(part(len(counts.variants)), face - 1)])
    return replace(counts, main=main, face=face, others=others, variants=groups)


def _kept(counts: Counts) -> str:
    shown = ", ".join(f"{n} of {name}" for name, n, _ in _classes(counts) if name != VARIANTS)
    return f"keep {shown}" + (f", {len(counts.variants)} groups of variants" if counts.variants else "")


def _grey_mends(counts: Counts) -> tuple[Mend, ...]:
    spare = 2 * counts.grey - counts.pictures
    if not counts.colour or spare <= 0:
        return ()
    text = f"leave out {spare} grey pictures, or add as many in colour"
    return (Mend(text),)


def _up(first: int, last: int) -> Iterator[int]:
    """One by one, then in growing steps."""
    value, step = max(1, first), 1
    while value <= last:
        yield value
        step = max(1, (value - first) // 16)
        value += step


def _down(first: int, last: int = 1) -> Iterator[int]:
    value = first
    while value >= last:
        yield value
        value -= max(1, (first - value) // 16)


# What is given


def _check(counts: Counts, rules: Rules) -> None:
    problems = []
    if not counts.pictures:
        problems.append(UserError("there are no pictures", where="style plan", remedy="Sort some into its classes"))
    if counts.grey > counts.pictures:
        what = f"{counts.grey} are more than all pictures, {counts.pictures}"
        problems.append(UserError(what, where="grey", remedy="Count pictures without colour"))
    if reserved := {MAIN, FACE, VARIANTS, DISCARD} & counts.others.keys():
        problems.append(UserError("it isn't an additional class", where=sorted(reserved)[0], remedy="Rename it"))
    if not 0 <= rules.tolerance <= 3:
        problems.append(UserError(f"{rules.tolerance!r} isn't from 0 to 3", where="tolerance", remedy="Change it"))
    if not 0 < rules.low <= rules.high:
        problems.append(UserError("the range is empty", where="low", remedy="Give low and high in this order"))
    raise_all(problems)


def _count(name: str, value: Any, least: int = 0, most: int = _MOST) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(f"{value!r} is not a whole number from {least} to {most}", where=name, remedy="Change it")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{value!r} is not true or false", where=name, remedy="Change it")
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{value!r} is no list of group sizes", where=VARIANTS, remedy="Write [2, 4]")
    return tuple(_count(VARIANTS, size, 1, 1000) for size in value)
