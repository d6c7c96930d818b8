"""Completion of a partly typed override: groups, their choices, and keys."""

from __future__ import annotations

import re

from tunerun.compose.explanation import explanation
from tunerun.compose.loader import Loader
from tunerun.compose.validation import fields_at
from tunerun.errors import ConfigError
from tunerun.schema import WORKED_OUT, Experiment

_PREFIX = re.compile(r"\+{1,2}|~|")


def completions_of(loader: Loader, text: str) -> list[str]:
    """Return the possible completions of the beginning of an override.

    After `key=`, or after a comma of a sweep, the choices of a group or a key; else groups and the keys of the next
    level. A single matching key is returned with its values, so that the shell does not add a space after it.
    """
    match = _PREFIX.match(text)
    assert match is not None  # noqa: S101 - it matches the empty text
    prefix = match[0]
    key, equals, value = text[len(prefix) :].partition("=")
    if equals:
        before, comma, last = value.rpartition(",")
        return [f"{prefix}{key}={before}{comma}{choice}" for choice in _choices(loader, key) if choice.startswith(last)]
    *above, last = key.split(".")
    groups = loader.groups() if not above else []
    names = [name for name in fields_at(Experiment, above) if above or name not in WORKED_OUT]
    keys: list[str] = []
    for name in sorted({name for name in (*names, *groups) if name.startswith(last)}):
        dotted = ".".join([*above, name])
        has_keys = bool(fields_at(Experiment, dotted.split(".")))
        # A group may be chosen, and a key of its section be set.
        keys += [f"{dotted}."] if has_keys else []
        keys += [f"{dotted}="] if name in groups or not has_keys else []
    keys.sort()
    if prefix == "~":
        return [f"~{each.rstrip('=')}" for each in keys]
    if len(keys) == 1 and keys[0].endswith("="):
        keys += [f"{keys[0]}{choice}" for choice in _choices(loader, keys[0].rstrip("="))]
    return [f"{prefix}{each}" for each in keys]


def _choices(loader: Loader, key: str) -> list[str]:
    """Return the choices of a group or a key; else its current value, to edit."""
    try:
        explained = explanation(loader, (), key)
    except ConfigError:
        return []
    if explained["choices"]:
        return [str(choice) for choice in explained["choices"]]
    if "true or false" in str(explained["allowed"]):
        return ["true", "false"]
    value = explained["value"]
    is_plain = explained["is_set"] and not isinstance(value, dict | list) and value != "???"
    return ["null" if value is None else str(value)] if is_plain else []
