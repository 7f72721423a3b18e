"""`plan-style` and `plan-person` on the command line: repeats, epochs, and the folders that are named by them."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..dataset.folders import scan
from ..errors import DONE, UserError
from ..plan.cli import table
from . import faces, person_folders, person_plan, style_plan, style_sort
from . import project as projects
from .person_plan import Part, PersonPlan
from .project import Project
from .style_plan import Counts, Rules, StylePlan
from .style_sort import Sorting


def add_arguments(verbs: argparse._SubParsersAction) -> None:
    """Declare both verbs."""
    style = verbs.add_parser("plan-style", help="the smallest repeats that balance a style's folders")
    style.add_argument("folder", nargs="?", help="a project whose pictures are sorted; without it: of these numbers")
    style.add_argument("--suggest", action="store_true", help="FOLDER: suggest classes, and find variants")
    style.add_argument(
        "--detector", default="", help="with --suggest: yunet, retinaface, anime, bundled or haar (default: shapes)"
    )
    style.add_argument("--models", type=Path, action="append", default=[], help="folder of face detectors' models")
    fit = (
        'FOLDER: put pictures whose names fit, such as face=close*.png or "main=1_hina/*", into a class; '
        "suggested=NAMES: back into the one that was suggested"
    )
    style.add_argument("--sort", action="append", default=[], metavar="CLASS=PATTERN", help=fit)
    style.add_argument("--write", action="store_true", help="FOLDER: write its folders, or change them")
    style.add_argument("--main", type=int, default=0, metavar="N", help="main visuals")
    style.add_argument("--face", type=int, default=0, metavar="N", help="faces")
    style.add_argument("--full", type=int, default=0, metavar="N", help="full bodies")
    style.add_argument("--class", dest="more", action="append", default=[], metavar="NAME=N", help="another class")
    style.add_argument("--variants", default="", metavar="N,N,…", help="sizes of the groups of near-duplicates")
    style.add_argument("--grey", type=int, default=0, metavar="N", help="how many of all have no colour")
    style.add_argument("--grey-style", action="store_true", help="the style is black and white itself")
    style.add_argument("--no-flipped", action="store_true", help="no mirrored copies are made")
    style.add_argument("--no-variants", action="store_true", help="FOLDER: near-duplicates are pictures like others")
    style.add_argument("--tolerance", type=float, default=Rules.tolerance, metavar="T", help="of main : face = 4 (0.2)")
    style.add_argument("--name", default="", help="put before the class in the folders' names")
    style.add_argument("--repeats", action="append", default=[], metavar="CLASS=N", help="judge these instead")
    style.add_argument("--json", action="store_true", help="print JSON")
    style.set_defaults(run=_style)

    person = verbs.add_parser("plan-person", help="steps from repeats and epochs, and backwards")
    person.add_argument(
        "concepts", nargs="+", metavar="NAME=PICTURES[:REPEATS[:REG]]", help="or one folder that is there already"
    )
    person.add_argument("--steps", type=int, metavar="N", help="find the repeats that make about N steps")
    person.add_argument("--keep-repeats", action="store_true", help="with --steps: find the epochs instead")
    person.add_argument("--epochs", type=int, default=10, metavar="N", help="(10)")
    person.add_argument("--batch", type=int, default=1, metavar="N", help="(1)")
    person.add_argument("--write", action="store_true", help="give the folders of the one project these repeats")
    person.add_argument("--json", action="store_true", help="print JSON")
    person.set_defaults(run=_person)


def _style(args: argparse.Namespace) -> int:
    if args.folder:
        return _sorted(args)
    if args.suggest or args.sort or args.write:
        raise UserError("no folder is given", where="plan-style", remedy="Give the project's folder")
    values: dict[str, Any] = {"main": args.main, "face": args.face, "grey": args.grey, **_pairs("--class", args.more)}
    if args.full:
        values["full"] = args.full
    try:
        values["variants"] = [int(size) for size in args.variants.split(",") if size.strip()]
    except ValueError:
        raise UserError(f"{args.variants!r} is no list", where="--variants", remedy="Write 2,4") from None
    counts = Counts.from_dict({**values, "flipped": not args.no_flipped, "colour": not args.grey_style})
    rules = Rules(tolerance=args.tolerance)
    prefix = person_plan.clean(args.name)
    classes = (style_plan.MAIN, style_plan.FACE, *counts.others, style_plan.VARIANTS)
    names = {name: f"{prefix} {name}" for name in classes} if prefix else None
    own = _pairs("--repeats", args.repeats)
    made = style_plan.evaluate(counts, own, rules, names) if own else style_plan.plan(counts, rules, names)
    if args.json:
        print(json.dumps(made.as_dict(), indent=2, ensure_ascii=False))
        return DONE
    for line in _style_lines(made):
        print(line)
    return DONE


def _sorted(args: argparse.Namespace) -> int:
    """Sort the pictures of a project, show the plan, write the folders."""
    project = projects.open_project(args.folder).project
    assert project is not None
    own = _pairs("--repeats", args.repeats)
    flags: dict[str, Any] = {
        "flipped": not args.no_flipped,
        "colour": not args.grey_style,
        "variants": not args.no_variants,
    }
    looked = None
    if args.suggest:
        detect = faces.detector(args.detector, args.models).detect if args.detector else None
        looked = style_sort.look_through(project, style_sort.load(project), detect)
    with style_sort.changing(project):
        sorting = style_sort.load(project)
        style = person_plan.clean(args.name) or sorting.style
        sorting = replace(sorting, **flags, tolerance=args.tolerance, repeats=own or None, style=style)
        sorting = looked.onto(sorting) if looked else sorting
        for text in args.sort:
            sorting = _put(project, sorting, text)
        style_sort.save(project, sorting)
    found = style_sort.items(project, sorting)
    made = style_sort.planned(found, sorting)
    written = style_sort.write(project, sorting) if args.write else None
    if args.json:
        told = {"pictures": [item.as_dict() for item in found], "plan": made and made.as_dict()}
        print(json.dumps({**told, "written": written and written.as_dict()}, indent=2, ensure_ascii=False))
        return DONE
    missing = sum(not item.name for item in found)
    for line in [*(_style_lines(made) if made else []), *([f"{missing} pictures in no class yet"] if missing else [])]:
        print(line)
    if written:
        print(
            f"written: {written.copied} copied, {written.moved} moved, {written.aside} put aside, {written.kept} kept"
        )
        if written.left_out:
            print(f"no longer trained on themselves, since their copies are: {', '.join(written.left_out)}")
        _go_on(project)
    return DONE


def _put(project: Project, sorting: Sorting, text: str) -> Sorting:
    name, _, pattern = text.partition("=")
    if not name or not pattern:
        raise UserError(f"{text!r} is no CLASS=PATTERN", where="--sort", remedy="Write it as face=close*.png")
    found = style_sort.items(project, sorting)
    keys = [i.key for i in found if any(fnmatch(one, pattern) for one in (i.path.name, f"{i.concept}/{i.path.name}"))]
    if not keys:
        remedy = "Give a picture's name, or <folder>/<name>, with * for any letters"
        raise UserError(f"no picture is called {pattern!r}", where="--sort", remedy=remedy)
    if name == "suggested":
        return replace(sorting, chosen={key: one for key, one in sorting.chosen.items() if key not in keys})
    more = () if name in sorting.all_classes else (person_plan.clean(name),)
    chosen = {**sorting.chosen, **dict.fromkeys(keys, name)}
    return replace(sorting, classes=(*sorting.classes, *more), chosen=chosen)


def _style_lines(made: StylePlan) -> list[str]:
    rows = [[one.folder, one.pictures, one.files, one.uses] for one in made.classes]
    lines = table(["folder", "pictures", "files", "uses"], rows)
    lines += ["", *(f"{'kept  ' if rule.kept else 'BROKEN'}  {rule.name}: {rule.text}" for rule in made.rules)]
    if copied := [copies for copies in made.copies if max(copies) > 1]:
        more = sum(map(sum, copied)) - sum(map(len, copied))
        lines.append(f"variants: {len(copied)} groups get copies, {more} files in all")
    if made.mends:
        lines += ["", "each of these mends it:", *(f"  {mend.text}" for mend in made.mends)]
    return lines


def _person(args: argparse.Namespace) -> int:
    project = projects.open_project(args.concepts[0]).project if args.write else None
    if project:
        parts = person_folders.parts_of(project)
    elif len(args.concepts) == 1 and Path(args.concepts[0]).is_dir():
        parts = person_plan.of_dataset(scan(args.concepts[0]))
    else:
        parts = [_part(text) for text in args.concepts]
    if args.steps and args.keep_repeats:
        made = person_plan.with_epochs(parts, args.steps, args.batch)
    elif args.steps:
        made = person_plan.with_repeats(parts, args.steps, args.epochs, args.batch)
    else:
        made = person_plan.plan(parts, args.epochs, args.batch)
    if args.json:
        print(json.dumps(made.as_dict(), indent=2, ensure_ascii=False))
        return DONE
    for line in _person_lines(made):
        print(line)
    if project:
        done = person_folders.apply(project, made)
        for before, after in done.renamed:
            print(f"renamed: {before} to {after}")
        for name in done.copied:
            print(f"copied: {name}")
        _go_on(project)
    return DONE


def _go_on(project: Project) -> None:
    print("`project undo` takes it back")
    print(f"to train on it: project settings {str(project.root)!r} --config FILE.json, then train FILE.json")


def _person_lines(made: PersonPlan) -> list[str]:
    rows: list[list[Any]] = [
        [f"image/{one.folder}", one.pictures, one.repeats, one.pictures * one.repeats] for one in made.folders
    ]
    rows += [
        [f"reg/{one.reg_folder}", one.reg, one.reg_repeats, one.reg * one.reg_repeats]
        for one in made.folders
        if one.reg
    ]
    over = f" ÷ {made.batch_size}" if made.batch_size > 1 else ""
    return [
        *table(["folder", "pictures", "repeats", "images"], rows),
        "",
        f"{made.images:,} images{over} = {made.steps_per_epoch:,} steps an epoch; "
        f"{made.epochs:,} epochs, {made.steps:,} steps in all",
        *(f"note: {note}" for note in made.notes),
    ]


def _part(text: str) -> Part:
    name, _, numbers = text.rpartition("=")
    try:
        return Part(name.strip(), *[int(number) for number in numbers.split(":", 2)])
    except ValueError:
        remedy = 'Write it as "hina woman=20:100:500"; or name a folder that is there'
        raise UserError("it is no NAME=PICTURES[:REPEATS[:REG]]", where=text, remedy=remedy) from None


def _pairs(option: str, texts: list[str]) -> dict[str, int]:
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.strip().isdecimal():
            raise UserError(f"{text!r} is no NAME=N", where=option, remedy="Write it as main=4")
        found[name.strip()] = int(number)
    return found
