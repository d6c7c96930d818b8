"""Outputs that are labels: their balance, and labels that are probably a misspelling of another one."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

MOST_LABELS = 200
LONGEST_LABEL = 60
FEWEST_ROWS_A_LABEL = 3.0
"""Outputs count as labels when they are few, short (in characters), and each occurs several times on average. Ours;
BANKING77 has 77 labels."""

IMBALANCE = 20
"""Ratio of the commonest to the rarest label that gives a warning. Our choice; BANKING77 has 5."""

RARE = 10
"""How many times rarer than a similar label a label must be to count as its misspelling."""

ALIKE = 0.85
"""Least similarity, by difflib's ratio, of a misspelling and the label: `refund` and `refunds` have 0.92."""

_DIGITS = re.compile(r"[0-9]+")


def label_counts(outputs: Sequence[str]) -> Counter[str]:
    """Return how often each label occurs; empty where the outputs are not labels."""
    counts = Counter(outputs)
    is_few = 2 <= len(counts) <= MOST_LABELS and len(outputs) >= FEWEST_ROWS_A_LABEL * len(counts)
    is_short = all(len(label) <= LONGEST_LABEL and "\n" not in label for label in counts)
    return counts if is_few and is_short else Counter()


def imbalance(counts: Counter[str]) -> tuple[tuple[str, int], tuple[str, int]] | None:
    """Return the commonest and the rarest label with their counts; None: balanced, or `counts` is empty."""
    if not counts:
        return None
    ranked = counts.most_common()
    return (ranked[0], ranked[-1]) if ranked[0][1] >= IMBALANCE * ranked[-1][1] else None


def typing_errors(counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield each label that is probably misspelt, with the commoner label that was meant."""
    ranked = [label for label, _ in counts.most_common()]
    # `Past due`, `past-due` and `past due` are one label; a no-break space or another dash is hard to see.
    plain = {label: " ".join(re.split(r"[\W_]+", label.casefold())).strip() for label in ranked}
    for position, label in enumerate(ranked):
        commoner = ranked[:position]
        same = next((other for other in commoner if plain[other] == plain[label]), None)
        if same is not None:
            yield label, same
            continue
        # Labels that differ in their numbers alone, as `class 1` and `class 2` do, are different labels.
        pattern = _DIGITS.sub("#", label)
        much_commoner = [other for other in commoner if counts[other] >= RARE * counts[label]]
        others = [other for other in much_commoner if _DIGITS.sub("#", other) != pattern]
        close = difflib.get_close_matches(label, others, n=1, cutoff=ALIKE)
        if close:
            yield label, close[0]
