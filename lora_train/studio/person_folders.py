"""A person's plan put into the project: its folders get the plan's repeats, those of regularisation with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..dataset.folders import shown
from ..errors import UserError, raise_all
from . import plan_folders
from .person_plan import Folder, Part, PersonPlan, clean
from .plan_folders import Wanted
from .project import Concept, Project
from .style_sort import key_of


@dataclass(frozen=True)
class Applied:
    """renamed: (old name, new name) of folders of the project; copied: those that were made of pictures elsewhere.

    entries: the changes in the journal, the latest first.
    """

    renamed: tuple[tuple[str, str], ...] = ()
    copied: tuple[str, ...] = ()
    entries: tuple[int, ...] = ()


def parts_of(project: Project) -> list[Part]:
    """The project's concepts, with regularisation of the same name; what is left out of training isn't among them."""
    concepts = [c for c in project.concepts() if c.pictures and c.used]
    reg: dict[str, int] = {}
    for concept in concepts:
        if concept.is_reg:
            reg[concept.name] = reg.get(concept.name, 0) + len(concept.pictures)
    found: dict[str, Part] = {}
    for concept in concepts:
        name = clean(concept.name)
        if not concept.is_reg and name and name not in found:
            count = len(plan_folders.unmirrored(concept.pictures))
            found[name] = Part(name, count, max(1, concept.repeats or 1), reg.get(concept.name, 0))
    return list(found.values())


def apply(project: Project, plan: PersonPlan) -> Applied:
    """Give the project's folders the plan's repeats. Pictures elsewhere are copied into folders of that name.

    Concepts are found by their names; one that the project hasn't yet is passed over. Raises UserError.
    """
    planned = plan_folders.planned(project)
    renames: list[tuple[Path, Path]] = []
    wanted = [
        Wanted(key, project.root / place, group)
        for group, name in planned.folders.items()
        for key, place in planned.files.items()
        if (project.root / place).parent.name == name
    ]
    folders, groups = dict(planned.folders), {name: group for group, name in planned.folders.items()}
    copied: list[Concept] = []
    for folder in plan.folders:
        for concept in _called(project, folder.name):
            if concept.is_reg:
                if folder.reg_folder and not concept.elsewhere:
                    renames.append((concept.folder, project.reg / folder.reg_folder))
            elif concept.folder in planned.places:
                folders[groups[concept.folder.name]] = folder.folder
            elif concept.elsewhere or concept.folder == project.image:
                wanted += _copies(project, concept, folder)
                folders[_group(folder)] = folder.folder
                copied.append(concept)
            else:
                renames.append((concept.folder, project.image / folder.folder))
    renames = [(old, new) for old, new in renames if old != new]
    _check(renames)
    entries: list[int] = []
    new_names = [*folders.values(), *(new.name for _, new in renames)] if wanted else [new.name for _, new in renames]
    title = f"repeats: {', '.join(dict.fromkeys(new_names))}"
    if wanted:
        written = plan_folders.write(project, wanted, folders, [c.folder for c in copied], title, renames=renames)
        entries = [written.entry] if written.entry is not None else []
    elif renames:
        with project.journal.whole_change(title) as change:
            for old, new in renames:
                plan_folders.rename(project, change, old, new)
        entries = [change.number]
    return Applied(
        tuple((_told(old), _told(new)) for old, new in renames),
        tuple(shown(folders[_group(f)]) for f in plan.folders if _group(f) in folders and copied),
        tuple(entries),
    )


def _called(project: Project, name: str) -> list[Concept]:
    """What is trained on under that name; where there are several of a kind the first."""
    found: dict[bool, Concept] = {}
    for concept in project.concepts():
        if concept.used and concept.pictures and clean(concept.name) == name:
            found.setdefault(concept.is_reg, concept)
    return list(found.values())


def _copies(project: Project, concept: Concept, folder: Folder) -> list[Wanted]:
    pictures: Sequence[Path] = plan_folders.unmirrored(concept.pictures)
    return [Wanted(f"{key_of(project, path)}#0", path, _group(folder)) for path in pictures]


def _told(folder: Path) -> str:
    return shown(f"{folder.parent.name}/{folder.name}")


def _group(folder: Folder) -> str:
    return f"concept {folder.name}"


def _check(renames: Sequence[tuple[Path, Path]]) -> None:
    """Raise UserError before anything is done."""
    olds = {old for old, _ in renames}
    problems = [
        UserError("there is a folder of that name", where=shown(new.name), remedy="Rename it, or choose other repeats")
        for _, new in renames
        if os.path.lexists(new) and new not in olds
    ]
    raise_all(problems)
