"""Turns the points of an experiment into trials: checks examples, makes keys, counts tokens, looks up finished jobs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunerun.code_version import code_version
from tunerun.dataset import LoadedDataset, Progress
from tunerun.dataset.advice import MOST_PLACES
from tunerun.digest import digest_of_list
from tunerun.errors import ConfigError
from tunerun.job import JobState
from tunerun.planning import checks
from tunerun.planning.baselines import Group, PlannedBaseline, planned_baselines
from tunerun.planning.history import History
from tunerun.planning.memory import Load, PlannedMemory, planned_memory
from tunerun.planning.recorded import NOTHING, Recorded
from tunerun.planning.sources import Sources
from tunerun.planning.trial import Trial
from tunerun.planning.trial_key import KEY_FORMAT, TrialKey, group_identity
from tunerun.redaction import redact
from tunerun.schema import Experiment, Point, TrialConfig


@dataclass
class Planner:
    """Makes the trials of one plan, one point after another.

    Attributes:
        experiment: the experiment that is planned.
        history: what the ledger has of earlier sweeps.
        round: number of times that `--fresh` restarted every trial under this name.
        sources: data, base models and token counts that trials share.
        recorded: what is taken from the record of another sweep.
    """

    experiment: Experiment
    history: History
    round: int
    sources: Sources
    recorded: Recorded = NOTHING
    _groups: dict[tuple[str | None, ...], Group] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def trial(self, number: int, point: Point) -> Trial:
        """Turn a point into a trial.

        Args:
            number: of the trial.
            point: of the sweep.

        Raises:
            InputError: its data, template or values have problems; all of them, one line each.
        """
        config, sources = point.config, self.sources
        hyperparameters = config.hyperparameters
        place = sources.capabilities(config)
        loaded = sources.examples(config, number)
        layers = None if hyperparameters.target_modules is None else sources.layers(config)
        if problems := [*checks.problems_of(point, loaded, place, layers)]:
            raise ConfigError(problems)
        for note in checks.notes_of(config, loaded, place):
            sources.warn(note)
        measured = sources.measurement(config, loaded)
        key = TrialKey.of(config, place, loaded, sources.identity(config), round_=self.round)
        # Points may have one key, such as those of two templates that render the same examples.
        first = self._numbers.setdefault(key.digest, number)
        tokens = sources.lengths(config, loaded.training).total * hyperparameters.epoch_count
        frozen = sources.frozen(config)
        environment = dict(point.environment)
        if frozen.model.revision != config.model.revision:
            environment.pop("model.revision", None)  # the resolved commit replaced the environment's text
        rate = self.history.seconds_per_token(place.kind, environment.get("model.name", config.model.name))
        batches = math.ceil(len(loaded.training.examples) / hyperparameters.batch_size)
        state = self.history.states.get(key.digest)
        held_out = {"validation": loaded.validation, "test": loaded.test}
        trial = Trial(
            number=number,
            key=key.digest,
            baselines=(),  # set by `plan` once all trials are known
            asked=measured.asked,
            ways=measured.ways,
            choices=measured.choices,
            overrides=point.overrides,
            config=frozen,
            capabilities=place,
            training=loaded.training,
            held_out={name: each for name, each in held_out.items() if each is not None},
            tokens=tokens,
            steps=batches * hyperparameters.epoch_count,
            ingredients=key.ingredients,
            seconds=None if rate is None else rate * tokens,
            same_as=None if first == number else first,
            done=state is JobState.SUCCEEDED,
            failed=state is JobState.FAILED,
            environment=environment,
            rerun=self.recorded.rerun,
        )
        self._group(trial, config, loaded)
        return trial

    def _group(self, trial: Trial, config: TrialConfig, loaded: LoadedDataset) -> None:
        """Add a trial to the group that is compared with the same baselines."""
        place, identity = trial.capabilities, trial.ingredients["model"]
        validation = loaded.validation.digest if loaded.validation else None
        parts = (identity, validation, place.kind, place.address, place.precision, place.quantization)
        if parts not in self._groups:
            counter, limit = self.sources.counter(config), self.sources.token_limit(config)
            of_group = group_identity(place, loaded, identity)
            self._groups[parts] = Group(trial.base_model, of_group, loaded, counter, limit)
        ways = trial.ways if validation is not None else ()
        self._groups[parts].add(trial.number, loaded, config.evaluation.baselines.examples, ways)

    def baselines(self) -> tuple[PlannedBaseline, ...]:
        """Return the baselines of the trials made so far, with a warning for each baseline that is omitted."""
        planned = planned_baselines(tuple(self._groups.values()), self.history.is_answered)
        for each in planned:
            if each.problem is not None:
                self.sources.warn(f"evaluation.baselines: {each.name} is omitted: {each.problem}")
        return planned

    def document(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """Return the sweep-level document that the ledger freezes.

        `data` and `models` map a content digest to a readable name. Trials whose held-out sets have the same value in
        `held_out_rows` are measured on the same rows in the same order, whatever their templates; only these can be
        compared. `clusters` has the cluster of each held-out row, by the digest of its set. `metrics` lists the code
        files of the user's own metrics.
        """
        from tunerun import __version__

        loaded, own_metrics = self.sources.loaded, [file for each in self.sources.measured for file in each.files]
        held_out = [s for each in loaded for s in (each.validation, each.test) if s is not None]
        datasets = {id(trial.config.dataset): trial.config.dataset for trial in trials}.values()
        paths = [path for d in datasets for path in (d.path, d.validation.path, d.test.path) if path is not None]
        document = {
            "version": __version__,
            "code": code_version(
                [Path(d) for d in self.experiment.directories],
                [Path(path) for path in dict.fromkeys(paths)],
                code=[Path(file.python.rpartition(":")[0]) for file in own_metrics],
            ),
            "varied": list(trials[0].overrides),
            "pins": dict(self.experiment.pins),
            "warnings": [redact(warning) for warning in dict.fromkeys(self.sources.warnings)],
            "tokens_exact": self.sources.tokens_exact,
            "round": self.round,
            "data": dict(map(_data, loaded)),
            "models": {t.ingredients["model"]: t.config.model.name for t in trials},
            "key_formats": {str(KEY_FORMAT): ""},
            "held_out_rows": {each.digest: each.rows for each in held_out},
            "clusters": {each.digest: list(each.clusters) for each in held_out if each.clusters},
            "metrics": {file.metric: {"python": file.python, "sha256": file.sha256} for file in own_metrics},
        }
        for trial in {tuple(t.environment.items()): t for t in trials}.values():
            document = trial.as_stored(document)
        return document

    def memory(self, trials: Sequence[Trial]) -> tuple[PlannedMemory, ...]:
        """Return the estimated memory by base model and engine settings; hosted trials are omitted."""
        loads = []
        for trial in (each for each in trials if each.capabilities.engine is not None):
            lengths = self.sources.lengths(trial.config, trial.training)
            found = self.sources.model(trial.config)
            shape = None if found is None else found.facts.shape
            tokens = lengths.of_longest_batch(trial.config.hyperparameters.batch_size)
            loads.append(Load(trial, shape, tokens, lengths.learned))
        return planned_memory(loads)


def load_dataset(
    experiment: Experiment, most_places: int = MOST_PLACES, *, progress: Progress | None = None
) -> LoadedDataset:
    """Load the examples of an experiment's own config, ignoring its sweep, and check them as a plan does.

    The base model need not be available; without it tokens are estimated, and a warning says so.

    Args:
        experiment: from `tunerun.load`.
        most_places: maximum number of places that one finding lists.
        progress: called with a short description of the next step.

    Raises:
        InputError: the data or the template have problems; all of them, one line each.
    """
    sources = Sources(experiment, most_places=most_places, progress=progress, needs_base_model=False)
    loaded = sources.examples(experiment)
    return replace(loaded, warnings=tuple(dict.fromkeys([*loaded.warnings, *sources.warnings])))


def _data(loaded: LoadedDataset) -> tuple[str, str]:
    """A digest of all examples of a dataset, independent of how they are split, and a readable name for it."""
    sets = [s for s in (loaded.training, loaded.validation, loaded.test) if s is not None]
    # The content of an example as texts that can be sorted; of a conversation the whole document belongs to it.
    examples = {
        (
            *(example.text_input, example.output),
            *([json.dumps(example.document, sort_keys=True, ensure_ascii=False)] if example.is_conversation else []),
        )
        for each in sets
        for example in each.examples
    }
    content = digest_of_list(sorted(examples))
    files = " and ".join(dict.fromkeys(Path(each.source).name for each in sets))
    return content, f"{len(examples):,} different examples of {files}"
