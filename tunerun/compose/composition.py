"""One load: the composed config and the command line become an Experiment, or a list of problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from tunerun import dotted_keys
from tunerun.compose.axes import NOT_SWEPT, ExpandedSweep, expand, overrides_of
from tunerun.compose.environment import Marks
from tunerun.compose.loader import Loader
from tunerun.compose.points import SharedSections
from tunerun.compose.provenance import Origin
from tunerun.compose.source import GLOBAL_GROUPS, PRIMARY, display_path, undoes_experiments
from tunerun.compose.validation import Location, fields_at, validate
from tunerun.errors import ConfigError
from tunerun.provenance.places import FILES_OF_ROWS
from tunerun.replicates import SEED
from tunerun.schema import Experiment, Point, Sweep, TrialConfig

MAX_WHOLE = 10_000
"""Most points that are composed one by one: 5 ms each (measured 2026-11-26), against 0.1 ms with shared sections."""

_SQLITE = "sqlite:///"
_STORED = {
    "name": "names the sweep, the tuned models and the MLflow experiment",
    "template": "is written into the ledger, the tuned model and MLflow with every example",
    "sweep": "is written into the ledger and MLflow with every trial",
}
"""Sections whose texts are stored as they are, so that none may come from the environment; each with the reason."""


class Composition:
    """One load: the open loader, the overrides of the command line, and the problems so far.

    Args:
        loader: an open one.
        command_line: every override that was typed, parsed.

    Attributes:
        plain: the overrides that do not sweep.
        problems: so far, one line each; the values are not used.
    """

    def __init__(self, loader: Loader, command_line: Sequence[Override]) -> None:
        self.loader = loader
        self.command_line = list(command_line)
        self.plain = [o for o in self.command_line if not o.is_sweep_override()]
        self.problems: dict[str, None] = {}
        self._groups = loader.groups()
        # Thousands of points look up the same: caches by location, and by the overrides that choose groups.
        self._files: dict[tuple[str, Location, tuple[str, ...]], str] = {}
        self._origins: dict[tuple[Location, tuple[str, ...]], Origin] = {}
        self._shared: dict[tuple[str, ...], SharedSections | None] = {}
        self._whole = 0

    def experiment(self) -> Experiment:
        """Return the validated experiment with its points.

        Raises:
            ConfigError: everything that is wrong, one line each.
        """
        raw, marks = self._composed()
        for location, text in marks.items():
            if reason := _STORED.get(str(location[0])):
                place = f"{self._origin(location, ())}: {'.'.join(map(str, location))}"
                line = f"{place}: the value of {text} would be stored, because it {reason}; write the text itself"
                self.problems[line] = None

        written = {key: value for key, value in (raw.pop("sweep", None) or {}).items() if value is not None}
        sweep, problems = validate(Sweep, written)
        if sweep is None:
            located = [(("sweep", *location), message) for location, message in problems]
            raise ConfigError(self._lines(located, (), marks))
        seed = raw.get("seed")
        # A seed of another type is reported with the points; the order of `shuffle` does not matter then.
        order = seed if isinstance(seed, int) else 0
        try:
            command_line = self._with_replicates(sweep, order)
            expanded = expand(self.loader, sweep.axes, sweep.exclude, command_line, order)
        except ConfigError as error:
            raise ConfigError([*self.problems, *map(self._located, error.problems)]) from error
        points = [self._point(overrides) for overrides in expanded.points]
        if self.problems:
            raise ConfigError(list(self.problems))
        return self._assembled(raw, sweep, expanded, [point for point in points if point is not None])

    def _composed(self) -> tuple[dict[str, Any], Marks]:
        """Compose the config without the sweep's values, and check what only the composed config shows.

        Raises:
            ConfigError: a file or an override that would undo or miss what it was written for.
        """
        primary = self.loader.own_primary
        if primary is not None and undoes_experiments(primary):
            raise ConfigError(
                f"{display_path(primary / PRIMARY)}: its own values come after those of the experiment and undo them; "
                "put `- _self_` first in its defaults"
            )
        raw, marks = self.loader.point_and_marks(self.plain)
        # Keys that ended up below their group are reported alone: other problems would only follow from them.
        if any(group in raw for group in GLOBAL_GROUPS) and (misplaced := self.loader.misplaced(self.plain)):
            raise ConfigError(misplaced)
        # An experiment is merged after all groups, so its own axes would silently win over those of `sweep=NAME`.
        chosen = [o for o in self.plain if o.key_or_group == "sweep" and self.loader.is_structural(o)]
        without = [o for o in self.plain if o.key_or_group not in ("experiment", "debug")]
        if chosen and len(without) < len(self.plain) and self.loader.point(without).get("sweep") != raw.get("sweep"):
            raise ConfigError(
                f"command line: {chosen[-1].input_line}: the experiment sets sweep.axes itself, which take precedence "
                "over the group; set the axes you want, such as hyperparameters.learning_rate=1e-3,1e-4"
            )
        return raw, marks

    def _with_replicates(self, sweep: Sweep, seed: int) -> list[Override]:
        """Return the command line's overrides followed by the axis of the replicates' seeds, which so varies fastest.

        Raises:
            ConfigError: the seed is swept as well.
        """
        if sweep.replicates == 1:
            return self.command_line
        typed = [override for override in self.command_line if override.key_or_group == SEED]
        if SEED in dotted_keys.leaves(sweep.axes) or any(override.is_sweep_override() for override in typed):
            raise ConfigError(
                f"sweep.replicates: is {sweep.replicates}, and seed is swept; each gives the trials of a point their "
                "seeds: remove one of the two"
            )
        # A seed on the command line is the first of the replicates' seeds, and does not pin the axis.
        others = [override for override in self.command_line if override.key_or_group != SEED]
        seeds = ",".join(map(str, range(seed, seed + sweep.replicates)))
        return [*others, self.loader.parse(f"{SEED}={seeds}")]

    def _located(self, problem: str) -> str:
        """Return a problem of the sweep, preceded by its file and line if it was written in a file."""
        key = problem.partition(": ")[0]
        _, part, rest = [*key.split(".", 2), "", ""][:3]
        if not key.startswith("sweep.") or "=" in key:
            return problem
        below = rest.split(".")[0] if part == "exclude" else rest
        origin = self._origin(("sweep", part, below) if below else ("sweep", part), ())
        return f"{origin}: {problem}" if origin.file else problem

    def _point(self, point: tuple[Override, ...]) -> Point | None:
        """Return a point, from shared sections if possible; None: it has problems, which were added."""
        chosen = tuple(o for o in point if self.loader.is_structural(o))
        key = tuple(str(o.input_line) for o in chosen)
        # Points with the same group choices start from one composed config.
        if key not in self._shared:
            base = (*self.plain, *chosen)
            try:
                raw, marks = self.loader.point_and_marks(base)
            except ConfigError:
                # The base lacks a value that only the axes give; each point reports its own problems.
                self._shared[key] = None
            else:
                unresolved = self.loader.unresolved(base)
                raw.pop("sweep", None)
                unresolved.pop("sweep", None)
                self.make_absolute(raw, chosen)
                self._shared[key] = SharedSections(raw, unresolved, dotted(marks))
        shared = self._shared[key]
        made = shared.config([o for o in point if o not in chosen] if chosen else point) if shared else None
        # Constructed without validation, which all of its parts have passed.
        if made is not None:
            return Point.model_construct(overrides=overrides_of(point), config=made[0], environment=made[1])

        self._whole += 1
        if self._whole > MAX_WHOLE:
            raise ConfigError(
                f"sweep.axes: more than {MAX_WHOLE:,} points have to be composed one by one, because interpolations "
                "read what they set; shorten an axis, or write the values"
            )
        raw, marks = self.loader.point_and_marks([*self.plain, *point])
        raw.pop("sweep", None)
        self.make_absolute(raw, point)
        config, problems = validate(TrialConfig, raw, self._groups)
        self.problems.update(dict.fromkeys(self._lines(problems, point, marks)))
        if config is None:
            return None
        return Point.model_construct(overrides=overrides_of(point), config=config, environment=dotted(marks))

    def _lines(self, problems: Sequence[tuple[Location, str]], point: tuple[Override, ...], marks: Marks) -> list[str]:
        """Return problems with the place they were written at, and with hints that only the raw config gives."""
        lines: list[str] = []
        for location, message in problems:
            key = ".".join(map(str, location))
            deleted = next((o for o in self.plain if o.is_delete() and o.key_or_group == key), None)
            fix = ""
            if message.startswith("must be") and (text := marks.get(location)):
                fix = f"; the environment gives text: write ${{oc.decode:{text}}}"
            elif message.startswith("is missing") and deleted is not None:
                fix = f"; {deleted.input_line} removed it"
            elif message.startswith("must be a mapping") and self.loader.is_group(key):
                fix = f"; remove the line for the defaults, or choose one of {', '.join(self.loader.options(key))}"
            lines.append(f"{self._origin(location, point)}: {key}: {message}{fix}")
        return lines

    def _assembled(self, raw: dict[str, Any], sweep: Sweep, expanded: ExpandedSweep, points: list[Point]) -> Experiment:
        """Return the experiment.

        Raises:
            ConfigError: values that must be the same for all trials and are not.
        """
        self.make_absolute(raw, ())
        # Where only the axes give a value that the base leaves open, the first point represents the experiment.
        base = validate(TrialConfig, raw)[0] or points[0].config
        problems = []
        for name in NOT_SWEPT:
            ours = getattr(base, name, None)
            # Shared sections are one object, so that most comparisons end at the identity.
            other = next((p for p in points if (v := getattr(p.config, name, None)) is not ours and v != ours), None)
            if other is not None:
                problems.append(
                    f"{self._origin((name,), ())}: {name}: reads a swept key ({', '.join(other.overrides)}), and must "
                    "be the same for all trials of a sweep; write it without, or run once for each value"
                )
        if problems:
            raise ConfigError(problems)
        notes = list(foreign_notes(self.loader))
        for override in self.plain:
            top = override.key_or_group.split(".")[0]
            if override.is_delete() and top in TrialConfig.model_fields:
                value = dotted_keys.get(base, override.key_or_group)
                text = value.model_dump_json() if hasattr(value, "model_dump_json") else repr(value)
                notes.append(f"{override.input_line}: removed from the config, so the default holds: {text}")
        sections = {name: getattr(base, name) for name in TrialConfig.model_fields}
        return Experiment.model_construct(
            **sections,
            sweep=sweep,
            pins=dict(expanded.pins),
            points=tuple(points),
            notes=tuple(notes),
            directories=tuple(map(str, self.loader.directories)),
            files={str(file): text for file, text in self.loader.files.items()},
        )

    def _origin(self, location: Location, point: tuple[Override, ...]) -> Origin:
        """Return where a value was written; for the value of a swept key, where its axis was written."""
        structural = tuple(str(o.input_line) for o in point if self.loader.is_structural(o))
        dotted = ".".join(map(str, location))
        typed = {o.key_or_group for o in self.command_line}
        is_leaf = not fields_at(TrialConfig, location)
        keys = [o.key_or_group for o in point]
        swept = next((k for k in keys if k == dotted or (is_leaf and k.startswith(f"{dotted}."))), None)
        if swept is not None and swept not in typed:
            location = ("sweep", "axes", swept)
        cached = (location, structural)
        if cached not in self._origins:
            chosen = [o for o in point if self.loader.is_structural(o)]
            self._origins[cached] = self.loader.origin([*self.command_line, *chosen], location)
        return self._origins[cached]

    def make_absolute(self, raw: dict[str, Any], point: tuple[Override, ...]) -> None:
        """Make the paths of a config absolute, in place, so that the plan is the same from any directory.

        Args:
            raw: the resolved config.
            point: the overrides of the point that it belongs to; empty: of none.
        """
        for key in FILES_OF_ROWS:
            if isinstance(value := dotted_keys.get(raw, key), str) and value not in ("", "???"):
                dotted_keys.put(raw, key, self._existing(value, tuple(key.split(".")), point))
        # Metrics name files too: the user's own code, written as `file:function`, and labelled examples.
        entries = dotted_keys.get(raw, "evaluation.metrics")
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if not isinstance(entry, dict):
                continue
            if isinstance(written := entry.get("python"), str):
                file, _, function = written.rpartition(":")
                if file and function:
                    path = self._existing(file, ("evaluation", "metrics", index, "python"), point)
                    entry["python"] = f"{path}:{function}"
            if isinstance(written := entry.get("examples"), str) and written:
                entry["examples"] = self._existing(written, ("evaluation", "metrics", index, "examples"), point)
        # These are written to, so they are in the working directory, wherever the YAML that names them is.
        for key in ("paths.runs", "paths.cache"):
            if isinstance(value := dotted_keys.get(raw, key), str) and value:
                dotted_keys.put(raw, key, str(Path(value).expanduser().absolute()))
        uri = dotted_keys.get(raw, "tracking.uri")
        if isinstance(uri, str) and uri.startswith(_SQLITE):
            dotted_keys.put(raw, "tracking.uri", _SQLITE + str(Path(uri.removeprefix(_SQLITE)).absolute()))

    def _existing(self, value: str, location: Location, point: tuple[Override, ...]) -> str:
        """Return the absolute path of a file: in the working directory, else beside the YAML that names it."""
        key = (value, location, tuple(str(o.input_line) for o in point if self.loader.is_structural(o)))
        if key not in self._files:
            path = Path(value).expanduser().absolute()
            if not path.exists() and (origin := self._origin(location, point)).file is not None:
                beside = (origin.file.parent / value).resolve()
                path = beside if beside.exists() else path
            self._files[key] = str(path)
        return self._files[key]


def foreign_notes(loader: Loader) -> Iterator[str]:
    """Yield notes on each `config.yaml` that is not used because it belongs to another program."""
    for directory, lacking in loader.foreign.items():
        yield (
            f"{display_path(directory / PRIMARY)}: not used: its defaults have no {', '.join(lacking)}, so it is "
            "another program's; tunerun's own config.yaml is used, with the groups of that directory"
        )


def dotted(marks: Marks) -> dict[str, str]:
    """Return marks by dotted key instead of by location."""
    return {".".join(map(str, location)): text for location, text in marks.items()}
