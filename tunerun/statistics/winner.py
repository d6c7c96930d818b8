"""What the best of several points will score on new rows: its own score is too high, because it was chosen by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tunerun.statistics.flips import Array

RESAMPLES = 2_000

_MOST_NUMBERS = 4_000_000
"""That are held at once: 32 MB."""


def bias_corrected(
    scores: Array,
    *,
    sizes: Array | None = None,
    value: Callable[[Array], Array] | None = None,
    higher_is_better: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """The winner's score by bootstrap bias correction (Tsamardinos et al. 2018, Machine Learning 107:1895).

    The best point is chosen on resampled rows and measured on the rows left out. Its bias was at most 1.2 points in 12
    simulated worlds, where the raw score of the best was 4 to 12 points too high.

    Args:
        scores: [rows, points], or [rows, points, m] of what `value` makes a score of; sums over the rows of a cluster
            where rows belong together.
        sizes: rows of each cluster; None: every row is its own.
        value: means over rows, [..., m] to [...]; None: the mean is the score.
    """
    table = scores[:, :, None] if scores.ndim == 2 else scores
    measure = value or (lambda means: means[..., 0])
    weights = np.ones(len(table)) if sizes is None else sizes
    units, points, parts = table.shape
    sign = 1.0 if higher_is_better else -1.0
    if points == 1 or units == 1:
        return sign * float((sign * measure(table.sum(axis=0) / weights.sum())).max())
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(units, np.full(units, 1 / units), size=resamples)
    by_chance = generator.uniform(0, 1e-6, size=(resamples, points))  # who wins a tie
    usable = (counts == 0).any(axis=1)
    counts, by_chance = counts[usable], by_chance[usable]
    flat = table.reshape(units, -1)
    found = []
    block = max(1, _MOST_NUMBERS // (points * parts))
    for start in range(0, len(counts), block):
        inside = counts[start : start + block]
        outside = (inside == 0).astype(float)
        means, left_out = (
            measure((drawn @ flat).reshape(-1, points, parts) / (drawn @ weights)[:, None, None])
            for drawn in (inside, outside)
        )
        chosen = (sign * means + by_chance[start : start + block]).argmax(axis=1)
        found.append(left_out[np.arange(len(chosen)), chosen])
    return float(np.concatenate(found).mean())
