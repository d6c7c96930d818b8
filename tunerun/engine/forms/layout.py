"""Rows of a batch in one sequence: which token is where, what it may see, what is learned of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunerun.engine import shared_prefix
from tunerun.engine.encoding import EncodedExample

PREFIX = -1
"""The owner of the tokens that all rows begin with."""

PADDING = -2
"""The owner of what fills up a sequence behind its rows."""


@dataclass(frozen=True)
class Layout:
    """The rows of one trial in one sequence, what they begin with once before all of them.

    Attributes:
        tokens: without each row's last one, which nothing follows.
        positions: of each token in its own row, from 0.
        owners: of each token the number of its row, or PREFIX.
        learned: the places whose next token is learned, and that token.
    """

    tokens: list[int]
    positions: list[int]
    owners: list[int]
    learned: list[tuple[int, int]]


def lay_out(rows: Sequence[EncodedExample], *, shares_prefix: bool) -> Layout:
    """Put rows behind each other.

    Args:
        shares_prefix: whether what they begin with is there once. No token of it is learned, nor is the one behind it:
            a place of the sequence learns for one row only.
    """
    shared = _shared(rows) if shares_prefix else 0
    tokens = (rows[0].prompt + rows[0].target)[:shared]
    positions, owners = list(range(shared)), [PREFIX] * shared
    learned: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        ids, labels = row.prompt + row.target, row.labels(0)
        start = len(tokens) - shared
        learned += [
            (start + place, labels[place + 1]) for place in range(shared, len(ids) - 1) if labels[place + 1] >= 0
        ]
        tokens += ids[shared:-1]
        positions += range(shared, len(ids) - 1)
        owners += [number] * (len(ids) - 1 - shared)
    return Layout(tokens, positions, owners, learned)


def _shared(rows: Sequence[EncodedExample]) -> int:
    if len(rows) < 2:
        return 0
    common = shared_prefix.length([row.prompt + row.target for row in rows])
    return max(0, min(common, *(row.first - 1 for row in rows)))
