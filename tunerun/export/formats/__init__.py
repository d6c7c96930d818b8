"""The formats for exporting a tuned model. A new one is a module here, an entry in `FORMATS`, and its `Usage`."""

from __future__ import annotations

from collections.abc import Mapping

from tunerun.errors import InputError
from tunerun.export.formats.adapter import AdapterFormat
from tunerun.export.formats.base import ExportFormat, ExportSource
from tunerun.export.formats.gguf import GgufFormat
from tunerun.export.formats.merged import MergedFormat

__all__ = ["FORMATS", "ExportFormat", "ExportSource", "format_of"]

# Their methods import torch when they are called, because the command lists and checks names without it.
FORMATS: Mapping[str, ExportFormat] = {each.name: each for each in (MergedFormat(), AdapterFormat(), GgufFormat())}


def format_of(name: str) -> ExportFormat:
    """Return the format of a name.

    Args:
        name: a key of `FORMATS`, the value of `--to`.

    Raises:
        InputError: the format is unknown; the message lists the formats.
    """
    if name not in FORMATS:
        raise InputError(f"--to {name}: choose one of {', '.join(FORMATS)}")
    return FORMATS[name]
