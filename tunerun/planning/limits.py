"""The budget of a sweep, checked before anything is submitted and while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from tunerun.ledger import Spending
from tunerun.schema import Budget


@dataclass(frozen=True)
class Cost:
    """The cost of trials.

    Attributes:
        tokens: training tokens over all epochs.
        usd: US dollars.
        hours: training hours; None: not known.
        steps: optimiser steps.
    """

    tokens: int
    usd: float
    hours: float | None
    steps: int = 0

    def __sub__(self, other: Cost) -> Cost:
        is_known = self.hours is not None and other.hours is not None
        hours = (self.hours or 0.0) - (other.hours or 0.0) if is_known else None
        return Cost(self.tokens - other.tokens, self.usd - other.usd, hours, self.steps - other.steps)


def over_budget(budget: Budget, spent: Spending, more: Cost) -> list[str]:
    """Return why trials cannot run: one line for each limit that they would exceed.

    Args:
        budget: the limits.
        spent: cost of the sweep's jobs so far, including running ones.
        more: cost of what would be submitted; the upper end if it is an estimate.
    """
    lines = []
    tokens, usd = spent.tokens + more.tokens, spent.usd + more.usd
    if budget.max_tokens is not None and tokens > budget.max_tokens:
        lines.append(_line("max_tokens", f"{tokens:,} tokens", f"{spent.tokens:,}", f"{budget.max_tokens:,}"))
    if budget.max_usd is not None and usd > budget.max_usd:
        lines.append(_line("max_usd", f"{usd:,.2f} US dollars", f"{spent.usd:,.2f}", f"{budget.max_usd:,.2f}"))
    # Unlike money and tokens, hours are limited for each `run`, so hours that were spent do not count.
    if budget.max_hours is not None and more.hours is not None and more.hours > budget.max_hours:
        lines.append(
            f"budget.max_hours: about {more.hours:.2g} hours of training remain, the budget is "
            f"{budget.max_hours:g}; raise it, or remove trials"
        )
    return lines


def _line(key: str, needed: str, spent: str, limit: str) -> str:
    return (
        f"budget.{key}: the sweep would cost up to {needed} ({spent} of it already spent, running, or for baselines "
        f"and judges), the budget is {limit}; raise it, or remove trials"
    )
