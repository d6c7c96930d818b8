"""The forms that a tuned model can be exported in, by name. A new one is a file here, an entry, and its `Usage`."""

from __future__ import annotations

from collections.abc import Mapping

from tunerun.errors import InputError
from tunerun.export.formats.adapter import AdapterFormat
from tunerun.export.formats.base import ExportFormat, ExportSource
from tunerun.export.formats.gguf import GgufFormat
from tunerun.export.formats.merged import MergedFormat

__all__ = ["FORMATS", "ExportFormat", "ExportSource", "format_of"]

_ALL: tuple[ExportFormat, ...] = (MergedFormat(), AdapterFormat(), GgufFormat())

FORMATS: Mapping[str, ExportFormat] = {each.name: each for each in _ALL}


def format_of(name: str) -> ExportFormat:
    """Look a format up.

    Raises:
        InputError: there is none of this name; lists them.
    """
    if name not in FORMATS:
        raise InputError(f"--to {name}: choose one of {', '.join(FORMATS)}")
    return FORMATS[name]
