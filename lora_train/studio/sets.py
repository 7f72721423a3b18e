"""Sets of pictures that a checkpoint draws itself: regularisation, and the pictures of its own style.

What is to be drawn is written down before the first picture is, so that a set that was stopped goes on where it was,
after a restart too, and ends in the same pictures. A set is a folder of a project, with a caption beside each picture.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..dataset.folders import MAX_REPEATS, shown
from ..errors import UserError, raise_all
from ..files import check_output_name, write_text
from ..settings.presets import preset
from . import style_plan
from .journal import Change
from .person_plan import clean
from .project import Project
from .style_plan import FACE, FULL, MAIN

REG, BASE, CONCEPT = "reg", "base", "concept"
KINDS = (REG, BASE, CONCEPT)
"""Regularisation; a checkpoint's own style, in three folders; pictures to be learnt in one."""

SUBJECT = "{1girl, solo|1boy, solo}, {smile|serious|looking away|open mouth}, {outdoors|indoors|simple background}"
VIEWS = {
    MAIN: "cowboy_shot, looking at viewer",
    FACE: "face_focus, close-up, portrait",
    FULL: "full_body, standing, shoes",
}
"""What S3's words add to the subject, for each class of a style."""

NEGATIVE = "lowres, bad anatomy, bad hands, text, watermark, signature"
SAMPLER = "Euler"
"""The one that grids begin with."""

_SHAPES = {MAIN: (2, 3), FACE: (1, 1), FULL: (2, 3)}
_SHARES = {MAIN: 0.68, FACE: 0.17, FULL: 0.15}
_STEP = 8
_LEAST, _MOST_SIDE = 64, 2048  # pixels
_FEWEST, _MOST = 12, 5000  # pictures
_BRACES = re.compile(r"\{([^{}]*)\}")
_WEIGHT = re.compile(r":\s*[-+]?[\d.]+\s*\)")
_PICTURE = re.compile(r"set([0-9]+)_[0-9]+")
_NETWORK = re.compile(r"<[^<>]*>")


class Render(Protocol):
    """What `Host.render` is with the shot's fields by name: a picture, or None once it was called off."""

    def __call__(self, shot: Mapping[str, Any], cancelled: Callable[[], bool]) -> Image.Image | None: ...


@dataclass(frozen=True)
class Part:
    """Pictures of one folder: `count` of them, `width` x `height`, the prompts in turn; of {a|b} one is taken.

    folder: below the project, such as "reg/5_woman". caption: of every picture; None: each one's prompt, as tags.
    """

    folder: str
    prompts: tuple[str, ...]
    count: int
    width: int = 512
    height: int = 512
    caption: str | None = None


@dataclass(frozen=True)
class Order:
    """A set as it was asked for. Picture n has the seed `seed` + n, counted over all parts."""

    id: str
    kind: str
    parts: tuple[Part, ...]
    checkpoint: str = ""
    negative_prompt: str = NEGATIVE
    seed: int = 1
    steps: int = 20
    cfg_scale: float = 7.0
    sampler: str = SAMPLER
    clip_skip: int = 1

    @property
    def count(self) -> int:
        """Pictures in all."""
        return sum(part.count for part in self.parts)

    def pictures(self) -> Iterator[tuple[Part, str, dict[str, Any]]]:
        """(part, file's name, fields of host.base.Shot) of each."""
        names = ("negative_prompt", "steps", "cfg_scale", "sampler", "clip_skip")
        same = {name: getattr(self, name) for name in names}
        number = 0
        for part in self.parts:
            for nth in range(part.count):
                seed = (self.seed + number) % 2**32
                number += 1
                prompt = varied(part.prompts[nth % len(part.prompts)], seed)
                shot = {"prompt": prompt, "seed": seed, "width": part.width, "height": part.height, **same}
                yield part, f"{self.id}_{number:04}.png", shot


@dataclass(frozen=True)
class Made:
    """A set and how far it is. entry: its last change in the journal, where one was made now."""

    order: Order
    made: int
    stopped: bool = False
    entry: int | None = None

    @property
    def whole(self) -> bool:
        """Nothing is missing."""
        return self.made >= self.order.count

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        order = self.order
        return {
            "id": order.id,
            "kind": order.kind,
            "checkpoint": order.checkpoint,
            "folders": [shown(part.folder) for part in order.parts],
            "made": self.made,
            "count": order.count,
            "whole": self.whole,
            "stopped": self.stopped,
            "entry": self.entry,
        }


# What is asked for


def regularisation(
    name: str, prompts: Sequence[str], count: int, repeats: int = 1, side: int = 512, kind: str = REG, **more: Any
) -> Order:
    """A set for the concept `name`: reg/<repeats>_<name>, or image/<repeats>_<name> where `kind` is "concept".

    more: width and height instead of `side`, and an Order's fields. Raises UserError naming each field.
    """
    size = (more.pop("width", None) or side, more.pop("height", None) or side)
    caption = more.pop("caption", None)
    word = clean(name)
    folder = f"{'image' if kind == CONCEPT else 'reg'}/{repeats}_{word}"
    part = Part(folder, tuple(prompts), count, *size, caption=caption)
    unnamed = [] if word else [UserError("no name is given", where="name", remedy="Name it as its concept")]
    raise_all([*unnamed, *_outside("repeats", repeats, 1, MAX_REPEATS)])
    return checked(Order(id="", kind=kind, parts=(part,), **more))


def base_style(
    name: str,
    count: int = 60,
    side: int = 512,
    subject: str = SUBJECT,
    views: Mapping[str, str] | None = None,
    **more: Any,
) -> Order:
    """The pictures of a checkpoint's own style, in S3's three classes, in folders whose repeats keep S3's rules.

    side: pixels of a square of the area that pictures have. Raises UserError.
    """
    raise_all([*_outside("count", count, _FEWEST, _MOST), *_outside("side", side, _LEAST, _MOST_SIDE)])
    number = {name: max(1, round(count * share)) for name, share in _SHARES.items()}
    number[FULL] = min(number[FULL], number[FACE] - 1)
    number[MAIN] = count - number[FACE] - number[FULL]
    others = {FULL: number[FULL]} if number[FULL] else {}
    word = clean(name)
    if not word:
        raise UserError("no name is given", where="name", remedy="Name it as the checkpoint")
    names = {view: f"{word} {view}" for view in VIEWS}
    plan = style_plan.plan(style_plan.Counts(number[MAIN], number[FACE], others, flipped=False), names=names)
    parts = [
        Part(f"image/{one.folder}", (f"{subject}, {(views or VIEWS)[one.name]}",), one.files, *sized(side, one.name))
        for one in plan.classes
    ]
    return checked(Order(id="", kind=BASE, parts=tuple(parts), **more))


def sized(side: int, view: str) -> tuple[int, int]:
    """Width and height of about side x side pixels for a class of a style, in multiples of 64, or of 8 below 256."""
    step = 64 if side >= 256 else _STEP
    across, down = _SHAPES[view]
    factor = side / (across * down) ** 0.5
    width, height = (max(_LEAST, round(length * factor / step) * step) for length in (across, down))
    return width, height


def checked(order: Order) -> Order:
    """Itself. Raises UserError naming each field that is wrong."""
    problems = []
    for part in order.parts:
        problems += _outside("count", part.count, 1, _MOST)
        for name in ("width", "height"):
            problems += _outside(name, side := getattr(part, name), _LEAST, _MOST_SIDE) or _uneven(name, side)
        if not part.prompts or not all(prompt.strip() for prompt in part.prompts):
            problems.append(UserError("no prompt is given", where="prompts", remedy="Write one a line"))
        check_output_name(part.folder.partition("/")[2])
    problems += _outside("seed", order.seed, 0, 2**32 - 1) + _outside("steps", order.steps, 1, 150)
    problems += _outside("cfg_scale", order.cfg_scale, 0, 100, False) + _outside("clip_skip", order.clip_skip, 1, 12)
    if order.kind not in KINDS:
        problems.append(UserError(f"{order.kind!r} is no kind", where="kind", remedy=f"Choose from {', '.join(KINDS)}"))
    raise_all(problems)
    return order


def _outside(name: str, value: Any, low: float, high: float, whole: bool = True) -> list[UserError]:
    """The error of a value that isn't a number in a range; none where it is."""
    kind = int if whole else (int, float)
    if not isinstance(value, bool) and isinstance(value, kind) and low <= value <= high:
        return []
    words = "a whole number" if whole else "a number"
    return [UserError(f"{value!r} is not {words} from {low:,} to {high:,}", where=name, remedy="Change it")]


def _uneven(name: str, side: int) -> list[UserError]:
    if side % _STEP == 0:
        return []
    remedy = f"Give {round(side / _STEP) * _STEP}"
    return [UserError(f"{side} is no multiple of {_STEP}", where=name, remedy=remedy)]


def varied(prompt: str, seed: int) -> str:
    """A prompt with one of each {a|b|c} taken, the same one for the same seed."""
    chance = random.Random(seed)
    return _BRACES.sub(lambda found: chance.choice(found[1].split("|")).strip(), prompt)


def caption_of(prompt: str) -> str:
    """A prompt as tags: without LoRAs, weights and brackets, underscores as spaces."""
    plain = _WEIGHT.sub("", _NETWORK.sub("", prompt)).replace("_", " ")
    tags = (" ".join(tag.strip(" ()[]\n").split()) for tag in plain.split(","))
    return ", ".join(dict.fromkeys(tag for tag in tags if tag))


def base_settings(project: Project, name: str, side: int, **more: Any) -> dict[str, Any]:
    """What trains a checkpoint's own style on the project of its set: the recipe for a style, eight epochs.

    name: the LoRA's. Mirroring at random makes up for the copies that a tagger would make.
    """
    return {
        **preset("style").values,
        "resolution": side,
        "flip_aug": True,
        "optimizer_fallback": True,
        "save_every_n_epochs": 4,
        "output_name": base_name(name),
        "train_data_dir": str(project.root),
        "training_comment": "the style of the checkpoint itself",
        **more,
    }


def base_name(checkpoint: str) -> str:
    """What the LoRA of a checkpoint's own style is called: the checkpoint's name with _BASE behind it."""
    word = re.sub(r"[^\w.-]+", "_", clean(checkpoint)).strip("._")[:60]
    return check_output_name(f"{word or 'checkpoint'}_BASE")


# Making it


def begin(project: Project, order: Order) -> Order:
    """The same with an id of its own in the project, written down: `go_on` makes it."""
    folder = _folder(project)
    numbers = [int(path.stem[3:]) for path in folder.glob("set*.json") if path.stem[3:].isdecimal()]
    drawn = (path.stem for root in (project.image, project.reg) for path in root.glob("*/set*.png"))
    numbers += [int(found[1]) for stem in drawn if (found := _PICTURE.fullmatch(stem))]  # sets forgotten since, too
    order = replace(checked(order), id=f"set{max(numbers, default=0) + 1}")
    write_text(folder / f"{order.id}.json", json.dumps(asdict(order), ensure_ascii=True, indent=1) + "\n")
    return order


def known(project: Project) -> list[Made]:
    """The sets of a project, the latest first; those that were taken back, or damaged, are left out."""
    found = [order for path in _folder(project).glob("set*.json") if (order := _read(path))]
    return [_counted(project, order) for order in sorted(found, key=lambda order: -int(order.id[3:]))]


def find(project: Project, id: str) -> Made:
    """The set of that id. Raises UserError."""
    made = next((one for one in known(project) if one.order.id == id), None)
    if made is None:
        raise UserError("the project has no such set", where="set", remedy="Look at the list of sets")
    return made


def forget(project: Project, id: str) -> None:
    """Don't offer to go on with it; its pictures stay."""
    find(project, id)
    (_folder(project) / f"{id}.json").unlink(missing_ok=True)


def go_on(
    project: Project,
    id: str,
    render: Render,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Made:
    """Draw what is missing of a set, as one change of the journal. Raises UserError; what was drawn by then stays."""
    order = find(project, id).order
    places = _places(project, order)
    todo = [(part, path, shot) for part, path, shot in places if not path.is_file()]
    done = len(places) - len(todo)
    if not todo:
        return Made(order, done)
    if progress:
        progress(done, order.count)
    names = ", ".join(dict.fromkeys(path.parent.name for _, path, _ in todo))
    stopped = False
    with project.journal.change(f"{len(todo)} pictures drawn: {names}") as change:
        for part, path, shot in todo:
            picture = None if cancelled() else render(shot, cancelled)
            if stopped := picture is None:
                break
            assert picture is not None
            _save(change, path, picture, shot, part, order)
            done += 1
            if progress:
                progress(done, order.count)
    return Made(order, done, stopped, change.number if change.steps else None)


def _save(change: Change, path: Path, picture: Image.Image, shot: Mapping[str, Any], part: Part, order: Order) -> None:
    info = PngInfo()
    info.add_text("parameters", _parameters(shot, order))
    caption = caption_of(shot["prompt"]) if part.caption is None else part.caption
    change.create(path, lambda file: picture.convert("RGB").save(file, "PNG", pnginfo=info))
    change.write(path.with_suffix(".txt"), caption.encode("utf-8"))


def _parameters(shot: Mapping[str, Any], order: Order) -> str:
    """As the WebUI's PNG Info reads them."""
    rows = [f"Steps: {shot['steps']}", f"Sampler: {shot['sampler']}", f"CFG scale: {shot['cfg_scale']:g}"]
    rows += [f"Seed: {shot['seed']}", f"Size: {shot['width']}x{shot['height']}"]
    rows += [f"Model: {order.checkpoint}"] if order.checkpoint else []
    rows += [f"Clip skip: {shot['clip_skip']}"] if shot["clip_skip"] > 1 else []
    negative = [f"Negative prompt: {shot['negative_prompt']}"] if shot["negative_prompt"] else []
    return "\n".join([shot["prompt"], *negative, ", ".join(rows)])


def places(project: Project, order: Order) -> list[Path]:
    """The folders that a set's pictures are in or go to."""
    return sorted({path.parent for _, path, _ in _places(project, order)})


def _places(project: Project, order: Order) -> list[tuple[Part, Path, dict[str, Any]]]:
    """Where each picture is or goes: the folder, or the one that it was renamed to when repeats changed."""
    roots = {"reg": project.reg, "image": project.image}
    folders: dict[str, Path] = {}
    for part in order.parts:
        where, _, name = part.folder.partition("/")
        asked = roots[where] / name
        word = name.partition("_")[2]
        others = [c.folder for c in project.concepts() if c.folder.parent == roots[where] and c.name == word]
        folders[part.folder] = asked if asked.is_dir() or not others else others[0]
    return [(part, folders[part.folder] / name, shot) for part, name, shot in order.pictures()]


def _counted(project: Project, order: Order) -> Made:
    return Made(order, sum(path.is_file() for _, path, _ in _places(project, order)))


def _read(path: Path) -> Order | None:
    """None for a file that can't be understood."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        names = {one.name for one in fields(Order)}
        parts = tuple(Part(**{**part, "prompts": tuple(part["prompts"])}) for part in held.pop("parts"))
        order = Order(parts=parts, **{name: value for name, value in held.items() if name in names})
        roots = {part.folder.partition("/")[0] for part in parts}
        return (
            checked(order) if order.id == path.stem and order.id[3:].isdecimal() and roots <= {"reg", "image"} else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return None


def _folder(project: Project) -> Path:
    return project.work / "sets"
