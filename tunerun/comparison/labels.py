"""A point in words: what it sets, as a table's rows, a plot's legend and the verdict's sentence call it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from tunerun.comparison.numbers import counted
from tunerun.job import Scalar

MOST_CHARACTERS = 40
"""Of one value; a template written into an axis can be pages."""

_COUNTS = {"hyperparameters.epoch_count": "epoch", "dataset.limit": "example"}
"""Keys whose value is a count of something that has a name."""


def label(overrides: Mapping[str, Scalar]) -> str:
    """What a point sets, in words: `learning_rate 0.001, 5 epochs`; empty where it sets nothing."""
    heads = short_names(overrides)
    return ", ".join(_phrase(key, heads[key], value) for key, value in overrides.items())


def compact(overrides: Mapping[str, Scalar]) -> str:
    """The same as `learning_rate=0.001 epoch_count=5`, where there is little room."""
    heads = short_names(overrides)
    return " ".join(f"{heads[key]}={text(value)}" for key, value in overrides.items())


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """For each dotted key its last part, or the whole key where two would be called the same."""
    keys = list(keys)
    uses = Counter(_last(key) for key in keys)
    return {key: _last(key) if uses[_last(key)] == 1 else key for key in keys}


def text(value: Scalar) -> str:
    """A value as YAML has it, on one line and cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    line = " ".join(str(value).split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 3]}..."


def _phrase(key: str, head: str, value: Scalar) -> str:
    noun = _COUNTS.get(key)
    if noun is not None and value is None:
        return f"all {noun}s"
    if noun is not None and isinstance(value, int) and not isinstance(value, bool):
        return counted(value, noun)
    return f"{head} {text(value)}"


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]
