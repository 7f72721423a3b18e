"""The host inside AUTOMATIC1111's WebUI and its forks."""

from .host import WebUIHost

__all__ = ["WebUIHost"]
