"""Small pieces of HTML: everything in them that isn't ours is escaped. Words stand in nodes of their own, so that the
page can translate them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ..errors import UserError, UserErrors
from .labels import LABELS, element, label
from .sums import Sum

_MOST_WARNINGS = 6
_GIB = 1 << 30
_NAMED = re.compile(r"[^:]{1,120}: ")


def errors(error: UserError) -> str:
    """All problems in one block; each names its field, where the page says it too."""
    return _problems("error", error)


def _problems(kind: str, error: UserError) -> str:
    single = error.errors if isinstance(error, UserErrors) else [error]
    title = "This has to be mended first" if len(single) == 1 else f"{len(single)} things have to be mended first"
    return _box(kind, title, "".join(map(_error, single)))


def _error(error: UserError) -> str:
    where = error.where or ""
    field = where in LABELS or where.isidentifier()
    place = f"<b>{escape(label(where) if field else where)}</b> " if where else ""
    mark = f' data-field="{escape(element(where))}"' if field else ""
    parts = [f"{part.rstrip('.')}." for part in (sentence(error.what), error.remedy) if part]
    return f"<li{mark}>{place}" + " ".join(f"<span>{escape(part)}</span>" for part in parts) + "</li>"


def sentence(text: str) -> str:
    """With a capital letter; what begins with a name, as in `name: text`, is left as it is."""
    return text if _NAMED.match(text) else text[:1].upper() + text[1:]


def note(kind: str, title: str, lines: Sequence[str] = ()) -> str:
    """A box of kind "ok", "warning" or "error"."""
    return _box(kind, title, "".join(f"<li>{escape(line)}</li>" for line in lines))


def _box(kind: str, title: str, items: str) -> str:
    role = "alert" if kind == "error" else "status"
    listed = f"<ul>{items}</ul>" if items else ""
    return f'<div class="train-lora-box" data-kind="{kind}" role="{role}"><b>{escape(title)}</b>{listed}</div>'


def empty(title: str, lines: Iterable[str] = (), way: tuple[str, str] | None = None) -> str:
    """What stands where there is nothing yet, and what to do about it. way: the words and the step of a button."""
    told = "".join(f"<span>{escape(line)}</span>" for line in lines)
    if way:
        told += f'<span><button type="button" class="train-lora-button" data-step="{way[1]}">{way[0]}</button></span>'
    return f'<div class="train-lora-empty"><b>{escape(title)}</b>{told}</div>'


_TO_PICTURES = ("Go to Pictures", "pictures")


# The sum beside the fields


def arithmetic(found: Sum | UserError | None) -> str:
    """Steps, memory and time of the training that the fields describe; None: no pictures are named yet."""
    if found is None:
        return empty("No pictures yet.", ["With pictures, their steps, memory and time appear here."], _TO_PICTURES)
    if isinstance(found, UserError):
        return _problems("warning", found)
    plan, costs = found.plan, found.costs
    facts = [
        ("Steps", f"{plan.steps:,}"),
        ("Steps an epoch", f"{plan.steps_per_epoch:,}"),
        ("Memory", span([size / _GIB for size in costs.memory], "GiB")),
        ("Time of the steps", duration(costs.seconds)),
    ]
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    formula = f"<p><code>{_formula(found)}</code> <span>pictures × repeats × epochs ÷ batch size</span></p>"
    short = (
        f"<p>{plan.extra_batches:,} batches an epoch come on top, since pictures of different shapes share none.</p>"
        if plan.extra_batches
        else ""
    )
    basis = _folded("How memory and time are reckoned", costs.basis)
    return f'<div class="train-lora-sum"><dl class="train-lora-facts">{listed}</dl>{formula}{short}{basis}</div>'


def _formula(found: Sum) -> str:
    folders = found.plan.folders
    terms = [f"{folder.pictures:,} × {folder.repeats:,}" for folder in folders if not folder.is_reg]
    regular = sum(folder.images for folder in folders if folder.is_reg)
    terms += [f"{regular:,}"] if regular else []
    images = " + ".join(terms)
    batch = found.settings.train_batch_size * found.settings.gradient_accumulation_steps
    images = f"({images})" if len(terms) > 1 else images
    if not found.settings.max_train_epochs:
        return f"{images} ÷ {batch:,} = {found.plan.steps_per_epoch:,}"
    exact = "=" if not found.plan.extra_batches else "≈"
    return f"{images} × {found.plan.epochs:,} ÷ {batch:,} {exact} {found.plan.steps:,}"


def span(ends: Sequence[float], unit: str) -> str:
    """Two numbers as a range: 5.2–7.8 GiB."""
    low, high = (f"{end:.0f}" if end >= 10 else f"{end:.1f}" for end in ends)
    return f"{low} {unit}" if low == high else f"{low}–{high} {unit}"


def duration(seconds: Sequence[float]) -> str:
    """A range of seconds in a unit that suits."""
    high = seconds[1]
    size, unit = (1, "s") if high < 120 else (60, "min") if high < 7200 else (3600, "h")
    return span([second / size for second in seconds], unit)


def aimed(found: Sum | UserError | None, wanted: int | None) -> str:
    """Which repeats, or else which epochs, make the wanted number of steps."""
    if not isinstance(found, Sum) or not found.aim:
        return "" if not wanted else note("warning", "There are no pictures to reckon with yet")
    aim = found.aim
    trained = [(f, n) for f, n in zip(found.plan.folders, aim.repeats, strict=True) if not f.is_reg]
    rows = [[as_it_is(folder.name), f"{folder.repeats:,}", f"<b>{repeats:,}</b>"] for folder, repeats in trained]
    table = _table(["Folder", "Repeats now", "Repeats then"], rows)
    return (
        '<div class="train-lora-aim">'
        f"<p>With other repeats, {aim.epochs_kept:,} epochs make {aim.steps_by_repeats:,} steps. "
        f"Rename the folders to these repeats:</p>{table}"
        f"<p>With the repeats as they are, {aim.epochs:,} epochs make {aim.steps_by_epochs:,} steps.</p></div>"
    )


# What was understood of the pictures


def pictures(found: Sum | UserError | None) -> str:
    """Folders, shapes and warnings."""
    if found is None:
        return empty(
            "No pictures yet.",
            [
                "Put 15 or more pictures of one person, thing or style into a folder, and name the folder.",
                "To look around first, press Fill in the demo.",
            ],
        )
    if isinstance(found, UserError):
        return _problems("warning", found)
    plan = found.plan
    rows = [
        [
            f"{as_it_is(folder.name)}{' <small>regularisation</small>' if folder.is_reg else ''}",
            f"{folder.pictures:,}",
            f"{folder.repeats:,}",
            f"{folder.images:,}",
        ]
        for folder in plan.folders
    ]
    if len(rows) > 1:
        total = sum(folder.pictures for folder in plan.folders)
        rows.append(["<b>Together</b>", f"<b>{total:,}</b>", "", f"<b>{plan.images:,}</b>"])
    heads = ["Folder", "Pictures", "Repeats", "Uses in an epoch"]
    return _table(heads, rows) + _shapes(found) + warnings(found.dataset.warnings)


def _shapes(found: Sum) -> str:
    plan = found.plan
    heads = ["Trained at", "Uses in an epoch", "Batches"]
    rows = [[f"{s.width} × {s.height}", f"{s.images:,}", f"{s.batches:,}"] for s in plan.buckets]
    several = len(rows) > 1
    if several:  # else there is nothing to compare
        heads += ["Places left empty", ""]
        most = max(shape.images for shape in plan.buckets)
        for row, shape in zip(rows, plan.buckets, strict=True):
            bar = f'<i class="train-lora-share" style="width:{100 * shape.images / most:.0f}%"></i>'
            row += [f"{shape.empty:,}", bar]
    lines = []
    if plan.enlarged == 1:
        lines.append("1 of them is smaller than that, and is enlarged.")
    elif plan.enlarged:
        lines.append(f"{plan.enlarged:,} of them are smaller than that, and are enlarged.")
    if plan.mean_ar_error >= 0.02 and not found.settings.enable_bucket:
        lines.append(
            "Pictures of other shapes are cut to this one. Switch Buckets on to train them in shapes of their own."
        )
    notes = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return _table(heads, rows, "train-lora-bars" if several else "") + notes


def warnings(lines: Sequence[str]) -> str:
    """What should be known of the pictures; nothing where there is nothing."""
    if not lines:
        return ""
    more = len(lines) - _MOST_WARNINGS
    told = [*map(sentence, lines[:_MOST_WARNINGS]), *([f"… and {more} more"] if more > 0 else [])]
    return note("warning", "About these pictures", told)


# A bake


def baked(report: dict[str, Any]) -> str:
    """The file and its error, block by block, from a bake's report."""
    rows = [_block(result) for result in [*report["blocks"], report["total"]]]
    heads = ["Block", "Modules", "Rank", "Size", "Relative error"]
    lines = [report["out"]]
    if report["left_out"]:
        lines.append(f"{len(report['left_out']):,} modules are left out, since their sum is 0")
    if report["unlisted"]:
        lines.append(f"Left out, since they are not among the 17 blocks: {', '.join(report['unlisted'])}")
    return note("ok", "The LoRA is written", lines) + _table(heads, rows)


def _block(result: dict[str, Any]) -> list[str]:
    least, greatest = result["rank_min"], result["rank_max"]
    rank = f"{least}" if least == greatest else f"{least}–{greatest}"
    name = escape(result["block"]) if result["block"] != "total" else "<b>Together</b>"
    return [name, f"{result['modules']:,}", rank, f"{result['norm']:.3g}", f"{result['relative_error']:.1e}"]


# Pieces


def as_it_is(name: object) -> str:
    """A name of the user's, which is not translated."""
    return f"<span data-as-it-is>{escape(str(name))}</span>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """heads are texts; the rows' cells are HTML. The first column is words, the others are numbers."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    classes = f"train-lora-table {kind}".strip()
    return f'<table class="{classes}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _folded(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence(line))}</li>" for line in lines)
    return f"<details><summary>{escape(title)}</summary><ul>{items}</ul></details>"


def imported(taken: dict[str, Any], refused: Sequence[tuple[str, str]]) -> str:
    """What a file of settings gave, and what of it was not taken over."""
    items = "".join(
        f"<li><b>{escape(name)}</b> <span>{escape(sentence(reason))}</span></li>" for name, reason in refused
    )
    box = _box("warning", "Not taken over", items) if refused else ""
    rows = [[f"<code>{escape(name)}</code>", as_it_is(value)] for name, value in taken.items()]
    values = _table(["Setting", "Value"], rows, "train-lora-captions")
    table = f"<details open><summary>Taken over</summary>{values}</details>"
    return box + (table if taken else note("warning", "Nothing in this file could be taken over"))
