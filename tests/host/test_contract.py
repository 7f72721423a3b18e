"""Every host keeps the contract: the one without a WebUI, and a WebUI's of three kinds on stand-ins.

tests/webui/test_host.py puts the same checks to a real one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_train.host.base import Host
from lora_train.host.standalone import StandaloneHost
from lora_train.host.webui import WebUIHost

from . import contract

HOSTS = {
    "standalone": frozenset({"grid", "render", "live", "narrow", "choose"}),
    "webui": frozenset({"grid", "render", "narrow", "upscale", "captions:deepbooru", "captions:blip"}),
    "forge": frozenset({"grid", "render", "upscale", "captions:deepbooru", "captions:blip"}),
    "classic": frozenset({"grid", "render", "upscale"}),
}


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    if request.param != "standalone":
        request.getfixturevalue(request.param)
        return WebUIHost()
    (tmp_path / "m.safetensors").touch()
    return StandaloneHost(tmp_path / "m.safetensors", tmp_path / "loras", tmp_path / "data")


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_a_host(check: Callable[[Host, Path], None], host: Host, tmp_path: Path) -> None:
    check(host, tmp_path)


@pytest.mark.parametrize("name", HOSTS)
def test_capabilities_are_those_of_the_kind(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if name != "standalone":
        request.getfixturevalue(name)
    host: Host = StandaloneHost(None, tmp_path, tmp_path) if name == "standalone" else WebUIHost()
    assert host.capabilities() == HOSTS[name]
