"""What changed since a sweep of the same name ran: why a trial has another key, and whether the data are the same.

A key hashes its ingredients (`planning.py`); two trials differ in what these differ in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.ledger import SweepRecord, TrialRecord

MAX_EXPLAINED = 20
"""New trials whose nearest earlier one is looked for; comparing all with all would cost more than it tells."""

_MAX_COMPARED = 1000
_DIGEST_DIGITS = 8
_COMPARED_SECTIONS = ("dataset", "template", "model")
_MISSING = object()


@dataclass(frozen=True)
class Difference:
    """An ingredient of a key, or a key of the config, with its old and its new value."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.old)} -> {_shown(self.new)}"


@dataclass(frozen=True)
class Change:
    """A trial that has not run, and the earlier one that is most like it.

    Attributes:
        number: of the new trial.
        earlier: of the trial in the earlier sweep.
        differences: why their keys differ.
    """

    number: int
    earlier: int
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """The change as `plan --json` prints it."""
        differences = [{"name": d.name, "old": d.old, "new": d.new} for d in self.differences]
        return {"number": self.number, "earlier": self.earlier, "differences": differences}


def changes(earlier: Sequence[TrialRecord], new: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[Change, ...]:
    """For each new trial the earlier one that differs least, and in what.

    Args:
        earlier: the trials of a sweep that was frozen.
        new: number and ingredients of trials whose keys are not among them.
    """
    known = [trial for trial in earlier[:_MAX_COMPARED] if trial.ingredients]
    if not known:
        return ()
    found = []
    for number, ingredients in new[:MAX_EXPLAINED]:
        nearest = min(known, key=lambda trial: (len(differences(trial.ingredients, ingredients)), trial.number))
        found.append(Change(number, nearest.number, tuple(differences(nearest.ingredients, ingredients))))
    return tuple(found)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """The entries of two mappings that differ, nested ones by their dotted keys."""
    before, after = dict(_flat(old)), dict(_flat(new))
    return [
        Difference(name, before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name, _MISSING) != after.get(name, _MISSING)
    ]


def broken_comparison(
    earlier: SweepRecord, trial: TrialRecord | None, document: Mapping[str, Any], config: Any
) -> list[str]:
    """Why a plan cannot go on under the name of an earlier sweep: its results could not be compared.

    Args:
        earlier: the newest sweep of that name. trial: its first trial.
        document: of the new plan's sweep. config: of the new plan's first trial, as JSON values.

    Returns:
        One line for each of data, base model and key format of which the two sweeps have nothing in common.
    """
    found = []
    for what, words in (("data", "examples"), ("models", "base model"), ("key_formats", "format of a trial's key")):
        old, new = earlier.document.get(what), document[what]
        if old and not set(old) & set(new):
            found.append(f"the {words} changed: {_listed(old)} -> {_listed(new)}")
    if found and trial is not None:
        old_sections = {name: trial.config.get(name, {}) for name in _COMPARED_SECTIONS}
        changed = [str(d) for d in differences(old_sections, {name: config[name] for name in _COMPARED_SECTIONS})]
        reason = f"in the config {', '.join(changed)}" if changed else "the config is the same, the content is not"
        found = [f"{line}; {reason}" for line in found]
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(earlier.created_at))
    return [
        f"{earlier.experiment}: since sweep {earlier.id} ({since}) {line}; results under one name must be comparable: "
        f"choose another one, such as name={earlier.experiment}-2, or begin anew under this one with run --fresh"
        for line in found
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    text = str(value)
    return text[:_DIGEST_DIGITS] if len(text) == 64 and text.isalnum() else text


def _listed(entries: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({_shown(digest)})" if name else _shown(digest) for digest, name in entries.items())
