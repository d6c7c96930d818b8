"""The overrides of the command line: parsed, with their choices of groups checked before anything is composed."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from tunerun.compose.failures import no_choice
from tunerun.compose.grammar import MAX_POINTS
from tunerun.compose.loader import Loader
from tunerun.compose.source import GLOBAL_GROUPS, display_path
from tunerun.errors import ConfigError

EXPERIMENT = "experiment"


def parse_overrides(loader: Loader, texts: Sequence[str]) -> list[Override]:
    """Parse all overrides, and check the groups that they choose, before anything is composed.

    Args:
        loader: an open one.
        texts: the overrides, as they were typed.

    Raises:
        ConfigError: all problems with them, one line each.
    """
    overrides: list[Override] = []
    problems: list[str] = []
    for text in texts:
        try:
            override = loader.parse(text)
            # Hydra's documentation writes +experiment=x, for a config without `experiment: null` in its defaults.
            if override.is_add() and override.package is None and override.key_or_group in loader.options_of_groups():
                override = loader.parse(text[1:])
            problems.extend(_wrong_choices(loader, override))
            overrides.append(override)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return overrides


def _wrong_choices(loader: Loader, override: Override) -> list[str]:
    key, line = override.key_or_group, override.input_line
    if override.is_hydra_override() or key == "hydra":
        instead = "choose where to run with backend=..., and what to vary with key=1,2 or sweep.axes"
        why = "tunerun starts and watches the trials itself, so hydra's launchers and sweepers are not used"
        return [f"{line}: {why}; {instead}"]
    if not loader.is_group(key) or override.is_delete() or isinstance(override.value(), dict):
        return []
    options = loader.options(key)
    sweeps = override.is_sweep_override()
    if sweeps and key in GLOBAL_GROUPS:
        where = "only `plan` and `run` take several, one after another" if key == EXPERIMENT else "run once for each"
        return [f"{line}: each choice of {key} is a sweep of its own; {where}; name one"]
    chosen = loader.elements(override, MAX_POINTS) if sweeps else [override.get_value_element_as_str()]
    # Hydra leaves a group out for `null`; then its section would silently have the schema's defaults.
    if "null" in chosen:
        instead = f"omit {key}" if key in GLOBAL_GROUPS else f"write ~{key} for the defaults of its keys"
        return [f"{line}: null is not a choice of {key}; {instead}, or choose one of {', '.join(options)}"]
    wrong = [choice for choice in chosen if choice not in options]
    if not wrong and not chosen:
        return [f"{line}: no choice of {key} matches; choices: {', '.join(options)}"]
    problems: list[str] = []
    for choice in wrong:
        # Hydra reads files that end in .yaml alone.
        other = next((f for d in loader.directories if (f := d / key / f"{choice}.yml").is_file()), None)
        hint = f"; {display_path(other)} is not read: rename it to {choice}.yaml" if other else ""
        problems.append(f"command line: {no_choice(key, choice, options)}{hint}")
    return problems


def one_for_each_experiment(loader: Loader, texts: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each named experiment; the last override of `experiment` names them.

    Args:
        loader: an open one.
        texts: the overrides, as they were typed.

    Raises:
        ConfigError: an override that cannot be parsed, or no experiment that matches.
    """
    overrides = [loader.parse(text) for text in texts]
    last = next((o for o in reversed(overrides) if o.key_or_group == EXPERIMENT), None)
    if last is None or not last.is_sweep_override():
        return [list(texts)]
    chosen = loader.elements(last, MAX_POINTS)
    if not chosen:
        raise ConfigError(f"{last.input_line}: no experiment matches; choices: {', '.join(loader.options(EXPERIMENT))}")
    rest = [text for text, override in zip(texts, overrides, strict=True) if override.key_or_group != EXPERIMENT]
    return [[f"{EXPERIMENT}={choice}", *rest] for choice in dict.fromkeys(chosen)]
