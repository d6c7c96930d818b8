"""The expected score of the best of several points on new rows: its own score is biased by having been selected."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tunerun.statistics.flips import Array

RESAMPLES = 2_000
"""Number of bootstrap samples, as in the simulations by which the method was chosen."""

_MOST_NUMBERS = 4_000_000
"""Numbers held in memory at once: 32 MB."""


def bias_corrected(
    scores: Array,
    *,
    sizes: Array | None = None,
    value: Callable[[Array], Array] | None = None,
    higher_is_better: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Estimate the winner's score by bootstrap bias correction (Tsamardinos et al. 2018, Machine Learning 107:1895).

    The best point is chosen on resampled rows and measured on the rows that the sample omits. In 12 simulated worlds
    the bias was at most 1.2 points, while the raw score of the best was up to 12 points too high.

    Args:
        scores: [rows, points], or [rows, points, m] of contributions that `value` turns into a score; sums over the
            rows of each cluster where rows are clustered.
        sizes: number of rows of each cluster; None: rows are not clustered.
        value: maps means over rows, [..., m], to the score, [...]; None: the mean is the score.
        higher_is_better: whether the best point has the highest score.
        resamples: number of bootstrap samples.
        seed: of the samples.

    Returns:
        The estimate, in the unit of the scores.
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
    # Ties are broken by chance; else the first of equal points would always be the one that is measured.
    by_chance = generator.uniform(0, 1e-6, size=(resamples, points))
    # A sample that contains every row leaves none to measure the chosen point on.
    usable = (counts == 0).any(axis=1)
    counts, by_chance = counts[usable], by_chance[usable]
    flat = table.reshape(units, -1)
    values = []
    block = max(1, _MOST_NUMBERS // (points * parts))
    for start in range(0, len(counts), block):
        inside = counts[start : start + block]
        outside = (inside == 0).astype(float)
        means, left_out = (
            measure((drawn @ flat).reshape(-1, points, parts) / (drawn @ weights)[:, None, None])
            for drawn in (inside, outside)
        )
        chosen = (sign * means + by_chance[start : start + block]).argmax(axis=1)
        values.append(left_out[np.arange(len(chosen)), chosen])
    return float(np.concatenate(values).mean())
