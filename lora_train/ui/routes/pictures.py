"""Routes of the step Pictures: projects, the scan, pages and thumbnails, cuts and masks, and what was changed.

A picture is named by its id among those of a project that was opened, never by a path.
"""

from __future__ import annotations

import base64
import io
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException
from fastapi.responses import FileResponse, Response
from PIL import Image

from ...dataset import images
from ...dataset.folders import list_folder, shown
from ...errors import UserError
from ...files import check_output_name
from ...jobs.manager import Manager
from ...studio import crops, faces, look, masks, thumbnails
from ...studio import project as projects
from ...studio.crops import Box, Cut, Options
from ...studio.project import Concept, Opened, Project
from ...studio.scan import FINDINGS, Report, scan
from .. import guard
from . import caption_studio
from . import schemas_pictures as shapes
from .base import Body, Reader, Route, no_picture, restricted
from .schemas import ANYTHING, BLANK, NOTHING, listed, ref
from .tasks import TASKS, Task

_BODY = Depends(guard.json_body)
_MOST_PROBLEMS = 20
_KNOWN_REPORTS = 4
_MOST_PIXELS = 4096 * 4096  # of a mask that is sent
_PREVIEW = 768  # pixels of a preview's longer side
_KEEP = {"Cache-Control": "private, max-age=604800"}  # thumbnails are asked for with their picture's time of change
_OPEN = "Put the pictures into the WebUI's folder, or start it with --gradio-allowed-path FOLDER"
_UNSCANNED = ("captioned", "uncaptioned", "masked", "unmasked")


class Pictures:
    """Each public method but `routes` is one route's answer."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Reading first."""
        get, post, one = "GET", "POST", "/pictures/{project}"
        told, task, folder = ref("PictureProject"), ref("TaskStarted"), shapes.FOLDER
        page, ids = ref("PicturePage"), ref("PictureIds")
        return [
            Route(get, "/pictures/projects", self.projects, "Projects that were opened", listed("PictureProjectName")),
            Route(get, one, self.project, "A project: its folders, masks and changes", told),
            Route(get, one + "/report", self.report, "What the last scan found", ANYTHING),
            Route(get, one + "/page", self.page, "Some of a project's pictures", page, query=shapes.PAGE),
            Route(get, one + "/ids", self.ids, "The ids of all pictures of a filter", ids, query=shapes.FILTER),
            Route(
                get,
                one + "/thumbnails/{picture}/{side}.jpg",
                self.thumbnail,
                "A picture, small",
                "image/jpeg",
                query=BLANK,
            ),
            Route(get, one + "/masks/{picture}.png", self.mask, "A picture's mask", "image/png"),
            Route(post, "/pictures/understand", self.understand, "What a folder is", ref("PictureFolder"), folder),
            Route(post, "/pictures/folders", self.folders, "The folders in a folder", ref("PictureFolders"), folder),
            Route(post, "/pictures/open", self.open, "Open the project that a folder belongs to", told, folder),
            Route(post, "/pictures/make", self.make, "Make a project, or of what a folder holds", told, shapes.MAKE),
            Route(post, one + "/forget", self.forget, "Take it off the list", NOTHING, NOTHING),
            Route(post, one + "/add", self.add, "Use the pictures of a folder elsewhere", told, folder),
            Route(post, one + "/drop", self.drop, "Use a folder elsewhere no longer", told, shapes.CONCEPT),
            Route(post, one + "/use", self.use, "Train on a folder, or leave it out", told, shapes.USE),
            Route(post, one + "/fields", self.fields, "The settings that train on it", ANYTHING, shapes.FIELDS),
            Route(post, one + "/scan", self.scan, "Look at every picture", task, NOTHING),
            Route(post, one + "/boxes", self.boxes, "Which parts of a picture a way would cut", ANYTHING, shapes.BOXES),
            Route(post, one + "/preview", self.preview, "A cut as it would be", ANYTHING, shapes.PREVIEW),
            Route(post, one + "/cut", self.cut, "Cut pictures into folders of the project", task, shapes.CUT),
            Route(post, one + "/masks", self.masks, "Make masks of many pictures", task, shapes.MASKS),
            Route(post, one + "/masks/{picture}", self.paint, "A mask that was drawn", told, shapes.PAINT),
            Route(post, one + "/unmask", self.unmask, "Take masks away", told, shapes.SOME),
            Route(post, one + "/undo", self.undo, "Take a change back", ref("PicturesUndone"), shapes.UNDO),
        ]

    # Projects

    def projects(self) -> list[dict[str, Any]]:
        """The latest first."""
        found = [r for r in projects.recent(self._data) if r.there and self._may(r.project.root)]
        return [{"id": r.project.id, "name": r.project.name, "folder": _told(r.project.root)} for r in found]

    def project(self, project: str) -> dict[str, Any]:
        """Changes nothing."""
        return self._described(self._project(project))

    def understand(self, body: Body = _BODY) -> dict[str, Any]:
        """Changes nothing."""
        opened = projects.understand(self._folder(body))
        told, found = _said(opened), opened.project
        if found is None and not opened.choices:
            found = next((r.project for r in projects.recent(self._data) if opened.folder in r.project.sources()), None)
            if found and found.root.is_dir() and self._may(found.root):
                told["said"] = [f"The project {found.name} uses these pictures already"]
            else:
                found = None
        return {**told, "project": self._known(found)}

    def folders(self, body: Body = _BODY) -> dict[str, Any]:
        """For choosing one: names of the folders in `folder`, and how many pictures lie in itself."""
        given = Reader(body, ("folder",))
        wanted = given.text("folder", "")
        given.check()
        if not wanted.strip():
            roots = self._manager.host.picture_folders() if restricted(self._manager) else [Path.home()]
            wanted = str(roots[0]) if roots else ""
        path = projects.existing(self._checked(wanted), "folder")
        listing = list_folder(path)
        above = path.parent if path.parent != path and self._may(path.parent) else None
        inner = [{"name": shown(one.name), "folder": _told(one)} for one in listing.folders if self._may(one)]
        told = {"folder": _told(path), "above": _told(above) if above else None, "pictures": len(listing.pictures)}
        return {**told, "folders": inner}

    def open(self, body: Body = _BODY) -> dict[str, Any]:
        """422 where there is none."""
        return self._opened(projects.open_project(self._folder(body)))

    def make(self, body: Body = _BODY) -> dict[str, Any]:
        """image/, models/, log/ and reg/, or what is missing of them; pictures stay where they are."""
        given = Reader(body, ("folder", "name"))
        folder, name = given.text("folder"), given.text("name", "").strip()
        given.check()
        if name:
            folder = str(Path(folder).expanduser() / check_output_name(name))
        path = self._checked(folder)
        if restricted(self._manager):
            self._checked(path.parent)  # a project may be made beside the pictures
            known = projects.understand(path).project if path.is_dir() else None
            if known:
                self._checked(known.root)
        return self._opened(projects.make(path))

    def forget(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Its folder stays."""
        projects.forget(self._data, self._project(project))
        return {}

    def add(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """They stay where they are."""
        found = self._project(project)
        said = projects.add(found, self._folder(body))
        return {**self._described(found), "said": list(said)}

    def drop(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """The folder stays."""
        found = self._project(project)
        concept = self._concept(found, body, ("concept",))
        source = next((s for s in found.sources() if concept.folder in (s, s / concept.folder.name)), concept.folder)
        projects.drop(found, source)
        return self._described(found)

    def use(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """The folder stays as it is."""
        found, given = self._project(project), Reader(body, ("concept", "used"))
        used = given.flag("used")
        given.check()
        projects.use(found, self._concept(found, body, ("concept", "used")).folder, used)
        return self._described(found)

    def fields(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Settings by name. masks: train with the project's masks, for whose sake white ones are added; or without."""
        found, given = self._project(project), Reader(body, ("masks",))
        wanted = given.flag("masks") if "masks" in body else masks.used(found)
        given.check()
        if wanted != masks.used(found):
            masks.use(found, wanted)
        added = masks.complete(found) if wanted else 0
        names = ("train_data_dir", "reg_data_dir", "dataset_config", "conditioning_data_dir")
        values = projects.training(found)
        return {"fields": {name: shown(values[name]) for name in names}, "masks": wanted, "added": added}

    # What is there

    def scan(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task. Pictures that did not change since the last scan aren't read again."""
        found = self._project(project)

        def work(task: Task) -> dict[str, Any]:
            def count(done: int, total: int) -> None:
                task.done, task.total = done, total

            parts, out = self._parts(found), found.left_out()
            made = scan(found.root, found.scan_cache, count, task.stop, parts=parts, left_out=out)
            _REPORTS.put(found, made)
            if not task.stop.is_set():
                caption_studio.read_ahead(found.root)
            return {"project": found.id, "pictures": len(made.pictures), "reused": made.reused}

        return {"task": TASKS.start("scan", f"looking at {found.name}", work, writes=[found.scan_cache])}

    def report(self, project: str) -> dict[str, Any]:
        """Empty where none was made since the server began. findings: how many pictures each holds for."""
        found = self._project(project)
        made = _REPORTS.get(found)
        if made is None:
            return {}
        tally = Counter(one for given in made.findings.values() for one in given)
        told = made.summary()
        told |= {name: told[name][:_MOST_PROBLEMS] for name in ("junk", "unread", "irregular", "unreadable")}
        del told["size"], told["folder_of"]  # there may be thousands
        return {**told, "findings": {name: tally[name] for name in FINDINGS}}

    def page(
        self,
        project: str,
        offset: int = 0,
        limit: int = 100,
        folder: str = "",
        finding: str = "",
        search: str = "",
    ) -> dict[str, Any]:
        """In their folders' order; pictures that are alike stand together, the most blurred first."""
        found = self._project(project)
        made, masked = _REPORTS.get(found), _Masks(found)
        wanted, order = _chosen(found, made, masked, finding, search)
        page = thumbnails.page(found, offset, limit, folder or None, wanted, order)
        rows = [_row(found, made, masked, one) for one in page.pictures if self._may(one.path)]
        return {"total": page.total, "offset": page.offset, "pictures": rows}

    def ids(self, project: str, folder: str = "", finding: str = "", search: str = "") -> dict[str, Any]:
        """In the order of the page."""
        found = self._project(project)
        wanted, order = _chosen(found, _REPORTS.get(found), _Masks(found), finding, search)
        chosen = [
            one
            for one in thumbnails.pictures(found).values()
            if folder in ("", one.folder, one.concept) and (wanted is None or wanted(one))
        ]
        return {"ids": [one.id for one in (sorted(chosen, key=order) if order else chosen)]}

    def thumbnail(self, project: str, picture: str, side: int, blank: bool = False) -> Response:
        """Upright, transparency on white. blank: an empty one for a picture that is gone or broken, not 404."""
        found = self._project(project)
        try:
            if not self._may(thumbnails.find(found, picture)):
                raise HTTPException(403, "it lies outside the WebUI's own folders")
            file = thumbnails.thumbnail(found, picture, side)
        except UserError as error:
            return no_picture(str(error), blank)
        return FileResponse(file, media_type="image/jpeg", headers=_KEEP)

    def mask(self, project: str, picture: str) -> FileResponse:
        """404 where it has none."""
        found = self._project(project)
        file = masks.find(found, self._picture(found, picture))
        if file is None:
            raise HTTPException(404, "this picture has no mask")
        return FileResponse(file)

    # What is made

    def boxes(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Boxes in pixels of the upright picture, each with the word that goes behind its name."""
        found = self._project(project)
        given = Reader(body, ("picture", "way"))
        picture, way = given.text("picture"), given.table("way")
        given.check()
        path = self._picture(found, picture)
        width, height, _ = images.inspect(path)
        cuts, problems = self._cuts([path], _Way(way or {}), "1_x")
        told = [{"box": _numbers(c.box, (width, height)), "suffix": c.suffix} for c in cuts]
        return {"width": width, "height": height, "boxes": told, "problems": [str(problem) for problem in problems]}

    def preview(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """after: as it would be; before: enlarged by Lanczos instead. Nothing is written."""
        found = self._project(project)
        given = Reader(body, ("picture", "box", "options"))
        picture, options = given.text("picture"), given.table("options")
        given.check()
        cut = Cut(self._picture(found, picture), "1_x", _box(body.get("box")))
        chosen, upscaler = self._options(options or {})
        plain = crops.render(cut, chosen)
        told = {"width": plain.picture.width, "height": plain.picture.height, "factor": round(plain.factor, 3)}
        after = crops.render(cut, chosen, self._enlarge(upscaler)) if upscaler and plain.factor > 1 else plain
        other = after.mask if after.mask is not None else plain.picture if after is not plain else None
        kind = "mask" if after.mask is not None else "before"
        return {**told, "after": _sent(after.picture), kind: _sent(other) if other is not None else None}

    def cut(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task: the boxes that are given, or the same way for many pictures. One change of the journal."""
        found = self._project(project)
        given = Reader(body, ("cuts", "pictures", "way", "into", "options"))
        into, way, options = given.text("into", ""), given.table("way"), given.table("options")
        given.check()
        chosen, upscaler = self._options(options or {})
        cuts = [self._cut(found, one) for one in _list(body, "cuts", dict)]
        paths = [self._picture(found, one) for one in _list(body, "pictures", str)]
        if not cuts and not paths:
            raise UserError("no picture is chosen", where="pictures", remedy="Choose some")
        for folder in {cut.folder for cut in cuts} | ({into} if paths else set()):
            crops.check_folder(folder)
        how = _Way(way or {})

        def work(task: Task) -> dict[str, Any]:
            def count(done: int, total: int) -> None:
                task.done, task.total = done, total

            more, problems = self._cuts(paths, how, into, count, task) if paths else ([], [])
            made = crops.make(found, [*cuts, *more], chosen, self._enlarge(upscaler), _behind(task), task.stop)
            for problem in (*problems, *made.problems):
                _warn(task, str(problem))
            for note in made.notes:
                _warn(task, note)
            wrong, folders = len(problems) + len(made.problems), {cut.picture.parent for cut in (*cuts, *more)}
            origins = sorted(look.picture_id(folder) for folder in folders - {path.parent for path in made.pictures})
            return {"project": found.id, "made": len(made.pictures), "problems": wrong, "from": origins}

        names = {cut.folder for cut in cuts} | set(how.folders(into) if paths else ())
        roots = [found.image, *([found.masks] if chosen.alpha == "mask" else [])]
        pieces = len(cuts) + len(paths)
        text = "cutting 1 picture" if pieces == 1 else f"cutting {pieces} pictures"
        return {"task": TASKS.start("cut", text, work, writes=[root / name for root in roots for name in names])}

    def masks(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """Starts a task. One change of the journal."""
        found = self._project(project)
        given = Reader(body, ("pictures", "way", "model"))
        way, model = given.text("way"), given.text("model", "")
        given.check()
        paths = [self._picture(found, one) for one in _list(body, "pictures", str)]
        if way not in masks.WAYS:
            remedy = f"Choose from {', '.join(masks.WAYS)}"
            raise UserError(f"{way!r} is none of its choices", where="way", remedy=remedy)

        def work(task: Task) -> dict[str, Any]:
            def count(done: int, total: int) -> None:
                task.done, task.total = done, total

            remove = masks.remover(model, self._models()) if way == "background" else None
            made = masks.make(found, paths, way, remove, count, task.stop)
            for problem in made.problems:
                _warn(task, str(problem))
            return {"project": found.id, "made": made.written, "problems": len(made.problems)}

        text = "a mask of 1 picture" if len(paths) == 1 else f"masks of {len(paths)} pictures"
        return {"task": TASKS.start("masks", text, work, writes=[found.masks])}

    def paint(self, project: str, picture: str, body: Body = _BODY) -> dict[str, Any]:
        """png: the mask as PNG in base64, of the upright picture's shape."""
        found = self._project(project)
        given = Reader(body, ("png",))
        text = given.text("png")
        given.check()
        path = self._picture(found, picture)
        mask = _decoded(text)
        TASKS.check(found.masks)
        with found.journal.change(f"mask of {shown(path.name)}") as change:
            masks.put(change, found, path, mask)
        return self._described(found)

    def unmask(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """They are put aside, and come back by undoing."""
        found = self._project(project)
        Reader(body, ("pictures",)).check()
        TASKS.check(found.masks)
        masks.take_away(found, [self._picture(found, one) for one in _list(body, "pictures", str)])
        return self._described(found)

    def undo(self, project: str, body: Body = _BODY) -> dict[str, Any]:
        """The latest change, or the one of a number. What was edited since stays."""
        found, given = self._project(project), Reader(body, ("change",))
        number = given.whole("change", 1, 10**9)
        given.check()
        entry = number or next((entry.id for entry in found.journal.entries() if not entry.undone), 0)
        TASKS.check(*found.journal.places(entry))
        undone = found.journal.undo(number)
        changed = [shown(path.name) for path in undone.changed]
        unmasked = masks.used(found) and bool(masks.missing(found))
        if unmasked:  # else the next look would make the white ones again that were taken back
            masks.use(found, False)
        told = {"title": undone.entry.title, "restored": len(undone.restored), "changed": changed, "unmasked": unmasked}
        return {**told, "project": self._described(found)}

    # Details

    @property
    def _data(self) -> Path:
        return self._manager.host.data_dir()

    def _may(self, path: Path) -> bool:
        """Whether this host lets a path be read and written."""
        if not restricted(self._manager):
            return True
        real = path.resolve()
        return any(
            real.is_relative_to(folder.expanduser().resolve()) for folder in self._manager.host.picture_folders()
        )

    def _checked(self, folder: str | Path) -> Path:
        path = Path(folder).expanduser()
        if not self._may(path):
            raise UserError("lies outside the WebUI's own folders", where="folder", remedy=_OPEN)
        return path

    def _folder(self, body: Body) -> Path:
        given = Reader(body, ("folder",))
        folder = given.text("folder")
        given.check()
        if not folder.strip():
            raise UserError("no folder is given", where="folder", remedy="Name the folder of your pictures")
        return self._checked(folder.strip())

    def _project(self, project: str) -> Project:
        try:
            found = projects.by_id(self._data, project)
        except UserError as error:
            raise HTTPException(404, str(error)) from None
        if not all(map(self._may, (found.root, found.image, found.reg, found.masks, found.work))):  # links, perhaps
            raise HTTPException(403, "it lies outside the WebUI's own folders")
        return found

    def _parts(self, project: Project) -> list[Path]:
        return [part for part in project.parts() if self._may(part)]

    def _picture(self, project: Project, picture: str) -> Path:
        try:
            path = thumbnails.find(project, picture)
        except UserError as error:
            raise HTTPException(404, str(error)) from None
        if not self._may(path):
            raise HTTPException(403, "it lies outside the WebUI's own folders")
        return path

    def _concept(self, project: Project, body: Body, known: tuple[str, ...]) -> Concept:
        given = Reader(body, known)
        wanted = given.text("concept")
        given.check()
        for concept in project.concepts():
            if look.picture_id(concept.folder) == wanted:
                return concept
        raise HTTPException(404, "the project has no such folder")

    def _opened(self, opened: Opened) -> dict[str, Any]:
        assert opened.project is not None
        self._checked(opened.project.root)
        projects.remember(self._data, opened.project)
        return {**self._described(opened.project), "said": list(opened.said)}

    def _known(self, project: Project | None) -> dict[str, Any] | None:
        return {"id": project.id, "name": project.name, "folder": _told(project.root)} if project else None

    def _described(self, project: Project) -> dict[str, Any]:
        concepts = [c for c in project.concepts() if self._may(c.folder)]
        entries = project.journal.entries()
        host = self._manager.host
        return {
            **(self._known(project) or {}),
            "image": _told(project.image),
            "concepts": [_concept(project, c) for c in concepts],
            "pictures": sum(len(c.pictures) for c in concepts),
            "masked": masks.used(project),
            "scanned": _REPORTS.get(project) is not None,
            "changes": [
                {
                    "id": e.id,
                    "title": shown(e.title),
                    "time": e.time,
                    "files": e.files,
                    "undone": e.undone,
                    "whole": e.whole,
                }
                for e in entries[:50]
            ],
            "detectors": [{"name": name, "title": faces.TITLES[name]} for name in faces.available(self._models())],
            "upscalers": host.upscalers(),
            "removers": masks.removers(self._models()),
            "no_remover": _reason(masks.lacking(self._models())),
            "said": [],
        }

    def _cut(self, project: Project, given: dict[str, Any]) -> Cut:
        reader = Reader(given, ("picture", "box", "into", "suffix"))
        picture, into, suffix = reader.text("picture"), reader.text("into"), reader.text("suffix", "")
        reader.check()
        if suffix:
            check_output_name(suffix)
        return Cut(self._picture(project, picture), into, _box(given.get("box")), suffix)

    def _cuts(
        self,
        paths: Sequence[Path],
        way: _Way,
        into: str,
        count: Callable[[int, int], None] | None = None,
        task: Task | None = None,
    ) -> tuple[list[Cut], list[UserError]]:
        """One picture after the other, so that it can be stopped."""
        detect = self._detect(way.detector) if way.needs_faces() else None
        cuts: list[Cut] = []
        problems: list[UserError] = []
        for number, path in enumerate(paths, 1):
            if task and task.stop.is_set():
                break
            made, wrong = way.cuts(path, into, detect)
            cuts += made
            problems += wrong
            if count:
                count(number, 2 * len(paths))
        return cuts, problems

    def _detect(self, name: str) -> crops.Detect:
        return faces.detector(name, self._models()).detect

    def _models(self) -> list[Path]:
        """Where the host keeps its models: beside its LoRA files."""
        return [self._manager.host.lora_dir().parent]

    def _options(self, given: dict[str, Any]) -> tuple[Options, str]:
        """(options, name of the upscaler; "" for Lanczos)."""
        reader = Reader(given, ("side", "background", "alpha", "captions", "upscaler", "cutout", "model"))
        side = reader.whole("side", 64, 4096)
        background, alpha = reader.text("background", "white"), reader.text("alpha", "flat")
        captions = reader.flag("captions") if "captions" in given else True
        upscaler, cutout, model = reader.text("upscaler", ""), reader.flag("cutout"), reader.text("model", "")
        reader.check()
        if upscaler and upscaler not in self._manager.host.upscalers():
            raise UserError(f"there is no upscaler {upscaler!r}", where="upscaler", remedy="Choose another")
        remove = masks.remover(model, self._models()) if cutout else None
        chosen = Options(side, background, alpha, captions, remove=remove).check()
        return chosen, "" if upscaler == "Lanczos" else upscaler

    def _enlarge(self, upscaler: str) -> crops.Enlarge | None:
        if not upscaler:
            return None
        return lambda picture, width, height: self._manager.host.upscale(picture, upscaler, width, height)


class _Way:
    """How a box is found: {"name": "head", "shoulder": 0.6} and so on."""

    NAMES = ("whole", "head", "focal", "centre", "split", "parts")

    def __init__(self, given: dict[str, Any]) -> None:
        reader = Reader(given, ("name", "shape", "overlap", "shoulder", "every", "detector"))
        self.name, self.shape = reader.text("name", "whole"), reader.text("shape", "1:1")
        self.overlap, self.shoulder = reader.number("overlap", 0.2), reader.number("shoulder", 0.6)
        self.every, self.detector = reader.flag("every"), reader.text("detector", "")
        reader.check()
        if self.name not in self.NAMES:
            remedy = f"Choose from {', '.join(self.NAMES)}"
            raise UserError(f"{self.name!r} is none of its choices", where="way", remedy=remedy)
        if not 0 <= self.shoulder <= 3:
            raise UserError(f"{self.shoulder} is not between 0 and 3", where="shoulder", remedy="0.6 is usual")
        self._aspect = crops.ratio(self.shape)

    def needs_faces(self) -> bool:
        """Whether a detector is needed."""
        return self.name in ("head", "parts") or (self.name == "focal" and bool(self.detector))

    def folders(self, into: str) -> list[str]:
        """Those that its cuts go into."""
        return [f"{into} {part}" for part in crops.PARTS] if self.name == "parts" else [into]

    def cuts(self, path: Path, into: str, detect: crops.Detect | None) -> tuple[list[Cut], list[UserError]]:
        """Of one picture."""
        if self.name == "whole":
            return [Cut(path, into)], []
        if self.name == "head":
            assert detect
            return crops.heads([path], detect, into, self.shoulder, self.every)
        if self.name == "parts":
            assert detect
            return crops.persons([path], detect, {part: f"{into} {part}" for part in crops.PARTS})
        return crops.shaped([path], into, self._aspect, self.name, self.overlap, detect)


class _Reports:
    """The last scans, by project."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held: OrderedDict[Path, Report] = OrderedDict()

    def put(self, project: Project, report: Report) -> None:
        with self._mutex:
            self._held[project.root] = report
            self._held.move_to_end(project.root)
            while len(self._held) > _KNOWN_REPORTS:
                self._held.popitem(last=False)

    def get(self, project: Project) -> Report | None:
        with self._mutex:
            return self._held.get(project.root)


_REPORTS = _Reports()


class _Masks:
    """Which pictures have masks; each folder is read once."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._held: dict[Path, set[str]] = {}

    def of(self, picture: Path) -> bool:
        there = self._held.get(picture.parent)
        if there is None:
            there = self._held[picture.parent] = masks.known(self._project, picture.parent)
        return picture.stem in there


def _chosen(
    project: Project, report: Report | None, masked: _Masks, finding: str, search: str
) -> tuple[Callable[[thumbnails.Shown], bool] | None, Callable[[thumbnails.Shown], Any] | None]:
    """Which pictures a filter means, and their order. Raises UserError for an unknown finding."""
    if finding and finding not in (*FINDINGS, *_UNSCANNED):
        raise UserError(f"{finding!r} is no finding", where="finding", remedy=f"Choose from {', '.join(FINDINGS)}")
    words = search.casefold().split()
    if not finding and not words:
        return None, None
    findings = report.findings if report else {}
    tests: dict[str, Callable[[thumbnails.Shown], bool]] = {
        "": lambda one: True,
        "captioned": lambda one: one.captioned,
        "uncaptioned": lambda one: not one.captioned,
        "masked": lambda one: masked.of(one.path),
        "unmasked": lambda one: not masked.of(one.path),
    }
    test = tests.get(finding, lambda one: finding in findings.get(_name(project, one.path), ()))

    def wanted(one: thumbnails.Shown) -> bool:
        return all(word in one.path.name.casefold() for word in words) and test(one)

    order: Callable[[thumbnails.Shown], Any] | None = None
    if report and finding in ("twice", "alike"):
        places = report.places
        order = lambda one: places.get(_name(project, one.path), (1 << 30, 0))  # noqa: E731
    if report and finding == "blurred":
        seen = report.by_name
        order = lambda one: seen[_name(project, one.path)].sharpness  # noqa: E731
    return wanted, order


def _row(project: Project, report: Report | None, masked: _Masks, one: thumbnails.Shown) -> dict[str, Any]:
    name = _name(project, one.path)
    seen = report.by_name.get(name) if report else None
    try:
        changed = one.path.stat().st_mtime_ns
    except OSError:
        changed = 0
    told = {**one.as_dict(), "masked": masked.of(one.path), "version": f"{changed:x}"}
    if seen is None or report is None:
        return told
    told |= {"findings": list(report.findings.get(name, ())), "group": report.places.get(name, (None, 0))[0]}
    return told | {"width": seen.width, "height": seen.height, "format": seen.format, "problem": seen.problem}


def _name(project: Project, path: Path) -> str:
    """As a scan names it."""
    root, whole = f"{project.root}{os.sep}", str(path)
    return (whole[len(root) :] if whole.startswith(root) else whole).replace(os.sep, "/")


def _said(opened: Opened) -> dict[str, Any]:
    choices = [{"name": shown(path.name), "folder": _told(path)} for path in opened.choices]
    return {"kind": opened.kind, "folder": _told(opened.folder), "said": list(opened.said), "choices": choices}


def _reason(problem: UserError | None) -> str:
    """Why something is off; "" where it isn't."""
    return f"{problem.what}. {problem.remedy}." if problem else ""


def _told(path: Path) -> str:
    return shown(str(path))


def _concept(project: Project, concept: Concept) -> dict[str, Any]:
    return {
        "id": look.picture_id(concept.folder),
        "folder": shown(concept.folder.name),
        "path": _told(concept.folder),
        "name": shown(concept.name),
        "repeats": concept.repeats,
        "pictures": len(concept.pictures),
        "is_reg": concept.is_reg,
        "elsewhere": concept.elsewhere,
        "used": concept.used,
        "masks": len(masks.known(project, concept.folder) & {p.stem for p in concept.pictures}),
    }


def _list(body: Body, name: str, kind: type) -> list[Any]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
        raise UserError("is no list of the right kind", where=name, remedy="See openapi.json")
    return value


def _box(given: Any) -> Box | None:
    """Of [left, top, width, height]."""
    if given is None:
        return None
    right = isinstance(given, list) and len(given) == 4
    if not right or not all(isinstance(n, int) and not isinstance(n, bool) and abs(n) < 10**6 for n in given):
        raise UserError("is no box", where="box", remedy="Give left, top, width and height in pixels")
    return Box(*given)


def _numbers(box: Box | None, size: tuple[int, int]) -> list[int]:
    return [box.left, box.top, box.width, box.height] if box else [0, 0, *size]


def _sent(picture: Image.Image) -> str:
    """As a data URL, small enough to be looked at."""
    small = picture.copy()
    small.thumbnail((_PREVIEW, _PREVIEW))
    held = io.BytesIO()
    small.save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def _decoded(text: str) -> Image.Image:
    """The mask that was sent. Raises UserError."""
    try:
        raw = base64.b64decode(text.rpartition(",")[2], validate=True)
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError("too large")
            picture.load()
            return picture.convert("RGB").convert("L")
    except Exception as error:  # a decoder may raise anything over bad bytes
        raise UserError("is no PNG picture", where="png", remedy="Send the mask as PNG in base64") from error


def _behind(task: Task) -> Callable[[int, int], None]:
    """Counts on from what the task has done."""
    before = task.done

    def count(done: int, total: int) -> None:
        task.done, task.total = before + done, before + total

    return count


def _warn(task: Task, text: str) -> None:
    if len(task.warnings) < _MOST_PROBLEMS:
        task.warnings.append(text)
