"""Routes of grids: what they show, marking a cell, choosing one, drawing another."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, HTTPException
from fastapi.responses import FileResponse

from ...errors import UserError
from ...grid import record
from ...grid.plan import all_series
from ...jobs.manager import Manager
from .. import guard
from . import schemas
from .base import Body, Reader, Route, folder_of, picture, refresh_loras, restricted

_BODY = Depends(guard.json_body)
_LAST = 1 << 20


class Grids:
    """Each public method but `routes` is one route's answer."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def routes(self) -> list[Route]:
        """Reading first."""
        one, cell = "/grids/{grid}", "/grids/{grid}/pages/{page}/cells/{row}/{column}.png"
        shown = schemas.ref("Grid")
        mark, use = schemas.ref("Mark"), schemas.ref("Use")
        return [
            Route("GET", "/grids", self.grids, "All drawn grids, the latest first", schemas.listed("GridSummary")),
            Route("GET", one, self.grid, "One grid with its marks", shown),
            Route("GET", one + "/pages/{page}/sheet.png", self.sheet, "The labelled sheet", "image/png"),
            Route("GET", cell, self.cell, "One cell", "image/png"),
            Route("GET", "/series", self.series, "Series of LoRA files, the newest first", schemas.listed("Series")),
            Route("POST", "/grids", self.start, "Draw a grid", schemas.ref("Started"), schemas.ref("StartGrid")),
            Route("POST", one + "/mark", self.mark, "Mark a cell as accepted, or not", shown, mark),
            Route("POST", one + "/use", self.use, "Use this epoch at this weight", schemas.ref("Used"), use),
            Route("POST", one + "/undo", self.undo, "Put dropped epochs back", schemas.ref("Undone"), schemas.NOTHING),
        ]

    def grids(self) -> list[dict[str, Any]]:
        """What there is, in short: grids with a picture, and the one that is being drawn."""
        found = ((job, self._described(job["id"])) for job in self._manager.history())
        return [_summary(job, grid) for job, grid in found if grid and (job["state"] == "grid" or _drawn(grid))]

    def grid(self, grid: str) -> dict[str, Any]:
        """Rows, weights, pages, marks and the choice."""
        folder_of(self._manager, grid)
        found = self._described(grid)
        if found is None:
            raise HTTPException(404, "this job has no grid")
        return found

    def sheet(self, grid: str, page: int) -> FileResponse:
        """A page's labelled picture."""
        return picture(record.sheet_path(folder_of(self._manager, grid), page), "this grid has no such page")

    def cell(self, grid: str, page: int, row: int, column: int) -> FileResponse:
        """One picture of a page."""
        folder = folder_of(self._manager, grid)
        return picture(record.cell_path(folder, page, row, column), "this grid has no such cell")

    def series(self) -> list[dict[str, Any]]:
        """Of the LoRA folder."""
        return all_series(self._manager.host.lora_dir())

    def start(self, body: Body = _BODY) -> dict[str, Any]:
        """Draws LoRA files that are there, as a job of its own."""
        return {"id": self._manager.start_grid(body)}

    def mark(self, grid: str, body: Body = _BODY) -> dict[str, Any]:
        """The grid with its new marks."""
        given = Reader(body, ("row", "column", "accepted"))
        row, column = (given.whole(name, 0, _LAST, needed=True) for name in ("row", "column"))
        accepted = given.flag("accepted")
        given.check()
        record.mark(folder_of(self._manager, grid), row, column, accepted)
        return self.grid(grid)

    def use(self, grid: str, body: Body = _BODY) -> dict[str, Any]:
        """Writes weight, activation text and preview beside the LoRA; others may go to a folder of their own."""
        given = Reader(body, ("row", "column", "page", "drop_others", "activation_text"))
        row, column = (given.whole(name, 0, _LAST, needed=True) for name in ("row", "column"))
        page, drop = given.whole("page", 0, _LAST, default=0), given.flag("drop_others")
        text = given.text("activation_text") if body.get("activation_text") is not None else None
        given.check()
        folder = folder_of(self._manager, grid)
        if self._manager.status(grid)["state"] == "grid":
            raise UserError("this grid is still being drawn", remedy="Wait until it is done, or stop it")
        used = record.use(folder, row, column, page, drop_others=drop, activation_text=text, **self._limits())
        refresh_loras(self._manager)
        return {**used, "grid": self.grid(grid)}

    def undo(self, grid: str, body: Body = _BODY) -> dict[str, Any]:
        """Takes back what `use` moved away."""
        moved = record.undo_drop(folder_of(self._manager, grid), **self._limits())
        refresh_loras(self._manager)
        return {"moved": moved, "grid": self.grid(grid)}

    def _limits(self) -> dict[str, Any]:
        return {"lora_dir": self._manager.host.lora_dir(), "restricted": restricted(self._manager)}

    def _described(self, job: str) -> dict[str, Any] | None:
        folder = self._manager.folder(job)
        return record.describe(folder, job) if folder else None


def _drawn(grid: dict[str, Any]) -> bool:
    return any(cell for page in grid["pages"] for row in page["cells"] for cell in row)


def _summary(job: dict[str, Any], grid: dict[str, Any]) -> dict[str, Any]:
    sizes = {"rows": len(grid["rows"]), "columns": len(grid["weights"]), "pages": len(grid["pages"])}
    sheet = grid["pages"][0]["sheet"] if grid["pages"] else None
    known = {name: grid[name] for name in ("id", "name", "checkpoint", "choice")}
    return {**known, **sizes, "sheet": sheet, "marks": len(grid["marks"]), "created": job["created"]}
