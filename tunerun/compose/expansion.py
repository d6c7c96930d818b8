"""The size to which the interpolations of a config expand, computed before they are resolved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tunerun import dotted_keys
from tunerun.errors import ConfigError

FREE = 12
"""With no more interpolations than this, their size is not computed: the shipped config has two."""

MAX_CHARACTERS = 1_000_000

_READ = re.compile(r"\$\{(?:\s*oc\.[\w.]+:\s*)?([.\w\[\]]+)")
Location = tuple[str, ...]


def check_expansion(raw: Mapping[str, Any]) -> None:
    """Refuse a config whose nested interpolations would fill the memory.

    OmegaConf resolves an interpolation each time it is read, so forty keys that each read the next one twice never end.

    Args:
        raw: the config with its interpolations.

    Raises:
        ConfigError: they expand to more than a million characters.
    """
    sizes: dict[Location, int] = {}

    def size(location: Location) -> int:
        if location not in sizes:
            # Each location is counted once, so that this takes linear time where resolving would take exponential time.
            sizes[location] = 1  # for a cycle, which OmegaConf refuses itself
            node = dotted_keys.get(raw, location)
            if isinstance(node, Mapping | list):
                keys = node if isinstance(node, Mapping) else range(len(node))
                sizes[location] = 1 + sum(size((*location, str(key))) for key in keys)
            elif isinstance(node, str):
                sizes[location] = len(node) + sum(size(_target(location, name)) for name in _READ.findall(node))
        return sizes[location]

    total = size(())
    if total > MAX_CHARACTERS:
        largest = max((location for location in sizes if len(location) == 1), key=lambda location: sizes[location])
        raise ConfigError(f"{largest[0]}: its interpolations expand to more than {MAX_CHARACTERS:,} characters")


def _target(location: Location, name: str) -> Location:
    """Return the location that an interpolation reads: absolute, or relative where its name begins with dots."""
    rest = name.lstrip(".")
    up = len(name) - len(rest)
    parts = tuple(part for part in re.split(r"[.\[\]]+", rest) if part)
    return (*location[: len(location) - up], *parts) if up else parts
