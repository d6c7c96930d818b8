"""Lenient reading of stored JSON: by field names, so that objects of other versions can be read.

What is stored has dataclasses of its own whose fields have defaults. A key that this version does not know is ignored,
one that is missing takes its default; config classes, which are strict, are never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

_Stored = TypeVar("_Stored")


def read_stored(kind: type[_Stored], values: Mapping[str, Any], **more: Any) -> _Stored:
    """Build a dataclass from a stored JSON object; unknown keys are ignored, missing ones take the field's default.

    Args:
        kind: the dataclass.
        values: the stored object.
        more: fields that are computed rather than taken as stored.

    Raises:
        TypeError: a field without a default is missing.
    """
    # A newer version may have written more, an older one less: neither must stop a ledger from being read.
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in names} | more)


def section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of a stored object; empty where it is missing or not an object."""
    part = values.get(name)
    return part if isinstance(part, Mapping) else {}
