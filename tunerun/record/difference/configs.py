"""Values of the config side by side, and why keys differ."""

from __future__ import annotations

from collections.abc import Sequence

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
"""Names of ingredients of a key in messages, unless the ingredient's own name is clear."""

_DETERMINES = {
    "dataset": ("training", "validation"),
    "template": ("training", "validation"),
    "model": ("model",),
    "backend": ("backend", "precision", "quantization"),
    "seed": ("seed",),
}
"""Section of the config -> the ingredients of a key that it determines."""

_TEMPLATE = ("template.text_input", "template.output", "template.system")
_LEARNING_RATES = ("learning_rate", "learning_rate_multiplier")


def config_section(pairs: Sequence[TrialPair]) -> DifferenceSection:
    """Return the config values that differ, by dotted key, marked if they are in the key.

    The template is not among them: it has a section of its own.
    """
    values: list[tuple[SideBySide, str]] = []
    for pair in pairs:
        changed = _changed_ingredients(pair)
        for each in differences(pair.a.config, pair.b.config):
            if each.name in _TEMPLATE:
                continue
            part, _, key = each.name.partition(".")
            # Marked only if what the value determines differs, too: another path to equal rows is not in the key.
            determined = set(_DETERMINES.get(part, ()))
            if part == "hyperparameters":  # a service may take a multiplier; the key has the rate that results
                determined = {"learning_rate"} if key in _LEARNING_RATES else {key}
            values.append(
                (SideBySide(each.name, each.old, each.new, IN_KEY if determined & changed else ""), pair.name)
            )
    return DifferenceSection("config", collected(values, len(pairs)))


def reasons(pairs: Sequence[TrialPair]) -> tuple[str, ...]:
    """Return why the keys of paired trials differ; empty if they are equal, or if one of the records does not say.

    Args:
        pairs: of trials of two records.
    """
    names: dict[str, None] = {}
    for pair in pairs:
        if pair.has_one_key or not pair.a.ingredients or not pair.b.ingredients:
            continue
        has_one_template = pair.a.config.get("template") == pair.b.config.get("template")
        # In the order in which the ingredients are stored, so that every trial gives its reasons in the same order.
        order = list(pair.a.ingredients)
        changed = _changed_ingredients(pair)
        for name in sorted(changed, key=lambda name: order.index(name) if name in order else len(order)):
            words = _WORDS.get(name, name)
            is_rows = name in ("training", "validation")
            names[words if not is_rows or has_one_template else f"{words} (by the template)"] = None
    return tuple(names)


def _changed_ingredients(pair: TrialPair) -> set[str]:
    # Some are nested, such as the backend's kind and address; the first part is the ingredient.
    return {each.name.partition(".")[0] for each in differences(pair.a.ingredients, pair.b.ingredients)}
