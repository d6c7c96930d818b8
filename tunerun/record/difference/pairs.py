"""Pairs the trials of two records for comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunerun.ledger import TrialRecord
from tunerun.replicates import without_seed


@dataclass(frozen=True)
class TrialPair:
    """A trial of each record."""

    a: TrialRecord
    b: TrialRecord

    @property
    def name(self) -> str:
        """The name of the pair in printed lines."""
        if self.a.number == self.b.number:
            return f"trial {self.a.number}"
        return f"trials {self.a.number} and {self.b.number}"

    @property
    def has_one_key(self) -> bool:
        """Whether both trials have the same key, so that they are the same computation."""
        return self.a.key == self.b.key


@dataclass(frozen=True)
class Pairing:
    """The trials of two records, and those that have no partner in the other."""

    pairs: tuple[TrialPair, ...]
    only_a: tuple[TrialRecord, ...] = ()
    only_b: tuple[TrialRecord, ...] = ()


def paired(a: Sequence[TrialRecord], b: Sequence[TrialRecord]) -> Pairing:
    """Pair trials by key, then by overrides, then by point; if one trial is left on each side, these two are a pair.

    Trials of one point with different seeds are paired in order.

    Args:
        a, b: the trials of the two records.
    """
    # From the surest sign to the weakest: an equal key is the same computation, equal overrides are the same place in
    # the sweep after something else changed, and an equal point lacks only the seed.
    pairs: list[TrialPair] = []
    left, right = list(a), list(b)
    identities: tuple[Callable[[TrialRecord], str], ...] = (
        lambda trial: trial.key,
        lambda trial: json.dumps(dict(trial.overrides), sort_keys=True),
        lambda trial: json.dumps(without_seed(trial.overrides), sort_keys=True),
    )
    for identity in identities:
        partners: dict[str, list[TrialRecord]] = {}
        for trial in right:
            partners.setdefault(identity(trial), []).append(trial)
        unpaired = []
        for trial in left:
            if equal := partners.get(identity(trial)):
                pairs.append(TrialPair(trial, equal.pop(0)))
            else:
                unpaired.append(trial)
        used = {pair.b.number for pair in pairs}
        left, right = unpaired, [trial for trial in right if trial.number not in used]
    if len(left) == len(right) == 1:
        pairs.append(TrialPair(left.pop(), right.pop()))
    return Pairing(tuple(sorted(pairs, key=lambda pair: pair.a.number)), tuple(left), tuple(right))
