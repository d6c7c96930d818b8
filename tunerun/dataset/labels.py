"""Outputs that are labels: how they are shared out, and which are another one with a typing error."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

MOST_LABELS = 200
LONGEST_LABEL = 60
FEWEST_ROWS_A_LABEL = 3.0
"""Outputs are labels when they are short, few, and each stands for some rows on average."""

IMBALANCE = 20
"""How many times rarer the rarest label is than the commonest, until that is worth a word. Ours; banking77 has 5."""

RARE = 10
"""How many times rarer a label must be than the one it resembles, to be taken for a typing error."""

ALIKE = 0.85
"""difflib's ratio from which two labels resemble each other: `refund` and `refunds` have 0.92."""

_DIGITS = re.compile(r"[0-9]+")


def label_counts(outputs: Sequence[str]) -> Counter[str]:
    """How often each label stands; empty where the outputs are no labels."""
    counts = Counter(outputs)
    is_few = 2 <= len(counts) <= MOST_LABELS and len(outputs) >= FEWEST_ROWS_A_LABEL * len(counts)
    is_short = all(len(label) <= LONGEST_LABEL and "\n" not in label for label in counts)
    return counts if is_few and is_short else Counter()


def imbalance(counts: Counter[str]) -> tuple[tuple[str, int], tuple[str, int]] | None:
    """The commonest and the rarest label with their numbers; None: they are near enough to each other."""
    if not counts:
        return None
    ranked = counts.most_common()
    return (ranked[0], ranked[-1]) if ranked[0][1] >= IMBALANCE * ranked[-1][1] else None


def typing_errors(counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield a label and the commoner one that it most likely should be."""
    ranked = [label for label, _ in counts.most_common()]
    plain = {label: " ".join(re.split(r"[\W_]+", label.casefold())).strip() for label in ranked}
    for position, label in enumerate(ranked):
        commoner = ranked[:position]
        same = next((other for other in commoner if plain[other] == plain[label]), None)
        if same is not None:
            yield label, same
            continue
        known = [other for other in commoner if counts[other] >= RARE * counts[label] and not _counts_up(other, label)]
        close = difflib.get_close_matches(label, known, n=1, cutoff=ALIKE)
        if close:
            yield label, close[0]


def _counts_up(one: str, other: str) -> bool:
    """Whether two labels differ in their numbers alone, as `class 1` and `class 2` do."""
    return one != other and _DIGITS.sub("#", one) == _DIGITS.sub("#", other)
