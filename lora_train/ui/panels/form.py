"""What the steps share: the fields that together describe a job, and how a handler answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from fastapi import HTTPException

from ...errors import UserError, UserErrors
from .. import fields, texts
from ..compat import QUIET, unsaved
from ..labels import PREFIX


@dataclass
class Form:
    """The components by name: settings, and the grid's."""

    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)

    def add(self, *rows: Sequence[str]) -> None:
        """Make the fields of these settings, a row each."""
        known = fields.rows()
        for names in rows:
            with gr.Row():
                for name in names:
                    self.settings[name] = fields.setting(known[name])

    def add_grid(self, *rows: Sequence[str]) -> None:
        """Make these fields of the grid, a row each."""
        for names in rows:
            with gr.Row():
                for name in names:
                    self.grid[name] = fields.grid_field(name)

    def drawing(self) -> list[Any]:
        """The grid's components in the order of `fields.DRAWING`."""
        return [self.grid[name] for name in fields.DRAWING]

    def inputs(self) -> list[Any]:
        """All components, in the order in which `read` expects their values."""
        return [*self.settings.values(), *(self.grid[name] for name in fields.GRID)]

    def read(self, held: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """(settings, grid) from the components' values."""
        count = len(self.settings)
        return fields.values_of(list(self.settings), held[:count]), fields.grid_values(held[count:])


def button(text: str, name: str, variant: str = "secondary", **more: Any) -> Any:
    """A button of ours; name: its element id without our prefix."""
    size = "sm" if variant == "secondary" else "lg"
    return unsaved(gr.Button(text, variant=variant, size=size, elem_id=PREFIX + name, **more))


def html(name: str, value: str = "") -> Any:
    """A place that handlers fill."""
    return gr.HTML(value, elem_id=PREFIX + name)


def place(name: str, around: str | None = None) -> None:
    """A place that the page's scripts fill. around: the element id of the block that holds it."""
    gr.HTML(f'<div id="{PREFIX}{name}"></div>', elem_id=around)


def onward(step: str) -> None:
    """The way to the next step, at the end of one."""
    gr.HTML(
        f'<p class="train-lora-next"><button type="button" class="train-lora-button" data-step="{step.lower()}">'
        f"<span>Next:</span> <span>{step}</span></button></p>"
    )


def told(action: Callable[[], str]) -> str:
    """What `action` answers, or its problems, as HTML."""
    try:
        return action()
    except UserError as error:
        return texts.errors(error)
    except HTTPException as refusal:  # a route's own refusal
        return texts.errors(_refused(refusal))
    except Exception as error:  # noqa: BLE001 (the page's edge: a bug of ours is told as one, never as an empty page)
        return texts.errors(UserError(f"unexpected: {type(error).__name__}: {error}", remedy="Please report this"))


def _refused(refusal: HTTPException) -> UserError:
    details: Any = refusal.detail
    if isinstance(details, list):
        return UserErrors([UserError(one["what"], where=one["where"], remedy=one["remedy"] or "") for one in details])
    return UserError(str(details))


def followed(sources: Iterable[Any], answer: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    """Answer whenever one of the sources changes.

    Answers may overtake each other, so each is followed by one for what the fields hold by then.
    """
    for source in sources:
        source.change(answer, inputs, outputs, **QUIET).then(answer, inputs, outputs, **QUIET)
