"""Values that a config reads from the environment, and the interpolations that replace them in a stored config.

A config is resolved twice where it reads the environment: once with the values, and once with `oc.env` giving its own
text back. Where the two differ, however many keys lie between, the second is what may be stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from omegaconf import Container, Node, OmegaConf
from omegaconf.resolvers import oc

Marks = dict[tuple[str | int, ...], str]
"""Interpolations by the location of the text that they produce."""

_NO_DEFAULT = object()


@dataclass
class Reading:
    """One resolution of a config.

    Attributes:
        variables: names of the environment variables that were read.
        gives_text: whether `oc.env` returns its own text instead of a value.
    """

    gives_text: bool = False
    variables: set[str] = field(default_factory=set)


# Resolvers are global functions without state, so what a resolution reads is kept beside them, for each thread.
_reading: ContextVar[Reading | None] = ContextVar("reading", default=None)


@contextmanager
def reading(*, gives_text: bool = False) -> Iterator[Reading]:
    """Record what a config reads from the environment while it is resolved in this thread."""
    register()
    current = Reading(gives_text)
    token = _reading.set(current)
    try:
        yield current
    finally:
        _reading.reset(token)


@cache
def register() -> None:
    """Replace OmegaConf's resolvers of the environment with recording ones; outside `reading` they behave the same."""
    OmegaConf.register_new_resolver("oc.env", _env, replace=True)
    OmegaConf.register_new_resolver("oc.decode", _decode, replace=True)


def marks_of(values: Any, texts: Any) -> Marks:
    """Return the interpolations of texts that came from the environment.

    Numbers and words such as true are left out: they are not secrets, and readers of a stored config need them.

    Args:
        values: the config, resolved.
        texts: the same config, resolved while `oc.env` returned its own text.
    """
    return dict(_different(values, texts, ()))


def with_marks(raw: Any, marks: Mapping[tuple[str | int, ...], str]) -> Any:
    """Return a copy of a plain config with the interpolations put back where they were written."""
    if not marks:
        return raw

    def copied(node: Any, location: tuple[str | int, ...]) -> Any:
        if isinstance(node, dict):
            return {key: copied(value, (*location, key)) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [copied(value, (*location, index)) for index, value in enumerate(node)]
        return marks.get(location, node)

    return copied(raw, ())


def _different(value: Any, text: Any, location: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, dict):
        # A whole section may come from one interpolation, whose text then replaces everything below it.
        others: Callable[[Any], Any] = text.get if isinstance(text, dict) else lambda _: text
        for key, below in value.items():
            yield from _different(below, others(key), (*location, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            other = text[index] if isinstance(text, list) and index < len(text) else text
            yield from _different(below, other, (*location, index))
    elif isinstance(value, str) and value != text:
        yield location, text if isinstance(text, str) else "${oc.env:...}"


def _env(key: str, default: Any = _NO_DEFAULT) -> str | None:
    current = _reading.get()
    if current is not None:
        current.variables.add(key)
        if current.gives_text and default is _NO_DEFAULT:
            return f"${{oc.env:{key}}}"
        if current.gives_text:
            argument = "null" if default is None else str(default)
            # A default that is itself an interpolation must remain one; quotes would turn it into text.
            if isinstance(default, str) and "${" not in default:
                quoted = default.replace("\\", "\\\\").replace("'", "\\'")
                argument = f"'{quoted}'"
            return f"${{oc.env:{key},{argument}}}"
    value: str | None = oc.env(key) if default is _NO_DEFAULT else oc.env(key, default)
    return value


def _decode(expr: str | None, _parent_: Container, _node_: Node) -> Any:
    current = _reading.get()
    # What a text of `oc.env` decodes to is not known, so the interpolation as a whole is the text.
    if current is not None and current.gives_text and isinstance(expr, str) and "${oc." in expr:
        return f"${{oc.decode:{expr}}}"
    return oc.decode(expr, _parent_, _node_)
