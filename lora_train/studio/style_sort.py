"""Sorting a style's pictures into classes: what size and faces suggest, what the user says, and which are variants.

It is kept in the project's folder, so that it is there after a restart. What is sorted are the project's own pictures;
the folders that were written from them (`plan_folders`) hold copies of these, and pictures that were put there since.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Lock
from typing import Any

from ..dataset.folders import shown
from ..errors import UserError
from ..files import write_text
from ..process_lock import ProcessLock
from . import likeness, look, plan_folders, thumbnails
from . import project as projects
from .crops import Detect, Face, faces_of
from .person_plan import clean
from .plan_folders import Planned
from .project import Concept, Project
from .scan import TINY, Report, Seen, scan, seen_before
from .style_plan import DISCARD, FACE, FULL, MAIN, VARIANTS, Counts, Rules, StylePlan, evaluate, plan

CLASSES = (MAIN, FACE, FULL, DISCARD)
"""Those that every style has; the user may add others. VARIANTS is made of groups."""

_CLOSE = 0.28  # of the picture's height, from which a face is a close-up
_HEADS = 5.6  # of 7.5 below the crown, from which a figure is a full body
_TALL, _SQUARE = 0.56, (0.85, 1.18)  # width to height, where no face was found
_LONGEST = 4.0
_PATIENCE = 20.0  # seconds that a change waits for those of other processes

_mutex = Lock()
_locks: dict[Path, Lock] = {}
_KNOWN_PROJECTS = 4
_known: dict[Path, tuple[Any, list[Path], list[_Source]]] = {}
_loaded: dict[Path, tuple[Any, Sorting]] = {}


@dataclass(frozen=True)
class Suggestion:
    """name: a class; why: "face", "figure", "full", "shape", "tiny", "long", "broken", "twin"; sure: seen, not guessed.

    number: what the reason is about: the face's share of the height, how many heads are seen, width to height.
    """

    name: str
    why: str
    number: float = 0.0
    sure: bool = True


def suggest(width: int, height: int, faces: Sequence[Face] | None = None) -> Suggestion:
    """The class of a picture by its largest face, or by its shape where there is none or none was looked for."""
    aspect = width / height
    if min(width, height) < TINY:
        return Suggestion(DISCARD, "tiny", min(width, height))
    if not 1 / _LONGEST <= aspect <= _LONGEST:
        return Suggestion(DISCARD, "long", round(aspect, 2))
    if faces:
        largest = max(faces, key=lambda face: face.box.width * face.box.height).box
        share = largest.height / height
        if share >= _CLOSE:
            return Suggestion(FACE, "face", round(share, 2))
        tall = largest.height * 1.4  # of the head, as crops.parts has it
        heads = (height - (largest.bottom - tall)) / tall
        if heads >= _HEADS and aspect < 1:
            return Suggestion(FULL, "full", round(heads, 1))
        return Suggestion(MAIN, "figure", round(share, 2))
    if aspect <= _TALL:
        return Suggestion(FULL, "shape", round(aspect, 2), False)
    if _SQUARE[0] <= aspect <= _SQUARE[1]:
        return Suggestion(FACE, "shape", round(aspect, 2), False)
    return Suggestion(MAIN, "shape", round(aspect, 2), False)


@dataclass(frozen=True)
class Sorting:
    """What is kept. Pictures are named by their keys: their place below the project, or their whole path.

    chosen: {key: class} by the user; suggested: {key: Suggestion}; groups: of variants, and of one picture each where
    the user took it out of one; style: put before the class in the folders' names; repeats: the user's own.
    """

    chosen: Mapping[str, str] = field(default_factory=dict)
    suggested: Mapping[str, Suggestion] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()
    classes: tuple[str, ...] = ()
    style: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    flipped: bool = True
    colour: bool = True
    variants: bool = True
    tolerance: float = Rules.tolerance
    repeats: Mapping[str, int] | None = None

    @property
    def all_classes(self) -> tuple[str, ...]:
        """The usual ones and the user's, in the order of a page: those that are left out come last."""
        return (*CLASSES[:-1], *self.classes, CLASSES[-1])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": 1,
            "chosen": dict(self.chosen),
            "suggested": {key: [s.name, s.why, s.number, s.sure] for key, s in self.suggested.items()},
            "groups": [list(group) for group in self.groups],
            "classes": list(self.classes),
            "style": self.style,
            "names": dict(self.names),
            "repeats": None if self.repeats is None else dict(self.repeats),
            **{name: getattr(self, name) for name in ("flipped", "colour", "variants", "tolerance")},
        }


def load(project: Project) -> Sorting:
    """What is kept of a project; an empty sorting where there is none, or where the file is damaged."""
    try:
        status = _file(project).stat()
    except OSError:
        return Sorting()
    state = status.st_ino, status.st_mtime_ns, status.st_size
    with _mutex:
        held = _loaded.get(project.root)
    if held and held[0] == state:
        return held[1]
    found = _read(_file(project))
    with _mutex:
        _loaded[project.root] = state, found
        while len(_loaded) > _KNOWN_PROJECTS:
            _loaded.pop(next(iter(_loaded)))
    return found


def _read(file: Path) -> Sorting:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        return Sorting(
            chosen={str(key): str(name) for key, name in held["chosen"].items()},
            suggested={str(key): Suggestion(*values) for key, values in held["suggested"].items()},
            groups=tuple(tuple(str(key) for key in group) for group in held["groups"]),
            classes=tuple(str(name) for name in held["classes"]),
            style=str(held["style"]),
            names={str(key): str(name) for key, name in held["names"].items()},
            repeats=None if held["repeats"] is None else {str(k): int(n) for k, n in held["repeats"].items()},
            **{name: bool(held[name]) for name in ("flipped", "colour", "variants")},
            tolerance=float(held["tolerance"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Sorting()


@contextmanager
def changing(project: Project) -> Iterator[None]:
    """No other thread or process loads and saves the sorting meanwhile. Raises UserError where one takes too long."""
    others = ProcessLock(_file(project).with_suffix(".lock"))
    with _mutex:
        lock = _locks.setdefault(project.root, Lock())
    with lock:
        where = shown(project.root.name)
        try:
            free = others.take(_PATIENCE)
        except OSError as error:
            what = f"it can't be written ({error.strerror})"
            raise UserError(what, where=where, remedy="Check its permissions") from error
        if not free:
            what = "another program is sorting these pictures"
            raise UserError(what, where=where, remedy="Try again when it is done")
        try:
            yield
        finally:
            others.release()


def save(project: Project, sorting: Sorting) -> None:
    """Keep it. Where it was loaded before, both are done inside `changing`."""
    write_text(_file(project), json.dumps(sorting.as_dict(), ensure_ascii=True, separators=(",", ":")) + "\n")


@dataclass(frozen=True)
class Item:
    """One picture to be sorted. name: its class, "" for none yet; by: "hand", "suggested" or ""; group: of variants."""

    source: _Source
    name: str = ""
    by: str = ""
    suggestion: Suggestion | None = None
    group: int | None = None

    @property
    def key(self) -> str:
        """Its name in what is kept."""
        return self.source.key

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    @property
    def concept(self) -> str:
        """The folder that it lies in."""
        return self.source.concept

    @property
    def width(self) -> int:
        """0: it wasn't looked at yet."""
        return self.source.width

    @property
    def height(self) -> int:
        """0: it wasn't looked at yet."""
        return self.source.height

    @property
    def grey(self) -> bool:
        """Whether it has no colour."""
        return self.source.grey

    @property
    def problem(self) -> str:
        """Why it can't be used."""
        return self.source.problem

    @property
    def aside(self) -> bool:
        """Whether a plan put it out of its folders."""
        return self.source.aside

    @property
    def id(self) -> str:
        """What a page calls it."""
        return self.source.id

    @property
    def used(self) -> bool:
        """Whether it goes into a folder."""
        return bool(self.name) and self.name != DISCARD and not self.problem

    def as_dict(self) -> dict[str, Any]:
        """For a page, without its path."""
        why = self.suggestion
        return {
            "id": self.id,
            "file": shown(self.path.name),
            "concept": shown(self.concept),
            "class": self.name,
            "by": self.by,
            "why": None if why is None else {"name": why.name, "why": why.why, "number": why.number, "sure": why.sure},
            "group": self.group,
            "width": self.width,
            "height": self.height,
            "grey": self.grey,
            "problem": self.problem,
            "aside": self.aside,
        }


@dataclass(frozen=True)
class _Source:
    """A picture that can be sorted, without what the user says of it. name: the class of the folder that it lies in."""

    key: str
    path: Path
    id: str
    concept: str
    name: str = ""
    width: int = 0
    height: int = 0
    grey: bool = False
    problem: str = ""
    aside: bool = False


def items(project: Project, sorting: Sorting, report: Report | None = None) -> list[Item]:
    """All pictures that can be sorted, in their folders' order. report: what is known of them; a look at the cache."""
    sources = _kept_sources(project) if report is None else _sources_of(project, _by_path(report))
    groups = {key: number for number, group in enumerate(sorting.groups) if len(group) > 1 for key in group}
    classes = set(sorting.all_classes)
    found: list[Item] = []
    for one in sources:
        suggestion = sorting.suggested.get(one.key)
        chosen = sorting.chosen.get(one.key) or one.name
        name = chosen or (suggestion.name if suggestion else "")
        by = "hand" if chosen else "suggested" if suggestion else ""
        found.append(Item(one, name if name in classes else "", by, suggestion, groups.get(one.key)))
    return found


def _kept_sources(project: Project) -> list[_Source]:
    """What did not change since isn't read again."""
    files = (_file(project).with_name("planned.json"), project.scan_cache)
    state = tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)
    with _mutex:
        held = _known.get(project.root)
    if held and held[0] == (thumbnails.stamp(project, held[1]), state):
        return held[2]
    folders = [concept.folder for concept in project.concepts()]
    now = thumbnails.stamp(project, folders), state
    found = _sources_of(project, None)
    with _mutex:
        _known[project.root] = now, folders, found
        while len(_known) > _KNOWN_PROJECTS:
            _known.pop(next(iter(_known)))
    return found


def _sources_of(project: Project, seen: Mapping[Path, Seen] | None) -> list[_Source]:
    """seen: what is known of the pictures; None: what earlier scans saw."""
    written = plan_folders.planned(project)
    sources = [*_sources(project, written), *written.own()]
    if seen is None:
        seen = seen_before(project.root, project.scan_cache, (path for path, *_ in sources))
    found = []
    work = f"{project.work}{os.sep}"
    for path, key, concept, name in sources:
        one = seen.get(path)
        known: dict[str, Any] = {"aside": str(path).startswith(work)}
        if one is not None:
            known |= {"width": one.width, "height": one.height, "grey": one.grey, "problem": one.problem}
        found.append(_Source(key, path, look.picture_id(path), concept, name, **known))
    return found


def _by_path(report: Report) -> dict[Path, Seen]:
    return {report.root / one.name: one for one in report.pictures}


def lane(found: Iterable[Item], name: str) -> list[Item]:
    """Those of a class, as they are shown: variants together, in front of the others."""
    return sorted(
        (one for one in found if one.name == name), key=lambda one: 1 << 30 if one.group is None else one.group
    )


def variants_of(found: Iterable[Item], sorting: Sorting) -> list[list[Item]]:
    """The groups of two and more pictures that are used and lie in one group; none where variants aren't wanted."""
    groups: dict[int, list[Item]] = {}
    for item in found:
        if item.used and item.group is not None:
            groups.setdefault(item.group, []).append(item)
    return [group for group in groups.values() if len(group) > 1] if sorting.variants else []


def counts(found: Sequence[Item], sorting: Sorting) -> Counts:
    """How many there are of each class, variants in their groups."""
    groups = variants_of(found, sorting)
    varied = {item.key for group in groups for item in group}
    single = [item for item in found if item.used and item.key not in varied]
    number = {name: sum(item.name == name for item in single) for name in sorting.all_classes}
    grey = sum(item.grey for item in single) + sum(all(item.grey for item in group) for group in groups)
    others = {name: number[name] for name in (FULL, *sorting.classes) if number[name]}
    return Counts(
        main=number[MAIN],
        face=number[FACE],
        others=others,
        variants=tuple(len(group) for group in groups),
        grey=grey,
        flipped=sorting.flipped,
        colour=sorting.colour,
    )


def planned(found: Sequence[Item], sorting: Sorting) -> StylePlan | None:
    """The plan of what is sorted, with the user's own repeats where there are some; None while nothing is sorted.

    Raises UserError.
    """
    number = counts(found, sorting)
    if not number.pictures:
        return None
    rules = Rules(tolerance=sorting.tolerance)
    names = folder_names(sorting)
    if sorting.repeats:
        return evaluate(number, sorting.repeats, rules, names)
    return plan(number, rules, names)


def folder_names(sorting: Sorting) -> dict[str, str]:
    """The words of each class's folder. Raises UserError where two would be the same."""
    prefix = clean(sorting.style)
    words = {
        name: clean(sorting.names.get(name, "")) or clean(f"{prefix} {name}") or name
        for name in (*sorting.all_classes[:-1], VARIANTS)
    }
    taken: dict[str, str] = {}
    for name, word in words.items():
        if (other := taken.setdefault(word.casefold(), name)) != name:
            raise UserError(f"{word!r} is the name of {other} too", where=name, remedy="Give each class its own name")
    return words


@dataclass(frozen=True)
class Looked:
    """What a look found: suggestions, and what variants are found by."""

    suggested: Mapping[str, Suggestion]
    _items: Sequence[Item]
    _seen: Mapping[Path, Seen]
    _twins: set[str]
    _near: int

    def onto(self, sorting: Sorting) -> Sorting:
        """Suggest a class for each picture that has none yet, and find variants; what the user said stays."""
        groups = _groups(self._items, self._seen, sorting, self._twins, self._near)
        return replace(sorting, suggested={**sorting.suggested, **self.suggested}, groups=groups)


def look_through(
    project: Project,
    sorting: Sorting,
    detect: Detect | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
    near: int = likeness.NEAR,
) -> Looked:
    """Look at the pictures; what is found is put onto the sorting as it is by then.

    detect: see `faces.detector`; without one the shape decides. Half of the progress is the scan's.
    """

    def half(first: int) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(first * total + done, 2 * total)

    report = scan(project.root, project.scan_cache, half(0), stop, near, project.parts())
    seen = _by_path(report)
    found = items(project, sorting, report)
    suggested: dict[str, Suggestion] = {}
    first = _first_of_twins(found, seen)
    count = half(1)
    for number, item in enumerate(found, 1):
        if stop and stop.is_set():
            break
        old = sorting.suggested.get(item.key)
        if item.key in first:
            suggested[item.key] = Suggestion(DISCARD, "twin")
        elif item.problem:
            suggested[item.key] = Suggestion(DISCARD, "broken")
        elif item.width and (old is None or (detect is not None and not old.sure) or old.why in ("twin", "broken")):
            suggested[item.key] = _suggested(item, detect)
        if count:
            count(number, len(found))
    return Looked(suggested, found, seen, first, near)


def _suggested(item: Item, detect: Detect | None) -> Suggestion:
    if detect is None:
        return suggest(item.width, item.height)
    try:
        size, faces = faces_of(item.path, detect)
    except UserError:
        return suggest(item.width, item.height)
    return suggest(*size, faces)


def _first_of_twins(found: Sequence[Item], seen: Mapping[Path, Seen]) -> set[str]:
    """Keys of the pictures that an earlier one equals byte for byte, as pictures of one size and look do."""
    known: set[str] = set()
    twins = set()
    for item in found:
        content = seen[item.path].content if item.path in seen else ""
        if content and content in known:
            twins.add(item.key)
        known.add(content)
    return twins


def _groups(
    found: Sequence[Item], seen: Mapping[Path, Seen], sorting: Sorting, twins: set[str], near: int
) -> tuple[tuple[str, ...], ...]:
    """The user's groups, and those of pictures that are in none of them."""
    there = {item.key for item in found}
    kept = [tuple(key for key in group if key in there) for group in sorting.groups]
    kept = [group for group in kept if group]
    taken = {key for group in kept for key in group} | twins
    free = [item for item in found if item.key not in taken and not item.problem]
    hashes = [seen[item.path].alike if item.path in seen else None for item in free]
    return (*kept, *(tuple(free[i].key for i in group) for group in likeness.groups(hashes, near)))


def write(
    project: Project,
    sorting: Sorting,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
) -> plan_folders.Written:
    """Write the folders of what is sorted, or change those that were written. Raises UserError.

    The folders that the pictures come from are no longer trained on themselves.
    """
    found = items(project, sorting)
    made = planned(found, sorting)
    if made is None:
        raise UserError("no picture is sorted into a class", where="plan", remedy="Sort some")
    folders = {one.name: one.folder for one in made.classes}
    groups = variants_of(found, sorting)
    varied = {item.key for group in groups for item in group}
    wanted = [
        plan_folders.Wanted(f"{item.key}#0", item.path, item.name)
        for item in found
        if item.used and item.key not in varied
    ]
    wanted += [
        plan_folders.Wanted(f"{item.key}#{n}", item.path, VARIANTS)
        for group, copies in zip(groups, made.copies, strict=True)
        for item, times in zip(group, copies, strict=True)
        for n in range(times)
    ]
    sources = [c.folder for c in _sorted(project, plan_folders.planned(project))]
    title = f"the style's folders: {', '.join(folders.values())}"
    return plan_folders.write(project, wanted, folders, sources, title, progress, stop)


def together(sorting: Sorting, keys: Sequence[str]) -> Sorting:
    """These pictures are variants of one another, with the groups that they were in."""
    wanted = set(keys)
    if len(wanted) < 2:
        raise UserError("a group needs two pictures", where="variants", remedy="Choose more")
    joined = [group for group in sorting.groups if wanted & set(group)]
    whole = dict.fromkeys([*(key for group in joined if len(group) > 1 for key in group), *keys])
    rest = tuple(group for group in sorting.groups if group not in joined)
    return replace(sorting, groups=(*rest, tuple(whole)))


def apart(sorting: Sorting, keys: Sequence[str]) -> Sorting:
    """These pictures are variants of none; later searches leave them alone."""
    wanted = set(keys)
    rest = tuple(tuple(key for key in group if key not in wanted) for group in sorting.groups)
    return replace(sorting, groups=(*(group for group in rest if group), *((key,) for key in dict.fromkeys(keys))))


def _sorted(project: Project, planned: Planned) -> list[Concept]:
    """The folders whose pictures are sorted: not those of a plan, of regularisation, or that the user left out."""
    return [
        concept
        for concept in project.concepts()
        if not concept.is_reg
        and concept.folder not in planned.places
        and (concept.used or projects.place(project, concept.folder) in planned.sources)
    ]


def _sources(project: Project, planned: Planned) -> list[tuple[Path, str, str, str]]:
    """(path, key, its folder, "") of each picture in them."""
    return [
        (path, key_of(project, path), concept.folder.name, "")
        for concept in _sorted(project, planned)
        for path in plan_folders.unmirrored(concept.pictures)
    ]


def key_of(project: Project, path: Path) -> str:
    """A picture's name in what is kept: below the project where it is, so that the project may be moved."""
    text, root = str(path), f"{project.root}{os.sep}"  # a Path's own way takes ten times as long
    return text[len(root) :].replace(os.sep, "/") if text.startswith(root) else text


def _file(project: Project) -> Path:
    return project.work / "style.json"
