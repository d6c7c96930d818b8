"""Composes, validates and describes experiments: the functions that `tunerun.compose` exports."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunerun.compose.command_line import one_for_each_experiment, parse_overrides
from tunerun.compose.completion import completions_of
from tunerun.compose.composition import Composition, foreign_notes
from tunerun.compose.explanation import explanation
from tunerun.compose.loader import Loader, to_yaml
from tunerun.compose.validation import validate
from tunerun.errors import ConfigError
from tunerun.redaction import redact
from tunerun.schema import Experiment, Paths, Tracking

ConfigDirectories = str | Sequence[str] | None
"""Directories of YAML files to search before all others, in their order."""


def config_directories(config_dir: ConfigDirectories = None) -> list[Path]:
    """Return the conf directories in search order.

    `config_dir`, then those of the environment variable TUNERUN_CONF, with a colon between two as in PATH, then `conf`
    in the current directory, then what tunerun ships: a user's own file wins, and may use every shipped group.

    Args:
        config_dir: one directory or several, preferred in their order; None: none.

    Raises:
        ConfigError: a named directory does not exist.
    """
    package = Path(__file__).resolve().parent.parent
    # An editable install has conf/ at the top of the repository, a wheel has it inside the package.
    shipped = next(d for d in (package / "conf", package.parent / "conf") if d.is_dir())
    typed = [config_dir] if isinstance(config_dir, str) else list(config_dir or ())
    variable = os.environ.get("TUNERUN_CONF", "").split(os.pathsep)
    named = [*(("--config-dir", d) for d in typed), *(("TUNERUN_CONF", d) for d in variable if d)]
    problems = [f"{what}: {d}: no such directory" for what, d in named if not d or not Path(d).is_dir()]
    if problems:
        raise ConfigError(problems)
    own = Path("conf").resolve()
    return list(dict.fromkeys([*(Path(d).resolve() for _, d in named), *([own] if own.is_dir() else []), shipped]))


def load(overrides: Sequence[str] = (), config_dir: ConfigDirectories = None) -> Experiment:
    """Compose and validate an experiment, and expand its sweep.

    Args:
        overrides: in Hydra's grammar, as on the command line: `["experiment=next_number", "seed=1,2"]`.
        config_dir: directories of YAML files that are searched before all others.

    Returns:
        The experiment; its `points` are the sweep's, in order.

    Raises:
        ConfigError: everything that is wrong, one line each with the dotted key and where it was written.
    """
    with Loader(config_directories(config_dir)) as loader:
        return Composition(loader, parse_overrides(loader, overrides)).experiment()


def each_experiment(overrides: Sequence[str] = (), config_dir: ConfigDirectories = None) -> list[list[str]]:
    """Return the overrides of each experiment that `experiment=a,b` or `experiment=glob(*)` names, one sweep each.

    Args:
        overrides: as for `load`.
        config_dir: as for `load`.

    Raises:
        ConfigError: an override that cannot be parsed, or no experiment that matches.
    """
    with Loader(config_directories(config_dir)) as loader:
        return one_for_each_experiment(loader, overrides)


def places(overrides: Sequence[str] = (), config_dir: ConfigDirectories = None) -> tuple[Paths, Tracking]:
    """Return the sections `paths` and `tracking`, for commands that do not need a whole experiment.

    Args:
        overrides: as for `load`.
        config_dir: as for `load`.

    Raises:
        ConfigError: the config cannot be composed, or these two sections are wrong.
    """
    with Loader(config_directories(config_dir)) as loader:
        composition = Composition(loader, parse_overrides(loader, overrides))
        raw = loader.point(composition.plain)
        composition.make_absolute(raw, ())
        paths, problems = validate(Paths, raw.get("paths", {}))
        tracking, more = validate(Tracking, raw.get("tracking", {}))
        if paths is None or tracking is None:
            raise ConfigError([f"{'.'.join(map(str, location))}: {message}" for location, message in problems + more])
        return paths, tracking


def assignments(overrides: Sequence[str], config_dir: ConfigDirectories = None) -> dict[str, Any]:
    """Return what overrides set, by dotted key, to change a stored config, which is not composed again.

    The choice of a group, such as `model=qwen3-0.6b`, sets the whole section.

    Args:
        overrides: as for `load`.
        config_dir: as for `load`.

    Raises:
        ConfigError: an override that cannot be parsed, that has several values, or that is not an assignment.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    with Loader(config_directories(config_dir)) as loader:
        for override in parse_overrides(loader, overrides):
            key, line = override.key_or_group, override.input_line
            if override.is_sweep_override():
                problems.append(f"{line}: has several values; give one")
            elif override.is_delete():
                problems.append(f"{line}: removes a key of a stored config; give the key a value")
            elif not loader.is_structural(override):
                values[key] = override.value()
            elif key in (composed := loader.point([override])) and override.package is None:
                values[key] = composed[key]
            else:
                problems.append(f"{line}: chooses more than one section; set the dotted keys that should differ")
    if problems:
        raise ConfigError(problems)
    return values


def choices(group: str, config_dir: ConfigDirectories = None) -> list[str]:
    """Return the choices of a config group, such as the base models of `model`; empty: there is no such group.

    Args:
        group: its name; `folder/name` for one below another.
        config_dir: as for `load`.

    Raises:
        ConfigError: a named directory does not exist.
    """
    with Loader(config_directories(config_dir)) as loader:
        return loader.options(group)


def completions(text: str, config_dir: ConfigDirectories = None) -> list[str]:
    """Return the completions of a partly typed override; see `completion`.

    Args:
        text: what has been typed of it.
        config_dir: as for `load`.

    Raises:
        ConfigError: the config cannot be composed.
    """
    with Loader(config_directories(config_dir)) as loader:
        return completions_of(loader, text)


def compose_name(overrides: Sequence[str] = (), config_dir: ConfigDirectories = None) -> str | None:
    """Return the name of the experiment that the overrides choose; None: none.

    Args:
        overrides: as for `load`.
        config_dir: as for `load`.

    Raises:
        ConfigError: the config cannot be composed.
    """
    with Loader(config_directories(config_dir)) as loader:
        plain = [o for o in parse_overrides(loader, overrides) if not o.is_sweep_override()]
        name = loader.point(plain).get("name", "???")
        return None if name == "???" else str(name)


def compose_yaml(overrides: Sequence[str] = (), config_dir: ConfigDirectories = None) -> str:
    """Return the composed config as YAML, its sweep not expanded, with interpolations of the environment as written.

    Args:
        overrides: as for `load`.
        config_dir: as for `load`.

    Raises:
        ConfigError: it cannot be composed.
    """
    with Loader(config_directories(config_dir)) as loader:
        plain = [o for o in parse_overrides(loader, overrides) if not o.is_sweep_override()]
        notes = "".join(f"# {note}\n" for note in foreign_notes(loader))
        return notes + redact(to_yaml(loader.config(plain)))


def explain(key: str, overrides: Sequence[str] = (), config_dir: ConfigDirectories = None) -> Mapping[str, Any]:
    """Describe a dotted key: its value and where that was written, its choices, unit and default.

    Args:
        key: such as `hyperparameters.epoch_count`, or the name of a group.
        overrides: as for `load`.
        config_dir: as for `load`.

    Returns:
        JSON values by name, as `config --explain --json` prints them.

    Raises:
        ConfigError: the key does not exist; names the nearest.
    """
    with Loader(config_directories(config_dir)) as loader:
        plain = [o for o in parse_overrides(loader, overrides) if not o.is_sweep_override()]
        return explanation(loader, plain, key)
