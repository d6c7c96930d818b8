"""Sign patterns for flip tests: if two models are equally good, each row's difference has either sign equally likely.

One matrix of signs is applied to all columns of a table, so that tests of several points preserve their correlation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FLIPS = 10_000
"""Number of random patterns if there are too many to enumerate: p = 0.05 then has a standard error of 0.002."""

TIE = 1e-4
"""Statistics closer than this are equal: they are sums of a few hundred numbers, and float32 rounding adds 1e-6."""

_BLOCK = 1_000


@dataclass(frozen=True)
class SignPatterns:
    """Joint sign flips of rows.

    Attributes:
        rows: number of rows that are flipped.
        is_exact: whether all patterns are enumerated, with the first row's sign fixed: a mirrored pattern has the same
            two-sided statistics.
        count: number of patterns.
        seed: of random patterns.
    """

    rows: int
    is_exact: bool
    count: int
    seed: int

    @classmethod
    def of(cls, rows: int, flips: int = FLIPS, seed: int = 0) -> SignPatterns:
        """Enumerate all patterns if there are at most `flips`, else draw `flips` random ones.

        Args:
            rows: number of rows that are flipped.
            flips: number of random patterns, and the most that are enumerated.
            seed: of random patterns.
        """
        # The signs of an enumerated pattern are the bits of its number, a signed integer of 64 bits.
        if rows <= 1 or (rows - 1 < 63 and 2 ** (rows - 1) <= flips):
            return cls(rows, True, 2 ** max(0, rows - 1), seed)
        return cls(rows, False, flips, seed)

    def blocks(self) -> Iterator[Array]:
        """Yield the signs, [patterns, rows], a thousand patterns at a time to bound memory."""
        generator = np.random.default_rng(self.seed)
        for start in range(0, self.count, _BLOCK):
            size = min(_BLOCK, self.count - start)
            if self.is_exact:
                numbers = np.arange(start, start + size)[:, None]
                bits = (numbers >> np.arange(max(0, self.rows - 1))) & 1
                signs = np.hstack([np.ones((size, min(1, self.rows))), 1.0 - 2.0 * bits])
            else:
                signs = 2.0 * generator.integers(0, 2, size=(size, self.rows)) - 1.0
            yield signs.astype(np.float64)

    def p_value(self, above: NDArray[np.int64], tied: NDArray[np.int64]) -> Array:
        """Return the share of patterns at least as extreme as the observation (mid-p: ties count half).

        Args:
            above: number of patterns that are more extreme, for each statistic.
            tied: number of patterns that are equally extreme.
        """
        if self.is_exact:
            return (above + tied / 2) / self.count
        # The observation itself is one more pattern, tied with itself; without it a random p could be 0.
        return (above + tied / 2 + 0.5) / (self.count + 1)
