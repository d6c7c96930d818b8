"""A section of a difference as plain values, for text output and for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_CHARACTERS = 70
"""Of a text from the data that is shown on one line."""

_DIGEST_DIGITS = 12
_HEXADECIMAL = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class SideBySide:
    """A value of both records, or of one of them.

    Attributes:
        name: of the value.
        a, b: JSON values; None: null, or absent.
        note: a remark such as `in the key`.
        where: the trials with these values; empty: all.
    """

    name: str
    a: Any
    b: Any
    note: str = ""
    where: str = ""

    def to_json(self) -> dict[str, Any]:
        """The value as `diff --json` prints it."""
        more = {"note": self.note, "where": self.where}
        return {
            "name": self.name,
            "a": finite(self.a),
            "b": finite(self.b),
            **{key: text for key, text in more.items() if text},
        }


@dataclass(frozen=True)
class DifferenceSection:
    """A section of a difference.

    Attributes:
        title: of the section.
        values: those that differ.
        lines: other differences, for text output.
        document: other differences, as JSON values.
        unknown: what cannot be compared because a record lacks it; empty: nothing.
        is_compared: whether anything could be compared.
    """

    title: str
    values: tuple[SideBySide, ...] = ()
    lines: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
    unknown: str = ""
    is_compared: bool = True

    @property
    def is_same(self) -> bool:
        """Whether everything that can be compared is equal."""
        return not self.values and not self.lines

    @property
    def summary(self) -> str:
        """One line for a section without a difference."""
        if not self.is_compared:
            return f"{self.title}: {self.unknown}"
        return f"{self.title}: the same{f' ({self.unknown})' if self.unknown else ''}"

    def to_json(self) -> dict[str, Any]:
        """The section as `diff --json` prints it."""
        return {
            "same": self.is_same if self.is_compared else None,
            "values": [value.to_json() for value in self.values],
            **dict(finite(self.document)),
            **({"unknown": self.unknown} if self.unknown else {}),
        }


def collected(values: Iterable[tuple[SideBySide, str]], trials: int) -> tuple[SideBySide, ...]:
    """Merge equal values of several trials into one value that names these trials, in their first order.

    Args:
        values: values, each with the name of its trials.
        trials: number of pairs that were compared; a value of all of them names none.
    """
    # By the texts of the values, because lists and mappings are among them, and NaN is not equal to itself.
    places: dict[tuple[str, str, str], tuple[SideBySide, list[str]]] = {}
    for value, where in values:
        places.setdefault((value.name, repr(value.a), repr(value.b)), (value, []))[1].append(where)
    return tuple(
        SideBySide(value.name, value.a, value.b, value.note, "" if len(names) == trials else listed(names))
        for value, names in places.values()
    )


def not_recorded(a: object, b: object) -> str:
    """Say which of two records lacks something; empty: neither does."""
    lacking = [name for name, recorded in (("A", a), ("B", b)) if not recorded]
    return f"not recorded in {' and '.join(lacking)}" if lacking else ""


def listed(names: Sequence[str], most: int = 6) -> str:
    """Join names with commas, at most this many of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def formatted(value: Any) -> str:
    """Format a JSON value on one line, a digest by its first digits."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return one_line("[" + ", ".join(formatted(each) for each in value) + "]")
    # `gguf:sha256:` and 64 digits: whether two digests differ can be seen from the first ones.
    text = str(value)
    head, colon, digits = text.rpartition(":")
    if len(digits) == 64 and set(digits) <= _HEXADECIMAL:
        return f"{head}{colon}{digits[:_DIGEST_DIGITS]}"
    return one_line(text)


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """Format a text from the data on one line, shortened, with control characters of a terminal escaped."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."


def printable(text: str) -> str:
    """Escape characters of a text from the data that would control a terminal."""
    # Escape sequences can move the cursor or change what a terminal has printed before; rows may come from anyone.
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def finite(value: Any) -> Any:
    """Replace NaN and infinite numbers, which JSON does not have, by texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value
