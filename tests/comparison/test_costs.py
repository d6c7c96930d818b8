"""Which points are the cheapest."""

from __future__ import annotations

from dataclasses import dataclass

from tunerun.comparison.costs import cheapest, is_cheaper


@dataclass(frozen=True)
class Cost:
    tokens: int = 100
    rank: int = 8
    answer_length: float | None = 10.0


def test_tokens_then_rank_then_the_length_of_answers() -> None:
    """A later criterion counts where those before it are equal; answers that are a little longer cost the same."""
    assert is_cheaper(Cost(tokens=99, rank=16), Cost())
    assert is_cheaper(Cost(rank=4, answer_length=90), Cost())
    assert is_cheaper(Cost(answer_length=8), Cost())
    assert not is_cheaper(Cost(answer_length=9.5), Cost())
    assert not is_cheaper(Cost(answer_length=None), Cost(answer_length=None))


def test_several_may_be_the_cheapest() -> None:
    """Points of equal cost are all returned, in the order in which they came."""
    short, same, long, dear = Cost(), Cost(answer_length=10.5), Cost(answer_length=20), Cost(tokens=200)
    assert cheapest([dear, long, same, short]) == [same, short]
    assert cheapest([dear]) == [dear]
