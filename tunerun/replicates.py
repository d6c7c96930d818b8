"""Which trials of a sweep are replicates: those that differ in nothing but `seed` belong to one point."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from tunerun.job import Scalar

SEED = "seed"
"""The one key whose values make replicates rather than points."""


def without_seed(overrides: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return what a point sets: the overrides of any of its trials, apart from the seed."""
    return {key: value for key, value in overrides.items() if key != SEED}


def point_numbers(overrides: Iterable[Mapping[str, Scalar]]) -> list[int]:
    """Return the number of each trial's point: from 0, in the order in which the points first appear.

    The order of the keys does not matter; 1, 1.0 and true are different values.

    Args:
        overrides: of each trial, in the sweep's order.
    """
    # As JSON, because 1 == 1.0 == True in Python, and a point is what was written.
    numbers: dict[str, int] = {}
    texts = (json.dumps(without_seed(each), sort_keys=True) for each in overrides)
    return [numbers.setdefault(text, len(numbers)) for text in texts]
