"""Which trial of one record is compared with which of another."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
        """Whether both are the same computation."""
        return self.a.key == self.b.key


@dataclass(frozen=True)
class Pairing:
    """The trials of two records, and those that have no partner in the other."""

    pairs: tuple[TrialPair, ...]
    only_a: tuple[TrialRecord, ...] = ()
    only_b: tuple[TrialRecord, ...] = ()


def paired(a: Sequence[TrialRecord], b: Sequence[TrialRecord]) -> Pairing:
    """Pair trials: by key, then by what the sweep sets for them, then by their point; one left on each side is a pair.

    Trials of one point that differ in their seed are paired in their order.
    """
    pairs: list[TrialPair] = []
    left, right = list(a), list(b)
    for name in (_key, _overrides, _point):
        waiting: dict[str, list[TrialRecord]] = {}
        for trial in right:
            waiting.setdefault(name(trial), []).append(trial)
        rest = []
        for trial in left:
            if found := waiting.get(name(trial)):
                pairs.append(TrialPair(trial, found.pop(0)))
            else:
                rest.append(trial)
        used = {pair.b.number for pair in pairs}
        left, right = rest, [trial for trial in right if trial.number not in used]
    if len(left) == len(right) == 1:
        pairs.append(TrialPair(left.pop(), right.pop()))
    return Pairing(tuple(sorted(pairs, key=lambda pair: pair.a.number)), tuple(left), tuple(right))


def _key(trial: TrialRecord) -> str:
    return trial.key


def _overrides(trial: TrialRecord) -> str:
    return json.dumps(dict(trial.overrides), sort_keys=True)


def _point(trial: TrialRecord) -> str:
    return json.dumps(without_seed(trial.overrides), sort_keys=True)
