"""A point in words: what it sets, as a table's rows, a plot's legend and the verdict's sentence call it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from tunerun.comparison.numbers import counted
from tunerun.job import Scalar

MOST_CHARACTERS = 40
"""Maximum length of one value: a template that an axis sets can be pages long."""

_COUNTS = {"hyperparameters.epoch_count": "epoch", "dataset.limit": "example"}
"""Keys whose value is a count of something that has a name."""


def label(overrides: Mapping[str, Scalar]) -> str:
    """Write what a point sets: `learning_rate 0.001, 5 epochs`; empty where it sets nothing."""
    heads = short_names(overrides)
    phrases = []
    for key, value in overrides.items():
        noun = _COUNTS.get(key)
        # `dataset.limit: null` means all rows, which "limit null" does not say.
        if noun is not None and value is None:
            phrases.append(f"all {noun}s")
        elif noun is not None and isinstance(value, int) and not isinstance(value, bool):
            phrases.append(counted(value, noun))
        else:
            phrases.append(f"{heads[key]} {text(value)}")
    return ", ".join(phrases)


def compact(overrides: Mapping[str, Scalar]) -> str:
    """Write what a point sets as `learning_rate=0.001 epoch_count=5`, where there is little room."""
    heads = short_names(overrides)
    return " ".join(f"{heads[key]}={text(value)}" for key, value in overrides.items())


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return for each dotted key its last part, or the whole key where two would be called the same."""
    # Two keys may end alike, such as `dataset.path` and `dataset.validation.path`.
    last = {key: key.rsplit(".", 1)[-1] for key in keys}
    uses = Counter(last.values())
    return {key: short if uses[short] == 1 else key for key, short in last.items()}


def text(value: Scalar) -> str:
    """Write a value as YAML has it, on one line and cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    line = " ".join(str(value).split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 3]}..."
