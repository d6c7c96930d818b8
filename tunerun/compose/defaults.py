"""Checks of defaults lists that Hydra cannot compose: its own messages give neither the line nor the fix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tunerun.compose.source import read_yaml, shown
from tunerun.errors import did_you_mean

_ENTRY = re.compile(r"(?P<override>override\s+)?(?:optional\s+)?(?P<slash>/?)(?P<group>[^@]+)(?P<package>@\S+)?")


def problems(files: Sequence[Path], options: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the problems of the defaults lists of files that set keys of all groups.

    Args:
        options: the choices of each group, by its name.
    """
    found: list[str] = []
    for file in files:
        document = yaml.compose(read_yaml(file))
        entries = document.value if isinstance(document, yaml.MappingNode) else ()
        defaults = next((value for key, value in entries if key.value == "defaults"), None)
        if defaults is not None and not isinstance(defaults, yaml.SequenceNode):
            place = f"{shown(file)}:{defaults.start_mark.line + 1}"
            found.append(f"{place}: defaults: must be a list; begin each entry with '- '")
            continue
        for node in defaults.value if defaults is not None else ():
            if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
                key, value = node.value[0]
                choice = value.value if isinstance(value, yaml.ScalarNode) else "..."
                if problem := _problem(key.value, choice, options):
                    found.append(f"{shown(file)}:{key.start_mark.line + 1}: defaults: {problem}")
    return found


def _problem(entry: str, choice: str, options: Mapping[str, Sequence[str]]) -> str | None:
    """Return the problem of a line `- entry: choice`; None: none that can be seen here."""
    parts = _ENTRY.fullmatch(entry.strip())
    if parts is None:
        return None
    group = parts["group"].strip()
    wanted = f"- override /{group}: {choice}"
    if group not in options:
        hint = did_you_mean(group, list(options))
        is_local = not parts["override"] and not parts["slash"]
        return None if is_local and not hint else f"no group {group!r}; {hint or 'groups: ' + ', '.join(options)}"
    if parts["override"] and not (parts["slash"] and not parts["package"]):
        return f"`{entry}` names no group of config.yaml; write `{wanted}`"
    if not parts["override"] and not parts["package"]:
        return f"{group} is chosen in config.yaml already; write `{wanted}`"
    return None


def misshapen(file: Path, base: Mapping[str, Any]) -> list[str]:
    """Return the places where a file has a list instead of a mapping, or the other way round.

    Args:
        base: the config without the file.
    """

    def walk(node: yaml.Node, values: Any, key: str) -> Iterator[str]:
        place = f"{shown(file)}:{node.start_mark.line + 1}: {key}"
        if isinstance(values, Mapping) and isinstance(node, yaml.SequenceNode):
            yield f"{place}: must be a mapping of keys to values"
        elif isinstance(values, list) and isinstance(node, yaml.MappingNode):
            yield f"{place}: must be a list; begin each entry with '- '"
        elif isinstance(values, Mapping) and isinstance(node, yaml.MappingNode):
            for name, below in node.value:
                yield from walk(below, values.get(name.value), f"{key}.{name.value}" if key else name.value)

    document = yaml.compose(read_yaml(file))
    return [] if document is None else list(walk(document, base, ""))
