"""A part of a difference as plain values: what is shown of it to people, and what programs get."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_CHARACTERS = 70
"""Of a text from outside that is shown on one line."""

_DIGEST_DIGITS = 12
_HEXADECIMAL = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class SideBySide:
    """A value that both records have, or one of them.

    Attributes:
        a, b: JSON values; None: null, or absent.
        note: what to know of it, such as `in the key`.
        where: the trials whose values these are; empty: all.
    """

    name: str
    a: Any
    b: Any
    note: str = ""
    where: str = ""

    def to_json(self) -> dict[str, Any]:
        """The value as `diff --json` prints it."""
        more = {"note": self.note} if self.note else {}
        return {"name": self.name, "a": finite(self.a), "b": finite(self.b), **more, **self._where}

    @property
    def _where(self) -> dict[str, str]:
        return {"where": self.where} if self.where else {}


@dataclass(frozen=True)
class DifferenceSection:
    """A part of a difference.

    Attributes:
        title: what it is about.
        values: that differ.
        lines: what else differs, for people.
        document: what else differs, as JSON values.
        unknown: what cannot be compared because one of the records does not have it, in words; empty: nothing.
        is_compared: whether anything could be.
    """

    title: str
    values: tuple[SideBySide, ...] = ()
    lines: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
    unknown: str = ""
    is_compared: bool = True

    @property
    def is_same(self) -> bool:
        """Whether nothing differs of what can be compared."""
        return not self.values and not self.lines

    @property
    def summary(self) -> str:
        """One line for a section in which nothing differs."""
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


def collected(found: Iterable[tuple[SideBySide, str]], trials: int) -> tuple[SideBySide, ...]:
    """Values of many trials, each once with the trials that it is of.

    Args:
        found: a value, and the name of the trials that it is of. trials: how many pairs were compared.
    """
    places: dict[tuple[str, str, str], tuple[SideBySide, list[str]]] = {}
    for value, where in found:
        places.setdefault((value.name, repr(value.a), repr(value.b)), (value, []))[1].append(where)
    return tuple(
        SideBySide(value.name, value.a, value.b, value.note, "" if len(names) == trials else listed(names))
        for value, names in places.values()
    )


def not_recorded(a: object, b: object) -> str:
    """Which of two records lacks something; empty: none does."""
    lacking = [name for name, found in (("A", a), ("B", b)) if not found]
    return f"not recorded in {' and '.join(lacking)}" if lacking else ""


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in a row, the first ones of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(value: Any) -> str:
    """A JSON value on one line; of a digest its first digits."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return one_line("[" + ", ".join(shown(each) for each in value) + "]")
    text = str(value)
    head, colon, digits = text.rpartition(":")
    if len(digits) == 64 and set(digits) <= _HEXADECIMAL:
        return f"{head}{colon}{digits[:_DIGEST_DIGITS]}"
    return one_line(text)


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text from outside on one line, cut where it is long, without characters that a terminal obeys."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."


def printable(text: str) -> str:
    """A text from outside without characters that a terminal obeys."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def finite(value: Any) -> Any:
    """JSON values without numbers that JSON does not have: these become texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value
