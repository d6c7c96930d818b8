"""The ways to write an appendix, one file each: a new one is a module here and its name in the mapping below."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from tunerun.errors import InputError

if TYPE_CHECKING:
    from tunerun.record.appendix.document import Appendix


class Renderer(Protocol):
    """A module that turns an appendix into text. It decides nothing, and the same appendix gives the same text."""

    def render(self, appendix: Appendix) -> str:
        """Return the whole appendix as text."""


RENDERERS = {"markdown": "markdown", "latex": "latex"}
"""Name of a format -> its module; imported when it is used."""


def renderer(name: str) -> Renderer:
    """A renderer by its name.

    Raises:
        InputError: there is none of that name; lists them.
    """
    if name not in RENDERERS:
        raise InputError(f"--format {name}: choose one of {', '.join(RENDERERS)}")
    return cast(Renderer, import_module(f"{__name__}.{RENDERERS[name]}"))
