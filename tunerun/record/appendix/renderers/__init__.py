"""The formats of an appendix, one module each; a new format is a module here and an entry in `RENDERERS`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from tunerun.errors import InputError

if TYPE_CHECKING:
    from tunerun.record.appendix.document import Appendix


class AppendixRenderer(Protocol):
    """A module that writes an appendix as text; the same appendix always gives the same text."""

    def render(self, appendix: Appendix) -> str:
        """Return the whole appendix as text."""


RENDERERS = {"markdown": "markdown", "latex": "latex"}
"""Name of a format -> its module, which is imported when it is used."""


def renderer(name: str) -> AppendixRenderer:
    """Return the renderer of a format.

    Raises:
        InputError: the format is unknown; the message lists the formats.
    """
    if name not in RENDERERS:
        raise InputError(f"--format {name}: choose one of {', '.join(RENDERERS)}")
    return cast(AppendixRenderer, import_module(f"{__name__}.{RENDERERS[name]}"))
