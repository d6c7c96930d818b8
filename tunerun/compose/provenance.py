"""Where a value of the config was written: an override on the command line, or a line of a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override


@dataclass(frozen=True)
class Origin:
    """Where a value of the config was written: an override on the command line, or a line of a YAML file."""

    text: str
    file: Path | None = None

    def __str__(self) -> str:
        return self.text


def sets(override: Override, keys: Sequence[str]) -> bool:
    """Whether an override sets a key, something below it, or a dictionary or list that holds it."""
    at = override.key_or_group.split(".")
    if at[: len(keys)] == list(keys):
        return True
    node: Any = override.value()
    if list(keys[: len(at)]) != at or not isinstance(node, dict | list):
        return False
    for key in keys[len(at) :]:
        if isinstance(node, list):
            return True  # an override replaces a list as a whole
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """Return the line of a key in a YAML text, from 1; None: the text does not set it."""
    node = yaml.compose(text)
    line = None
    left = list(keys)
    while left:
        key = left.pop(0)
        if isinstance(node, yaml.MappingNode):
            # The dotted key of an axis may be written nested.
            entries = [(n, v) for n, v in reversed(node.value) if f"{key}.".startswith(f"{n.value}.")]
            if not entries:
                return None
            name, below = max(entries, key=lambda entry: len(entry[0].value))
            line, node = name.start_mark.line + 1, below
            if name.value != key:
                left.insert(0, key.removeprefix(f"{name.value}."))
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            return None
    return line
