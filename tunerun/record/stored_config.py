"""Builds an experiment from a sweep's stored configs, read leniently and with the paths of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from tunerun import dotted_keys
from tunerun.compose.validation import fields_at, validate
from tunerun.errors import ConfigError, did_you_mean
from tunerun.interpolation import resolved
from tunerun.ledger import TrialRecord
from tunerun.schema import Experiment, Paths, Point, Sweep, Tracking, TrialConfig

_FROM_ENVIRONMENT = "${oc."
"""The start of the interpolation that a stored config contains instead of a value from the environment."""


@dataclass
class StoredConfigs:
    """Reads the stored configs of trials.

    Attributes:
        paths, tracking: of this machine; they replace the stored ones.
        places: where things are on this machine and how it computes, by dotted key.
        edits: the user's changes, by dotted key; a swept key among them no longer varies.
        data: files of rows on this machine, by recorded name; empty: the recorded examples are used.
        computed: how each trial was computed, by its key, for configs that leave that to the machine.
        notes: what was omitted from the stored configs, one line each.
    """

    paths: Paths
    tracking: Tracking
    places: Mapping[str, Any] = field(default_factory=dict)
    edits: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Path] = field(default_factory=dict)
    computed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    _sections: dict[tuple[str, str], Any] = field(default_factory=dict)

    def experiment(
        self, trials: Sequence[TrialRecord], pins: Mapping[str, Any]
    ) -> tuple[Experiment, list[TrialRecord]]:
        """Return an experiment whose points are these trials, in the same order, and the trials that were kept.

        If an edit makes trials equal, such as an edit of the only swept key, only the first of them is kept.

        Args:
            trials: of one sweep.
            pins: swept keys that the original command line fixed.

        Raises:
            ConfigError: this version does not accept a stored value, or an environment variable is not set.
        """
        problems: dict[str, None] = {}
        points: list[Point] = []
        kept: list[TrialRecord] = []
        seen: set[str] = set()
        for trial in trials:
            try:
                point = self._point(trial)
            except ConfigError as error:
                problems.update(dict.fromkeys(error.problems))
                continue
            text = point.config.model_dump_json() if self.edits else ""
            if not text or text not in seen:
                points.append(point)
                kept.append(trial)
                seen.add(text)
        if problems:
            raise ConfigError(list(problems))
        first = points[0].config
        sections = {name: getattr(first, name) for name in TrialConfig.model_fields}
        experiment = Experiment.model_construct(**sections, sweep=Sweep(), pins=dict(pins), points=tuple(points))
        return experiment, kept

    def _point(self, trial: TrialRecord) -> Point:
        raw = json.loads(json.dumps(dict(trial.config)))  # a copy, which is changed below
        raw |= {"paths": self.paths.model_dump(mode="json"), "tracking": self.tracking.model_dump(mode="json")}
        backend = raw.get("backend")
        if isinstance(backend, dict):
            # Threads and number format of the first run: adding in another order changes the last bits.
            names = fields_at(TrialConfig, ("backend", str(backend.get("kind"))))
            for name, value in self.computed.get(trial.key, {}).items():
                if name in names and backend.get(name) in (None, "auto"):
                    backend[name] = value
        for file in files_of_rows(raw):
            file.section["path"] = str(self.data.get(file.name, file.section["path"]))
        for key, value in {**self.places, **self.edits}.items():
            _set(raw, key, value)
        self._drop_unknown(raw, ())

        problems: list[str] = []
        environment: dict[str, str] = {}
        for location, text in list(_interpolations(raw, ())):
            dotted = ".".join(map(str, location))
            environment[dotted] = text
            if location[0] == "dataset":  # its files are not read again, so the variable need not be set here
                continue
            try:
                dotted_keys.put(raw, location, resolved(text))
            except ConfigError as error:
                problems += [f"{dotted}: {problem}" for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        config, wrong = validate(TrialConfig, raw)
        if config is None:
            raise ConfigError([f"{'.'.join(map(str, location))}: {message}" for location, message in wrong])

        # Equal sections become one object, because `Sources` caches sections by identity.
        sections = {}
        for name in TrialConfig.model_fields:
            value = getattr(config, name)
            text = value.model_dump_json() if hasattr(value, "model_dump_json") else repr(value)
            sections[name] = self._sections.setdefault((name, text), value)
        overrides = {
            key: value
            for key, value in trial.overrides.items()
            if not any(key == e or key.startswith(f"{e}.") or e.startswith(f"{key}.") for e in self.edits)
        }
        shared = TrialConfig.model_construct(**sections)
        return Point.model_construct(overrides=overrides, config=shared, environment=environment)

    def _drop_unknown(self, raw: dict[str, Any], location: tuple[str, ...]) -> None:
        """Remove keys that only another version had; an unknown key that the user set is an error."""
        known = fields_at(TrialConfig, location)
        for key, value in list(raw.items()):
            dotted = ".".join((*location, key))
            if known and key not in known:
                if dotted in self.edits or dotted in self.places:
                    hint = did_you_mean(key, known) or f"known keys: {', '.join(known)}"
                    raise ConfigError(f"{dotted}: unknown key {key!r}; {hint}")
                self.notes[f"{dotted}: this version of tunerun does not have the recorded key; it is omitted"] = None
                del raw[key]
            elif isinstance(value, dict) and fields_at(TrialConfig, (*location, key)):
                self._drop_unknown(value, (*location, key))


@dataclass(frozen=True)
class FileOfRows:
    """A file of rows that a stored config names.

    Attributes:
        dotted: the dotted key of its path.
        section: the config section that contains `path`; it can be changed in place.
    """

    dotted: str
    section: dict[str, Any]

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return PurePath(self.section["path"]).name


def files_of_rows(config: Mapping[str, Any]) -> Iterator[FileOfRows]:
    """Yield the files of a stored config's dataset: the rows, and the held-out files."""
    dataset = config.get("dataset")
    if not isinstance(dataset, dict):
        return
    for part in (None, "validation", "test"):
        section = dataset if part is None else dataset.get(part)
        if isinstance(section, dict) and isinstance(section.get("path"), str):
            yield FileOfRows("dataset.path" if part is None else f"dataset.{part}.path", section)


def _interpolations(node: Any, location: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the location and the text of each interpolation that came from the environment."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if isinstance(value, str) and _FROM_ENVIRONMENT in value:
            yield (*location, key), value
        else:
            yield from _interpolations(value, (*location, key))


def _set(raw: dict[str, Any], key: str, value: object) -> None:
    *above, last = key.split(".")
    for part in above:
        raw = raw.setdefault(part, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"{key}: {part} is a value and not a section")
    raw[last] = value
