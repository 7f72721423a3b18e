"""Every part of a WebUI that our code uses is in the source of each of them.

TRAIN_LORA_HOST_SOURCES names a folder of checkouts, one a WebUI, whose names don't matter.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .symbols import Chain, Source, uses

FOLDER = os.environ.get("TRAIN_LORA_HOST_SOURCES", "")
SOURCES = sorted(path.parent for path in Path(FOLDER).glob("*/modules")) if FOLDER else []
FORGE = ("modules_forge",)
NEEDED_WITH: dict[Chain, Chain] = {
    **{
        ("modules", "shared", "interrogator", name): FORGE
        for name in ("blip_patcher", "load_device", "offload_device", "dtype")
    },
}
"""Symbols that are used only where another one is there."""
NEEDED_WITHOUT: dict[Chain, Chain] = {
    ("modules", "shared", "interrogator", "running_on_cpu"): FORGE,
    ("modules", "devices", "device_interrogate"): FORGE,
}
"""Symbols that are used only where another one isn't there."""


def needed(chain: Chain, source: Source) -> bool:
    """Whether a WebUI has to have a symbol: not when we look first whether it has the module at all."""
    looked_for = [module for module in USES.optional if chain[: len(module)] == module]
    if chain[:3] == ("modules", "shared", "interrogator"):
        looked_for.append(("modules", "interrogate"))
    if any(not source.has_module(module) for module in looked_for):
        return False
    with_ = next((other for known, other in NEEDED_WITH.items() if chain[: len(known)] == known), None)
    if with_ is not None and not source.has_module(with_):
        return False
    without = next((other for known, other in NEEDED_WITHOUT.items() if chain[: len(known)] == known), None)
    return without is None or not source.has_module(without)


USES = uses()


def test_our_own_source_is_read() -> None:
    """Some of what is certainly used, so that an empty list doesn't pass for a good one."""
    required = {".".join(chain) for chain in USES.required}
    assert {
        "modules.call_queue.queue_lock",
        "modules.deepbooru.model.start",
        "modules.sd_models.select_checkpoint",
        "modules.sd_vae.resolve_vae",
        "modules.script_callbacks.on_ui_tabs",
        "modules.shared.interrogator.load_blip_model",
        "modules.shared.state.begin",
        "backend.memory_management.unload_all_models",
        "modules_forge.main_thread.run_and_wait_result",
    } <= required
    assert ("modules", "shared", "cmd_opts", "lora_dir") in USES.fallback
    assert ("modules", "deepbooru") in USES.optional
    assert ("modules", "processing", "close") not in USES.required  # a local name, not the module


def test_a_missing_symbol_is_found(tmp_path: Path) -> None:
    """The judge itself: names of modules, of classes, of instances, of what is imported."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "state.py").write_text(
        "class Base:\n    def end(self): ...\n"
        "class State(Base):\n    job = ''\n    def begin(self):\n        self.x = 1\n"
    )
    (modules / "shared.py").write_text(
        "from modules import state as kinds\nfrom modules.state import State\n"
        "state: 'kinds.State' = None\nother = State()\ncount = 1\n\ndef late():\n    global made\n    made = 1\n"
    )
    source = Source(tmp_path)
    for name in ("state", "other"):
        for attribute in ("job", "begin", "x", "end"):
            assert source.has(("modules", "shared", name, attribute))
        assert not source.has(("modules", "shared", name, "gone"))
    assert source.has(("modules", "shared", "made"))
    assert source.has(("modules", "shared", "count", "anything"))
    assert source.has(("modules", "shared", "kinds", "State"))
    assert not source.has(("modules", "shared", "gone"))
    assert not source.has(("modules", "shared", "kinds", "gone"))
    assert not source.has(("modules", "gone"))
    assert not source.has_module(("modules_forge", "main_thread"))


@pytest.mark.webui
@pytest.mark.skipif(not SOURCES, reason="TRAIN_LORA_HOST_SOURCES names no folder of WebUIs")
@pytest.mark.parametrize("folder", SOURCES, ids=lambda folder: folder.name)
def test_a_webui_has_all_that_is_used(folder: Path) -> None:
    source = Source(folder)
    missing = {
        ".".join(chain): sorted(where)
        for chain, where in USES.required.items()
        if needed(chain, source) and not source.has(chain)
    }
    assert not missing, missing
