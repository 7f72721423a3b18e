"""Routes of the workbench's boards: tries, what is being drawn now, pictures, notes and stars."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import Depends, HTTPException
from fastapi.responses import FileResponse
from PIL import Image

from ...blocks import sound
from ...blocks.board import Boards, Try
from ...blocks.mix import Found, Mix, Part, Scene, mix_from, prompt_of, with_weights
from ...blocks.places import open_checkpoint
from ...blocks.recipe import name_of
from ...blocks.trying import Draw, Trying
from ...errors import UserError
from ...grid import record
from ...host.base import Checkpoint
from ...host.shot import Applied, Shot, scene_of
from ...jobs.manager import Manager
from .. import guard
from . import schemas
from .base import Body, Reader, Route, folder_of, picture
from .blocks import Blocks

_BODY = Depends(guard.json_body)
_LAST = 1 << 31
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
_known: dict[Path, tuple[Boards, Trying]] = {}
_lock = Lock()


def workbench(folder: Path) -> tuple[Boards, Trying]:
    """The boards of a folder and what draws them: one of each in a process, across reloads of the page."""
    with _lock:
        if folder not in _known:
            boards = Boards(folder)
            _known[folder] = boards, Trying(boards)
        return _known[folder]


class Workbench:
    """Each public method but `routes` is one route's answer."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._blocks = Blocks(manager)

    def routes(self) -> list[Route]:
        """Reading first."""
        board, attempt, nothing = schemas.ref("Board"), schemas.ref("Tried"), schemas.NOTHING
        one, tries = "/blocks/boards/{board}", "/blocks/boards/{board}/tries"
        mix = schemas.ref("MixRequest")
        return [
            Route(
                "GET",
                "/blocks/boards",
                self.overview,
                "Boards, the one that changed last first",
                schemas.listed("BoardSummary"),
            ),
            Route("GET", one, self.board, "A board with its history", board),
            Route("GET", f"{one}/now", self.now, "What is being drawn", schemas.ref("BoardNow")),
            Route(
                "GET",
                f"{one}/pictures/{{attempt}}/{{picture}}",
                self.picture,
                "A picture: 0.png, 0-draft.png, 0-small.jpg",
                "image/png",
            ),
            Route(
                "POST",
                "/blocks/boards",
                self.create,
                "A new board, empty or of a grid's cell",
                board,
                schemas.ref("NewBoard"),
            ),
            Route("POST", f"{one}/rename", self.rename, "Another name", board, schemas.ref("RenameBoard")),
            Route("POST", f"{one}/mix", self.keep_mix, "Keep the editor's state", schemas.ref("BoardNow"), mix),
            Route(
                "POST",
                f"{one}/remove",
                self.remove,
                "Take a board out of the list",
                schemas.listed("BoardSummary"),
                nothing,
            ),
            Route(
                "POST",
                f"{one}/undo",
                self.restore,
                "Bring back the board, or what was removed from it last",
                board,
                nothing,
            ),
            Route("POST", f"{one}/stop", self.stop, "Give up what is being drawn", schemas.ref("BoardNow"), nothing),
            Route("POST", tries, self.start, "Draw a mix", attempt, schemas.ref("NewTry")),
            Route(
                "POST",
                f"{tries}/{{attempt}}",
                self.say,
                "Note, star, and whether it is drawn to its end",
                attempt,
                schemas.ref("ChangeTry"),
            ),
            Route(
                "POST", f"{tries}/{{attempt}}/remove", self.remove_try, "Take a try out of the history", board, nothing
            ),
        ]

    # Boards

    def overview(self) -> list[dict[str, Any]]:
        """Short."""
        return self._boards.overview()

    def board(self, board: str) -> dict[str, Any]:
        """Its latest mix and all tries that are done."""
        self._require(board)
        return self._boards.view(board)

    def now(self, board: str) -> dict[str, Any]:
        """Cheap: for a page that asks again and again while something runs. busy: another board's try is drawn."""
        self._require(board)
        return self._trying.now(board)

    def picture(self, board: str, attempt: int, picture: str) -> FileResponse:
        """Of a try that is done or on its way; it never changes."""
        answer = _picture(self._boards.picture(board, attempt, picture))
        answer.headers.update(_KEPT)
        return answer

    def create(self, body: Body = _BODY) -> dict[str, Any]:
        """from: {job, row, column, page} of a grid: its LoRA, weight, prompt, seed and picture are the first try."""
        given = Reader(body, ("name", "from", "mix"))
        name, cell, mix = given.text("name", ""), given.table("from"), given.table("mix")
        given.check()
        if cell is None:
            return self._boards.view(self._boards.create(name or "board", mix_from(mix) if mix else Mix()))
        return self._boards.view(self._from_cell(name, cell))

    def rename(self, board: str, body: Body = _BODY) -> dict[str, Any]:
        """The board."""
        given = Reader(body, ("name",))
        name = given.text("name")
        given.check()
        self._require(board)
        self._boards.rename(board, name)
        return self._boards.view(board)

    def keep_mix(self, board: str, body: Body = _BODY) -> dict[str, Any]:
        """Without drawing it."""
        given = Reader(body, ("mix",))
        given.table("mix", needed=True)
        given.check()
        self._require(board)
        self._boards.keep_mix(board, mix_from(body["mix"]))
        return self._trying.now(board)

    def remove(self, board: str, body: Body = _BODY) -> list[dict[str, Any]]:
        """The boards that are left. `undo` of the same board brings it back."""
        self._require(board)
        self._trying.stop(board)
        self._boards.remove(board)
        return self._boards.overview()

    def restore(self, board: str, body: Body = _BODY) -> dict[str, Any]:
        """The board."""
        self._boards.restore(board)
        return self._boards.view(board)

    def stop(self, board: str, body: Body = _BODY) -> dict[str, Any]:
        """What is drawn by then is dropped."""
        self._require(board)
        self._trying.stop(board)
        return self._trying.now(board)

    # Tries

    def start(self, board: str, body: Body = _BODY) -> dict[str, Any]:
        """{"try": …}. What is drawn from the same files, numbers and seeds already is answered from the history.

        draft: a first small look comes before each full picture. A newer try takes the place of one that waits, and
        ends one that is being drawn.
        """
        given = Reader(body, ("mix", "parent", "draft"))
        parent, draft = given.whole("parent", 0, _LAST), given.flag("draft")
        given.table("mix", needed=True)
        given.check()
        self._require(board)
        mix = mix_from(body["mix"])
        host = self._manager.host
        if "render" not in host.capabilities():
            remedy = "The numbers can still be edited and baked"
            raise UserError(f"{host.name} can't draw single pictures", where="mix", remedy=remedy)
        found = self._blocks.find(mix)
        _refuse_tags(mix.scene)
        checkpoint = host.checkpoint()
        _require_layers(checkpoint, found)
        keys = _keys(checkpoint, mix.scene, found)
        known = self._boards.known(board, keys)
        if known:
            self._boards.keep_mix(board, mix)
            return {"try": self._told(board, known), "known": True}
        attempt = self._boards.begin(board, with_weights(mix, found), keys, parent, _infotexts(mix.scene, found))
        self._trying.ask(board, attempt, self._draw(found), draft)
        return {"try": self._told(board, attempt), "known": False}

    def say(self, board: str, attempt: int, body: Body = _BODY) -> dict[str, Any]:
        """keep: no newer try ends this one while it is drawn."""
        given = Reader(body, ("note", "star", "keep"))
        note = given.text("note") if "note" in body else None
        star = given.flag("star") if "star" in body else None
        keep = given.flag("keep") if "keep" in body else None
        given.check()
        self._require(board)
        on_its_way = keep is not None and self._trying.keep(board, attempt, keep)
        if on_its_way and note is None and star is None:
            now = self._trying.now(board)
            held = [one for one in (now["running"], now["waiting"], now["last"]) if one and one["id"] == attempt]
            if held:
                return {"try": held[0], "known": False}
        return {"try": self._boards.say(board, attempt, note, star), "known": False}

    def remove_try(self, board: str, attempt: int, body: Body = _BODY) -> dict[str, Any]:
        """The board. Its `undo` brings the try back."""
        self._require(board)
        self._boards.remove_try(board, attempt)
        return self._boards.view(board)

    # Beneath

    @property
    def _boards(self) -> Boards:
        return workbench(self._manager.host.data_dir() / "boards")[0]

    @property
    def _trying(self) -> Trying:
        return workbench(self._manager.host.data_dir() / "boards")[1]

    def _require(self, board: str) -> None:
        if not self._boards.exists(board):
            raise HTTPException(404, "there is no such board")

    def _told(self, board: str, attempt: Try) -> dict[str, Any]:
        return self._boards.told(board, attempt)

    def _draw(self, found: Sequence[Found]) -> Draw:
        loras = tuple(
            Applied(one.path, one.part.te, one.part.unet, None if one.flat else dict(one.weights)) for one in found
        )

        def draw(scene: Scene, prompt: str, seed: int, cancelled: Callable[[], bool]) -> Image.Image | None:
            return self._manager.host.render(Shot.of(scene, prompt, seed, loras), cancelled)

        return draw

    def _from_cell(self, name: str, cell: Mapping[str, Any]) -> str:
        given = Reader(dict(cell), ("job", "row", "column", "page"))
        job = given.text("job")
        row, column = (given.whole(key, 0, _LAST, needed=True) for key in ("row", "column"))
        page = given.whole("page", 0, _LAST, default=0)
        given.check()
        folder = folder_of(self._manager, job)
        found = record.load(folder)
        told = record.describe(folder, job)
        if found is None or told is None:
            raise HTTPException(404, "there is no such grid")
        for key, place, items in (
            ("row", row, found.rows),
            ("column", column, found.grid.weights),
            ("page", page, found.grid.prompts),
        ):
            if place >= len(items):
                remedy = f"There are {len(items)}, from 0"
                raise UserError(f"the grid has no {key} {place}", where=key, remedy=remedy)
        grid, weight = found.grid, found.grid.weights[column]
        current = self._manager.host.checkpoint()
        scene = scene_of(grid, page, current.clip_skip if current else 1)
        lora = self._in_folder(Path(told["rows"][row]["lora"]), found, row)
        mix = mix_from(Mix((Part(lora, weight, weight),), scene).as_dict())
        label = f"{found.name or lora} {found.rows[row].label}"
        board = self._boards.create(name or label, mix)
        drawn = record.cell_path(folder, page, row, column)
        if drawn:
            attempt = self._boards.begin(board, mix, [""], None)
            with Image.open(drawn) as image:
                self._boards.add_picture(board, attempt, 0, image)
            attempt.state, attempt.label = "done", "grid"
            self._boards.keep(board, attempt)
        return board

    def _in_folder(self, lora: Path, found: record.Record, row: int) -> str:
        """The name of a grid's LoRA, or of the copy that choosing it made."""
        folder = self._manager.host.lora_dir()
        choice = found.choice or {}
        candidates = [lora, *([Path(choice["lora"])] if choice.get("row") == row and "lora" in choice else [])]
        for path in candidates:
            if path.is_file() and path.absolute().is_relative_to(folder.absolute()):
                return name_of(path.absolute(), folder.absolute())
            if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                return name_of(path.resolve(), folder.resolve())
        if not lora.is_file():
            raise UserError("the file is gone", where=lora.name, remedy="Put it back, or choose another epoch")
        remedy = "Choose the cell in the grid first: that copies it there"
        raise UserError("the file is not in the LoRA folder", where=lora.name, remedy=remedy)


def _picture(path: Path | None) -> FileResponse:
    return picture(path, "there is no such picture")


def _refuse_tags(scene: Scene) -> None:
    for prompt in (scene.prompt, *scene.prompts, scene.negative_prompt):
        if "<lora:" in prompt or "<lyco:" in prompt:
            remedy = "Paste the prompt where LoRAs are read from a text, and take the tags out here"
            raise UserError("there is a LoRA in the prompt", where="mix.shot.prompt", remedy=remedy)


def _require_layers(checkpoint: Checkpoint | None, found: Sequence[Found]) -> None:
    """Raise UserError where a LoRA is for another kind of checkpoint, or for layers that this one lacks."""
    if checkpoint is None or checkpoint.path.suffix != ".safetensors" or not checkpoint.path.is_file():
        return
    with ExitStack() as stack:
        try:
            base = stack.enter_context(open_checkpoint(checkpoint.path))
        except UserError:
            return  # of a form that isn't known here; the host may well draw with it
        for one in found:
            base.require(sound.held(one.path).index, one.path)


def _keys(checkpoint: Checkpoint | None, scene: Scene, found: Sequence[Found]) -> list[str]:
    """What each picture depends on, as a hash. Raises UserError for a file that can't be used."""
    loras = sorted(
        [
            sound.digest(one.path),
            one.part.te,
            one.part.unet,
            sorted((block, one.weights[block]) for block in one.present),
        ]
        for one in found
    )
    base = checkpoint and [_stamp(checkpoint.path), checkpoint.vae and _stamp(checkpoint.vae)]
    same = [base, loras, scene.negative_prompt, scene.steps, scene.cfg_scale, scene.sampler]
    same += [scene.width, scene.height, scene.clip_skip]
    return [_hash([*same, prompt, seed]) for prompt, seed in scene.pictures()]


def _hash(values: Any) -> str:
    return sha256(json.dumps(values).encode()).hexdigest()[:32]


def _stamp(path: Path) -> list[Any]:
    try:
        status = path.stat()
        return [str(path), status.st_size, status.st_mtime_ns]
    except OSError:
        return [str(path)]


def _infotexts(scene: Scene, found: Sequence[Found]) -> list[str]:
    """For each picture what the WebUI would write, so that it can be pasted there; none where a prompt can't hold a
    LoRA's name.
    """
    values = f"Steps: {scene.steps}, Sampler: {scene.sampler}, CFG scale: {scene.cfg_scale:g}"
    size = f"Size: {scene.width}x{scene.height}, Clip skip: {scene.clip_skip}"
    try:
        prompts = {prompt: prompt_of(found, prompt) for prompt, _ in scene.pictures()}
    except UserError:
        return []
    return [
        f"{prompts[prompt]}\nNegative prompt: {scene.negative_prompt}\n{values}, Seed: {seed}, {size}"
        for prompt, seed in scene.pictures()
    ]
