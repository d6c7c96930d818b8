"""conf directories and overrides become an Experiment, its sweep expanded. The only importer of hydra and omegaconf."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from tunerun.compose.axes import ExpandedSweep, expand, overrides_of
from tunerun.compose.grammar import MAX_POINTS
from tunerun.compose.loader import Loader, Origin, no_choice, to_yaml
from tunerun.compose.points import SharedSections
from tunerun.compose.validation import Location, fields_at, lines, nearest, validate
from tunerun.errors import ConfigError
from tunerun.redaction import redact
from tunerun.schema import Experiment, Paths, Point, Sweep, Tracking, TrialConfig

__all__ = ["compose_name", "compose_yaml", "config_directories", "explain", "load", "places"]

_PATHS = (("dataset", "path"), ("dataset", "validation", "path"), ("dataset", "test", "path"))
_SQLITE = "sqlite:///"
_NO_HYDRA = (
    "{}: tunerun starts and watches the trials itself, so hydra's launchers and sweepers have no place; "
    "choose where to run with backend=..., and what to vary with key=1,2 or sweep.axes"
)


def config_directories(config_dir: str | None = None) -> list[Path]:
    """The conf directories in the order in which they are searched.

    `config_dir`, then the environment variable TUNERUN_CONF, then `conf` in the current directory, then what tunerun
    ships: a user's own file wins, and may use every shipped group.

    Raises:
        ConfigError: a directory that was named is not there.
    """
    package = Path(__file__).resolve().parent.parent
    # An editable install has conf/ at the top of the repository, a wheel has it inside the package.
    shipped = next(d for d in (package / "conf", package.parent / "conf") if d.is_dir())
    named = {"--config-dir": config_dir, "TUNERUN_CONF": os.environ.get("TUNERUN_CONF")}
    problems = [f"{what}: {d}: no such directory" for what, d in named.items() if d and not Path(d).is_dir()]
    if problems:
        raise ConfigError(problems)
    found = [Path(d).resolve() for d in named.values() if d]
    own = Path("conf").resolve()
    return list(dict.fromkeys([*found, *([own] if own.is_dir() else []), shipped]))


def load(overrides: Sequence[str] = (), config_dir: str | None = None) -> Experiment:
    """Compose and validate an experiment, and expand its sweep.

    Args:
        overrides: in Hydra's grammar, as on the command line: `["experiment=next_number", "seed=1,2"]`.
        config_dir: a directory of YAML files that is searched before all others.

    Returns:
        The experiment; its `points` are the sweep's, in order.

    Raises:
        ConfigError: everything that is wrong, one line each with the dotted key and where it was written.
    """
    with Loader(config_directories(config_dir)) as loader:
        return _Composition(loader, _parsed(loader, overrides)).experiment()


def places(overrides: Sequence[str] = (), config_dir: str | None = None) -> tuple[Paths, Tracking]:
    """Where files go and where the ledger is shown, for commands that need no whole experiment.

    Raises:
        ConfigError: the config cannot be composed, or these two sections are wrong.
    """
    with Loader(config_directories(config_dir)) as loader:
        composition = _Composition(loader, _parsed(loader, overrides))
        raw = loader.point(composition.plain)
        composition.make_absolute(raw, ())
        paths, problems = validate(Paths, raw["paths"])
        tracking, more = validate(Tracking, raw["tracking"])
        if paths is None or tracking is None:
            raise ConfigError([f"{'.'.join(map(str, location))}: {message}" for location, message in problems + more])
        return paths, tracking


def choices(group: str, config_dir: str | None = None) -> list[str]:
    """The choices of a config group, such as the base models of `model`."""
    with Loader(config_directories(config_dir)) as loader:
        return loader.options(group)


def compose_name(overrides: Sequence[str] = (), config_dir: str | None = None) -> str | None:
    """The name of the experiment that the overrides choose; None: they choose none.

    Raises:
        ConfigError: the config cannot be composed.
    """
    with Loader(config_directories(config_dir)) as loader:
        name = loader.point([o for o in _parsed(loader, overrides) if not o.is_sweep_override()])["name"]
        return None if name == "???" else str(name)


def compose_yaml(overrides: Sequence[str] = (), config_dir: str | None = None) -> str:
    """The composed config as YAML, its sweep not expanded.

    Raises:
        ConfigError: it cannot be composed.
    """
    with Loader(config_directories(config_dir)) as loader:
        parsed = _parsed(loader, overrides)
        return redact(to_yaml(loader.config([o for o in parsed if not o.is_sweep_override()])))


def explain(key: str, overrides: Sequence[str] = (), config_dir: str | None = None) -> str:
    """Say what a dotted key means, its value, and where that was written.

    Raises:
        ConfigError: there is no such key; names the nearest.
    """
    with Loader(config_directories(config_dir)) as loader:
        parsed = [o for o in _parsed(loader, overrides) if not o.is_sweep_override()]
        node: Any = loader.point(parsed)
        location = tuple(key.split("."))
        for depth, part in enumerate(location):
            if not isinstance(node, Mapping) or part not in node:
                known = fields_at(Experiment, location[:depth])
                raise ConfigError(f"{key}: no such key; {nearest(part, known) or 'known keys: ' + ', '.join(known)}")
            node = node[part]
        return (
            f"{key} = {redact(repr(node))}\n  written in: {loader.origin(parsed, location)}\n  {_description(location)}"
        )


def _description(location: Sequence[str]) -> str:
    model: Any = Experiment
    for part in location[:-1]:
        model = model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else None
    entry = getattr(model, "model_fields", {}).get(location[-1])
    if entry is None:
        return "a key that the sweep's author chose"
    return entry.description or str(getattr(entry.annotation, "__doc__", "")).split("\n")[0]


def _parsed(loader: Loader, texts: Sequence[str]) -> list[Override]:
    """Parse all overrides, and check the groups they choose, before anything is composed."""
    parsed: list[Override] = []
    problems: list[str] = []
    for text in texts:
        try:
            override = loader.parse(text)
            problems.extend(_wrong_choices(loader, override))
            parsed.append(override)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return parsed


def _wrong_choices(loader: Loader, override: Override) -> list[str]:
    key, line = override.key_or_group, override.input_line
    if override.is_hydra_override() or key == "hydra":
        return [_NO_HYDRA.format(line)]
    if not loader.is_group(key) or override.is_delete() or isinstance(override.value(), dict):
        return []
    options = loader.options(key)
    sweeps = override.is_sweep_override()
    chosen = loader.elements(override, MAX_POINTS) if sweeps else [override.get_value_element_as_str()]
    wrong = [choice for choice in chosen if choice not in options and choice != "null"]
    if not wrong and not chosen:
        return [f"{line}: no choice of {key} matches; choices: {', '.join(options)}"]
    return [f"command line: {no_choice(key, choice, options)}" for choice in wrong]


@dataclass
class _Composition:
    """One load: the open loader, what was typed, and what was found wrong so far."""

    loader: Loader
    command_line: list[Override]
    problems: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plain = [o for o in self.command_line if not o.is_sweep_override()]
        self.groups = self.loader.groups()
        self._found: dict[tuple[str, Location, tuple[str, ...]], str] = {}
        self._origins: dict[tuple[Location, tuple[str, ...]], Origin] = {}
        self._shared: dict[tuple[str, ...], SharedSections | None] = {}

    def experiment(self) -> Experiment:
        raw = self.loader.point(self.plain)
        self._check_sweep_group(raw)
        sweep = self._sweep(raw.pop("sweep", None) or {})
        seed = raw.get("seed")
        seeded = seed if isinstance(seed, int) else 0
        expanded = expand(self.loader, sweep.axes, sweep.exclude, self.command_line, seeded)
        points = [self._point(overrides) for overrides in expanded.points]
        if self.problems:
            raise ConfigError(list(self.problems))
        return self._assembled(raw, sweep, expanded, [point for point in points if point is not None])

    def _check_sweep_group(self, raw: Mapping[str, Any]) -> None:
        """Refuse a `sweep=` that was typed in vain: what an experiment writes in its own body wins over a group."""
        chosen = [o for o in self.plain if o.key_or_group == "sweep" and self.loader.is_structural(o)]
        without = [o for o in self.plain if o.key_or_group not in ("experiment", "debug")]
        if chosen and len(without) < len(self.plain) and self.loader.point(without).get("sweep") != raw.get("sweep"):
            raise ConfigError(
                f"command line: {chosen[-1].input_line}: the experiment sets sweep.axes itself, which win over the "
                "group; set the axes you want, as hyperparameters.learning_rate=1e-3,1e-4"
            )

    def _sweep(self, raw: Mapping[str, Any]) -> Sweep:
        cleared = {key: value for key, value in raw.items() if value is not None}
        sweep, problems = validate(Sweep, cleared)
        located = [(("sweep", *location), message) for location, message in problems]
        if sweep is None:
            raise ConfigError(lines(located, lambda location: self._origin(location, ())))
        return sweep

    def _point(self, point: tuple[Override, ...]) -> Point | None:
        config = self._shared_config(point)
        if config is not None:
            return Point.model_construct(overrides=overrides_of(point), config=config)
        return self._point_as_a_whole(point)

    def _shared_config(self, point: tuple[Override, ...]) -> TrialConfig | None:
        """The config of a point from sections that others share; None: it has to be composed as a whole."""
        chosen = tuple(o for o in point if self.loader.is_structural(o))
        key = tuple(str(o.input_line) for o in chosen)
        if key not in self._shared:
            self._shared[key] = self._sections((*self.plain, *chosen), chosen)
        shared = self._shared[key]
        return shared.config([o for o in point if o not in chosen] if chosen else point) if shared else None

    def _sections(self, overrides: tuple[Override, ...], chosen: tuple[Override, ...]) -> SharedSections | None:
        try:
            raw = self.loader.point(overrides, without=("sweep",))
        except ConfigError:
            return None  # a value that only the axes give; each point says what is wrong with it
        self.make_absolute(raw, chosen)
        return SharedSections(raw, self.loader.unresolved(overrides, without=("sweep",)))

    def _point_as_a_whole(self, point: tuple[Override, ...]) -> Point | None:
        raw = self.loader.point([*self.plain, *point], without=("sweep",))
        self.make_absolute(raw, point)
        config, problems = validate(TrialConfig, raw, self.groups)
        for line in lines(problems, lambda location: self._origin(location, point)):
            self.problems[line] = None
        return None if config is None else Point.model_construct(overrides=overrides_of(point), config=config)

    def _assembled(self, raw: dict[str, Any], sweep: Sweep, expanded: ExpandedSweep, points: list[Point]) -> Experiment:
        self.make_absolute(raw, ())
        # Where only the axes give a value that the base leaves open, the first point stands for the experiment.
        base = validate(TrialConfig, raw)[0] or points[0].config
        sections = {name: getattr(base, name) for name in TrialConfig.model_fields}
        return Experiment.model_construct(**sections, sweep=sweep, pins=dict(expanded.pins), points=tuple(points))

    def _origin(self, location: Location, point: tuple[Override, ...]) -> Origin:
        """Where a value was written; for what a swept key sets, where its axis was."""
        structural = tuple(str(o.input_line) for o in point if self.loader.is_structural(o))
        dotted = ".".join(map(str, location))
        typed = {o.key_or_group for o in self.command_line}
        if any(o.key_or_group == dotted for o in point) and dotted not in typed:
            location = ("sweep", "axes", dotted)
        cached = (location, structural)
        if cached not in self._origins:
            chosen = [o for o in point if self.loader.is_structural(o)]
            self._origins[cached] = self.loader.origin([*self.command_line, *chosen], location)
        return self._origins[cached]

    def make_absolute(self, raw: dict[str, Any], point: tuple[Override, ...]) -> None:
        """Paths become absolute, so that the plan means the same from any directory."""
        for location in _PATHS:
            node: Any = raw
            for part in location[:-1]:
                node = node.get(part) if isinstance(node, Mapping) else None
            if isinstance(node, dict) and isinstance(value := node.get(location[-1]), str) and value not in ("", "???"):
                node[location[-1]] = self._existing(value, location, point)
        paths, tracking = raw.get("paths"), raw.get("tracking")
        for name in ("runs", "cache"):
            if isinstance(paths, dict) and isinstance(value := paths.get(name), str) and value:
                paths[name] = str(Path(value).expanduser().absolute())
        if isinstance(tracking, dict) and isinstance(uri := tracking.get("uri"), str) and uri.startswith(_SQLITE):
            tracking["uri"] = _SQLITE + str(Path(uri.removeprefix(_SQLITE)).absolute())

    def _existing(self, value: str, location: Location, point: tuple[Override, ...]) -> str:
        key = (value, location, tuple(str(o.input_line) for o in point if self.loader.is_structural(o)))
        if key not in self._found:
            self._found[key] = self._looked_for(value, location, point)
        return self._found[key]

    def _looked_for(self, value: str, location: Location, point: tuple[Override, ...]) -> str:
        here = Path(value).expanduser().absolute()
        if here.exists():
            return str(here)
        origin = self._origin(location, point)
        beside = (origin.file.parent / value).resolve() if origin.file else here
        return str(beside if beside.exists() else here)
