"""Values of the config side by side, and why keys differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunerun.planning.changes import differences
from tunerun.record.difference.pairs import TrialPair
from tunerun.record.difference.sections import DifferenceSection, SideBySide, collected

IN_KEY = "in the key"

_WORDS = {
    "format": "format of the key",
    "training": "training rows",
    "validation": "validation rows",
    "model": "base model",
    "chat_format": "chat format",
    "turns": "how conversations are written",
    "backend": "backend",
    "round": "round of --fresh",
}
"""What an ingredient of a key is called, where its own name does not say it."""

_DECIDES = {
    "dataset": ("training", "validation"),
    "template": ("training", "validation"),
    "model": ("model",),
    "backend": ("backend", "precision", "quantization"),
    "seed": ("seed",),
}
"""Sections of the config, and the ingredients through which they are in a key."""

_TEMPLATE = ("template.text_input", "template.output", "template.system")
_LEARNING_RATES = ("learning_rate", "learning_rate_multiplier")


def config_section(pairs: Sequence[TrialPair]) -> DifferenceSection:
    """The values of the config that differ, by dotted key, those in the key marked; the template is a section."""
    return DifferenceSection("config", collected(_values(pairs), len(pairs)))


def _values(pairs: Sequence[TrialPair]) -> Iterator[tuple[SideBySide, str]]:
    for pair in pairs:
        changed = _changed_ingredients(pair)
        for each in differences(pair.a.config, pair.b.config):
            if each.name in _TEMPLATE:
                continue
            note = IN_KEY if _ingredients_of(each.name) & changed else ""
            yield SideBySide(each.name, each.old, each.new, note), pair.name


def _ingredients_of(name: str) -> set[str]:
    """The ingredients that a dotted key of the config decides."""
    section, _, key = name.partition(".")
    if section == "hyperparameters":
        return {"learning_rate"} if key in _LEARNING_RATES else {key}
    return set(_DECIDES.get(section, ()))


def _changed_ingredients(pair: TrialPair) -> set[str]:
    return {each.name.partition(".")[0] for each in differences(pair.a.ingredients, pair.b.ingredients)}


def reasons(pairs: Sequence[TrialPair]) -> tuple[str, ...]:
    """Why the keys of paired trials differ, in words; empty where they are the same, or where no record says why."""
    found: dict[str, None] = {}
    for pair in pairs:
        if pair.has_one_key or not pair.a.ingredients or not pair.b.ingredients:
            continue
        has_one_template = _templates(pair.a.config) == _templates(pair.b.config)
        for name in sorted(_changed_ingredients(pair), key=_order(pair.a.ingredients)):
            words = _WORDS.get(name, name)
            is_rows = name in ("training", "validation")
            found[words if not is_rows or has_one_template else f"{words} (by the template)"] = None
    return tuple(found)


def _templates(config: Mapping[str, Any]) -> Any:
    return config.get("template")


def _order(ingredients: Mapping[str, Any]) -> Any:
    names = list(ingredients)
    return lambda name: names.index(name) if name in names else len(names)
