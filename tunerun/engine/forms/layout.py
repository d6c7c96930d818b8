"""Rows in one sequence: which token is where, which ones see it, what is learned behind it. Pure.

Rows that begin alike are a tree: what several of them begin with is there once, before all that follows it. So a batch
computes its chat prefix once, few-shot examples are computed once for all inputs behind them, and a prompt once for all
of its possible answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunerun.engine.encoding import EncodedExample


@dataclass(frozen=True)
class Layout:
    """The rows of one trial in one sequence.

    Attributes:
        tokens: without each row's last one, which nothing follows.
        positions: of each token in its own rows, from 0.
        ends: of each token the place behind the last one that sees it: everything from it to there follows it in some
            row.
        learned: for each token that is learned, the place that it follows, the token and its row. A place that several
            rows pass through is there once for each.
    """

    tokens: list[int]
    positions: list[int]
    ends: list[int]
    learned: list[tuple[int, int, int]]


def lay_out(rows: Sequence[EncodedExample], *, shares: bool) -> Layout:
    """Put rows behind each other.

    Args:
        shares: whether what rows begin with alike is there once.
    """
    tokens: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    learned: list[tuple[int, int, int]] = []
    path: list[int] = []  # the places of the tokens of the row before
    above: list[int] = []
    for number in order(rows) if shares else range(len(rows)):
        row = rows[number]
        ids, labels = (row.prompt + row.target)[:-1], row.labels(1)
        alike = common(above, ids) if shares else 0
        start = len(tokens)
        tokens += ids[alike:]
        positions += range(alike, len(ids))
        end = len(tokens)
        ends += [end] * (end - start)
        path = [*path[:alike], *range(start, end)]
        for place in path[:alike]:
            ends[place] = end
        learned += [(place, label, number) for place, label in zip(path, labels, strict=True) if label >= 0]
        above = ids
    return Layout(tokens, positions, ends, learned)


def order(rows: Sequence[EncodedExample]) -> list[int]:
    """Return the positions of rows in the order of their tokens: rows that begin alike are next to each other."""
    return sorted(range(len(rows)), key=lambda number: rows[number].prompt + rows[number].target)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)
