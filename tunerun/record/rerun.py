"""Prepares a rerun of a sweep or a trial from its record: the same keys, on this machine.

Everything that a key hashes is compared with the record before anything starts. The rerun has a runs folder of its own
(`rerun_folder.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from tunerun.backends import capabilities_of
from tunerun.dataset import LoadedDataset, Progress
from tunerun.digest import digest_of_file
from tunerun.engine import precision
from tunerun.errors import ConfigError, InputError, MismatchError
from tunerun.example_json import digest_of_examples, from_object
from tunerun.examples import Example, ExampleSet
from tunerun.ledger import TrialRecord
from tunerun.metrics import resolve
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.metrics.own_metric import OwnMetric
from tunerun.planning import Plan, plan
from tunerun.planning.recorded import Recorded
from tunerun.provenance.environment import environment
from tunerun.record import rerun_folder
from tunerun.record.environment_changes import environment_notes
from tunerun.record.mismatches import mismatches, missing_baselines
from tunerun.record.sources import OpenRecord
from tunerun.record.stored_config import StoredConfigs, files_of_rows
from tunerun.runner.judging import recorded_ratings
from tunerun.schema import Paths, Point, Tracking
from tunerun.stored import section
from tunerun.tracking.address import choose

PLACES = ("model.source", "model.package", "backend.", "runner.", "budget.", "evaluation.metrics")
"""Keys that may differ between a rerun and its record, besides paths and tracking: where things are, how it computes,
and which metrics measure it. No trial key depends on them."""

_NEEDS_ROWS = ("dataset", "template")
"""Sections that decide how rows become examples."""

_DRAWS = "evaluation.baselines.examples"
"""How many examples the prompts of baselines have; they are drawn when rows are read, and recorded."""

_WHERE_IS_THE_MODEL = "where the recorded base model is on this machine can be given as model.source=FOLDER"


@dataclass(frozen=True)
class RerunRequest:
    """A request for a rerun.

    Attributes:
        paths, tracking: config sections of this machine.
        places: values that differ on this machine, by dotted key; see `PLACES`.
        edits: values that make it a new experiment, by dotted key; empty: it is a rerun.
        data: files to read instead of the recorded examples.
        fresh: whether to train again what an earlier rerun trained.
    """

    paths: Paths
    tracking: Tracking
    places: Mapping[str, Any] = field(default_factory=dict)
    edits: Mapping[str, Any] = field(default_factory=dict)
    data: Sequence[Path] = ()
    fresh: bool = False

    def __post_init__(self) -> None:
        """Check that `places` contains only keys that a rerun may change.

        Raises:
            ConfigError: a key would change what is repeated.
        """
        wrong = [key for key in self.places if not key.startswith(PLACES)]
        if wrong:
            raise ConfigError(
                [
                    f"{key}: a rerun repeats the recorded value; for a new experiment give it with --set; "
                    f"without it a rerun takes paths, tracking, {', '.join(p.rstrip('.') for p in PLACES)}"
                    for key in wrong
                ]
            )

    @property
    def tracking_store(self) -> Tracking:
        """The user's own tracking store, which by default is beside their ledger rather than beside the rerun's."""
        address = choose(self.tracking, Path(self.paths.runs), "").address
        if address.file is None:  # a server or a database: the same from any folder, and its URI may hold a password
            return self.tracking
        return self.tracking.model_copy(update={"uri": address.uri})


@dataclass(frozen=True)
class Rerun:
    """A plan that repeats a record, or starts from it.

    Attributes:
        plan: ready to run.
        notes: what differs from the record, or could not be determined, one line each.
        is_new: whether it is a new experiment with the record as its parent.
    """

    plan: Plan
    notes: tuple[str, ...]
    is_new: bool = False

    def without_baselines(self) -> Rerun:
        """Return the same trials without baselines, which are not needed to compare a trial with its record."""
        # Of `verify --trial N` baselines took two thirds of the time.
        trials = tuple(replace(trial, baselines=()) for trial in self.plan.trials)
        return replace(self, plan=replace(self.plan, trials=trials, baselines=()))

    def begin(self) -> None:
        """Record which rerun the folder belongs to, before anything runs."""
        if not self.is_new:
            rerun_folder.begin(self.plan.runs, self.plan.recorded.rerun, self.plan.recorded.document)


def prepare(record: OpenRecord, request: RerunRequest, progress: Progress | None = None) -> Rerun:
    """Plan a record's trials again, and check that their keys are the recorded ones.

    Args:
        record: of a sweep or a trial.
        request: what differs on this machine, and edits.
        progress: called with a short description of the next step.

    Raises:
        InputError: something that a rerun needs is missing on this machine, one line each; nothing was started.
        MismatchError: something that a key hashes differs from the record, one line each; nothing was started.
    """
    document, trials = record.sweep.document, record.trials
    # With edits it is a new experiment: it runs where all experiments run, and threads and number format are not fixed.
    folder = None
    if not request.edits:
        folder = rerun_folder.folder_of(record, Path(request.paths.runs), fresh=request.fresh)
    configs = StoredConfigs(
        request.paths if folder is None else request.paths.model_copy(update={"runs": str(folder)}),
        request.tracking_store,
        request.places,
        request.edits,
        _files(record, trials, request.data),
        {} if request.edits else _computed(record, trials),
    )
    experiment, trials = configs.experiment(trials, section(document, "pins"))
    examples = None if request.data else _examples(record, trials)
    origin = {"sweep": record.sweep.id, "run_id": record.run_id, "trial": record.number}
    # Before the plan, so that nothing is read, asked or sent that only the record names.
    _check_consent(record, request, experiment.points)
    if folder is None:
        _check_edits(request, examples)
        recorded = Recorded(examples, document={"parent": origin}, facts=record.facts)
        new_plan = plan(experiment, fresh=request.fresh, progress=progress, recorded=recorded)
        return Rerun(new_plan, tuple(configs.notes), is_new=True)

    # The record's judgements are reused for equal answers: a record must not decide which service is paid to judge.
    judges = {} if "evaluation.metrics" in request.places else section(document, "judges")
    metrics = resolve(experiment.points[0].config.evaluation) if judges else ()
    ratings = recorded_ratings(record.ledger, record.sweep, metrics)
    rounds, identity = int(document.get("round", 0)), rerun_folder.identity_of(folder)
    recorded = Recorded(examples, rounds, identity, {"rerun_of": origin}, record.facts, judges, ratings)
    try:
        new_plan = plan(experiment, progress=progress, recorded=recorded)
    except InputError as error:
        # A record names a base model's folder without its path, which is of another machine anyway.
        if not any(problem.startswith("the base model ") for problem in error.problems):
            raise
        raise InputError([*error.problems, _WHERE_IS_THE_MODEL]) from error
    # Trials share data and a base model, and then their problems: each is said once.
    if problems := list(dict.fromkeys(mismatches(record, trials, new_plan))):
        raise MismatchError(problems)
    notes = [
        *configs.notes,
        *environment_notes(record, environment()),
        *missing_baselines(record, trials, new_plan),
    ]
    return Rerun(new_plan, tuple(dict.fromkeys(notes)))


def _check_consent(record: OpenRecord, request: RerunRequest, points: Sequence[Point]) -> None:
    """Require the user to name what a record from elsewhere would choose: a service, a judge, or code to execute.

    A service or a judge receives examples and an API key; the file of a metric may have come along with the record.

    Raises:
        ConfigError: only the record names them, one line each.
    """
    if record.runs.absolute() == Path(request.paths.runs).absolute():
        return  # this project's own ledger
    problems = []
    stated = {*request.places, *request.edits}
    if stated.isdisjoint({"backend", "backend.base_url"}):
        # Points share equal sections as one object: of a thousand points a few sections are left to look at.
        backends = {id(point.config.backend): point.config.backend for point in points}.values()
        problems += [
            f"backend: the record names the service {each.kind} at {each.address}, which would receive its "
            f"examples and your API key; to use it, name it yourself: backend.base_url={each.address}"
            for each in map(capabilities_of, backends)
            if each.is_hosted
        ]
    if "evaluation.metrics" not in stated:
        evaluations = {id(point.config.evaluation): point.config.evaluation for point in points}.values()
        metrics = [metric for each in evaluations for metric in resolve(each)]
        problems += [
            f"evaluation.metrics: the record names {name}, which runs the code of {python}; to run it, read it and "
            f"name it yourself: 'evaluation.metrics=[{{name: {name}, python: {python}}}]'; to measure without it: "
            "evaluation.metrics=[exact_match]"
            for name, python in sorted({(m.name, m.python) for m in metrics if isinstance(m, OwnMetric)})
        ]
        judges = {(m.name, m.model, m.base_url) for m in metrics if isinstance(m, JudgedMetric)}
        problems += [
            f"evaluation.metrics: the record names the judge {model} at {address}, which would receive held-out "
            f"examples and your API key; to use it, give {name} yourself: --set 'evaluation.metrics=[...]'"
            for name, model, address in sorted(judges if request.edits else ())  # a rerun calls no judge
        ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _computed(record: OpenRecord, trials: Sequence[TrialRecord]) -> dict[str, dict[str, Any]]:
    """Threads and number format of each trial's training, by key, for configs that leave them to the machine.

    The number format is included only if this machine might choose another one.
    """
    jobs = record.ledger.last_jobs(record.sweep.id)
    settings: dict[str, dict[str, Any]] = {trial.key: {} for trial in trials}
    # Neither is in the stored config, whose default leaves them to the machine; threads come from the job that ran, and
    # the number format from the key.
    for trial in trials:
        on = jobs[trial.key].trained_on if trial.key in jobs else None
        if on is not None and on.threads:
            settings[trial.key]["threads"] = on.threads
        recorded = str(trial.ingredients.get("precision", ""))
        # On a CPU the default is float32, as in the record; a GPU may choose another format.
        if recorded in precision.WORDS and (recorded != precision.FLOAT32 or precision.cuda_capabilities()):
            settings[trial.key]["precision"] = precision.WORDS[recorded]
    return settings


def _examples(record: OpenRecord, trials: Sequence[TrialRecord]) -> dict[int, LoadedDataset]:
    """The recorded examples of each trial, by its index in `trials`.

    Raises:
        MismatchError: a set does not match its digest.
    """
    document = record.sweep.document
    rows, clusters = section(document, "held_out_rows"), section(document, "clusters")
    sets: dict[str, ExampleSet] = {}
    problems = []
    # When the record was opened, its files were compared with its own list, which may have been changed together with
    # them. The digest by which a trial names a set is of the examples themselves.
    for digest in dict.fromkeys(d for t in trials for d in (t.training, *t.held_out.values())):
        stored = record.ledger.example_set(digest)
        own = digest_of_examples(stored.examples)
        if own != digest:
            problems.append(
                f"examples of {stored.source}: changed since they were recorded: their digest is {own[:8]}, and the "
                f"record says {digest[:8]}; get the record again, or give the rows with --data"
            )
        sets[digest] = replace(stored, rows=rows.get(digest, ""), clusters=tuple(clusters.get(digest, ())))
    if problems:
        raise MismatchError(problems)

    # The few-shot examples of a trial's baselines: a shorter list is always the beginning of a longer one.
    drawn_for = {
        baseline.subject: tuple(map(from_object, baseline.document.get("examples", ())))
        for baseline in record.ledger.baselines(record.sweep.id)
    }
    loaded: dict[tuple[Any, ...], LoadedDataset] = {}  # trials share equal data, as when files are read
    by_number = {}
    for number, trial in enumerate(trials):
        lists = (drawn_for[subject] for subject in trial.baselines if subject in drawn_for)
        drawn: tuple[Example, ...] = max(lists, key=len, default=())
        parts = (trial.training, trial.held_out.get("validation"), trial.held_out.get("test"), drawn)
        if parts not in loaded:
            validation, test = (None if digest is None else sets[digest] for digest in parts[1:3])
            loaded[parts] = LoadedDataset(sets[trial.training], validation, test, warnings=(), drawn=drawn)
        by_number[number] = loaded[parts]
    return by_number


def _files(record: OpenRecord, trials: Sequence[TrialRecord], paths: Sequence[Path]) -> dict[str, Path]:
    """Match files from --data to the recorded ones, by name or else by content.

    Raises:
        ConfigError: a recorded file is missing, or a file matches none of them.
    """
    if not paths:
        return {}
    wanted = dict.fromkeys(PurePath(p).name for trial in trials for p in files_of_rows(trial.config).values())
    recorded = {fact.sha256: fact.name for fact in record.facts.data_files}
    matched: dict[str, Path] = {}
    problems = []
    for path in paths:
        if not path.is_file():
            problems.append(f"--data {path}: no such file")
            continue
        # A file that was renamed is found by its content; one with another content by its name, so that the plan can
        # say in which example it differs.
        name = path.name
        if name not in wanted:
            name = recorded.get(digest_of_file(path), "")
        if name not in wanted and len(wanted) == len(paths) == 1:  # the only file in the place of the only one
            (name,) = wanted
        if name not in wanted:
            problems.append(f"--data {path}: is not one of the recorded files {', '.join(wanted)}; give it such a name")
        matched[name] = path.absolute()
    missing = [name for name in wanted if name not in matched]
    if missing and not problems:
        problems = [f"--data: {name} is missing; give every file of rows, or none" for name in missing]
    if problems:
        raise ConfigError(problems)
    return matched


def _check_edits(request: RerunRequest, examples: Mapping[int, LoadedDataset] | None) -> None:
    """Reject edits that need the original rows if only rendered examples are recorded.

    Raises:
        ConfigError: one line for each such key.
    """
    if examples is None:
        return
    problems = [
        f"--set {key}: decides how rows become examples, but a record contains examples, not rows; give the rows too: "
        "--data FILE"
        for key in request.edits
        if key.split(".")[0] in _NEEDS_ROWS
    ]
    counts = request.edits.get(_DRAWS, ())
    most = min(len(loaded.drawn) for loaded in examples.values())
    if isinstance(counts, list) and any(isinstance(count, int) and count > most for count in counts):
        problems.append(
            f"--set {_DRAWS}: the record has only {most} examples that were drawn for prompts; give the rows too: "
            "--data FILE"
        )
    if problems:
        raise ConfigError(problems)
