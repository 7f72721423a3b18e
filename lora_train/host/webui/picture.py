"""One picture drawn by the WebUI's txt2img, beside the user's own: neither settings nor history nor folders change."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...blocks.families import SD15
from ...blocks.presets import format_number
from ...errors import UserError
from ..shot import Applied, Cancelled, Shot
from . import live, prompts, temporary, xyz
from .inside import forge_memory, job, shared

_ASK_EVERY = 0.05
_FAILED = "Networks with errors: "
_texts: dict[str, list[Any]] = {name: [None, None] for name in ("cached_c", "cached_uc")}
"""The text states of the last picture and what they were made of: our own, so that the user's stay."""


def draw(shot: Shot, cancelled: Cancelled) -> Image.Image | None:
    """Draw it; None when it was called off, here or in the WebUI. The caller holds the queue. Raises UserError.

    LoRAs with block weights in the prompt itself are taken as those of the shot are.
    """
    xyz.sampler_name(shot.sampler)
    with contextlib.ExitStack() as stack:
        overrides = stack.enter_context(xyz.with_clip_skip(shot.clip_skip))
        stack.enter_context(_without_history())
        state = stack.enter_context(job("Train LoRA: a picture"))
        xyz.load_checkpoint()
        prompt, more = prompts.as_applied(shot.prompt)
        loras = _each_once([*shot.loras, *more])
        if live.extension() is None:
            loras = stack.enter_context(temporary.without_weights(loras))
        names = [xyz.known_name(lora.path) for lora in loras]
        tags = [
            f"<lora:{name}:{format_number(x.te)}:{format_number(x.unet)}>" for name, x in zip(names, loras, strict=True)
        ]
        p = xyz.processing_of(shot.cell, " ".join([prompt, *tags]), overrides)
        stack.callback(p.close)
        if forge_memory() is not None:
            p.scripts = _no_scripts()  # reForge looks for one of its own among them, and None has none
        _keep_texts(p)
        if live.extension() is not None:
            stack.callback(live.plain)
            _weigh_blocks(p, names, loras)
        with _asked(cancelled, state):
            made = _processed(p)
        return None if state.interrupted else made


def _no_scripts() -> Any:
    from modules import scripts

    return scripts.ScriptRunner()


def _each_once(loras: Sequence[Applied]) -> list[Applied]:
    """A file that is given several times acts by the sum: the WebUI has one of each name."""
    family = live.family() or SD15
    found: dict[str, Applied] = {}
    for lora in loras:
        its, key = lora.factors(family), str(lora.path)
        if key in found:
            before = found[key].factors(family)
            lora = Applied(lora.path, weights={block: before[block] + factor for block, factor in its.items()})
        found[key] = lora
    return list(found.values())


def _weigh_blocks(p: Any, names: Sequence[str], loras: Sequence[Applied]) -> None:
    """Once the WebUI has loaded the LoRAs, give them their weights; before it looks for kept text states."""
    networks, setup, params = live.extension(), p.setup_conds, p.cached_params

    def weighed() -> None:
        loaded = [str(net.mentioned_name or net.name) for net in networks.loaded_networks]
        missing = [name for name in names if name not in loaded]
        if missing:
            raise UserError("the WebUI couldn't load this LoRA", where=missing[0], remedy="Its console says why")
        live.weigh({loaded.index(name): (x.te, x.unet, x.weights or {}) for name, x in zip(names, loras, strict=True)})
        setup()

    def keyed(prompts: Any, steps: Any, data: Any, *rest: Any, **more: Any) -> Any:
        others = {name: items for name, items in (data or {}).items() if name not in ("lora", "lyco")}
        return params(prompts, steps, (others, live.text_effect()), *rest, **more)

    p.setup_conds, p.cached_params = weighed, keyed


def _keep_texts(p: Any) -> None:
    for name, kept in _texts.items():
        if hasattr(p, name):
            setattr(p, name, kept)


def forget_texts() -> None:
    """They may come from a LoRA file that was replaced."""
    for kept in _texts.values():
        kept[:] = [None] * len(kept)


def _processed(p: Any) -> Image.Image | None:
    from modules import processing

    try:
        made = processing.process_images(p)
    except UserError:
        live.forget()
        raise
    except Exception as error:
        live.forget()
        what = f"the WebUI couldn't draw this picture: {str(error) or type(error).__name__}"
        raise UserError(what, remedy="Its console says more") from error
    failed = next((text for text in getattr(p, "comments", None) or () if text.startswith(_FAILED)), None)
    if failed:
        live.forget()
        what = f"this LoRA doesn't fit the checkpoint: layers failed in {failed.removeprefix(_FAILED)}"
        raise UserError(what, remedy="Use a LoRA that was trained for this kind of checkpoint")
    return made.images[0] if made.images else None


@contextlib.contextmanager
def _asked(cancelled: Cancelled, state: Any) -> Iterator[None]:
    """Interrupt the WebUI once `cancelled` says so; it is our own job that it works at until this ends."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_ASK_EVERY):
            if cancelled():
                state.interrupt()
                return

    watcher = threading.Thread(target=look, name="picture called off", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def _without_history() -> Iterator[None]:
    """The WebUI would keep this picture's text as that of the last one which the user made."""
    flags = shared().cmd_opts
    before = getattr(flags, "no_prompt_history", None)
    if before is None:  # older ones and some forks always keep it
        with _kept(_history()):
            yield
        return
    flags.no_prompt_history = True
    try:
        yield
    finally:
        flags.no_prompt_history = before


def _history() -> Path:
    from modules import paths_internal

    return Path(paths_internal.data_path) / "params.txt"


@contextlib.contextmanager
def _kept(file: Path) -> Iterator[None]:
    """A file has its bytes again afterwards, or is not there if it wasn't."""
    before = file.read_bytes() if file.is_file() else None
    try:
        yield
    finally:
        if before is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(before)
