"""A person's folders: steps from repeats and epochs, repeats or epochs from steps, and what the folders are called.

The arithmetic is that of plan.steps, on as many pictures as are said to be there, all of one shape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..dataset.folders import MAX_REPEATS
from ..dataset.pictures import Concept, Dataset, Picture
from ..errors import UserError, raise_all
from ..plan import steps as reckoning
from ..settings import TrainSettings

USUAL = {"repeats": (10, 30), "epochs": (5, 10), "steps": (3000, 5000)}
"""What works for a person, in pictures of a head."""

SUBJECTS = ("face", "body", "clothes", "shoes")
_WORDS = {"body": "portrait", "clothes": "clothing", "shoes": "shoes"}
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')
_MOST = 100_000


@dataclass(frozen=True)
class Part:
    """One concept. repeats: of now, or how the concepts are to stand to each other; reg: regularisation pictures."""

    name: str
    pictures: int
    repeats: int = 1
    reg: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Part:
        """From a form or a request. Raises UserError naming each field."""
        problems = []
        known: dict[str, Any] = {"name": "", "pictures": 0, "repeats": 1, "reg": 0}
        for name, value in values.items():
            kind = str if name == "name" else int
            if name not in known:
                problems.append(UserError("there is no such field", where=name, remedy="Leave it out"))
            elif isinstance(value, bool) or not isinstance(value, kind):
                words = "text" if kind is str else "a whole number"
                problems.append(UserError(f"{value!r} is not {words}", where=name, remedy="Change it"))
            known[name] = value
        raise_all(problems)
        return cls(**known)


@dataclass(frozen=True)
class Folder:
    """A folder to be: image/<repeats>_<name>, and reg/<reg_repeats>_<name> where there are such pictures."""

    name: str
    pictures: int
    repeats: int
    folder: str
    reg: int = 0
    reg_repeats: int = 0
    reg_folder: str = ""


@dataclass(frozen=True)
class PersonPlan:
    """steps: of all epochs; images: of one epoch, regularisation included. notes: what is unusual about it."""

    folders: tuple[Folder, ...]
    epochs: int
    batch_size: int
    images: int
    steps_per_epoch: int
    steps: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def plan(parts: Sequence[Part], epochs: int = reckoning.USUAL_EPOCHS, batch_size: int = 1) -> PersonPlan:
    """Steps of these repeats and epochs. Raises UserError."""
    settings, dataset = _set_up(parts, epochs, batch_size)
    planned = reckoning.plan(settings, dataset)
    folders = tuple(_folder(part) for part in parts)
    return PersonPlan(
        folders=folders,
        epochs=epochs,
        batch_size=batch_size,
        images=planned.images,
        steps_per_epoch=planned.steps_per_epoch,
        steps=planned.steps,
        notes=tuple(_notes(folders, epochs, planned.steps)),
    )


def with_repeats(
    parts: Sequence[Part], steps: int, epochs: int = reckoning.USUAL_EPOCHS, batch_size: int = 1
) -> PersonPlan:
    """The repeats that make about `steps` in `epochs`; concepts keep the proportion of their repeats."""
    settings, dataset = _set_up(parts, epochs, batch_size)
    _check_number("steps", steps, 10**9)
    aimed = reckoning.aim(settings, dataset, steps)
    chosen = [replace(part, repeats=n) for part, n in zip(parts, aimed.repeats, strict=False)]
    return plan(chosen, epochs, batch_size)


def with_epochs(parts: Sequence[Part], steps: int, batch_size: int = 1) -> PersonPlan:
    """The epochs that make about `steps` with these repeats."""
    settings, dataset = _set_up(parts, 1, batch_size)
    _check_number("steps", steps, 10**9)
    return plan(parts, reckoning.aim(settings, dataset, steps).epochs, batch_size)


def of_dataset(dataset: Dataset) -> list[Part]:
    """The concepts of a training folder, with regularisation of the same name."""
    reg: dict[str, int] = {}
    for concept in dataset.concepts:
        if concept.is_reg:
            reg[concept.name] = reg.get(concept.name, 0) + len(concept.pictures)
    return [
        Part(c.name, len(c.pictures), max(1, c.repeats), reg.get(c.name, 0)) for c in dataset.concepts if not c.is_reg
    ]


def suggested(trigger: str, what: str = "", subjects: Sequence[str] = ("face",)) -> dict[str, str]:
    """A folder's words for each subject: {"face": "hina woman", "body": "hina portrait", …}.

    trigger: the word that is to call the person; what: a word for what it is, "woman". Raises UserError.
    """
    word = clean(trigger)
    if not word:
        raise UserError("it has no letter that a folder's name may have", where="trigger", remedy="Choose a word")
    words = {subject: clean(what if subject == "face" else _WORDS.get(subject, subject)) for subject in subjects}
    return {subject: f"{word} {more}".strip() for subject, more in words.items()}


def clean(name: str) -> str:
    """A name as a folder may have it on every system."""
    return " ".join(_FORBIDDEN.sub(" ", name).split()).rstrip(". ")[:80]


def _folder(part: Part) -> Folder:
    """Regularisation is named as its concept, with as many repeats as make it as many as what is learnt."""
    reg_repeats = min(max(1, math.ceil(part.pictures * part.repeats / part.reg)), MAX_REPEATS) if part.reg else 0
    return Folder(
        name=part.name,
        pictures=part.pictures,
        repeats=part.repeats,
        folder=f"{part.repeats}_{part.name}",
        reg=part.reg,
        reg_repeats=reg_repeats,
        reg_folder=f"{reg_repeats}_{part.name}" if part.reg else "",
    )


def _set_up(parts: Sequence[Part], epochs: int, batch_size: int) -> tuple[TrainSettings, Dataset]:
    """A set of that many pictures: first what is learnt, in order, then regularisation."""
    if not parts:
        raise UserError("there is nothing to plan", where="concepts", remedy="Name at least one with its pictures")
    _check_number("epochs", epochs, 10_000)
    _check_number("batch_size", batch_size, 1024)
    names = [part.name for part in parts]
    for part in parts:
        _check_number("pictures", part.pictures, _MOST)
        _check_number("repeats", part.repeats, MAX_REPEATS)
        _check_number("reg", part.reg, _MOST, 0)
        if not part.name or clean(part.name) != part.name:
            raise UserError(f"{part.name!r} can't be a folder's name", where="name", remedy=f"Use {clean(part.name)!r}")
        if names.count(part.name) > 1:
            raise UserError(f"{part.name!r} is there twice", where="name", remedy="Give each its own")
    settings = replace(TrainSettings(), max_train_epochs=epochs, train_batch_size=batch_size)
    concepts = [_concept(part.name, part.pictures, part.repeats, False, batch_size) for part in parts]
    concepts += [
        _concept(part.name, part.reg, _folder(part).reg_repeats, True, batch_size) for part in parts if part.reg
    ]
    return settings, Dataset(Path(), tuple(concepts), ())


def _concept(name: str, pictures: int, repeats: int, is_reg: bool, batch_size: int) -> Concept:
    same = (Picture(Path(name), "", 512, 512),) * pictures
    made = Concept(Path(name), name, repeats, same, is_reg=is_reg)
    return replace(made, frame=replace(made.frame, batch_size=batch_size))


def _notes(folders: Sequence[Folder], epochs: int, steps: int) -> list[str]:
    notes = []
    values = {"epochs": [epochs], "steps": [steps], "repeats": [folder.repeats for folder in folders]}
    for name, (low, high) in USUAL.items():
        if odd := [n for n in values[name] if not low <= n <= high]:
            many = ", ".join(f"{n:,}" for n in odd)
            said = {
                "epochs": f"epochs {many}: usual for a person are {low:,} to {high:,}",
                "steps": f"steps {many}: usual for a person are {low:,} to {high:,}",
                "repeats": f"repeats {many}: usual for a person are {low:,} to {high:,}",
            }
            notes.append(said[name])
    if any(folder.reg for folder in folders):
        notes.append("regularisation is reckoned in: it makes about as many images again as what is learnt")
    return notes


def _check_number(name: str, value: Any, most: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(f"{value!r} is not a whole number from {least} to {most:,}", where=name, remedy="Change it")
