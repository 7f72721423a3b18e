"""The route that bakes a recipe of LoRAs into one file of the LoRA folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException

from ...blocks.bake import bake
from ...blocks.presets import PresetFile, parse_presets
from ...errors import UserError
from ...files import check_output_name
from ...jobs.manager import Manager
from .. import guard
from . import schemas
from .base import Body, Reader, Route, described, refresh_loras, shown

_BODY = Depends(guard.json_body)
_FIELDS = ("recipe", "name", "presets", "rank", "target_error", "precision", "unlisted", "other", "overwrite")
_MOST_RANK = 1 << 16


class Merges:
    """Block-weighted sums of LoRAs."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """One."""
        body, report = schemas.ref("MergeRequest"), schemas.ref("Merged")
        return [Route("POST", "/merge", self.merge, "Bake LoRAs with block weights into one file", report, body)]

    def merge(self, body: Body = _BODY) -> dict[str, Any]:
        """The file and how exact it is. A file that is there is replaced only with "overwrite": true."""
        given = Reader(body, _FIELDS)
        recipe, name = given.text("recipe"), given.text("name")
        rank, target = given.whole("rank", 1, _MOST_RANK), given.number("target_error")
        precision, unlisted = given.text("precision", "fp16"), given.number("unlisted", 0.0)
        other = given.number("other", 1.0)
        overwrite = given.flag("overwrite")
        given.check()
        file = presets_of(body.get("presets"))
        lora_dir = self._manager.host.lora_dir()
        out = inside(lora_dir, name)
        if out.exists() and not overwrite:
            error = UserError("there is a file of this name", where="name", remedy="Choose another, or overwrite it")
            raise HTTPException(409, described(error))
        report = bake(
            recipe, lora_dir, file.with_builtin, out, rank, target, precision, unlisted, other=other, faults=file.faults
        )
        refresh_loras(self._manager)
        path = shown(self._manager, str(out))
        return {"path": path, "name": out.stem, "report": {**report.as_dict(), "out": path}}

    def refused(self, error: UserError) -> HTTPException:
        """The route's answer to an error, for the page's own form."""
        return HTTPException(422, described(error, partial(shown, self._manager)))


def inside(lora_dir: Path, name: str) -> Path:
    """The file of that name in the LoRA folder or below it. Raises UserError for a name that leads elsewhere."""
    parts = name.removesuffix(".safetensors").split("/")
    for part in parts:
        try:
            check_output_name(part)
        except UserError as error:
            raise UserError(error.what, where="name", remedy=error.remedy) from None
    out = lora_dir.joinpath(*parts[:-1]) / f"{parts[-1]}.safetensors"
    if not out.parent.resolve().is_relative_to(lora_dir.resolve()):
        raise UserError("lies outside the LoRA folder", where="name", remedy="Name a file inside it")
    return out


def presets_of(given: Any) -> PresetFile:
    """Presets as lines of text, comments among them, or as {name: numbers}. Raises UserError.

    Of a text only what is used has to be right; names with numbers have to be right all.
    """
    if given is None or isinstance(given, str):
        return PresetFile.parse(given or "")
    lines = given.items() if isinstance(given, dict) else ()
    if not isinstance(given, dict) or not all(isinstance(numbers, list) for _, numbers in lines):
        raise UserError("are neither lines of text nor names with numbers", where="presets", remedy="See openapi.json")
    text = "\n".join(f"{name}:{','.join(map(str, numbers))}" for name, numbers in lines)
    parse_presets(text)
    return PresetFile.parse(text)
