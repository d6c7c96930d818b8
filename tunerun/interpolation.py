"""Interpolations that stored configs keep in place of values of environment variables, and their current values.

`compose` writes them (`compose/environment.py`), so three forms are all there is: `${oc.env:NAME}`,
`${oc.env:NAME,default}` and `${oc.decode:...}` of these. Whatever acts on a stored config resolves them, at the last
moment and without omegaconf: the engine, `cancel`, `predict`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from tunerun.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_START = re.compile(r"\$\{oc\.(env|decode):")
_NAME = re.compile(r"[^,}]+")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'")
_BARE = re.compile(r"[^}]*")

Value = TypeVar("Value")
Record = TypeVar("Record", bound="DataclassInstance")


def resolved(text: str) -> str:
    """Return a text with its interpolations replaced by the environment's current values.

    Raises:
        ConfigError: a variable is not set; names it.
    """
    parts: list[str] = []
    position = 0
    while (start := _START.search(text, position)) is not None:
        parts.append(text[position : start.start()])
        value, position = _value(text, start)
        parts.append("" if value is None else value)
    return "".join([*parts, text[position:]])


def resolved_section(section: Value, name: str) -> Value:
    """Return a part of a stored config as plain values, with the environment's current values.

    Raises:
        ConfigError: variables that are not set, with the dotted keys that need them.
    """
    problems: list[str] = []
    values: Value = _resolved(section, name, problems)
    if problems:
        raise ConfigError(problems)
    return values


def resolved_record(record: Record) -> Record:
    """Return a frozen dataclass with the interpolations in its texts replaced by the environment's current values.

    Raises:
        ConfigError: a variable is not set; names it.
    """
    texts = {f.name: value for f in fields(record) if isinstance(value := getattr(record, f.name), str)}
    changed = {name: resolved(text) for name, text in texts.items() if _START.search(text)}
    return replace(record, **changed) if changed else record


def _resolved(node: Any, place: str, problems: list[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _resolved(value, f"{place}.{key}", problems) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_resolved(value, f"{place}.{index}", problems) for index, value in enumerate(node)]
    try:  # what is not set is collected, so that all of it is reported at once
        return resolved(node) if isinstance(node, str) else node
    except ConfigError as error:
        problems.extend(f"{place}: {problem}" for problem in error.problems)
        return node


def _value(text: str, start: re.Match[str]) -> tuple[str | None, int]:
    """Return the value of the interpolation that starts here, and the position where it ends."""
    position = start.end()
    if start[1] == "decode":
        inner, position = _argument(text, position)
        return inner, _closed(text, position)
    name = _NAME.match(text, position)
    if name is None:
        raise ConfigError(f"{text}: an interpolation without a name")
    default: tuple[str | None] | None = None  # `null` is a default too
    position = name.end()
    if text[position : position + 1] == ",":
        argument, position = _argument(text, position + 1)
        default = (argument,)
    end = _closed(text, position)
    if (value := os.environ.get(name[0])) is not None:
        return value, end
    if default is None:
        raise ConfigError(f"the environment variable {name[0]} is not set; set it as it was for the run")
    return default[0], end


def _argument(text: str, position: int) -> tuple[str | None, int]:
    if (start := _START.match(text, position)) is not None:
        return _value(text, start)
    if (quoted := _QUOTED.match(text, position)) is not None:
        return re.sub(r"\\(.)", r"\1", quoted[1]), quoted.end()  # omegaconf's escapes inside quotes
    bare = _BARE.match(text, position)
    assert bare is not None  # noqa: S101 - it matches the empty text
    return (None if bare[0] == "null" else bare[0]), bare.end()


def _closed(text: str, position: int) -> int:
    if text[position : position + 1] != "}":
        raise ConfigError(f"{text}: an interpolation that does not end")
    return position + 1
