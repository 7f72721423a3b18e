"""Projects: a folder with image/, models/, log/ and reg/, and pictures elsewhere that it uses where they are."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..dataset import folders
from ..dataset.folders import PROJECT_FOLDERS, existing, list_folder, shown
from ..errors import UserError
from ..files import write_text
from .journal import Journal

PARTS = ("image", "models", "log", "reg")
MOST_RECENT = 30

_WORK, _DATASET = ".studio", "dataset.json"
_NUMBERED = re.compile(r"([0-9]{1,5})_(.+)", re.DOTALL)


@dataclass(frozen=True)
class Concept:
    """A folder of pictures as a project uses it. repeats: None where the folder's name has none.

    elsewhere: it lies outside the project and is used where it is. used: False where the user left it out of training.
    """

    folder: Path
    name: str
    repeats: int | None
    pictures: tuple[Path, ...]
    is_reg: bool = False
    elsewhere: bool = False
    used: bool = True


@dataclass(frozen=True)
class Project:
    """A project's folder, absolute, and what lies in it."""

    root: Path

    @property
    def id(self) -> str:
        """Names the project where its path must not be told."""
        return _id(self.root)

    @property
    def name(self) -> str:
        """Its folder's name, printable."""
        return shown(self.root.name)

    @property
    def image(self) -> Path:
        """The folder of <repeats>_<name> folders: image/, or img/ where there is that."""
        return next((found for found in _inner(self.root, PROJECT_FOLDERS)), self.root / "image")

    @property
    def models(self) -> Path:
        """Where its LoRAs go."""
        return self.root / "models"

    @property
    def log(self) -> Path:
        """Where training logs."""
        return self.root / "log"

    @property
    def reg(self) -> Path:
        """The folder of regularisation folders."""
        return next((found for found in _inner(self.root, ("reg",))), self.root / "reg")

    @property
    def masks(self) -> Path:
        """Of its pictures, by their folders' names; see masks.py."""
        return self.root / "masks"

    @property
    def work(self) -> Path:
        """What the studio remembers of it: journal, scans, thumbnails. A dot folder, which WebUIs don't serve."""
        return self.root / _WORK

    @property
    def scan_cache(self) -> Path:
        """For scan.scan."""
        return self.work / "scan.json"

    @property
    def journal(self) -> Journal:
        """The list of what was changed in it."""
        return Journal(self.root)

    def sources(self) -> tuple[Path, ...]:
        """Folders elsewhere whose pictures it uses where they are."""
        return tuple(Path(path) for path in _held(self.work / "project.json").get("sources", ()))

    def parts(self) -> list[Path]:
        """The folders that hold its pictures: image/, reg/ and those elsewhere, as far as they are there."""
        return [path for path in (self.image, self.reg, *self.sources()) if path.is_dir()]

    def left_out(self) -> list[Path]:
        """Its folders of pictures that aren't trained on."""
        return [concept.folder for concept in self.concepts() if not concept.used]

    def concepts(self) -> list[Concept]:
        """Its folders of pictures: those of image/, of reg/, and those elsewhere. What can't be read is left out."""
        found = [*_concepts(self.image), *(replace(c, is_reg=True) for c in _concepts(self.reg))]
        found += [replace(c, elsewhere=True) for source in self.sources() for c in _concepts(source, True)]
        unused = set(_held(self.work / "project.json").get("unused", ()))
        return [replace(c, used=place(self, c.folder) not in unused) for c in found]


@dataclass(frozen=True)
class Opened:
    """What a folder means. kind: "project", "image" (of a project), "concept" (<repeats>_<name>), "kohya" (holds such),
    "loose" (pictures or plain folders of them), "parent" (of one or more projects) or "empty".

    project: None where there is none yet, or several (`choices`); focus: the one folder that was named; said: sentences
    for the user wherever something else than the folder itself is meant.
    """

    kind: str
    folder: Path
    project: Project | None = None
    focus: Path | None = None
    choices: tuple[Path, ...] = ()
    said: tuple[str, ...] = ()


def understand(folder: str | Path) -> Opened:
    """Tell what a folder is; changes nothing. Raises UserError where there is no such folder or it can't be read."""
    path = existing(folder, "folder")
    listing = list_folder(path)
    name = shown(path.name)
    if _is_project(listing):
        return Opened("project", path, Project(path))
    parent = path.parent
    if path.name.lower() in (*PROJECT_FOLDERS, "reg") and _is_project(_quiet(parent)):
        said = f"{name} is a part of the project {shown(parent.name)}, which is opened"
        return Opened("image", path, Project(parent), said=(said,))
    if _NUMBERED.fullmatch(path.name):
        return _concept(path)
    if any(_NUMBERED.fullmatch(inner.name) for inner in listing.folders):
        return Opened("kohya", path, said=(f"{name} holds <repeats>_<name> folders, and is no project yet",))
    if projects := [inner for inner in listing.folders if _is_project(_quiet(inner))]:
        return _parent(path, projects)
    if listing.pictures or any(_quiet(inner).pictures for inner in listing.folders):
        return Opened("loose", path, said=(f"{name} holds pictures, and is no project yet",))
    return Opened("empty", path)


def make(folder: str | Path) -> Opened:
    """Make a project of what `folder` is; the result's `project` is never None.

    A new or empty folder gets image/, models/, log/ and reg/; so does a project that lacks some. Pictures, kohya's
    folders and single ones of these stay where they are: a project that uses them is made beside. Raises UserError.
    """
    path = Path(os.path.abspath(Path(folder).expanduser()))  # noqa: PTH100 - resolve() would lose the names of links
    if not str(folder).strip():
        raise UserError("no folder is given", where="folder", remedy="Give the folder that shall be the project's")
    if not os.path.lexists(path):
        return Opened("project", path, _fill(path), said=(f"{shown(path.name)} is made",))
    opened = understand(path)
    if opened.kind == "parent" and opened.project is None:
        raise _several(opened)
    if opened.project is not None:
        missing = [part for part in PARTS if not _part(opened.project, part).is_dir()]
        _fill(opened.project.root)
        return replace(opened, said=(*opened.said, *([f"Added: {', '.join(missing)}"] if missing else [])))
    if opened.kind == "empty":
        return replace(opened, kind="project", project=_fill(path))
    beside = _beside(path)
    project = _fill(beside)
    said = f"A project is made beside {shown(path.name)}: {shown(beside.name)}"
    return replace(opened, project=project, said=(said, *add(project, path)))


def open_project(folder: str | Path) -> Opened:
    """The project that a folder is, lies in, or holds as its only one. Raises UserError where there is none."""
    opened = understand(folder)
    if opened.project is None and opened.choices:
        raise _several(opened)
    if opened.project is None:
        what = "; ".join(opened.said) or "the folder is empty"
        raise UserError(what, where=shown(str(opened.folder)), remedy="Make a project of it")
    return opened


def add(project: Project, folder: str | Path) -> tuple[str, ...]:
    """Let the project use pictures where they are; says what was understood. Raises UserError where there are none."""
    path = existing(folder, "folder")
    found = _concepts(path, True)
    if path.is_relative_to(project.root):
        raise UserError("it lies in the project", where=shown(str(path)), remedy="Its pictures are used already")
    if not any(concept.pictures for concept in found):
        raise UserError("no picture lies there", where=shown(str(path)), remedy="Choose another folder")
    if path not in project.sources():
        _hold(project, "sources", [str(source) for source in (*project.sources(), path)])
    counts = ", ".join(f"{shown(c.folder.name)} ({len(c.pictures)})" for c in found if c.pictures)
    plain = [shown(c.folder.name) for c in found if c.pictures and c.repeats is None]
    said = [f"Used where they are, nothing is copied: {counts}"]
    return (*said, *([f"No repeats in the name, so once an epoch: {', '.join(plain)}"] if plain else []))


def drop(project: Project, folder: str | Path) -> None:
    """Use a folder elsewhere no longer; the folder stays. Raises UserError where it wasn't used."""
    path = Path(os.path.abspath(folder))  # noqa: PTH100
    if path not in project.sources():
        raise UserError("the project doesn't use it", where=shown(str(path)), remedy="Look at the project's folders")
    _hold(project, "sources", [str(source) for source in project.sources() if source != path])


def use(project: Project, folder: str | Path, used: bool) -> None:
    """Train on one of the project's folders of pictures or leave it out, as when its cuts are trained on in its place.

    The folder stays as it is. Raises UserError where the project has none such.
    """
    path = Path(os.path.abspath(folder))  # noqa: PTH100
    if path not in [concept.folder for concept in project.concepts()]:
        raise UserError(
            "the project has no such folder", where=shown(str(path)), remedy="Look at the project's folders"
        )
    named = place(project, path)
    unused = {str(name) for name in _held(project.work / "project.json").get("unused", ())} - {named}
    _hold(project, "unused", sorted(unused if used else unused | {named}))


def still_used(project: Project, folders: Iterable[Path]) -> list[Path]:
    """Those of these folders that are the project's and that it trains on."""
    wanted = set(folders)
    return [concept.folder for concept in project.concepts() if concept.folder in wanted and concept.used]


def leaving_out(project: Project, folders: Iterable[Path]) -> tuple[Path, bytes]:
    """(file, what it holds) once these folders are left out too, for a change of the journal."""
    file = project.work / "project.json"
    held = _held(file)
    names = {*map(str, held.get("unused", ())), *(place(project, folder) for folder in folders)}
    text = json.dumps({**held, "unused": sorted(names)}, ensure_ascii=True, indent=1) + "\n"
    return file, text.encode("ascii")


def place(project: Project, folder: Path) -> str:
    """A folder's name in project.json: below the project where it is, so that the project may be moved."""
    return folder.relative_to(project.root).as_posix() if folder.is_relative_to(project.root) else str(folder)


def training(project: Project) -> dict[str, str]:
    """The settings that train on the project: its image/ and reg/ themselves, or a dataset file.

    Where one folder elsewhere is all that is used, it is named itself. The file is written where folders are mixed or
    left out; then folders without repeats in their names count once. Masks are named where the project uses them.
    """
    fixed = {"output_dir": str(project.models), "logging_dir": str(project.log), "dataset_config": ""}
    concepts = [c for c in project.concepts() if c.pictures]
    learnt = [c for c in concepts if not c.is_reg]
    if all(c.used != c.elsewhere for c in concepts):
        plain = {"train_data_dir": str(project.root), "reg_data_dir": ""}
        return {**fixed, **plain, "conditioning_data_dir": _all_masks(project, learnt)}
    if source := _only_source(project, learnt):
        regs = [c for c in concepts if c.is_reg]
        if all(c.used for c in regs):
            plain = {"train_data_dir": str(source), "reg_data_dir": str(project.reg) if regs else ""}
            return {**fixed, **plain, "conditioning_data_dir": _all_masks(project, learnt)}
    subsets = [
        {
            "image_dir": str(c.folder),
            "num_repeats": 1 if c.repeats is None else c.repeats,
            "class_tokens": c.name,
            **({"is_reg": True} if c.is_reg else {}),
            **({"conditioning_data_dir": str(mask_folder(project, c.folder))} if _masks(project, c) else {}),
        }
        for c in concepts
        if c.used and c.repeats != 0
    ]
    file = project.work / _DATASET
    write_text(file, json.dumps({"datasets": [{"subsets": subsets}]}, ensure_ascii=False, indent=1) + "\n")
    plain = {"train_data_dir": "", "reg_data_dir": "", "conditioning_data_dir": ""}
    return {**fixed, **plain, "dataset_config": str(file)}


def of_dataset_file(file: str | Path) -> Project | None:
    """The project that wrote this dataset file for its training."""
    path = Path(file).expanduser()
    return Project(path.parent.parent) if (path.parent.name, path.name) == (_WORK, _DATASET) else None


def _only_source(project: Project, learnt: list[Concept]) -> Path | None:
    """The folder elsewhere that training can be told in place of the project; None where it would mean another set."""
    used = [c for c in learnt if c.used]
    if len(project.sources()) != 1 or not used or not all(c.elsewhere for c in used):
        return None
    source = project.sources()[0]
    all_of_it = [c for c in learnt if c.elsewhere]
    numbered = all(c.repeats is not None and c.folder.parent == source for c in used)
    single = len(used) == 1 and used[0].folder == source
    named = not masked(project) or all(mask_folder(project, c.folder).name == c.folder.name for c in used)
    return source if all_of_it == used and (numbered or single) and named else None


def _masks(project: Project, concept: Concept) -> bool:
    return not concept.is_reg and masked(project) and mask_folder(project, concept.folder).is_dir()


def _all_masks(project: Project, learnt: list[Concept]) -> str:
    """The folder of masks where the project uses them."""
    return str(project.masks) if any(_masks(project, c) for c in learnt if c.used) else ""


def mask_folder(project: Project, pictures: Path) -> Path:
    """Where the masks of one of the project's folders of pictures lie. Raises UserError for regularisation."""
    if pictures.is_relative_to(project.reg):
        what = "regularisation pictures have no masks"
        raise UserError(what, where=shown(pictures.name), remedy="Choose pictures that are learnt")
    others = [project.image, *project.sources()]
    same = [folder for other in others for folder in (other, other / pictures.name) if folder.name == pictures.name]
    first = next((folder for folder in same if folder.is_dir()), pictures)
    alone = first == pictures or pictures.parent == project.image
    return project.masks / (pictures.name if alone else f"{pictures.name}-{_id(pictures)[:6]}")


def masked(project: Project) -> bool:
    """Whether the project's masks are trained with."""
    return _held(project.work / "project.json").get("masks") is True


def mask(project: Project, wanted: bool) -> None:
    """Train with the project's masks, or without."""
    _hold(project, "masks", wanted)


# The list of projects


@dataclass(frozen=True)
class Recent:
    """A project that was opened. there: its folder still exists."""

    project: Project
    opened: float
    there: bool


def remember(data_dir: Path, project: Project) -> None:
    """Put a project first in the list."""
    others = [(r.project.root, r.opened) for r in recent(data_dir) if r.project != project]
    rows = [{"path": str(path), "opened": at} for path, at in [(project.root, time.time()), *others][:MOST_RECENT]]
    write_text(data_dir / "projects.json", json.dumps({"projects": rows}, ensure_ascii=True, indent=1) + "\n")


def forget(data_dir: Path, project: Project) -> None:
    """Take a project off the list; its folder stays."""
    rows = [{"path": str(r.project.root), "opened": r.opened} for r in recent(data_dir) if r.project != project]
    write_text(data_dir / "projects.json", json.dumps({"projects": rows}, ensure_ascii=True, indent=1) + "\n")


def recent(data_dir: Path) -> list[Recent]:
    """The projects that were opened, the latest first. A damaged list is an empty one."""
    found = []
    for row in _held(data_dir / "projects.json").get("projects", ()):
        if isinstance(row, dict) and isinstance(row.get("path"), str) and isinstance(row.get("opened"), (int, float)):
            root = Path(row["path"])
            found.append(Recent(Project(root), float(row["opened"]), root.is_dir()))
    return found


def by_id(data_dir: Path, project_id: str) -> Project:
    """A project of the list. Raises UserError where there is none of that id."""
    for known in recent(data_dir):
        if known.project.id == project_id and known.there:
            return known.project
    raise UserError("there is no such project", where="project", remedy="Open its folder")


# Details


def _is_project(listing: folders.Listing) -> bool:
    """Whether there are image/ and another part, or image/ with something to train on, or the studio's own folder."""
    names = {inner.name.lower() for inner in listing.folders}
    if not names & set(PROJECT_FOLDERS):
        return False
    if names & {"models", "model", "log", "logs", "reg"} or (listing.folder / _WORK).is_dir():
        return True
    image = next(inner for inner in listing.folders if inner.name.lower() in PROJECT_FOLDERS)
    return any(_NUMBERED.fullmatch(inner.name) for inner in _quiet(image).folders)


def _concept(path: Path) -> Opened:
    """A single <repeats>_<name> folder."""
    name, around, root = shown(path.name), path.parent, path.parent.parent
    if around.name.lower() in (*PROJECT_FOLDERS, "reg") and _is_project(_quiet(root)):
        said = f"{name} is one folder of the project {shown(root.name)}, which is opened"
        return Opened("concept", path, Project(root), path, said=(said,))
    return Opened("concept", path, None, path, said=(f"{name} is a single <repeats>_<name> folder, in no project",))


def _parent(path: Path, projects: list[Path]) -> Opened:
    if len(projects) == 1:
        said = f"{shown(path.name)} holds one project, {shown(projects[0].name)}, which is opened"
        return Opened("parent", path, Project(projects[0]), choices=tuple(projects), said=(said,))
    return Opened("parent", path, choices=tuple(projects), said=(f"{shown(path.name)} holds {len(projects)} projects",))


def _several(opened: Opened) -> UserError:
    names = folders.listed([shown(path.name) for path in opened.choices], 10)
    return UserError("; ".join(opened.said), where=shown(str(opened.folder)), remedy=f"Choose one: {names}")


def _beside(path: Path) -> Path:
    """A free name beside `path`."""
    match = _NUMBERED.fullmatch(path.name)
    stem = f"{match[2] if match else path.name} project"
    names = [stem, *(f"{stem} {n}" for n in range(2, 100))]
    for name in names:
        if not os.path.lexists(path.parent / name):
            return path.parent / name
    raise UserError("too many projects lie beside it", where=shown(str(path)), remedy="Make the project elsewhere")


def _fill(root: Path) -> Project:
    """Make what is missing of a project."""
    project = Project(root)
    try:
        for part in PARTS:
            _part(project, part).mkdir(parents=True, exist_ok=True)
        project.work.mkdir(exist_ok=True)
    except OSError as error:
        remedy = "Check the path and the folder's permissions"
        raise UserError(
            f"the project can't be made ({error.strerror})", where=shown(str(root)), remedy=remedy
        ) from error
    return project


def _part(project: Project, part: str) -> Path:
    return {"image": project.image, "reg": project.reg}.get(part, project.root / part)


def _concepts(folder: Path, single: bool = False) -> list[Concept]:
    """The folders of pictures in `folder`, and the pictures that lie in itself."""
    listing = _quiet(folder)
    found = [_described(_quiet(inner)) for inner in listing.folders]
    if listing.pictures or (single and not found):
        found.insert(0, _described(listing))
    return [concept for concept in found if concept.pictures or concept.repeats is not None]


def _described(listing: folders.Listing) -> Concept:
    match = _NUMBERED.fullmatch(listing.folder.name)
    repeats, name = (int(match[1]), match[2]) if match else (None, listing.folder.name)
    return Concept(listing.folder, name, repeats, tuple(listing.pictures))


def _quiet(folder: Path) -> folders.Listing:
    """What lies in a folder; nothing where it can't be read."""
    try:
        return list_folder(folder)
    except UserError:
        return folders.Listing(folder)


def _inner(root: Path, names: Iterable[str]) -> list[Path]:
    return [inner for inner in _quiet(root).folders if inner.name.lower() in names]


def _held(file: Path) -> dict[str, Any]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _hold(project: Project, key: str, value: list[str] | bool) -> None:
    held = {**_held(project.work / "project.json"), key: value}
    write_text(project.work / "project.json", json.dumps(held, ensure_ascii=True, indent=1) + "\n")


def _id(path: Path) -> str:
    return hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()
