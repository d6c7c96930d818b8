"""The layout of several rows in one sequence: positions, visibility and labels of its tokens. Pure Python, no tensors.

Rows with common prefixes form a tree (a trie), and the sequence is its depth-first order: a prefix comes once, before
everything that follows it in any row. So a batch computes its chat prefix once, few-shot examples once for all inputs
after them, and a prompt once for all of its possible answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunerun.engine.encoding import EncodedExample


@dataclass(frozen=True)
class Layout:
    """The rows of one trial in one sequence.

    Attributes:
        tokens: the ids; each row's last token is omitted, because nothing is predicted after it.
        positions: of each token within its row, from 0.
        ends: for each token the index after the last token that may attend to it. As the order is depth-first, the
            tokens that may attend to token i are exactly those from i to ends[i] - 1.
        learned: for each learned token the index of the token before it, its id, and the number of its row. An index
            that several rows pass through occurs once for each of these rows.
    """

    tokens: list[int]
    positions: list[int]
    ends: list[int]
    learned: list[tuple[int, int, int]]


def lay_out(rows: Sequence[EncodedExample], *, shares: bool) -> Layout:
    """Lay out rows one after another.

    Args:
        rows: of one trial.
        shares: whether a prefix that several rows have in common appears once.
    """
    tokens: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    learned: list[tuple[int, int, int]] = []
    path: list[int] = []  # the indices in `tokens` of the previous row's tokens
    above: list[int] = []  # the ids of the previous row
    for number in order(rows) if shares else range(len(rows)):
        row = rows[number]
        ids, labels = (row.prompt + row.target)[:-1], row.labels(1)
        shared = common(above, ids) if shares else 0
        start = len(tokens)
        tokens += ids[shared:]
        positions += range(shared, len(ids))
        end = len(tokens)
        ends += [end] * (end - start)
        path = [*path[:shared], *range(start, end)]
        for place in path[:shared]:  # the shared tokens are visible to this row too
            ends[place] = end
        learned += [(place, label, number) for place, label in zip(path, labels, strict=True) if label >= 0]
        above = ids
    return Layout(tokens, positions, ends, learned)


def order(rows: Sequence[EncodedExample]) -> list[int]:
    """Return the positions of rows sorted by their tokens, so that rows with a common prefix are neighbours."""
    return sorted(range(len(rows)), key=lambda number: rows[number].prompt + rows[number].target)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences, in tokens."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)
