"""`sweep.exclude`: combinations to leave out of a sweep. An entry that excludes nothing is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunerun.errors import ConfigError, did_you_mean
from tunerun.job import Scalar

_MAX_SHOWN = 12
"""Values of an axis that an error lists."""


def check_exclusions(
    entries: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, Scalar]],
    unused: Mapping[str, Sequence[Any]],
) -> None:
    """Refuse entries that exclude nothing: the points that they were meant to exclude would cost money.

    Args:
        entries: dotted key -> value.
        points: what each point sets, pins included.
        unused: values of the YAML's axes that the command line replaced or pinned; an entry about them is not an error,
            because the file needs it without the override.

    Raises:
        ConfigError: a key that is not swept, a value that no axis has, or values that no point has together.
    """
    values = {key: list(dict.fromkeys(_typed(point[key]) for point in points)) for key in points[0]}
    problems = []
    for number, entry in enumerate(entries):
        if not entry:
            problems.append(f"sweep.exclude.{number}: is empty; name swept keys with a value each, or remove the entry")
        for key, value in entry.items():
            place = f"sweep.exclude.{number}.{key}"
            if key not in values:
                names = sorted(values)
                hint = did_you_mean(key, names) or f"name one of {', '.join(names) or '(nothing is swept)'}"
                problems.append(f"{place}: is not swept; {hint}")
            elif isinstance(value, list | Mapping):
                problems.append(f"{place}: must be one value; write an entry for each combination")
            elif _typed(value) not in {*values[key], *map(_typed, unused.get(key, ()))}:
                written = [_written(of_axis) for _, of_axis in values[key]]
                more = f" and {len(written) - _MAX_SHOWN} more" if len(written) > _MAX_SHOWN else ""
                # Quotes in YAML make text of a number, which then equals no value of the axis.
                if isinstance(value, str) and value in written:
                    reason = f"is text, and the axis has the number or word {value}; write it without quotes"
                else:
                    axis = ", ".join(written[:_MAX_SHOWN])
                    reason = f"no point has the value {_written(value)}; the axis has {axis}{more}"
                problems.append(f"{place}: {reason}")
    # Each value may exist where no point has all of them together, as with zipped axes.
    problems = problems or [
        f"sweep.exclude.{number}: excludes nothing: no point has all of its values; remove it, or correct a value"
        for number, entry in enumerate(entries)
        if all(_typed(value) in values[key] for key, value in entry.items())
        and not any(is_excluded(point, [entry]) for point in points)
    ]
    if problems:
        raise ConfigError(problems)


def is_excluded(values: Mapping[str, Scalar], entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a point has all values of one of the entries."""
    return any(all(_typed(values[key]) == _typed(value) for key, value in entry.items()) for entry in entries)


def _typed(value: Any) -> tuple[str, Any]:
    """Return a key that compares values by type: 1 and 1.0 are one number, true is not 1, and '1' is text."""
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    return kind, value


def _written(value: Any) -> str:
    """Return a value as it is written in YAML."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
