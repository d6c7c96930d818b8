"""The price of points: which of several is the cheapest to train and to use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

# Without it, of two equally long trainings of the demo the one with shorter answers and fewer right ones was advised.
LENGTH_TOLERANCE = 0.1
"""Answers whose lengths differ by less than this share cost the same: the length of a few held-out answers varies by
chance, and should not outweigh how many of them are right."""


class Priced(Protocol):
    """What makes a point cheap: training tokens, then its adapter's rank, then the length of its answers."""

    @property
    def tokens(self) -> int:
        """Training tokens of one of its trials, all epochs."""

    @property
    def rank(self) -> int:
        """The rank of its adapter."""

    @property
    def answer_length(self) -> float | None:
        """Characters of an answer, on average; None: there are no answers."""


Point = TypeVar("Point", bound=Priced)


def is_cheaper(one: Priced, other: Priced) -> bool:
    """Return whether a point costs less than another."""
    # Training tokens first: they are what a service charges for, and the time of a local run.
    if (one.tokens, one.rank) != (other.tokens, other.rank):
        return (one.tokens, one.rank) < (other.tokens, other.rank)
    return (one.answer_length or 0.0) < (1 - LENGTH_TOLERANCE) * (other.answer_length or 0.0)


def cheapest(points: Sequence[Point]) -> list[Point]:
    """Return the points for which there is no cheaper one, in their order; at least one."""
    return [one for one in points if not any(is_cheaper(other, one) for other in points)]
