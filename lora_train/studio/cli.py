"""`project`, `scan`, `crop` and `mask` on the command line: from a folder of pictures to a set worth training on."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..dataset.folders import existing, shown
from ..errors import DONE, UserError
from ..files import write_text
from ..paths import ROOT
from ..settings.reading import read_config
from . import project as projects
from .project import Opened, Project

_ACTIONS = {
    "make": "make image/, models/, log/ and reg/, or what is missing of them",
    "list": "the projects that were opened; with FOLDER, what lies in that one",
    "add": "let a project use the pictures of OTHER where they are",
    "drop": "use those of OTHER no longer",
    "leave-out": "don't train on OTHER, a folder of the project's",
    "use": "train on OTHER again",
    "settings": "what `train` needs to train on it; with --config: put that into a file",
    "history": "what was changed in a project",
    "undo": "take the latest change back",
}


def add_arguments(verbs: argparse._SubParsersAction) -> None:
    """Declare the verbs."""
    parser = verbs.add_parser(
        "project",
        help="make and list projects, and undo what was changed in them",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:9}  {text}" for name, text in _ACTIONS.items()),
    )
    parser.add_argument("action", choices=list(_ACTIONS))
    parser.add_argument("folder", nargs="?", help="a project, its image/, a <repeats>_<name> folder, or pictures")
    parser.add_argument("other", nargs="?", help="another folder of pictures")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "outputs", metavar="FOLDER", help="holds the list")
    parser.add_argument("--config", type=Path, metavar="FILE.json", help="settings: make this file, or change it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_project)

    parser = verbs.add_parser("scan", help="look at every picture: sizes, broken, alike, blurred, black and white")
    parser.add_argument("folder", help="a project or any folder of pictures")
    parser.add_argument(
        "--near", type=int, default=8, metavar="BITS", help="of 64 that may differ between like pictures"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_scan)

    parser = verbs.add_parser("crop", help="cut pictures into a <repeats>_<name> folder of a project")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="pictures, or folders of them")
    parser.add_argument("--project", required=True, help="the project that gets the results")
    parser.add_argument("--into", required=True, metavar="NAME", help='such as "10_hina"; with --way parts: its end')
    ways = ("focal", "centre", "split", "head", "parts", "box", "whole")
    parser.add_argument("--way", choices=ways, default="focal", help="which part (default: focal)")
    parser.add_argument("--shape", default="1:1", help="width to height, for focal, centre and split (default: 1:1)")
    parser.add_argument("--box", metavar="L,T,W,H", help="left, top, width, height in pixels, for box")
    parser.add_argument("--overlap", type=float, default=0.2, help="of neighbours, for split (default: 0.2)")
    parser.add_argument("--shoulder", type=float, default=0.6, help="below the head, in faces (default: 0.6)")
    parser.add_argument("--side", type=int, help="pixels of the shorter side: 512, 768, 1024… (default: as it is)")
    parser.add_argument("--background", default="white", help="below what is transparent (default: white)")
    parser.add_argument(
        "--alpha", choices=("flat", "mask", "keep"), default="flat", help="what becomes of transparency"
    )
    parser.add_argument("--no-captions", action="store_true", help="don't copy the text files")
    parser.add_argument("--remove-background", action="store_true", help="by rembg, where it is installed")
    parser.add_argument(
        "--detector", default="", help="yunet, retinaface, anime, bundled or haar (default: the best there is)"
    )
    parser.add_argument(
        "--models", type=Path, action="append", default=[], help="folder of models of face detectors and removers"
    )
    parser.set_defaults(run=_crop)

    parser = verbs.add_parser("mask", help="say which part of a project's pictures is learnt: white is, black isn't")
    parser.add_argument("project", help="the project")
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE", help="or folders (default: all it learns)")
    masked = ("alpha", "background", "white", "invert", "remove")
    parser.add_argument("--way", choices=masked, help="transparency, what rembg keeps, all, the negative, no mask")
    parser.add_argument("--train", choices=("with", "without"), help="whether the project is trained with its masks")
    parser.set_defaults(run=_mask)


def _project(args: argparse.Namespace) -> int:
    if args.action == "list" and not args.folder:
        return _recent(args)
    if not args.folder:
        raise UserError("no folder is given", where=args.action, remedy="Give the project's folder")
    opened = projects.make(args.folder) if args.action == "make" else projects.open_project(args.folder)
    project = opened.project
    assert project is not None
    said = list(opened.said)
    if args.action in ("add", "drop", "leave-out", "use"):
        said += _changed(project, args)
    if args.action == "undo":
        undone = project.journal.undo()
        said.append(f"undone: {undone.entry.title}, {len(undone.restored)} files")
        said += [f"changed since, so it stays: {shown(str(path))}" for path in undone.changed]
    projects.remember(args.data_dir, project)
    if args.action == "settings":
        return _settings(project, args)
    if args.json:
        print(json.dumps(_described(opened, said), indent=2))
        return DONE
    for line in (*said, str(project.root), *(_history(project) if args.action == "history" else _folders(project))):
        print(line)
    return DONE


def _settings(project: Project, args: argparse.Namespace) -> int:
    """Other settings of a file that is there stay."""
    values = {name: value for name, value in projects.training(project).items() if value}
    if not args.config:
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return DONE
    if args.config.suffix.lower() != ".json":
        raise UserError("it is no .json file", where=args.config, remedy="Name one that ends with .json")
    known = read_config(args.config) if args.config.is_file() else {}
    others = {name: value for name, value in known.items() if name not in projects.training(project)}
    write_text(args.config, json.dumps({**values, **others}, indent=1, ensure_ascii=False) + "\n")
    print(f"to train on it: train {str(args.config)!r}")
    return DONE


def _changed(project: Project, args: argparse.Namespace) -> Sequence[str]:
    if not args.other:
        raise UserError("no other folder is given", where=args.action, remedy="Give it behind the project's")
    if args.action == "add":
        return projects.add(project, args.other)
    if args.action == "drop":
        projects.drop(project, args.other)
    else:
        projects.use(project, args.other, args.action == "use")
    return ()


def _recent(args: argparse.Namespace) -> int:
    found = projects.recent(args.data_dir)
    if args.json:
        rows = [{"id": r.project.id, "root": str(r.project.root), "opened": r.opened, "there": r.there} for r in found]
        print(json.dumps(rows, indent=2))
        return DONE
    for row in found:
        print(f"{_moment(row.opened)}  {shown(str(row.project.root))}{'' if row.there else '  (no longer there)'}")
    if not found:
        print("no project was opened yet")
    return DONE


def _described(opened: Opened, said: list[str]) -> dict[str, Any]:
    project = opened.project
    assert project is not None
    concepts = [
        {
            "folder": str(c.folder),
            "name": c.name,
            "repeats": c.repeats,
            "pictures": len(c.pictures),
            "is_reg": c.is_reg,
            "elsewhere": c.elsewhere,
            "used": c.used,
        }
        for c in project.concepts()
    ]
    changes = [
        {"id": e.id, "title": e.title, "time": e.time, "files": e.files, "undone": e.undone}
        for e in project.journal.entries()
    ]
    head = {"kind": opened.kind, "id": project.id, "root": str(project.root), "said": said}
    return {**head, "concepts": concepts, "changes": changes}


def _folders(project: Project) -> list[str]:
    lines = []
    for c in project.concepts():
        notes = [("regularisation", c.is_reg), ("elsewhere", c.elsewhere), ("left out", not c.used)]
        told = ", ".join(name for name, is_so in notes if is_so)
        lines.append(f"  {shown(c.folder.name)}: {_pictures_text(len(c.pictures))}{f' ({told})' if told else ''}")
    return lines or ["  no pictures yet"]


def _pictures_text(number: int) -> str:
    return "1 picture" if number == 1 else f"{number:,} pictures"


def _history(project: Project) -> list[str]:
    entries = project.journal.entries()
    return [f"  {_moment(e.time)}  {e.title}, {e.files} files{'  (undone)' if e.undone else ''}" for e in entries] or [
        "  nothing was changed yet"
    ]


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _scan(args: argparse.Namespace) -> int:
    from .scan import scan

    if not 0 <= args.near <= 31:
        raise UserError(f"{args.near} is not between 0 and 31", where="near", remedy="8 is usual")
    opened = projects.understand(args.folder)
    project = opened.project if opened.kind in ("project", "image") else None
    if project:
        report = scan(
            project.root, project.scan_cache, near=args.near, parts=project.parts(), left_out=project.left_out()
        )
    else:
        report = scan(opened.folder, near=args.near)
    if args.json:
        print(json.dumps(report.as_dict(), indent=1))
        return DONE
    for line in report.lines():
        print(line)
    return DONE


def _crop(args: argparse.Namespace) -> int:
    from . import crops, masks

    project = projects.open_project(args.project).project
    assert project is not None
    pictures = [picture for path in args.pictures for picture in _pictures(path)]
    cuts, problems = _cuts(args, pictures)
    remove = masks.remover(models=args.models) if args.remove_background else None
    options = crops.Options(args.side, args.background, args.alpha, not args.no_captions, remove=remove)
    made = crops.make(project, cuts, options)
    for path in made.pictures:
        print(shown(str(path.relative_to(project.root))))
    for note in made.notes:
        print(f"warning: {note}")
    for problem in (*problems, *made.problems):
        print(f"left out: {problem}", file=sys.stderr)
    print(f"{_pictures_text(len(made.pictures))} made; `project undo` takes them back")
    folders = {cut.picture.parent.absolute() for cut in cuts} - {path.parent for path in made.pictures}
    for folder in projects.still_used(project, folders) if made.pictures else []:
        print(f"{shown(folder.name)}, which they were cut from, is trained on as well; `project leave-out` ends that")
    return DONE


def _mask(args: argparse.Namespace) -> int:
    from . import masks

    project = projects.open_project(args.project).project
    assert project is not None
    chosen = [picture for path in args.pictures for picture in _pictures(path)]
    learnt = [p for c in project.concepts() if c.used and not c.is_reg for p in c.pictures]
    if strangers := [shown(path.name) for path in chosen if path.absolute() not in learnt]:
        what = f"not learnt by the project: {', '.join(strangers[:5])}"
        raise UserError(what, where="PICTURE", remedy="Choose pictures of its folders")
    pictures = [path.absolute() for path in chosen] or learnt
    if args.way == "remove":
        print(f"{masks.take_away(project, pictures)} masks taken away")
    elif args.way:
        made = masks.make(project, pictures, args.way)
        print(f"{made.written} masks written")
        for problem in made.problems:
            print(f"left out: {problem}", file=sys.stderr)
    if args.train:
        masks.use(project, args.train == "with")
    if masks.used(project):
        print(f"{masks.complete(project)} white masks added; train with --conditioning_data_dir {project.masks}")
    return DONE


def _cuts(args: argparse.Namespace, pictures: list[Path]) -> tuple[Any, Any]:
    from . import crops, faces

    if args.way == "whole":
        return [crops.Cut(picture, args.into) for picture in pictures], []
    if args.way == "box":
        return [crops.Cut(picture, args.into, _box(args.box)) for picture in pictures], []
    if args.way in ("head", "parts"):
        detect = faces.detector(args.detector, args.models).detect
        if args.way == "head":
            return crops.heads(pictures, detect, args.into, args.shoulder)
        names = {part: f"{args.into} {part}" for part in ("face", "clothes", "shoes", "body")}
        return crops.persons(pictures, detect, names)
    return crops.shaped(pictures, args.into, crops.ratio(args.shape), args.way, args.overlap)


def _box(text: str | None) -> Any:
    from .crops import Box

    try:
        return Box(*(int(part) for part in (text or "").split(",")))
    except (ValueError, TypeError):
        raise UserError(f"{text!r} is no box", where="--box", remedy="Write left,top,width,height in pixels") from None


def _pictures(path: Path) -> list[Path]:
    """The pictures that a path given by hand means."""
    from ..dataset.folders import list_folder

    if not path.is_file():
        path = existing(path, "pictures")
        return list_folder(path).pictures
    return [path]
