"""Base models, packages and machines of two records side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tunerun.planning.changes import differences
from tunerun.provenance import BaseModelFacts, Environment
from tunerun.record.difference.pairs import TrialPair
from tunerun.record.difference.sections import DifferenceSection, SideBySide, collected, not_recorded
from tunerun.record.sources import OpenRecord

_FILES, _PACKAGES, _INSTRUCTIONS = "files", "packages", "instructions"


def base_model_section(a: OpenRecord, b: OpenRecord, pairs: Sequence[TrialPair]) -> DifferenceSection:
    """Return the identities of the base models and the files that differ, wherever the models are stored.

    Args:
        a, b: the two records.
        pairs: of their trials.
    """
    identities = (
        (SideBySide("identity", pair.a.ingredients.get("model"), pair.b.ingredients.get("model"), "in the key"), pair)
        for pair in pairs
    )
    # From the keys' ingredients, which were recorded before facts were.
    values = collected(((value, pair.name) for value, pair in identities if value.a != value.b), len(pairs))
    models_a, models_b = ({model.name: model for model in each.facts.base_models} for each in (a, b))
    if not models_a or not models_b:
        return DifferenceSection("base model", values, unknown=f"its files: {not_recorded(models_a, models_b)}")
    if len(models_a) == len(models_b) == 1:  # compared also under two names: it may have been renamed or replaced
        models_b = dict(zip(models_a, models_b.values(), strict=True))
    for name in dict.fromkeys([*models_a, *models_b]):
        own_a, own_b = _values(models_a.get(name)), _values(models_b.get(name))
        own = [SideBySide(each.name, each.old, each.new) for each in differences(own_a, own_b)]
        several = len(models_a) > 1
        values += tuple(replace(each, name=f"{name}: {each.name}") if several else each for each in own)
    return DifferenceSection("base model", values)


def _values(model: BaseModelFacts | None) -> dict[str, Any]:
    """A model's facts with the digest of each file; without its identity, which is compared trial by trial."""
    if model is None:
        return {}
    own = {name: value for name, value in asdict(model).items() if name not in (_FILES, "identity")}
    return {**own, **{f"file {each.name}": each.sha256 for each in model.files}}


def environment_section(a: OpenRecord, b: OpenRecord, pairs: Sequence[TrialPair]) -> DifferenceSection:
    """Return the packages that were added, removed or changed, the machine, and the device of each job.

    Args:
        a, b: the two records.
        pairs: of their trials.
    """
    # The environment was frozen with a sweep if it is not the default.
    unknown = not_recorded(*(each.facts.environment != Environment() for each in (a, b)))
    machine: list[SideBySide] = []
    if not unknown:
        own_a, own_b = asdict(a.facts.environment), asdict(b.facts.environment)
        packages_a, packages_b = own_a.pop(_PACKAGES), own_b.pop(_PACKAGES)
        sets_a, sets_b = own_a.pop(_INSTRUCTIONS), own_b.pop(_INSTRUCTIONS)
        machine += [SideBySide(each.name, each.old, each.new) for each in differences(own_a, own_b)]
        # A CPU has dozens of instruction sets: only those that the other one lacks are named.
        only_a = " ".join(name for name in sets_a if name not in sets_b)
        only_b = " ".join(name for name in sets_b if name not in sets_a)
        if only_a or only_b:
            machine.append(SideBySide(_INSTRUCTIONS, only_a or None, only_b or None, "only there"))
        packages = sorted(differences(packages_a, packages_b), key=lambda each: each.name.lower())
        machine += [SideBySide(f"package {each.name}", each.old, each.new) for each in packages]
    devices = []
    for pair in pairs:
        # Of the jobs, not of the records: the engine may have run on another machine than the one that planned.
        old, new = _place(a, pair.a.key), _place(b, pair.b.key)
        changed = differences(old, new) if old and new else ()
        devices += [(SideBySide(f"trained on: {each.name}", each.old, each.new), pair.name) for each in changed]
    values = (*machine, *collected(devices, len(pairs)))
    return DifferenceSection("environment", values, unknown=unknown, is_compared=not unknown)


def _place(record: OpenRecord, key: str) -> Mapping[str, Any]:
    """The device and settings that trained the last job of a key; empty: not recorded."""
    job = record.ledger.job(key)
    if job is None or job.trained_on is None:
        return {}
    return asdict(job.trained_on) | job.trained_on.shared({trial.key: trial.number for trial in record.trials})
