"""Near duplicates among texts: MinHash finds candidates, their exact Jaccard similarity decides.

In numpy, on whole batches of texts: 20,000 texts of 1,200 characters take a second and a half, where a
library that hashes shingle by shingle took forty (measured 2026-11-26).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIMILAR = 0.85
"""Jaccard similarity of two texts' shingles from which they are near duplicates. Ours: on banking77 (10,003 questions,
2026-11-23) pairs above it differ in a letter, a plural or a word of filling."""

SHINGLE = 5
"""Characters of a shingle: what "Mining of Massive Datasets" (3.2.2) advises for texts as short as e-mails."""

SHORTEST = 24
"""Shortest normalised text that is compared, in characters; a shorter one has fewer than 20 shingles, and one letter is
in 5 of them."""

MOST_CHARACTERS = 100_000_000
"""Most characters that are compared; of more text a sample of the rows is. A million questions like those of BANKING77
have 60 million characters."""

_HASHES = 24
_BANDS = 6
"""Two texts become candidates if one of 6 bands of 4 hashes is equal: at a similarity of 0.85 99 of 100 do
(1 - (1 - 0.85**4)**6), at 0.3 5 of 100."""

_FEWEST_EQUAL = 14
"""Hashes of 24 that candidates share at least; at a similarity of 0.85 999 of 1,000 do (binomial)."""

_MOST_COMPARED = 8
"""Candidates of a text whose exact similarity is computed, the likeliest first: this bounds the work for a text."""

_CHARACTERS_A_BATCH = 100_000
"""Characters that are hashed at once. Ours: batches of a tenth take twice as long, and ten times larger ones are no
faster (50,000 sentences of 12 words, measured 2026-11-27)."""

_SEED = 20261126
"""Of the hash functions. Any number, but always the same one, so that a file always gets the same warnings."""

_NO_WORDS = re.compile(r"[\W_]+")
_PLAIN_ASCII = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}


def normalised(text: str) -> str:
    """Return a text in lower case, without punctuation, and with single spaces."""
    if text.isascii():  # eight times as fast
        return " ".join(text.translate(_PLAIN_ASCII).split())
    return _NO_WORDS.sub(" ", text.casefold()).strip()


@dataclass(frozen=True)
class NearDuplicates:
    """The near duplicates among some texts.

    Attributes:
        pairs: positions of an original and of a later text that is nearly the same; each later text occurs once.
        compared: how many texts were compared; fewer than all beyond `MOST_CHARACTERS`.
    """

    pairs: tuple[tuple[int, int], ...]
    compared: int


def near_duplicates(
    texts: Sequence[str], originals: int | None = None, *, most_characters: int = MOST_CHARACTERS
) -> NearDuplicates:
    """Find texts that are nearly, but not exactly, the same as an earlier one.

    Args:
        texts: in the order in which the first of two counts as the original.
        originals: number of texts, from the first, that can be the original of another; None: all.
        most_characters: limit on the text that is compared; of more text a sample is.
    """
    originals = len(texts) if originals is None else originals
    # Of too much text, every n-th original is compared with as many of the others as there is room for.
    step = max(1, -(-sum(map(len, texts)) // most_characters))
    others: Sequence[int] = range(originals, len(texts))
    if sum(len(texts[each]) for each in others) >= most_characters:
        others = others[::step]
    positions = [*range(0, originals, step), *others]
    plain: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    for position in positions:
        text = normalised(texts[position])
        if len(text) < SHORTEST:
            continue
        first = plain.setdefault(text, position)
        if first != position and first < originals and texts[first] != texts[position]:
            pairs.append((first, position))
    if len(plain) > 1:
        pairs += _similar(list(plain), list(plain.values()), originals)
    return NearDuplicates(tuple(sorted(pairs, key=lambda pair: (pair[1], pair[0]))), len(positions))


def _similar(plain: list[str], positions: list[int], originals: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of positions of different texts, normalised, whose similarity is at least `SIMILAR`."""
    import numpy as np  # here: a plan of a few rows does not need it

    batches: list[list[str]] = [[]]
    size = 0
    for text in plain:
        if size > _CHARACTERS_A_BATCH:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += len(text)
    sketches = np.concatenate([_sketches(batch) for batch in batches])
    is_original = np.array(positions) < originals
    earlier, later = _candidates(sketches, is_original)
    # The share of equal hashes estimates the similarity: the likeliest candidates of each text come first.
    likeness = (sketches[earlier] == sketches[later]).sum(axis=1)
    order = np.lexsort((-likeness, later))
    order = order[likeness[order] >= _FEWEST_EQUAL]
    last, compared, is_found = -1, 0, False
    shingles: dict[int, frozenset[str]] = {}
    for first, second in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
        if second != last:
            last, compared, is_found = second, 0, False
            shingles = {second: _shingles(plain[second])}
        if is_found or compared == _MOST_COMPARED:
            continue
        compared += 1
        one, other = _shingles(plain[first]), shingles[second]
        shared = len(one & other)
        if shared / (len(one) + len(other) - shared) >= SIMILAR:
            is_found = True
            yield positions[first], positions[second]


def _sketches(plain: Sequence[str]) -> NDArray[np.uint32]:
    """Return the MinHash of each text's shingles: [texts, hashes]. Each text must have at least one shingle."""
    import numpy as np

    # One array for all texts of the batch; shingles that reach from one text into the next are skipped by `bounds`.
    code_points = np.frombuffer("".join(plain).encode("utf-32-le"), dtype=np.uint32)
    lengths = np.array([len(text) for text in plain])
    ends = lengths.cumsum()
    bounds = np.stack([ends - lengths, ends - SHINGLE + 1], axis=1).ravel()
    shingles = np.zeros(len(code_points) - SHINGLE + 1, dtype=np.uint32)
    for offset in range(SHINGLE):
        shingles *= np.uint32(0x01000193)  # the prime of FNV-1; 32 bits overflow on purpose
        shingles ^= code_points[offset : len(code_points) - SHINGLE + 1 + offset]
    _mix(shingles)
    # Multiplying by an odd number permutes the 32-bit values, so each factor is a hash function of its own.
    draw = np.random.default_rng(_SEED)
    sketches = np.empty((len(plain), _HASHES), dtype=np.uint32)
    hashed = np.empty_like(shingles)
    for number, factor in enumerate(draw.integers(0, 2**31, _HASHES, dtype=np.uint32) * np.uint32(2) + np.uint32(1)):
        np.multiply(shingles, factor, out=hashed)
        # reduceat takes starts only: the last bound is the end of the array.
        sketches[:, number] = np.minimum.reduceat(hashed, bounds[:-1])[::2]
    return sketches


def _mix(values: Any) -> None:
    """Spread the bits of whole numbers over each other, in place (the finaliser of MurmurHash3)."""
    import numpy as np

    values ^= values >> np.uint32(16)
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)


def _candidates(sketches: Any, is_original: Any) -> tuple[Any, Any]:
    """Return pairs of texts that share a band: each with its bucket's first original, and the last one before it."""
    # All pairs of a bucket would be quadratic: ten thousand rows of one form share a band.
    import numpy as np

    count, width = len(sketches), _HASHES // _BANDS
    pairs = []
    for band in range(_BANDS):
        keys = np.zeros(count, dtype=np.uint64)
        for column in range(band * width, (band + 1) * width):
            keys = (keys ^ sketches[:, column]) * np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio
            keys ^= keys >> np.uint64(29)
        # Sorted by key, the texts of a bucket are neighbours; a stable sort keeps them in their order.
        order = np.argsort(keys, kind="stable")
        is_first = np.ones(count, dtype=bool)
        is_first[1:] = keys[order[1:]] != keys[order[:-1]]
        places = np.arange(count)
        starts = np.maximum.accumulate(np.where(is_first, places, 0))
        originals = np.maximum.accumulate(np.where(is_original[order], places, -1))
        before = np.concatenate([[-1], originals[:-1]])
        for chosen in (np.where(is_original[order[starts]], starts, -1), before):
            is_pair = (chosen >= starts) & (chosen < places)
            pairs.append(np.stack([order[chosen[is_pair]], order[places[is_pair]]]))
    earlier, later = np.unique(np.concatenate(pairs, axis=1), axis=1) if pairs else (np.array([]), np.array([]))
    return earlier, later


def _shingles(text: str) -> frozenset[str]:
    return frozenset(text[start : start + SHINGLE] for start in range(len(text) - SHINGLE + 1))
