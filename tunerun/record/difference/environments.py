"""Base models, packages and machines of two records side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tunerun.planning.changes import differences
from tunerun.provenance import BaseModelFacts, Environment, Facts
from tunerun.record.difference.pairs import TrialPair
from tunerun.record.difference.sections import DifferenceSection, SideBySide, collected, not_recorded
from tunerun.record.sources import OpenRecord

_FILES, _PACKAGES, _INSTRUCTIONS = "files", "packages", "instructions"


def base_model_section(a: OpenRecord, b: OpenRecord, pairs: Sequence[TrialPair]) -> DifferenceSection:
    """What the base models are, wherever they are, and which of their files differ."""
    identities = (
        (SideBySide("identity", pair.a.ingredients.get("model"), pair.b.ingredients.get("model"), "in the key"), pair)
        for pair in pairs
    )
    values = collected(((value, pair.name) for value, pair in identities if value.a != value.b), len(pairs))
    models_a, models_b = _by_name(a.facts.base_models), _by_name(b.facts.base_models)
    if not models_a or not models_b:
        return DifferenceSection("base model", values, unknown=f"its files: {not_recorded(models_a, models_b)}")
    if len(models_a) == len(models_b) == 1:  # two names of one model, or one in the place of another
        models_b = dict(zip(models_a, models_b.values(), strict=True))
    for name in dict.fromkeys([*models_a, *models_b]):
        own_a, own_b = _values(models_a.get(name)), _values(models_b.get(name))
        own = [SideBySide(each.name, each.old, each.new) for each in differences(own_a, own_b)]
        several = len(models_a) > 1
        values += tuple(replace(each, name=f"{name}: {each.name}") if several else each for each in own)
    return DifferenceSection("base model", values)


def _by_name(models: Sequence[BaseModelFacts]) -> dict[str, BaseModelFacts]:
    return {model.name: model for model in models}


def _values(model: BaseModelFacts | None) -> dict[str, Any]:
    """What a model is, with each file's digest under its name; its identity is compared trial by trial."""
    if model is None:
        return {}
    own = {name: value for name, value in asdict(model).items() if name not in (_FILES, "identity")}
    return {**own, **{f"file {each.name}": each.sha256 for each in model.files}}


def environment_section(a: OpenRecord, b: OpenRecord, pairs: Sequence[TrialPair]) -> DifferenceSection:
    """Packages that were added, removed or changed; the machine; what trained each job."""
    environment_a, environment_b = a.facts.environment, b.facts.environment
    unknown = not_recorded(is_recorded(a.facts), is_recorded(b.facts))
    values = () if unknown else tuple(_environments(environment_a, environment_b))
    values += collected(_trained_on(a, b, pairs), len(pairs))
    return DifferenceSection("environment", values, unknown=unknown, is_compared=not unknown)


def is_recorded(facts: Facts) -> bool:
    """Whether the environment was frozen with a sweep."""
    return facts.environment != Environment()


def _environments(a: Environment, b: Environment) -> Iterator[SideBySide]:
    old, new = asdict(a), asdict(b)
    packages_a, packages_b = old.pop(_PACKAGES), new.pop(_PACKAGES)
    sets_a, sets_b = old.pop(_INSTRUCTIONS), new.pop(_INSTRUCTIONS)
    yield from (SideBySide(each.name, each.old, each.new) for each in differences(old, new))
    only_a, only_b = ([name for name in sets_a if name not in sets_b], [name for name in sets_b if name not in sets_a])
    if only_a or only_b:
        yield SideBySide(_INSTRUCTIONS, " ".join(only_a) or None, " ".join(only_b) or None, "only there")
    for name in sorted({*packages_a, *packages_b}, key=str.lower):
        before, after = packages_a.get(name), packages_b.get(name)
        if before != after:
            yield SideBySide(f"package {name}", before, after)


def _trained_on(a: OpenRecord, b: OpenRecord, pairs: Sequence[TrialPair]) -> Iterator[tuple[SideBySide, str]]:
    for pair in pairs:
        old, new = _place(a, pair.a.key), _place(b, pair.b.key)
        if old and new:
            for each in differences(old, new):
                yield SideBySide(f"trained on: {each.name}", each.old, each.new), pair.name


def _place(record: OpenRecord, key: str) -> Mapping[str, Any]:
    """What trained the last job of a key; empty: not recorded."""
    job = record.ledger.job(key)
    if job is None or job.trained_on is None:
        return {}
    return asdict(job.trained_on) | job.trained_on.shared({trial.key: trial.number for trial in record.trials})
