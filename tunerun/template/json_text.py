"""JSON for prompts: keys in the row's order, letters of every script unescaped, numbers as the file writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tunerun.template.absent_cells import Absent, is_null


def to_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON.

    Args:
        value: a cell: text, a number, a boolean, null, a list or an object; a date is written in its ISO form.
        indent: spaces for each level; None: one line.

    Raises:
        TypeError: the value cannot be written as JSON.
        ValueError: it is infinite.
    """
    # Not `json.dumps`: it writes every float as `float.__repr__` does, so that 1.10 in the file would become 1.1.
    return "".join(_pieces(value, indent, 0))


def _pieces(value: Any, indent: int | None, level: int) -> Iterable[str]:
    if isinstance(value, str):
        yield json.dumps(str(value), ensure_ascii=False)
    elif isinstance(value, bool):
        yield "true" if value else "false"
    elif is_null(value) or (isinstance(value, Absent) and value.is_null):
        yield "null"
    elif isinstance(value, int | float):
        if str(value) in ("inf", "-inf"):  # not 1E400 as the file writes it, which is JSON
            raise ValueError("infinity has no JSON")
        yield str(value)
    elif isinstance(value, Mapping):
        items = (([json.dumps(str(key), ensure_ascii=False), ": "], item) for key, item in value.items())
        yield from _enclosed("{}", items, indent, level)
    elif isinstance(value, list | tuple):
        yield from _enclosed("[]", (([], item) for item in value), indent, level)
    elif hasattr(value, "isoformat"):
        yield json.dumps(value.isoformat())
    else:
        raise TypeError(f"{type(value).__name__} has no JSON")


def _enclosed(brackets: str, items: Iterable[tuple[list[str], Any]], indent: int | None, level: int) -> Iterable[str]:
    between = ", " if indent is None else f",\n{' ' * indent * (level + 1)}"
    first = "" if indent is None else between[1:]
    yield brackets[0]
    is_empty = True
    for before, item in items:
        yield first if is_empty else between
        yield from before
        yield from _pieces(item, indent, level + 1)
        is_empty = False
    if indent is not None and not is_empty:
        yield f"\n{' ' * indent * level}"
    yield brackets[1]
