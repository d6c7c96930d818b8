"""Two models on the same rows, each right or wrong: McNemar's test, and Holm's correction for several tests.

A pair of models is summarised by its discordant rows: `wins`, which only the first has right, and `losses`, which only
the second has right. Rows on which both are right or both are wrong do not show which model is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def mid_p(wins: int, losses: int) -> float:
    """Return McNemar's two-sided mid-p value.

    Source: Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91. The exact test is conservative
    at these sizes: its level at 24 rows is 0.001 to 0.022 for a nominal 0.05. Mid-p keeps its level up to a discordant
    share of 0.8, and reaches 0.065 if nearly every row is discordant.

    Args:
        wins: number of rows that only the first model has right.
        losses: number of rows that only the second model has right.
    """
    # Whole numbers up to the division, so that a thousand discordant rows lose no digit.
    discordant, fewer = wins + losses, min(wins, losses)
    tail = sum(comb(discordant, count) for count in range(fewer + 1))
    return float((2 * tail - comb(discordant, fewer)) / 2**discordant)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values after Holm's step-down correction (Holm 1979), which is valid however the tests depend.

    Args:
        p_values: uncorrected, in any order.

    Returns:
        Corrected p values, in the order of `p_values`.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
