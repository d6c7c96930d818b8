"""Estimates of what judgements cost."""

from __future__ import annotations

from tunerun.engine.token_counter import CHARACTERS_PER_TOKEN, ESTIMATE_RANGE
from tunerun.judges import prompt
from tunerun.metrics.judged_metric import JudgedMetric

REPLY_TOKENS = 60
"""Expected length of a reply: one short sentence and a score, as the prompt asks; the limit is `max_output_tokens`."""


def usd_of(metric: JudgedMetric, characters: float) -> float:
    """Return the estimated cost of one judgement in US dollars; 0 if no price is known.

    Args:
        characters: of the texts that are judged.
    """
    if metric.price is None:
        return 0.0
    return metric.price.usd(_input_tokens(metric, characters), min(REPLY_TOKENS, metric.max_output_tokens))


def usd_at_most(metric: JudgedMetric, characters: float) -> float:
    """Return the largest plausible cost of one judgement in US dollars; arguments as in `usd_of`."""
    if metric.price is None:
        return 0.0
    # Tokens at the short end of the estimate, and two calls with the longest reply each: the second call contains the
    # first reply, because it asks again after a reply that could not be read.
    once = _input_tokens(metric, characters) * ESTIMATE_RANGE[1]
    return metric.price.usd(2 * once + metric.max_output_tokens, 2 * metric.max_output_tokens)


def _input_tokens(metric: JudgedMetric, characters: float) -> float:
    return (prompt.CHARACTERS + len(metric.rubric) + characters) / CHARACTERS_PER_TOKEN
