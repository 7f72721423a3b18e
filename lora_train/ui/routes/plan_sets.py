"""Routes of the planners of a project's folders, and of the sets of pictures that the host's checkpoint draws.

A picture is named by its id among those of a project that was opened, never by a path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException, Query

from ...dataset.folders import shown
from ...errors import UserError
from ...files import check_output_name
from ...header import usual_side
from ...host.base import Checkpoint, Shot
from ...jobs.manager import Manager
from ...studio import faces, person_folders, person_plan, plan_folders, sets, style_sort
from ...studio import project as projects
from ...studio.person_plan import Part, PersonPlan
from ...studio.project import Project
from ...studio.sets import Made, Order
from ...studio.style_plan import VARIANTS, Rules
from ...studio.style_sort import Item, Sorting
from .. import guard
from . import schemas_sets as shapes
from .base import Body, Reader, Route, restricted
from .schemas import NOTHING, ref
from .tasks import TASKS, Task

_BODY = Depends(guard.json_body)
_CLASS = Query("", alias="class")  # Annotated is newer than the WebUI's FastAPI
_DRAWN = ("negative_prompt", "seed", "steps", "cfg_scale", "sampler", "clip_skip")
_FIELDS = ("train_data_dir", "reg_data_dir", "dataset_config", "conditioning_data_dir")
_MOST_STEPS = 10**9
_MOST_PICTURES = 500  # of an answer
_CANT = "this host draws no single pictures"


class PlanSets:
    """Each public method but `routes` is one route's answer."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Reading first."""
        get, post, one = "GET", "POST", "/sets/{project}"
        task, started, style = ref("TaskStarted"), ref("SetStarted"), ref("StyleSorting")
        told, plan, person = ref("BaseStyle"), ref("PersonPlan"), ref("PersonParts")
        return [
            Route(get, "/sets/base-style", self.base_style, "The checkpoint's own style, as far as it is there", told),
            Route(get, one + "/style", self.style, "A style's plan, and how many pictures each class has", style),
            Route(
                *(get, one + "/style/pictures", self.lane, "Some of a class's pictures", ref("StylePictures")),
                query=shapes.LANE,
            ),
            Route(
                *(get, one + "/style/ids", self.lane_ids, "The ids of a class's pictures", ref("PictureIds")),
                query=shapes.CLASS,
            ),
            Route(get, one + "/person", self.person, "A project's concepts for the plan of a person", person),
            Route(get, one + "/made", self.made, "Sets that a checkpoint draws", ref("DrawnSets")),
            Route(post, one + "/style", self.sort, "Sort pictures, and plan anew", style, shapes.SORT),
            Route(post, one + "/style/look", self.look, "Suggest classes, find variants", task, shapes.LOOK),
            Route(post, one + "/style/write", self.write, "Write the plan's folders", task, NOTHING),
            Route(post, one + "/person", self.person_plan, "Steps, repeats, epochs of a person", plan, shapes.PERSON),
            Route(
                *(post, one + "/person/write", self.person_write, "Give the folders the plan's repeats"),
                *(ref("PersonWritten"), shapes.PERSON),
            ),
            Route(post, one + "/make", self.make, "Draw a set with the host's checkpoint", started, shapes.MAKE),
            Route(post, one + "/go-on", self.go_on, "Go on with a set that was stopped", started, shapes.SET),
            Route(post, one + "/forget", self.forget, "Don't go on with a set; pictures stay", NOTHING, shapes.SET),
            Route(
                post, "/sets/base-style", self.train_base, "Draw and train the checkpoint's style", started, shapes.BASE
            ),
        ]

    # A style

    def style(self, project: str) -> dict[str, Any]:
        """Pictures that weren't looked at yet have no size; see style/look."""
        found = self._project(project)
        sorting = style_sort.load(found)
        return self._planned(found, sorting, style_sort.items(found, sorting))

    def lane(
        self,
        project: str,
        name: str = _CLASS,
        offset: int = 0,
        limit: int = 100,
    ) -> dict[str, Any]:
        """Variants first, then in their folders' order; class "": those that are in none."""
        lane = self._lane(project, name)
        offset, limit = max(0, offset), min(max(1, limit), _MOST_PICTURES)
        rows = [item.as_dict() for item in lane[offset : offset + limit]]
        return {"total": len(lane), "offset": offset, "pictures": rows}

    def lane_ids(self, project: str, name: str = _CLASS) -> dict[str, Any]:
        """In the same order."""
        return {"ids": [item.id for item in self._lane(project, name)]}

    def _lane(self, project: str, name: str) -> list[Item]:
        found = self._project(project)
        sorting = style_sort.load(found)
        if name and name not in sorting.all_classes:
            remedy = f"Choose from {', '.join(sorting.all_classes)}"
            raise UserError(f"{name!r} is no class", where="class", remedy=remedy)
        return style_sort.lane(style_sort.items(found, sorting), name)

    def sort(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Whatever is given is changed. Answers the plan, `pictures` that are others now, and `before` to undo it.

        Of pictures as many as a page may have; before: {"classes"}, as it would be sent.
        """
        found = self._project(project)
        with style_sort.changing(found):
            before = style_sort.load(found)
            items = style_sort.items(found, before)
            sorting = _changed(before, items, body)
            after = style_sort.items(found, sorting) if sorting != before else items
            answer = self._planned(found, sorting, after)
            if sorting != before:
                style_sort.save(found, sorting)
        others = [new for old, new in zip(items, after, strict=True) if old is not new and old != new]
        sent = body.get("classes") or {}
        former = {item.id: before.chosen.get(item.key) for item in items if item.id in sent}
        told = {"pictures": [item.as_dict() for item in others[:_MOST_PICTURES]], "different": len(others)}
        return {**answer, **told, "before": {"classes": former}}

    def look(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task. What was sorted by hand stays as it is."""
        found = self._project(project)
        given = Reader(body, ("detector",))
        name = given.text("detector", "")
        given.check()
        detector = faces.detector(name, self._models()) if name else None

        def work(task: Task) -> dict[str, Any]:
            detect = detector.detect if detector else None
            looked = style_sort.look_through(found, style_sort.load(found), detect, _counter(task), task.stop)
            with style_sort.changing(found):  # what was sorted by hand meanwhile counts
                sorting = looked.onto(style_sort.load(found))
                style_sort.save(found, sorting)
            style_sort.items(found, style_sort.load(found))  # remembered for the page, which asks for the plan now
            return {"project": found.id, "pictures": len(sorting.suggested)}

        text = f"looking at the pictures of {found.name}"
        return {"task": TASKS.start("style-look", text, work, writes=[found.scan_cache])}

    def write(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task; its result names the settings that follow."""
        found = self._project(project)
        Reader(body, ()).check()
        sorting = style_sort.load(found)

        def work(task: Task) -> dict[str, Any]:
            written = style_sort.write(found, sorting, _counter(task), task.stop)
            more = {"max_train_epochs": 8, "keep_tokens": 3, "shuffle_caption": True, "noise_offset": 0.1}
            return {"project": found.id, **written.as_dict(), "fields": {**_training(found), **more}}

        text = f"writing the folders of {found.name}"
        return {"task": TASKS.start("style-write", text, work, writes=[found.image, found.masks])}

    # A person

    def person(self, project: str) -> dict[str, Any]:
        """Those that are trained on."""
        found = self._project(project)
        parts = [asdict(part) for part in person_folders.parts_of(found)]
        return {"parts": parts, "usual": {name: list(pair) for name, pair in person_plan.USUAL.items()}}

    def person_plan(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Changes nothing."""
        self._project(project)
        return _person(body).as_dict()

    def person_write(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Folders of the project get other names; pictures elsewhere are copied. Undone by the project's journal."""
        found, plan = self._project(project), _person(body)
        TASKS.check(found.image, found.reg, found.masks)
        done = person_folders.apply(found, plan)
        more = {"max_train_epochs": plan.epochs, "train_batch_size": plan.batch_size}
        told = {"renamed": [list(pair) for pair in done.renamed], "copied": list(done.copied)}
        return {**told, "entries": list(done.entries), "fields": {**_training(found), **more}}

    # Sets

    def made(self, project: str) -> dict[str, Any]:
        """The latest first; with what a new one begins with."""
        found = self._project(project)
        checkpoint = self._manager.host.checkpoint()
        return {
            "sets": [made.as_dict() for made in sets.known(found)],
            "checkpoint": checkpoint.title if checkpoint else None,
            "can": self._can_draw() and checkpoint is not None,
            "side": _side(checkpoint),
            "negative_prompt": sets.NEGATIVE,
            "views": {name: f"{sets.SUBJECT}, {words}" for name, words in sets.VIEWS.items()},
            "concepts": [part.name for part in person_folders.parts_of(found)],
        }

    def make(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task."""
        found, checkpoint = self._project(project), self._drawing()
        known = ("kind", "name", "prompts", "count", "repeats", "width", "height", "caption", *_DRAWN)
        given = Reader(body, known)
        side = _side(checkpoint)
        size = {name: given.whole(name, 64, 2048, side) for name in ("width", "height")}
        kind, caption = given.text("kind", sets.REG), body.get("caption")
        name, repeats = given.text("name"), given.whole("repeats", 1, 10_000, 1)
        count, drawn = given.whole("count", 1, 5000, needed=True), _drawn(given, body, checkpoint)
        given.check()
        prompts = _texts(body, "prompts")
        if kind == sets.BASE or not (caption is None or isinstance(caption, str)):
            raise UserError("is not right", where="kind" if kind == sets.BASE else "caption", remedy="See openapi.json")
        title: dict[str, Any] = {"checkpoint": checkpoint.title, "caption": caption}
        TASKS.check(model=True)
        order = sets.regularisation(name, prompts, count, repeats, kind=kind, **size, **title, **drawn)
        return self._draw(found, sets.begin(found, order))

    def go_on(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task. With another checkpoint than before the set would be mixed, so that is refused."""
        found, checkpoint = self._project(project), self._drawing()
        order = sets.find(found, _set(body)).order
        _same_checkpoint(order, checkpoint)
        return self._draw(found, order)

    def forget(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Takes it off the list."""
        sets.forget(self._project(project), _set(body))
        return {}

    # The checkpoint's own style

    def base_style(self) -> dict[str, Any]:
        """name: of the LoRA to be; lora: where it is, below the LoRA folder, once it is there."""
        checkpoint = self._manager.host.checkpoint()
        if checkpoint is None:
            return {"name": "", "recipe": "", "lora": None, "can": False, "sets": []}
        name, project = self._base(checkpoint)
        there = project.root.is_dir()
        file = self._manager.host.lora_dir() / name / f"{name}.safetensors"
        made = [one.as_dict() for one in sets.known(project)] if there else []
        return {
            "name": name,
            "checkpoint": checkpoint.title,
            "can": self._can_draw(),
            "project": project.id if there else None,
            "folder": shown(str(project.root)),
            "sets": made,
            "lora": f"{name}/{name}" if file.is_file() else None,
            "recipe": f"LORA:1:GP1,{name}/{name}:-1:GP2",
            "side": _side(checkpoint),
            "subject": sets.SUBJECT,
            "negative_prompt": sets.NEGATIVE,
        }

    def train_base(self, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task: draws the set, or what is missing of it, and puts the training into the queue."""
        checkpoint = self._drawing()
        given = Reader(body, ("count", "side", "subject", "settings", "again", *_DRAWN))
        count, side = given.whole("count", 12, 5000, 60), given.whole("side", 64, 2048, _side(checkpoint))
        subject, values, again = given.text("subject", sets.SUBJECT), given.table("settings") or {}, given.flag("again")
        drawn = _drawn(given, body, checkpoint)
        given.check()
        TASKS.check(model=True)
        name, project = self._base(checkpoint, again)
        order = sets.base_style(name.removesuffix("_BASE"), count, side, subject, checkpoint=checkpoint.title, **drawn)
        self._checked(project.root)
        made = projects.make(project.root).project
        assert made is not None
        former = [one.order for one in sets.known(made) if one.order.kind == sets.BASE]
        if former:
            _same_checkpoint(former[0], checkpoint)
        order = former[0] if former else sets.begin(made, order)
        projects.remember(self._manager.host.data_dir(), made)

        def then(task: Task, done: Made) -> dict[str, Any]:
            own = {"pretrained_model_name_or_path": str(checkpoint.path), **values}
            settings = {**sets.base_settings(made, name.removesuffix("_BASE"), side), **own, **_training(made)}
            return {"job": self._manager.start(settings), "lora": f"{name}/{name}", "name": name}

        return self._draw(made, order, "base-style", then)

    # Details

    def _draw(
        self,
        project: Project,
        order: Order,
        kind: str = "set",
        then: Callable[[Task, Made], dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """The task that draws a set; `then` comes when it is whole."""
        host = self._manager.host

        def work(task: Task) -> dict[str, Any]:
            task.result = {"project": project.id, "set": order.id}  # so that a page that comes later knows it

            def render(shot: Mapping[str, Any], cancelled: Callable[[], bool]) -> Any:
                return host.render(Shot(**shot), cancelled)

            done = sets.go_on(project, order.id, render, _counter(task), task.stop.is_set)
            told = {"project": project.id, "set": order.id, **done.as_dict(), "fields": _training(project)}
            if done.whole and then and not task.stop.is_set():
                told |= then(task, done)
            return told

        text = f"drawing {order.count} pictures of {order.checkpoint}"
        task = TASKS.start(kind, text, work, model=True, writes=sets.places(project, order))
        return {"task": task, "set": order.id, "project": project.id}

    def _base(self, checkpoint: Checkpoint, again: bool = False) -> tuple[str, Project]:
        """(name of the LoRA, the latest project of its pictures or, `again`, the next; it may not be there yet)."""
        name = sets.base_name(checkpoint.path.stem)
        folder = self._manager.host.data_dir() / "base-styles"
        word = name.removesuffix("_BASE")
        names = [word, *(f"{word} {number}" for number in range(2, 1000))]
        number = next(n for n, one in enumerate(names) if not (folder / one).is_dir())
        return name, Project(folder / names[number if again or not number else number - 1])

    def _can_draw(self) -> bool:
        return "render" in self._manager.host.capabilities()

    def _drawing(self) -> Checkpoint:
        """The checkpoint to draw with. Raises UserError."""
        checkpoint = self._manager.host.checkpoint()
        if checkpoint is None:
            raise UserError("no checkpoint is chosen", where="checkpoint", remedy="Choose one at the top")
        if not self._can_draw():
            raise UserError(_CANT, where=self._manager.host.name, remedy="Draw the set there, and name its folder")
        return checkpoint

    def _models(self) -> list[Path]:
        return [self._manager.host.lora_dir().parent]

    def _planned(self, project: Project, sorting: Sorting, items: Sequence[Item]) -> dict[str, Any]:
        problem = None
        plan = None
        try:
            plan = style_sort.planned(items, sorting)
        except UserError as error:
            problem = str(error)
        counts = style_sort.counts(items, sorting)
        tally = Counter(item.name for item in items)
        written = plan_folders.planned(project)
        options = ("flipped", "colour", "variants", "tolerance", "repeats")
        return {
            "classes": list(sorting.all_classes),
            "own_classes": list(sorting.classes),
            "counts": {**{name: tally[name] for name in ("", *sorting.all_classes)}, VARIANTS: sum(counts.variants)},
            "groups": list(counts.variants),
            "grey": counts.grey,
            "unseen": sum(not item.width and not item.problem for item in items),
            "plan": None if plan is None else plan.as_dict(),
            "problem": problem,
            "written": {group: shown(name) for group, name in written.folders.items()},
            "rules": asdict(Rules(tolerance=sorting.tolerance)),
            "style": sorting.style,
            "names": dict(sorting.names),
            "options": {name: getattr(sorting, name) for name in options},
            "detectors": [{"name": one, "title": faces.TITLES[one]} for one in faces.available(self._models())],
        }

    def _may(self, path: Path) -> bool:
        """Whether this host lets a path be read and written."""
        if not restricted(self._manager):
            return True
        real = path.resolve()
        return any(real.is_relative_to(one.expanduser().resolve()) for one in self._manager.host.picture_folders())

    def _checked(self, path: Path) -> None:
        if not self._may(path):
            raise HTTPException(403, "it lies outside the WebUI's own folders")

    def _project(self, project: str) -> Project:
        try:
            found = projects.by_id(self._manager.host.data_dir(), project)
        except UserError as error:
            raise HTTPException(404, str(error)) from None
        self._checked(found.root)
        for part in (*found.parts(), found.masks, found.work):
            self._checked(part)
        if restricted(self._manager):
            for concept in found.concepts():
                self._checked(concept.folder)
                for picture in concept.pictures:
                    if picture.is_symlink():
                        self._checked(picture)
        return found


def _changed(sorting: Sorting, items: Sequence[Item], body: Body) -> Sorting:
    """What is kept once these changes are made. Raises UserError."""
    flags = ("flipped", "colour", "variants")
    known = ("classes", "join", "split", "add_class", "drop_class", "names", "repeats", "tolerance", "style", *flags)
    given = Reader(body, known)
    classes, names, repeats = given.table("classes"), given.table("names"), given.table("repeats")
    style, add, drop = given.text("style", sorting.style), given.text("add_class", ""), given.text("drop_class", "")
    tolerance = given.number("tolerance", sorting.tolerance)
    options: dict[str, Any] = {name: given.flag(name) for name in flags if name in body}
    given.check()
    keys = {item.id: item.key for item in items}
    if add:
        sorting = replace(sorting, classes=(*sorting.classes, _new_class(sorting, add)))
    if drop:
        left = tuple(name for name in sorting.classes if name != drop)
        kept = {key: name for key, name in sorting.chosen.items() if name != drop or drop not in sorting.classes}
        sorting = replace(sorting, classes=left, chosen=kept)
    if classes is not None:
        chosen = dict(sorting.chosen)
        for picture, name in classes.items():
            if not (name is None or name in sorting.all_classes):
                remedy = f"Choose from {', '.join(sorting.all_classes)}"
                raise UserError(f"{name!r} is no class", where="classes", remedy=remedy)
            chosen[_key(keys, picture)] = name or ""
        sorting = replace(sorting, chosen={key: name for key, name in chosen.items() if name})
    if "join" in body:
        sorting = style_sort.together(sorting, [_key(keys, one) for one in _texts(body, "join")])
    if "split" in body:
        sorting = style_sort.apart(sorting, [_key(keys, one) for one in _texts(body, "split")])
    if names is not None:
        options["names"] = {str(name): person_plan.clean(str(words)) for name, words in names.items()}
    if "repeats" in body:
        options["repeats"] = None if repeats is None else {str(name): n for name, n in repeats.items()}
    if not 0 <= tolerance <= 3:
        raise UserError(f"{tolerance!r} isn't from 0 to 3", where="tolerance", remedy="0.2 is usual")
    return replace(sorting, style=person_plan.clean(style), tolerance=tolerance, **options)


def _new_class(sorting: Sorting, name: str) -> str:
    word = check_output_name(person_plan.clean(name))
    if word.casefold() in {one.casefold() for one in (*sorting.all_classes, VARIANTS)}:
        raise UserError(f"there is a class {word!r}", where="add_class", remedy="Give it another name")
    return word


def _key(keys: Mapping[str, str], picture: str) -> str:
    if picture not in keys:
        raise UserError("the project has no such picture", where="picture", remedy="Read the folder again")
    return keys[picture]


def _person(body: Body) -> PersonPlan:
    given = Reader(body, ("parts", "epochs", "batch_size", "steps", "find"))
    epochs, batch = given.whole("epochs", 1, 10_000, 10), given.whole("batch_size", 1, 1024, 1)
    steps, find = given.whole("steps", 1, _MOST_STEPS), given.text("find", "steps")
    given.check()
    parts = [Part.from_dict(one) for one in _dicts(body, "parts")]
    if find not in ("steps", "repeats", "epochs"):
        raise UserError(f"{find!r} can't be found", where="find", remedy="Choose from steps, repeats, epochs")
    if find == "steps" or steps is None:
        return person_plan.plan(parts, epochs, batch)
    if find == "repeats":
        return person_plan.with_repeats(parts, steps, epochs, batch)
    return person_plan.with_epochs(parts, steps, batch)


def _training(project: Project) -> dict[str, str]:
    """The fields that train on the project's folders."""
    values = projects.training(project)
    return {name: values.get(name, "") for name in _FIELDS}


def _drawn(given: Reader, body: Body, checkpoint: Checkpoint) -> dict[str, Any]:
    """How a set's pictures are drawn, from those of _DRAWN that are given."""
    found = {
        "seed": given.whole("seed", 0, 2**32 - 1, 1),
        "steps": given.whole("steps", 1, 150, 20),
        "clip_skip": given.whole("clip_skip", 1, 12, checkpoint.clip_skip),
        "cfg_scale": given.number("cfg_scale", 7.0),
        "negative_prompt": given.text("negative_prompt", sets.NEGATIVE),
        "sampler": given.text("sampler", sets.SAMPLER),
    }
    return {name: value for name, value in found.items() if name in body or name == "clip_skip"}


def _same_checkpoint(order: Order, checkpoint: Checkpoint) -> None:
    if order.checkpoint and order.checkpoint != checkpoint.title:
        what = f"it was begun with {order.checkpoint}, and {checkpoint.title} is chosen"
        raise UserError(what, where="checkpoint", remedy=f"Choose {order.checkpoint}, or draw a new set")


def _side(checkpoint: Checkpoint | None) -> int:
    return usual_side(checkpoint.path) if checkpoint else 512


def _counter(task: Task) -> Callable[[int, int], None]:
    def count(done: int, total: int) -> None:
        task.done, task.total = done, total

    return count


def _set(body: Body) -> str:
    given = Reader(body, ("set",))
    wanted = given.text("set")
    given.check()
    return wanted


def _texts(body: Body, name: str) -> list[str]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UserError("is no list of texts", where=name, remedy="See openapi.json")
    return value


def _dicts(body: Body, name: str) -> list[dict[str, Any]]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise UserError("is no list of JSON objects", where=name, remedy="See openapi.json")
    return value
