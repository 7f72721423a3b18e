"""What surrounds the engine: a WebUI, or nothing but diffusers."""

from __future__ import annotations

import sys

from ..errors import UserError
from .base import Host


def current() -> Host:
    """The WebUI in whose process this runs. Raises UserError outside of one."""
    if "modules.shared" in sys.modules:
        from .webui import WebUIHost

        return WebUIHost()
    raise UserError("this process is no WebUI", remedy="Give a StandaloneHost to the Manager instead")
