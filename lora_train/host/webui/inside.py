"""Where the WebUI keeps things: its modules, flags and queue. `modules.*` is imported where it is used."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def device_type() -> str:
    from modules import devices

    return str(getattr(devices.device, "type", devices.device))


def shared() -> Any:
    from modules import shared

    return shared


def flag(name: str) -> Any:
    """A command line option; None where this host has none of that name."""
    return getattr(shared().cmd_opts, name, None)


def forge_flag(name: str) -> Any:
    """A command line option of the Forge family's own, which it reads apart; None elsewhere."""
    own = optional("backend.args") or optional("ldm_patched.modules.args_parser")
    return getattr(getattr(own, "args", None), name, None)


def optional(name: str) -> Any:
    """A module that some hosts have; None elsewhere."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def forge_memory() -> Any:
    """The Forge family's memory management (Forge and Neo, else reForge and Classic); None in A1111."""
    return optional("backend.memory_management") or optional("ldm_patched.modules.model_management")


@contextlib.contextmanager
def job(title: str) -> Iterator[Any]:
    """The WebUI's state while it works for us; its progress bar shows the title. The caller holds the queue."""
    state = shared().state
    state.begin(job=title)
    try:
        yield state
    finally:
        state.end()
        state.interrupted = False


def queue() -> contextlib.AbstractContextManager[Any]:
    """The WebUI's queue: one of all generations and us at a time. It can't be taken twice by the same thread."""
    from modules import call_queue

    return call_queue.queue_lock


def on_main_thread(action: Callable[[], T]) -> T:
    """Run `action` where the host wants its GPU work: the Forge family's main loop, elsewhere right here."""
    loop = optional("modules_forge.main_thread")
    if loop is None:
        return action()
    outcome: list[Any] = [None, None]

    def run() -> None:
        try:
            outcome[0] = action()
        except BaseException as error:  # noqa: BLE001 (the loop would swallow it)
            outcome[1] = error

    loop.run_and_wait_result(run)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
