"""Builds an experiment from a sweep's stored configs, read leniently and with the paths of this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from tunerun import dotted_keys
from tunerun.compose.validation import fields_at, validate
from tunerun.errors import ConfigError, did_you_mean
from tunerun.interpolation import resolved
from tunerun.ledger import TrialRecord
from tunerun.provenance.places import FILES_OF_ROWS
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
        computed: options of the backend that each trial was computed with, by its key, for configs that leave them to
            the machine.
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
        texts: set[str] = set()
        for trial in trials:
            try:
                point = self._point(trial)
            except ConfigError as error:
                problems.update(dict.fromkeys(error.problems))
                continue
            # Without edits equal configs are not merged: a rerun has the trials of the record, one for one.
            text = point.config.model_dump_json() if self.edits else ""
            if not text or text not in texts:
                points.append(point)
                kept.append(trial)
                texts.add(text)
        if problems:
            raise ConfigError(list(problems))
        # Its parts are validated already. The sweep section is empty: the points are not made from axes again.
        first = points[0].config
        sections = {name: getattr(first, name) for name in TrialConfig.model_fields}
        experiment = Experiment.model_construct(**sections, sweep=Sweep(), pins=dict(pins), points=tuple(points))
        return experiment, kept

    def _point(self, trial: TrialRecord) -> Point:
        raw = json.loads(json.dumps(dict(trial.config)))  # a copy, which is changed below
        raw |= {"paths": self.paths.model_dump(mode="json"), "tracking": self.tracking.model_dump(mode="json")}
        backend = raw.get("backend")
        if isinstance(backend, dict):
            # Threads and number format of the first run: adding in another order changes the last bits. Below the
            # user's places and edits, which are set later; a backend of another kind may not have these options.
            names = fields_at(TrialConfig, ("backend", str(backend.get("kind"))))
            for name, value in self.computed.get(trial.key, {}).items():
                if name in names and backend.get(name) in (None, "auto"):
                    backend[name] = value
        for key, path in files_of_rows(raw).items():
            dotted_keys.put(raw, key, str(self.data.get(PurePath(path).name, path)))
        for key, value in {**self.places, **self.edits}.items():
            # Unlike `dotted_keys.put`: a section that an earlier version did not store is created, and an item of a
            # list is refused, so that what decides, such as the metrics, is named as a whole.
            *above, last = key.split(".")
            holder = raw
            for part in above:
                holder = holder.setdefault(part, {})
                if not isinstance(holder, dict):
                    raise ConfigError(f"{key}: {part} is a value and not a section")
            holder[last] = value
        self._drop_unknown(raw, ())

        problems: list[str] = []
        environment: dict[str, str] = {}
        for location, text in list(dotted_keys.texts(raw)):
            if _FROM_ENVIRONMENT not in text:
                continue
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

        # Equal sections become one object, because `Sources` caches by identity: trials read equal data once.
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
        fields = fields_at(TrialConfig, location)
        for key, value in list(raw.items()):
            dotted = ".".join((*location, key))
            if fields and key not in fields:
                if dotted in self.edits or dotted in self.places:
                    hint = did_you_mean(key, fields) or f"known keys: {', '.join(fields)}"
                    raise ConfigError(f"{dotted}: unknown key {key!r}; {hint}")
                self.notes[f"{dotted}: this version of tunerun does not have the recorded key; it is omitted"] = None
                del raw[key]
            # No fields: a mapping whose keys are the user's.
            elif isinstance(value, dict) and fields_at(TrialConfig, (*location, key)):
                self._drop_unknown(value, (*location, key))


def files_of_rows(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the paths of a stored config's files of rows, by dotted key: the rows, and the held-out files."""
    paths = {key: dotted_keys.get(config, key) for key in FILES_OF_ROWS}
    return {key: path for key, path in paths.items() if isinstance(path, str)}
