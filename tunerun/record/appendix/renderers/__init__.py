"""The formats of an appendix, one module each; a new format is a module here and an entry in `RENDERERS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tunerun.errors import InputError
from tunerun.record.appendix.document import Appendix
from tunerun.record.appendix.renderers import latex, markdown


class AppendixRenderer(Protocol):
    """A module that writes an appendix as text; the same appendix always gives the same text."""

    def render(self, appendix: Appendix) -> str:
        """Return the whole appendix as text."""


RENDERERS: Mapping[str, AppendixRenderer] = {"markdown": markdown, "latex": latex}
"""The renderers by the name of their format."""


def renderer(name: str) -> AppendixRenderer:
    """Return the renderer of a format.

    Args:
        name: of the format.

    Raises:
        InputError: the format is unknown; the message lists the formats.
    """
    if name not in RENDERERS:
        raise InputError(f"--format {name}: choose one of {', '.join(RENDERERS)}")
    return RENDERERS[name]
