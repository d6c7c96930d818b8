"""Sign patterns for flip tests: if two models are equally good, each row's difference may as well have the other sign.

One matrix of signs serves all columns of a table, so that tests of several points keep what these have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FLIPS = 10_000
"""Random patterns where all of them are more than that: p = 0.05 has then a standard error of 0.002."""

TIE = 1e-4
"""Statistics this near are equal: they are sums of a few hundred numbers, and float32 adds dust of 1e-6."""

_BLOCK = 1_000


@dataclass(frozen=True)
class SignPatterns:
    """Joint flips of rows.

    Attributes:
        rows: how many rows are flipped.
        is_exact: whether these are all patterns, the first row's sign fixed (the mirror image has the same statistics).
        count: how many patterns.
    """

    rows: int
    is_exact: bool
    count: int
    seed: int

    @classmethod
    def of(cls, rows: int, flips: int = FLIPS, seed: int = 0) -> SignPatterns:
        """All patterns where these are at most `flips`, else so many random ones."""
        if rows <= 1 or (rows - 1 < 63 and 2 ** (rows - 1) <= flips):
            return cls(rows, True, 2 ** max(0, rows - 1), seed)
        return cls(rows, False, flips, seed)

    def blocks(self) -> Iterator[Array]:
        """The signs, [patterns, rows], a thousand patterns at a time, so that memory stays small."""
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
        """The share of patterns at least as extreme as what was observed, ties counted half.

        Args:
            above, tied: how many patterns are more extreme, and as extreme.
        """
        if self.is_exact:
            return (above + tied / 2) / self.count
        # What was observed is one more pattern, and ties with itself.
        return (above + tied / 2 + 0.5) / (self.count + 1)
