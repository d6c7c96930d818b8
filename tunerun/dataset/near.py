"""Texts that are nearly the same: MinHash finds candidates, the true Jaccard similarity decides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

SIMILAR = 0.85
"""Jaccard similarity of two texts' shingles from which they are near duplicates. Ours: on banking77 (10,003 questions,
2026-11-23) pairs above it differ in a letter, a plural or a word of filling."""

SHINGLE = 5
"""Characters of a shingle."""

SHORTEST = 24
"""Characters, normalised, below which a text has too few shingles to be nearly like another."""

_PERMUTATIONS = 128
_BANDS = 16
_SEED = 0
_NO_WORDS = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """A text without what a reader overlooks: case, punctuation and white space."""
    return _NO_WORDS.sub(" ", text.casefold()).strip()


def near_duplicates(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield positions of two texts that are nearly but not exactly the same, each later text once.

    Args:
        texts: in the order in which the first of two counts as the original.
    """
    plain = [normalised(text) for text in texts]
    positions = [position for position, text in enumerate(plain) if len(text) >= SHORTEST]
    if len(positions) < 2:
        return
    # Imported here: most plans are of short texts, and need none of it.
    from rensa import RMinHash, RMinHashLSH

    shingles = [_shingles(plain[position]) for position in positions]
    index = RMinHashLSH(SIMILAR, _PERMUTATIONS, _BANDS)
    for entry, sketch in enumerate(RMinHash.from_token_sets([list(each) for each in shingles], _PERMUTATIONS, _SEED)):
        for other in sorted(index.query(sketch)):
            first, second = positions[other], positions[entry]
            if texts[first] != texts[second] and _jaccard(shingles[other], shingles[entry]) >= SIMILAR:
                yield first, second
                break
        index.insert(entry, sketch)


def _shingles(text: str) -> frozenset[str]:
    return frozenset(text[start : start + SHINGLE] for start in range(len(text) - SHINGLE + 1))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
