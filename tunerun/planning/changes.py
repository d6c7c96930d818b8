"""What changed since a sweep of the same name ran: why a trial has a new key, and whether the data are the same.

A key hashes its ingredients (`trial_key.py`), so the ingredients that differ explain why two keys differ.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tunerun import dotted_keys
from tunerun.ledger import SweepRecord, TrialRecord
from tunerun.planning.trial import Trial

MAX_EXPLAINED = 20
"""New trials that are explained by their nearest earlier one; comparing all with all would take quadratic time."""

_MAX_COMPARED = 1000
"""Earlier trials that a new one is compared with, for the same reason."""

_DIGEST_DIGITS = 8
_COMPARED_SECTIONS = ("dataset", "template", "model")
_CONTENT = {"training": ("dataset", "template"), "validation": ("dataset", "template"), "model": ("model",)}
"""Ingredients that are digests, and the sections of the config that say why one may differ."""
_MISSING = object()


@dataclass(frozen=True)
class ChangedValue:
    """An ingredient of a trial's key, or a dotted config key, with its old and new value."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.old)} -> {_shown(self.new)}"


@dataclass(frozen=True)
class Change:
    """A trial that has not run yet, and the most similar earlier trial.

    Attributes:
        number: the new trial's number.
        earlier: the number of the most similar trial in the earlier sweep.
        differences: why their keys differ.
    """

    number: int
    earlier: int
    differences: tuple[ChangedValue, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the change as `plan --json` prints it."""
        differences = [{"name": d.name, "old": d.old, "new": d.new} for d in self.differences]
        return {"number": self.number, "earlier": self.earlier, "differences": differences}


def changes(earlier: Sequence[TrialRecord], trials: Sequence[Trial]) -> tuple[Change, ...]:
    """Find for each new trial the earlier trial with the fewest differences, and return these differences.

    Args:
        earlier: the trials of a frozen sweep; only the first thousand are compared.
        trials: of a plan; those that still have to run and whose keys are not among the earlier ones are explained, at
            most `MAX_EXPLAINED`.
    """
    # Ledgers of format 1 have no ingredients.
    comparable = [record for record in earlier[:_MAX_COMPARED] if record.ingredients]
    keys = {record.key for record in earlier}
    new = [t for t in trials if not t.done and t.same_as is None and t.key not in keys][:MAX_EXPLAINED]
    if not new or not comparable:
        return ()
    old_sections = [_sections(record.config) for record in comparable]
    explained = []
    for trial in new:
        record = trial.record()
        sections = _sections(record.config)
        reasons = [
            (old, _reasons(old, old_section, record, sections))
            for old, old_section in zip(comparable, old_sections, strict=True)
        ]
        nearest, differing = min(reasons, key=lambda entry: (len(entry[1]), entry[0].number))
        explained.append(Change(trial.number, nearest.number, tuple(differing)))
    return tuple(explained)


def _sections(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The config sections that explain a changed digest, each flattened to dotted keys."""
    return {name: dotted_keys.leaves({name: config.get(name) or {}}) for name in _COMPARED_SECTIONS}


def _reasons(
    record: TrialRecord, old: Mapping[str, Mapping[str, Any]], trial: TrialRecord, new: Mapping[str, Mapping[str, Any]]
) -> list[ChangedValue]:
    """Why two keys differ, in values: a digest is replaced by the config keys that differ, or by the changed file."""
    reasons: dict[str, ChangedValue] = {}
    for difference in differences(record.ingredients, trial.ingredients):
        changed = [difference]
        # Two digests say nothing to a reader; the config that made the content differ does.
        if difference.name in _CONTENT:
            changed = [each for name in _CONTENT[difference.name] for each in differences(old[name], new[name])]
        if not changed:  # the config is the same, so a file has other content
            dataset = trial.config["dataset"]
            # A held-out set without a file of its own is split from the dataset's file.
            held_out = (dataset.get("validation") or {}).get("path") if difference.name == "validation" else None
            file = PurePath(held_out or dataset.get("path", "the dataset")).name
            if difference.name == "model":
                file = str(trial.config["model"].get("name", "the base model"))
            changed = [ChangedValue(f"content of {file}", "old", "new")]
        reasons |= {each.name: each for each in changed}
    return list(reasons.values())


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[ChangedValue]:
    """Return the entries in which two nested mappings differ, by dotted key."""
    before, after = dotted_keys.leaves(old), dotted_keys.leaves(new)
    return [
        ChangedValue(name, before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name, _MISSING) != after.get(name, _MISSING)
    ]


def broken_comparison(
    earlier: SweepRecord, trial: TrialRecord | None, document: Mapping[str, Any], config: Any
) -> list[str]:
    """Return why a plan cannot continue under an earlier sweep's name: their results would not be comparable.

    Args:
        earlier: the newest sweep of that name.
        trial: a trial of it that succeeded; None: the config is not compared.
        document: the document of the new plan's sweep.
        config: of the new plan's first trial, as JSON values.

    Returns:
        One line for each of data, base model and key format in which the two sweeps have nothing in common.
    """
    lines = []
    for what, words in (("data", "examples"), ("models", "base model"), ("key_formats", "format of a trial's key")):
        # An earlier version may not have recorded it: then nothing is compared.
        old, new = earlier.document.get(what), document[what]
        if old and not set(old) & set(new):
            lines.append(f"the {words} changed: {_listed(old)} -> {_listed(new)}")
    if lines and trial is not None:
        old_sections = {name: trial.config.get(name, {}) for name in _COMPARED_SECTIONS}
        changed = [str(d) for d in differences(old_sections, {name: config[name] for name in _COMPARED_SECTIONS})]
        reason = f"in the config {', '.join(changed)}" if changed else "the config is the same, the content is not"
        lines = [f"{line}; {reason}" for line in lines]
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(earlier.created_at))
    return [
        f"{earlier.experiment}: since sweep {earlier.id} ({since}) {line}; results under one name must be comparable: "
        f"choose another name, such as name={earlier.experiment}-2, or start again under this one with run --fresh"
        for line in lines
    ]


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    # Quotes show where a text with spaces ends; of a digest the first digits are enough to tell two apart.
    text = repr(value) if isinstance(value, str) and any(c.isspace() for c in value) else str(value)
    return text[:_DIGEST_DIGITS] if len(text) == 64 and text.isalnum() else text


def _listed(entries: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({_shown(digest)})" if name else _shown(digest) for digest, name in entries.items())
