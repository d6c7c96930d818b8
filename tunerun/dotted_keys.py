"""Values of nested configs by dotted key, such as `evaluation.metrics.0.python`.

A part of a key is a key of a mapping, an index of a list, or a field of a section of the schema. The keys of a mapping
are texts without dots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunerun.section import Section

Location = tuple[str | int, ...]
"""The parts of a key: keys of mappings and indices of lists."""

Key = str | Sequence[str | int]
"""A dotted key, or its parts."""

MISSING: Any = object()
"""The value of a key that does not exist, as the default of `get`: None is a value."""


def get(config: Any, key: Key, default: Any = None) -> Any:
    """Return the value of a key.

    Args:
        config: nested mappings, lists and sections.
        key: dotted, or its parts.
        default: returned if some part of the key does not exist.
    """
    node = config
    for part in key.split(".") if isinstance(key, str) else key:
        if isinstance(node, Mapping):
            node = node.get(part, MISSING)
        elif isinstance(node, list | tuple):
            is_index = str(part).isdigit() and int(part) < len(node)
            node = node[int(part)] if is_index else MISSING
        elif isinstance(node, Section):  # an experiment as it was validated; a stored config is mappings
            node = getattr(node, str(part), MISSING)
        else:
            return default
    return default if node is MISSING else node


def has(config: Any, key: Key) -> bool:
    """Return whether a key exists; its value may be None."""
    return get(config, key, MISSING) is not MISSING


def put(config: Any, key: Key, value: Any) -> None:
    """Set the value of a key, in place.

    Raises:
        KeyError: there is no mapping or list that could hold the key; nothing is created above it.
    """
    *above, last = key.split(".") if isinstance(key, str) else key
    holder = get(config, above)
    if isinstance(holder, list):
        holder[int(last)] = value
    elif isinstance(holder, dict):
        holder[last] = value
    else:
        raise KeyError(".".join(map(str, [*above, last])))


def texts(node: Any, location: Location = ()) -> Iterator[tuple[Location, str]]:
    """Yield every text in nested mappings and lists, with its location.

    Args:
        node: the mapping or list.
        location: of `node` itself.
    """
    if isinstance(node, str):
        yield location, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from texts(value, (*location, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from texts(value, (*location, index))


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values that are not mappings, by dotted key; lists are leaves.

    Args:
        values: nested mappings. A key may be dotted itself, as those of `sweep.axes` are.
        prefix: of every key, with a dot at its end.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        flat |= leaves(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted: value}
    return flat
