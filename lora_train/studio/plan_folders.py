"""The <repeats>_<name> folders of a plan, as copies that follow it: written once, changed when the plan changes.

Pictures go in with their captions and masks. What a picture was copied from is never touched; a copy that is no longer
wanted is put aside, not deleted. One write is one change of the project's journal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from ..dataset.folders import existing, list_folder, listed, shown
from ..dataset.images import SUFFIXES
from ..errors import UserError
from ..files import check_output_name
from . import masks
from . import project as projects
from .flips import ENDING as MIRRORED
from .journal import Change
from .project import Project

TEXTS = (".txt", ".caption")
"""What is copied along with a picture; beside a copy everything of its name follows it."""

_OWN = "own:"


@dataclass(frozen=True)
class Wanted:
    """A picture that a folder of the plan shall have. key: the same for the same copy, whatever the folder is called.

    group: whose folder, one of the `folders` given to `write`.
    """

    key: str
    source: Path
    group: str


@dataclass(frozen=True)
class Planned:
    """What was written. folders: {group: folder's name} in image/; files: {key: place below the project}.

    aside: where copies are that were wanted once. Pictures that were put into the folders since have a key, too.
    sources: folders that aren't trained on themselves because the plan's copies are, as project.json names them.
    """

    project: Project
    folders: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    aside: Mapping[str, str] = field(default_factory=dict)
    sources: frozenset[str] = frozenset()

    @property
    def places(self) -> frozenset[Path]:
        """The folders."""
        return frozenset(self.project.image / name for name in self.folders.values())

    def own(self) -> list[tuple[Path, str, str, str]]:
        """(path, key without its copy's number, folder's name, group) of pictures that no copy of the plan's is."""
        groups = {name: group for group, name in self.folders.items()}
        rows = []
        for key, place in (*self.files.items(), *self.aside.items()):
            path = self.project.root / place
            if key.startswith(_OWN) and key.endswith("#0") and path.is_file():
                group = "" if key in self.aside else groups.get(path.parent.name, "")
                rows.append((path, key[:-2], path.parent.name, group))
        return rows


@dataclass(frozen=True)
class Written:
    """What a write did. folders: (name, pictures) of each; left_out: folders that are no longer trained on themselves.

    entry: its number in the journal; None where nothing had to be done.
    """

    folders: tuple[tuple[str, int], ...]
    copied: int = 0
    moved: int = 0
    aside: int = 0
    kept: int = 0
    left_out: tuple[str, ...] = ()
    entry: int | None = None
    stopped: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        numbers = {name: getattr(self, name) for name in ("copied", "moved", "aside", "kept", "entry", "stopped")}
        return {
            "folders": [{"name": shown(name), "pictures": n} for name, n in self.folders],
            "left_out": list(self.left_out),
            **numbers,
        }


def planned(project: Project) -> Planned:
    """What was written of a project, with what was put into the folders since; damaged records count as none."""
    try:
        held = json.loads(_file(project).read_text(encoding="utf-8"))
        parts = [{str(key): str(place) for key, place in held[name].items()} for name in ("folders", "files", "aside")]
        sources = frozenset(map(str, held["sources"]))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return Planned(project)
    folders, files, aside = parts
    known = set(files.values())
    for name in folders.values():
        for path in unmirrored(_pictures(project.image / name)):
            place = _place(project, path)
            if place not in known:
                files[f"{_OWN}{place}#0"] = place
    return Planned(project, folders, files, aside, sources)


def unmirrored(pictures: Sequence[Path]) -> list[Path]:
    """Without the mirrored copies of pictures among them: these go where their pictures go."""
    if not any(MIRRORED in path.name for path in pictures):
        return list(pictures)
    stems = {path.with_suffix("") for path in pictures}
    return [path for path in pictures if not _is_mirrored(path, stems)]


def _is_mirrored(path: Path, stems: set[Path]) -> bool:
    return path.stem.endswith(MIRRORED) and path.with_name(path.stem.removesuffix(MIRRORED)) in stems


def write(
    project: Project,
    wanted: Sequence[Wanted],
    folders: Mapping[str, str],
    left_out: Iterable[Path] = (),
    title: str = "",
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
    renames: Sequence[tuple[Path, Path]] = (),
) -> Written:
    """Make the folders what `wanted` says. folders: {group: <repeats>_<name>}.

    left_out: folders of pictures that aren't trained on themselves from now on, since their copies are. renames: of
    other folders, in the same change. When `stop` is set, or anything fails, what was done is taken back; an error
    says what could not be. Raises UserError.
    """
    before = planned(project)
    _check(project, before, wanted, folders)
    left_out = list(left_out)
    out = sorted(projects.still_used(project, left_out))
    try:
        with project.journal.whole_change(title or ", ".join(folders.values())) as change:
            for old, new in renames:
                rename(project, change, old, new)
            work = _Work(project, change, before)
            work.rename(folders)
            for done, one in enumerate(wanted, 1):
                if stop and stop.is_set():
                    raise _StoppedError
                work.put(one, folders[one.group])
                if progress:
                    progress(done, len(wanted))
            work.put_aside_all_but({one.key for one in wanted})
            work.clear(set(folders.values()))
            if out:
                change.write(*projects.leaving_out(project, out))
            work.keep(folders, before.sources | {projects.place(project, path) for path in left_out})
    except _StoppedError:
        return Written((), stopped=True)
    sizes = tuple((name, len(unmirrored(_pictures(project.image / name)))) for name in folders.values())
    names = tuple(shown(path.name) for path in out)
    entry = change.number if change.steps else None
    return Written(sizes, work.copied, work.moved, work.aside_count, work.kept, names, entry)


def rename(project: Project, change: Change, old: Path, new: Path) -> None:
    """One of the project's folders, with its masks where it is one of image/."""
    change.move(old, new)
    masks_of = [project.masks / path.name for path in (old, new)]
    if old.parent == project.image and masks_of[0].is_dir() and not os.path.lexists(masks_of[1]):
        change.move(*masks_of)


class _StoppedError(Exception):
    """The user asked for the end."""


class _Work:
    """One write. Every step is noted in the journal before it is done."""

    def __init__(self, project: Project, change: Change, before: Planned) -> None:
        self._project, self._change = project, change
        self._folders, self._files, self._aside = dict(before.folders), dict(before.files), dict(before.aside)
        self._taken: dict[Path, set[str]] = {}
        self.copied = self.moved = self.aside_count = self.kept = 0

    def rename(self, folders: Mapping[str, str]) -> None:
        """Folders of groups that stay get their new names, one after the other where names change places."""
        image = self._project.image
        todo = {old: folders[group] for group, old in self._folders.items() if group in folders}
        todo = {old: new for old, new in todo.items() if old != new and (image / old).is_dir()}
        while todo:
            free = next((old for old, new in todo.items() if not os.path.lexists(image / new)), None)
            old = free or next(iter(todo))
            new = todo.pop(old) if free else f"{old} (renamed)"
            rename(self._project, self._change, image / old, image / new)
            start, end = (_place(self._project, image / name) + "/" for name in (old, new))
            self._files = {
                key: end + place.removeprefix(start) if place.startswith(start) else place
                for key, place in self._files.items()
            }
            if not free:
                todo[new] = todo.pop(old)
            self.moved += 1

    def put(self, one: Wanted, folder: str) -> None:
        """The picture is in the folder: it was, or comes there from another, from aside, or as a copy."""
        project, target = self._project, self._project.image / folder
        for held in (self._files, self._aside):
            at = project.root / held[one.key] if one.key in held else None
            if at is None or not at.is_file():
                continue
            if at.parent == target:
                self.kept += 1
                return
            del held[one.key]
            self._files[one.key] = _place(project, self._move(at, target))
            self.moved += 1
            return
        stem = self._free(target, one.source.stem)
        if twin := _twin(one.source):
            self._copy(twin, target, stem + MIRRORED)
        self._files[one.key] = _place(project, self._copy(one.source, target, stem))
        self.copied += 1

    def _copy(self, source: Path, folder: Path, stem: str) -> Path:
        """A picture with its texts and its mask; returns the copy."""
        path = folder / f"{stem}{source.suffix.lower()}"
        self._change.copy(source, path)
        for ending in TEXTS:
            if (text := source.with_suffix(ending)).is_file():
                self._change.copy(text, folder / f"{stem}{ending}")
        if mask := _mask_of(self._project, source):
            self._change.copy(mask, self._project.masks / folder.name / f"{stem}{mask.suffix.lower()}")
        return path

    def put_aside_all_but(self, keys: set[str]) -> None:
        """What is no longer wanted goes out of the folders, where it can be had again."""
        for key in [key for key in self._files if key not in keys]:
            place = self._files.pop(key)
            at = self._project.root / place
            if at.is_file():
                where = self._project.work / "aside" / at.parent.name
                self._aside[key] = _place(self._project, self._move(at, where))
                self.aside_count += 1

    def clear(self, folders: set[str]) -> None:
        """The folders of groups that are gone go out of the way, with what isn't a picture."""
        for name in self._folders.values():
            at = self._project.image / name
            if name not in folders and at.is_dir() and not _pictures(at):
                where = self._project.work / "aside"
                self._change.move(at, where / self._free(where, f"{name} (empty)"))

    def keep(self, folders: Mapping[str, str], sources: Iterable[str]) -> None:
        """Write down what is where, unless that is written down already."""
        used = {group: name for group, name in folders.items() if (self._project.image / name).is_dir()}
        held = {"version": 1, "folders": used, "files": self._files, "aside": self._aside, "sources": sorted(sources)}
        text = json.dumps(held, ensure_ascii=True, separators=(",", ":"), sort_keys=True) + "\n"
        if self._change.steps or not _file(self._project).is_file():
            self._change.write(_file(self._project), text.encode("ascii"))

    def _move(self, at: Path, folder: Path) -> Path:
        """A picture with all that has its name, its mask and its mirrored copy; returns its new place."""
        stem = self._free(folder, at.stem)
        if twin := _twin(at):
            self._move_one(twin, folder, stem + MIRRORED)
        return self._move_one(at, folder, stem)

    def _move_one(self, at: Path, folder: Path, stem: str) -> Path:
        beside = [path for path in _listed(at.parent) if path.stem == at.stem and path.suffix.lower() not in SUFFIXES]
        for path in beside:
            self._change.move(path, folder / f"{stem}{path.suffix}")
        if mask := _mask_of(self._project, at):
            root = self._project.root if folder.parent == self._project.image else folder.parent
            target = root / "masks" / folder.name / f"{stem}{mask.suffix}"
            if not os.path.lexists(target):
                self._change.move(mask, target)
        return self._change.move(at, folder / f"{stem}{at.suffix}")

    def _free(self, folder: Path, stem: str) -> str:
        """A name that no file of the folder has, whatever its ending."""
        taken = self._taken.setdefault(folder, {path.stem.casefold() for path in _listed(folder)})
        names = (stem, *(f"{stem}-{n}" for n in range(2, 100_000)))
        found = next(name for name in names if name.casefold() not in taken)
        taken.add(found.casefold())
        return found


def _check(project: Project, before: Planned, wanted: Sequence[Wanted], folders: Mapping[str, str]) -> None:
    """Raise UserError before anything is done."""
    if not wanted:
        raise UserError("no picture is sorted into a class", where="plan", remedy="Sort some")
    if len({name.casefold() for name in folders.values()}) < len(folders):
        raise UserError("two folders have the same name", where="names", remedy="Give each its own")
    ours = set(before.folders.values())
    for name in folders.values():
        check_output_name(name)
        if name not in ours and os.path.lexists(project.image / name):
            what = "there is a folder of that name that no plan has written"
            raise UserError(what, where=f"image/{shown(name)}", remedy="Choose another name for the class")
    if missing := [
        shown(one.source.name) for one in wanted if not one.source.is_file() and one.key not in before.files
    ]:
        what = f"pictures aren't there any more: {listed(missing, 5)}"
        raise UserError(what, where="plan", remedy="Read the folder again")


def _twin(picture: Path) -> Path | None:
    """Its mirrored copy."""
    endings = (picture.suffix, ".png")
    found = (picture.with_name(f"{picture.stem}{MIRRORED}{ending}") for ending in endings)
    return next((path for path in found if path.is_file()), None)


def _mask_of(project: Project, picture: Path) -> Path | None:
    """The mask of a picture of the project's, or of one that was put aside."""
    if not picture.is_relative_to(project.work / "aside"):
        return masks.find(project, picture)
    folder = picture.parent.parent / "masks" / picture.parent.name
    return next((path for path in _pictures(folder) if path.stem == picture.stem), None)


def _pictures(folder: Path) -> list[Path]:
    try:
        return list_folder(existing(folder)).pictures
    except UserError:
        return []


def _listed(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder)]
    except OSError:
        return []


def _place(project: Project, path: Path) -> str:
    return path.relative_to(project.root).as_posix()


def _file(project: Project) -> Path:
    return project.work / "planned.json"
