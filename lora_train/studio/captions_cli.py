"""`captions` on the command line: the table, the audit, edits with a preview, and the way back."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from ..dataset.folders import shown
from ..dataset.tagging import EXISTING, TagOptions, Writing
from ..errors import BAD_INPUT, DONE
from . import audit, captioning, captions, edits, flips
from .captions import Applied, Preview, Row, Table
from .onnx_tagger import MODEL, TAGS, OnnxTagger

_MOST = 10  # changes that a preview prints unless all are asked for


def add_arguments(verbs: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = verbs.add_parser("captions", help="look at captions, audit them, edit many at once, take edits back")
    parser.add_argument("folder", help="a project, its image folder, one of its folders, or a folder of pictures")
    parser.set_defaults(run=_run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    _filters(_action(actions, "list", "each picture with its caption"))
    _filters(_action(actions, "tags", "how many captions have each tag"))
    checked = _action(actions, "audit", "what is probably wrong, and the edit that mends it")
    checked.add_argument("--trigger", default="", help="the tag that every caption is to have")
    checked.add_argument("--max-token-length", type=int, default=75, choices=(75, 150, 225), help="of the training")

    _edit(actions, "add", "add tags where they are missing", ["tags"]).add_argument("--last", action="store_true")
    actions.choices["add"].add_argument("--after", default="", metavar="TAG", help="behind this tag")
    _edit(actions, "remove", "remove tags", ["tags"]).add_argument("--exact", action="store_true", help=_EXACT)
    replace = _edit(actions, "replace", "replace a tag, or text", ["find", "by"])
    replace.add_argument("--regex", action="store_true", help="FIND is a regular expression, searched in each tag")
    replace.add_argument("--text", action="store_true", help="search the whole line instead of tags")
    replace.add_argument("--exact", action="store_true", help=_EXACT)
    reorder = _edit(actions, "reorder", "move or sort tags", [])
    reorder.add_argument("--first", default="", metavar="TAGS", help="to the start, in this order")
    reorder.add_argument("--last", default="", metavar="TAGS", help="to the end")
    reorder.add_argument("--sort", default="", choices=("alphabet", "frequency"), help="the rest")
    reorder.add_argument("--keep", type=int, default=0, metavar="N", help="leave the first N tags when sorting")
    _edit(actions, "deduplicate", "each tag once", [])
    underscores = _edit(actions, "underscores", "underscores to spaces", [])
    underscores.add_argument("--back", action="store_true", help="spaces to underscores instead")
    underscores.add_argument("--protect", default="", metavar="TAGS", help="tags that stay, such as the trigger")
    _edit(actions, "brackets", r"escape brackets, as prompts need it", []).add_argument("--plain", action="store_true")
    _edit(actions, "swap", "left to right and right to left", []).add_argument(
        "--protect", default="", metavar="TAGS", help="tags that stay"
    )
    flip = _action(actions, "flip", "mirrored copies of pictures, left and right swapped in their captions")
    _filters(flip)
    flip.add_argument("--protect", default="", metavar="TAGS", help="tags that stay, such as the trigger")
    flip.add_argument("--writing", action="store_true", help="pictures whose captions speak of text in them, too")
    flip.add_argument("--write", action="store_true", help="make them; `undo` takes them away")
    tag = _action(actions, "tag", "let a WD14 tagger write captions; `undo` takes them back")
    tag.add_argument("tagger", help=f"folder of its {MODEL} and {TAGS}")
    _filters(tag)
    tag.add_argument("--threshold", type=float, default=0.35, help="tags that are surer are written (default: 0.35)")
    tag.add_argument("--exclude", default="", metavar="TAGS", help="tags that are never written")
    tag.add_argument("--trigger", default="", metavar="WORD", help="stands first in every caption")
    tag.add_argument("--existing", choices=EXISTING, default="keep", help="what becomes of captions that are there")
    save = _edit(actions, "save", "save as UTF-8 what is in another encoding", [])
    save.add_argument("--read-as", default="", choices=("GBK", "Shift-JIS", "cp1252", "UTF-16", "UTF-8"))
    _edit(actions, "set", "write one caption", ["picture", "caption"])

    _action(actions, "history", "what was changed, the latest first")
    _action(actions, "undo", "take back the latest change; files edited since stay")


_EXACT = "only this spelling; else case and underscores don't matter"


def _action(actions: Any, name: str, words: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=words)
    parser.add_argument("--ext", default=".txt", metavar="ENDING", help="of caption files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--with", dest="having", default="", metavar="TAGS", help="only captions with all of these")
    parser.add_argument("--without", default="", metavar="TAGS", help="only captions with none of these")
    parser.add_argument("--class", dest="concept", default="", metavar="FOLDER", help="only those of this folder")
    parser.add_argument("--missing", action="store_true", help="only pictures without a caption")
    parser.add_argument("--foreign", action="store_true", help="only captions that aren't UTF-8")
    parser.add_argument("--containing", default="", metavar="TEXT", help="only captions with this text")
    parser.add_argument("--reg", action="store_true", help="regularisation pictures, too")


def _edit(actions: Any, name: str, words: str, needed: list[str]) -> argparse.ArgumentParser:
    parser = _action(actions, name, words + "; shows what would change")
    for field in needed:
        parser.add_argument(field, metavar=field.upper())
    if name != "set":
        _filters(parser)
    parser.add_argument("--write", action="store_true", help="write it; `undo` takes it back")
    parser.add_argument("--all", action="store_true", help="show every change")
    return parser


def _run(args: argparse.Namespace) -> int:
    if args.action in ("history", "undo"):
        return _history(args) if args.action == "history" else _undo(args)
    table = captions.open_table(args.folder, args.ext)
    if not args.json:
        for line in table.said:
            print(f"note: {line}")
    if args.action == "audit":
        return _audit(args, table)
    if args.action in ("list", "tags"):
        return _look(args, table, _chosen(args, table))
    if args.action in ("flip", "tag"):
        return _flip(args, table) if args.action == "flip" else _tag(args, table)
    edit = _made(args)
    rows = [table.row(args.picture)] if args.action == "set" else _chosen(args, table)
    wanted = captions.preview(table, edit, rows)
    applied = captions.apply(table, wanted) if args.write else None
    return _told(args, wanted, applied)


def _chosen(args: argparse.Namespace, table: Table) -> list[Row]:
    return table.select(
        tags=edits.tags_of(args.having),
        without=edits.tags_of(args.without),
        folder=args.concept,
        missing=True if args.missing else None,
        text=args.containing,
        foreign=args.foreign,
        reg=args.reg,
    )


def _made(args: argparse.Namespace) -> edits.Edit:
    """The edit that was asked for, checked as a request's is."""
    given: dict[str, Any] = {}
    if args.action == "add":
        place = "after" if args.after else "last" if args.last else "first"
        given = {"tags": args.tags, "place": place, "after": args.after}
    elif args.action == "remove":
        given = {"tags": args.tags, "exact": args.exact}
    elif args.action == "replace":
        scope = "text" if args.text else "tag"
        given = {"find": args.find, "by": args.by, "regex": args.regex, "scope": scope, "exact": args.exact}
    elif args.action == "reorder":
        given = {"first": args.first, "last": args.last, "sort": args.sort, "keep": args.keep}
    elif args.action == "swap":
        given = {"protect": args.protect}
    elif args.action == "underscores":
        given = {"to": "underscores" if args.back else "spaces", "protect": args.protect}
    elif args.action == "brackets":
        given = {"to": "plain" if args.plain else "escaped"}
    elif args.action == "save":
        given = {"read_as": args.read_as}
    elif args.action == "set":
        given = {"caption": args.caption}
    return edits.from_dict({"edit": args.action, **given})


def _tag(args: argparse.Namespace, table: Table) -> int:
    options = TagOptions.from_dict({"threshold": args.threshold, "exclude": args.exclude})
    writing = Writing.from_dict({"existing": args.existing, "trigger": args.trigger, "extension": table.extension})
    made = captioning.write(table, OnnxTagger(Path(args.tagger)), options, writing, _chosen(args, table))
    if args.json:
        print(json.dumps({**made.counts, "problems": [str(problem) for problem in made.problems]}, indent=2))
    else:
        for problem in made.problems:
            print(f"warning: {problem}")
        counts = made.counts
        told = f"{counts['kept']} kept, {counts['same']} the same as before"
        print(f"{_many(counts['written'], 'caption')} written, {told}; undo takes them back")
    return BAD_INPUT if made.problems else DONE


def _flip(args: argparse.Namespace, table: Table) -> int:
    wanted = flips.plan(table, _chosen(args, table), edits.tags_of(args.protect), args.writing)
    made = flips.make(table, wanted) if args.write else None
    if args.json:
        copies = [{"picture": str(copy.target), "caption": copy.caption} for copy in wanted.copies]
        report: dict[str, Any] = {"copies": copies, "skipped": list(wanted.skipped), "writing": wanted.writing}
        if made:
            report |= {"made": len(made.pictures), "problems": [str(problem) for problem in made.problems]}
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return BAD_INPUT if made and made.problems else DONE
    for copy in wanted.copies[:_MOST]:
        print(shown(str(copy.target)))
        if copy.caption is not None and copy.caption != copy.row.text:
            print(f"  - {copy.row.text}\n  + {copy.caption}")
    if len(wanted.copies) > _MOST:
        print(f"and {len(wanted.copies) - _MOST} more; --json shows them")
    for line in [*wanted.skipped, *map(str, made.problems if made else ())]:
        print(f"warning: left out, {line}")
    if wanted.writing:
        print(f"left out: {_many(wanted.writing, 'picture')} with text or a signature; --writing takes them, too")
    if made is None:
        print(f"{_many(len(wanted.copies), 'mirrored picture')} would be made; --write makes them")
        return DONE
    print(f"{_many(len(made.pictures), 'mirrored picture')} made; undo takes them away")
    return BAD_INPUT if made.problems else DONE


def _look(args: argparse.Namespace, table: Table, rows: list[Row]) -> int:
    if args.action == "list":
        if args.json:
            print(json.dumps([row.as_dict() for row in rows], indent=2, ensure_ascii=False))
        for row in rows if not args.json else ():
            about = row.problem or ("no caption" if row.missing else "")
            about = about or ", ".join(filter(None, (row.encoding, row.note)))
            print(row.as_dict()["name"] + (f"  [{about}]" if about else ""))
            for line in row.text.split("\n") if row.text else ():
                print(f"    {line}")
        return DONE
    found = table.frequency(rows)
    if args.json:
        print(json.dumps(dict(found), indent=2, ensure_ascii=False))
        return DONE
    for tag, count in found:
        print(f"{count:6,}  {tag}")
    return DONE


def _audit(args: argparse.Namespace, table: Table) -> int:
    findings = audit.audit(table, args.trigger, args.max_token_length)
    if args.json:
        print(json.dumps([finding.as_dict() for finding in findings], indent=2, ensure_ascii=False))
        return DONE
    for finding in findings:
        print(f"{'look' if finding.hint else 'wrong'}: {finding.text}")
        names = [row.as_dict()["name"] for row in finding.rows]
        if names and finding.kind != "rare":
            print("    " + ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else ""))
        if finding.edit:
            print(f"    mend: {finding.edit.title()}")
    total = len(table.own)
    print(f"{total:,} pictures, " + (f"{_many(len(findings), 'finding')}" if findings else "nothing found"))
    return DONE


def _told(args: argparse.Namespace, wanted: Preview, applied: Applied | None) -> int:
    """What would be, or was written."""
    failed = applied is not None and bool(applied.problems)
    if args.json:
        print(json.dumps(_report(wanted, applied), indent=2, ensure_ascii=False))
        return BAD_INPUT if failed else DONE
    shown_changes = wanted.changes if args.all else wanted.changes[:_MOST]
    for change in shown_changes:
        print(shown(str(change.file)) + (f"  [{change.note}]" if change.note else ""))
        if change.before is not None:
            print(f"  - {change.before}")
        print(f"  + {change.after}")
    if len(shown_changes) < len(wanted.changes):
        print(f"and {len(wanted.changes) - len(shown_changes)} more; --all shows them")
    for line in wanted.skipped:
        print(f"warning: left out, {line}")
    if applied is None:
        print(f"{wanted.title}: {_many(len(wanted.changes), 'caption')} would change; --write writes them")
        return DONE
    for path in applied.changed:
        print(f"warning: {shown(str(path))} was changed meanwhile and stays as it is")
    for problem in applied.problems:
        print(f"warning: {problem}")
    print(f"{wanted.title}: {_many(len(applied.written), 'caption')} written; undo takes it back")
    return BAD_INPUT if failed else DONE


def _report(wanted: Preview, applied: Applied | None) -> dict[str, Any]:
    changes = [
        {"file": str(one.file), "before": one.before, "after": one.after, "note": one.note} for one in wanted.changes
    ]
    report: dict[str, Any] = {"title": wanted.title, "changes": changes, "skipped": list(wanted.skipped)}
    if applied:
        report["written"] = len(applied.written)
        report["changed_meanwhile"] = [str(path) for path in applied.changed]
        report["problems"] = [str(problem) for problem in applied.problems]
    return report


def _history(args: argparse.Namespace) -> int:
    entries = captions.journal_of(args.folder).entries()
    if args.json:
        rows = [{"id": e.id, "title": e.title, "time": e.time, "files": e.files, "undone": e.undone} for e in entries]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return DONE
    for entry in entries:
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.time))
        print(f"{entry.id:4}  {at}  {entry.files:5,} files  {entry.title}" + ("  (taken back)" if entry.undone else ""))
    if not entries:
        print("nothing was changed yet")
    return DONE


def _undo(args: argparse.Namespace) -> int:
    undone = captions.undo(Path(args.folder))
    if args.json:
        restored, changed = ([str(path) for path in paths] for paths in (undone.restored, undone.changed))
        print(json.dumps({"title": undone.entry.title, "restored": restored, "changed": changed}, indent=2))
        return DONE
    for path in undone.changed:
        print(f"warning: {shown(str(path))} was edited since and stays as it is")
    print(f"taken back: {undone.entry.title}: {_many(len(undone.restored), 'file')}")
    return DONE


def _many(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")
