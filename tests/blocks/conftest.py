"""Hypothesis without deadlines: on a machine with much else to do a moment's wait would count as a failure."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
