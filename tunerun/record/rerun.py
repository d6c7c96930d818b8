"""Prepares a rerun of a sweep or a trial from its record: the same keys, on this machine.

Everything that a key hashes is compared with the record before anything starts. The rerun has a separate runs folder
and ledger, so that its results cannot be confused with those of the first run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunerun.backends import capabilities_of
from tunerun.dataset import LoadedDataset, Progress
from tunerun.engine import precision
from tunerun.engine.base_model import cache_folder
from tunerun.errors import ConfigError, InputError, MismatchError
from tunerun.example_json import digest_of_examples, from_object
from tunerun.files import private_folder
from tunerun.job import Example, ExampleSet, as_text
from tunerun.ledger import FILE_NAME, BaselineRecord, Ledger, TrialRecord
from tunerun.metrics import resolve
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.metrics.own_metric import OwnMetric
from tunerun.planning import Plan, Trial, plan
from tunerun.planning.changes import differences
from tunerun.planning.facts import facts_of
from tunerun.planning.recorded import Recorded
from tunerun.provenance import Facts
from tunerun.provenance.environment import environment
from tunerun.record.environment import environment_notes
from tunerun.record.sources import OpenRecord
from tunerun.record.stored_config import StoredConfigs, files_of_rows
from tunerun.record.verification import shown
from tunerun.runner.judging import recorded_ratings
from tunerun.schema import Paths, Point, Tracking
from tunerun.stored import section
from tunerun.tracking.address import choose

FOLDER = "reruns"
"""The subfolder of a runs folder that contains the runs folder of each rerun."""

_ORIGIN_FILE = "rerun.json"

PLACES = ("model.source", "model.package", "backend.", "runner.", "budget.", "evaluation.metrics")
"""Keys that may differ between a rerun and its record, besides paths and tracking: where things are, how it computes,
and which metrics measure it. No trial key depends on them."""

_NEEDS_ROWS = ("dataset", "template")
"""Sections that decide how rows become examples."""

_DRAWS = "evaluation.baselines.examples"

_WHERE_IS_THE_MODEL = "where the recorded base model is on this machine can be given as model.source=FOLDER"

_AS_NEW = "this tunerun can run it as a new experiment with the record as its parent: --set name=ANOTHER_NAME"

_INGREDIENTS = {
    "format": "the format of keys",
    "training": "the training examples",
    "validation": "the validation examples",
    "model": "the content of the base model",
    "chat_format": "the chat format of this tunerun",
    "turns": "how this tunerun writes conversations",
    "seed": "the seed",
    "backend.kind": "the kind of backend",
    "backend.address": "the address of the backend",
    "precision": "the precision",
    "quantization": "the quantization of the base model",
    "round": "how often the sweep was restarted with --fresh",
}
"""Ingredients of a key in words for messages; hyperparameters are named by their config keys."""


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

    @property
    def runs(self) -> Path:
        """The folder of its ledger and tuned models."""
        return self.plan.runs

    def without_baselines(self) -> Rerun:
        """Return the same trials without baselines, which are not needed to compare a trial with its record."""
        trials = tuple(replace(trial, baselines=()) for trial in self.plan.trials)
        return replace(self, plan=replace(self.plan, trials=trials, baselines=()))

    def begin(self) -> None:
        """Record which rerun the folder belongs to, before anything runs."""
        if not self.is_new:
            origin = {"rerun": self.plan.recorded.rerun, **self.plan.recorded.document}
            written = private_folder(self.runs) / f".{_ORIGIN_FILE}.partial"
            written.write_text(json.dumps(origin, indent=1), encoding="utf-8")
            written.replace(self.runs / _ORIGIN_FILE)


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
    trials = record.trials
    folder = None if request.edits else _folder_of(record, request)
    configs = StoredConfigs(
        request.paths if folder is None else request.paths.model_copy(update={"runs": str(folder)}),
        _tracking(request),
        request.places,
        request.edits,
        _files(record, trials, request.data),
        {} if request.edits else _computed(record, trials),
    )
    experiment, trials = configs.experiment(trials, section(record.sweep.document, "pins"))
    examples = None if request.data else _examples(record, trials)
    origin = {"sweep": record.sweep.id, "run_id": record.run_id, "trial": record.number}
    _check_addresses(record, request, experiment.points)
    _check_code(record, request, experiment.points)
    if request.edits:
        _check_judges(record, request, experiment.points)
    if folder is None:
        _check_edits(request, examples)
        recorded = Recorded(examples, document={"parent": origin}, facts=record.facts)
        made = plan(experiment, fresh=request.fresh, progress=progress, recorded=recorded)
        return Rerun(made, tuple(configs.notes), is_new=True)
    rounds = int(record.sweep.document.get("round", 0))
    judges = {} if "evaluation.metrics" in request.places else section(record.sweep.document, "judges")
    metrics = resolve(experiment.points[0].config.evaluation) if judges else ()
    ratings = recorded_ratings(record.ledger, record.sweep, metrics)
    recorded = Recorded(examples, rounds, _nonce(folder), {"rerun_of": origin}, record.facts, judges, ratings)
    try:
        made = plan(experiment, progress=progress, recorded=recorded)
    except InputError as error:
        if not any(problem.startswith("the base model ") for problem in error.problems):
            raise
        raise InputError([*error.problems, _WHERE_IS_THE_MODEL]) from error
    if problems := list(dict.fromkeys(_problems(record, trials, made))):
        raise MismatchError(problems)
    notes = [
        *configs.notes,
        *environment_notes(record, environment()),
        *_other_baselines(record, trials, made),
    ]
    return Rerun(made, tuple(dict.fromkeys(notes)))


def _check_addresses(record: OpenRecord, request: RerunRequest, points: Sequence[Point]) -> None:
    """Require the user to name the service that receives examples and an API key: a foreign record must not choose it.

    Raises:
        ConfigError: only the record names a service.
    """
    if _is_ours(record, request) or not {"backend", "backend.base_url"}.isdisjoint({*request.places, *request.edits}):
        return
    sections = {id(point.config.backend): point.config.backend for point in points}.values()
    hosted = [each for each in map(capabilities_of, sections) if each.is_hosted]
    if hosted:
        raise ConfigError(
            [
                f"backend: the record names the service {each.kind} at {each.address}, which would receive its "
                f"examples and your API key; to use it, name it yourself: backend.base_url={each.address}"
                for each in hosted
            ]
        )


def _check_code(record: OpenRecord, request: RerunRequest, points: Sequence[Point]) -> None:
    """Require the user to name the metric code to execute: a foreign record may have brought the file along.

    Raises:
        ConfigError: only the record names the code.
    """
    if _is_ours(record, request) or "evaluation.metrics" in {*request.places, *request.edits}:
        return
    sections = {id(point.config.evaluation): point.config.evaluation for point in points}.values()
    own = {metric for each in sections for metric in resolve(each) if isinstance(metric, OwnMetric)}
    if own:
        raise ConfigError(
            [
                f"evaluation.metrics: the record names {metric.name}, which runs the code of {metric.python}; to run "
                f"it, read it and name it yourself: 'evaluation.metrics=[{{name: {metric.name}, python: "
                f"{metric.python}}}]'; to measure without it: evaluation.metrics=[exact_match]"
                for metric in sorted(own, key=lambda metric: metric.name)
            ]
        )


def _check_judges(record: OpenRecord, request: RerunRequest, points: Sequence[Point]) -> None:
    """Require the user to name the judge that receives examples and an API key; a plain rerun calls no judge.

    Raises:
        ConfigError: only the record names a judge.
    """
    if _is_ours(record, request) or "evaluation.metrics" in {*request.places, *request.edits}:
        return
    sections = {id(point.config.evaluation): point.config.evaluation for point in points}.values()
    judges = {(m.name, m.model, m.base_url) for each in sections for m in resolve(each) if isinstance(m, JudgedMetric)}
    if judges:
        raise ConfigError(
            [
                f"evaluation.metrics: the record names the judge {model} at {address}, which would receive held-out "
                f"examples and your API key; to use it, give {name} yourself: --set 'evaluation.metrics=[...]'"
                for name, model, address in sorted(judges)
            ]
        )


def _is_ours(record: OpenRecord, request: RerunRequest) -> bool:
    """Whether the record comes from this project's own ledger."""
    return record.runs.absolute() == Path(request.paths.runs).absolute()


def _tracking(request: RerunRequest) -> Tracking:
    """The user's own tracking store, which by default is beside their ledger rather than beside the rerun's."""
    address = choose(request.tracking, Path(request.paths.runs), "").address
    if address.file is None:  # a server or a database: the same from any folder, and its URI may hold a password
        return request.tracking
    return request.tracking.model_copy(update={"uri": address.uri})


def _folder_of(record: OpenRecord, request: RerunRequest) -> Path:
    """The runs folder of a record's newest rerun; a new one if a fresh rerun is requested and that one is finished."""
    name = record.sweep.id if record.number is None else f"{record.sweep.id}-trial-{record.number}"
    above = Path(request.paths.runs) / FOLDER
    last = next(number for number in itertools.count(1) if not _numbered(above, name, number + 1).exists())
    folder = _numbered(above, name, last)
    is_begun = last > 1 and not _is_finished(folder)
    return folder if not request.fresh or is_begun or not folder.exists() else _numbered(above, name, last + 1)


def _numbered(above: Path, name: str, number: int) -> Path:
    return above / (name if number == 1 else f"{name}-{number}")


def _is_finished(folder: Path) -> bool:
    if not (folder / FILE_NAME).exists():
        return False
    with Ledger.open_read_only(folder / FILE_NAME) as ledger:
        states = ledger.final_states()
        return all(trial.key in states for sweep in ledger.sweeps() for trial in ledger.trials(sweep.id))


def _nonce(folder: Path) -> str:
    """A random id that distinguishes a folder's rerun from all others; it is stored when the rerun first runs."""
    try:
        return str(json.loads((folder / _ORIGIN_FILE).read_text(encoding="utf-8"))["rerun"])
    except FileNotFoundError:
        return secrets.token_hex(8)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / _ORIGIN_FILE}: does not identify the rerun; move {folder} elsewhere and run the command again"
        ) from error


def _computed(record: OpenRecord, trials: Sequence[TrialRecord]) -> dict[str, dict[str, Any]]:
    """Threads and number format of each trial's training, by key, for configs that leave them to the machine.

    The number format is included only if this machine might choose another one.
    """
    jobs = record.ledger.last_jobs(record.sweep.id)
    found: dict[str, dict[str, Any]] = {trial.key: {} for trial in trials}
    for trial in trials:
        on = jobs[trial.key].trained_on if trial.key in jobs else None
        if on is not None and on.threads:
            found[trial.key]["threads"] = on.threads
        recorded = str(trial.ingredients.get("precision", ""))
        if recorded in precision.WORDS and (recorded != precision.FLOAT32 or precision.cuda_capabilities()):
            found[trial.key]["precision"] = precision.WORDS[recorded]
    return found


# Rows


def _examples(record: OpenRecord, trials: Sequence[TrialRecord]) -> dict[int, LoadedDataset]:
    """The recorded examples of each trial, by its index in `trials`.

    Raises:
        MismatchError: a set does not match its digest.
    """
    document = record.sweep.document
    rows, clusters = section(document, "held_out_rows"), section(document, "clusters")
    sets: dict[str, ExampleSet] = {}
    problems = []
    for digest in dict.fromkeys(d for t in trials for d in (t.training, *t.held_out.values())):
        found = record.ledger.example_set(digest)
        own = digest_of_examples(found.examples)
        if own != digest:
            problems.append(
                f"examples of {found.source}: changed since they were recorded: their digest is {own[:8]}, and the "
                f"record says {digest[:8]}; get the record again, or give the rows with --data"
            )
        sets[digest] = replace(found, rows=rows.get(digest, ""), clusters=tuple(clusters.get(digest, ())))
    if problems:
        raise MismatchError(problems)
    baselines = {each.subject: each for each in record.ledger.baselines(record.sweep.id)}
    loaded: dict[tuple[Any, ...], LoadedDataset] = {}  # trials share equal data, as when files are read
    found_by_number = {}
    for number, trial in enumerate(trials):
        drawn = _drawn(baselines[subject] for subject in trial.baselines if subject in baselines)
        parts = (trial.training, trial.held_out.get("validation"), trial.held_out.get("test"), drawn)
        if parts not in loaded:
            training, validation, test = (None if d is None else sets[d] for d in parts[:3])
            assert training is not None  # noqa: S101 - every trial has one
            loaded[parts] = LoadedDataset(training, validation, test, warnings=(), drawn=drawn)
        found_by_number[number] = loaded[parts]
    return found_by_number


def _drawn(baselines: Iterable[BaselineRecord]) -> tuple[Example, ...]:
    """The few-shot examples of a trial's baselines; a shorter list is always the beginning of a longer one."""
    each = (tuple(map(from_object, b.document.get("examples", ()))) for b in baselines)
    return max(each, key=len, default=())


def _files(record: OpenRecord, trials: Sequence[TrialRecord], given: Sequence[Path]) -> dict[str, Path]:
    """Match files from --data to the recorded ones, by name or else by content.

    Raises:
        ConfigError: a recorded file is missing, or a file matches none of them.
    """
    if not given:
        return {}
    wanted = dict.fromkeys(file.name for trial in trials for file in files_of_rows(dict(trial.config)))
    recorded = {fact.sha256: fact.name for fact in record.facts.data_files}
    found: dict[str, Path] = {}
    problems = []
    for path in given:
        if not path.is_file():
            problems.append(f"--data {path}: no such file")
            continue
        name = path.name if path.name in wanted else recorded.get(_sha256(path), "")
        if name not in wanted and len(wanted) == len(given) == 1:
            (name,) = wanted
        if name not in wanted:
            problems.append(f"--data {path}: is not one of the recorded files {', '.join(wanted)}; give it such a name")
        found[name] = path.absolute()
    missing = [name for name in wanted if name not in found]
    if missing and not problems:
        problems = [f"--data: {name} is missing; give every file of rows, or none" for name in missing]
    if problems:
        raise ConfigError(problems)
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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


# What differs


def _problems(record: OpenRecord, trials: Sequence[TrialRecord], made: Plan) -> Iterator[str]:
    """Yield why trials would differ from the recorded ones, or would be scored by other code."""
    recorded = section(record.sweep.document, "metrics")
    for name, file in made.document["metrics"].items():
        if file["sha256"] != (old := section(recorded, name).get("sha256", "")):
            yield (
                f"evaluation.metrics: {name}: {file['python']} is other code than was recorded (sha256 {old[:8]} -> "
                f"{file['sha256'][:8]}); it does not run"
            )
    for old, new in zip(trials, made.trials, strict=True):
        stored = new.record()
        if old.key != new.key:
            yield from _reasons(record, old, new, made)
        elif (test := new.held_out.get("test")) is not None and test.digest != old.held_out.get("test"):
            yield _other_rows(record, "test", old.held_out.get("test"), test)
        elif stored.asked != old.asked:
            yield (
                f"trial {old.number}: models would be asked differently than recorded: evaluation.generation or "
                "evaluation.choices have another meaning in this version of tunerun"
            )


def _reasons(record: OpenRecord, old: TrialRecord, new: Trial, made: Plan) -> Iterator[str]:
    """Yield why a trial has another key, by the ingredients that differ."""
    if not old.ingredients:
        yield (
            f"trial {old.number}: its key differs ({old.key[:8]} -> {new.key[:8]}), and the version of tunerun that "
            f"wrote the ledger did not record a key's ingredients; {_AS_NEW}"
        )
        return
    for each in differences(old.ingredients, new.record().ingredients):
        if each.name in ("training", "validation"):
            yield _other_rows(record, each.name, each.old, new.training if each.name == "training" else new.validation)
        elif each.name == "model":
            here = facts_of(made.experiment, [new], cache_folder(made.experiment.paths.cache))
            files = _other_files(record.facts, each.old, here, each.new)
            yield f"{_INGREDIENTS['model']} {new.config.model.name} differs{files}: {each.old} -> {each.new}"
        else:
            what = _INGREDIENTS.get(each.name, f"hyperparameters.{each.name}")
            advice = f"; {_AS_NEW}" if each.name == "format" else ""
            yield f"trial {old.number}: {what} differs: {each.old} -> {each.new}{advice}"


def _other_files(old: Facts, old_identity: str, new: Facts, new_identity: str) -> str:
    """Which files of a base model have other content, or which package another version, if both sides are known."""
    before = next((model for model in old.base_models if model.identity == old_identity), None)
    now = next((model for model in new.base_models if model.identity == new_identity), None)
    if before is None or now is None:
        return ""
    if before.package != now.package:
        return f" ({before.package or 'no package'} -> {now.package or 'no package'})"
    files = [{file.name: file.sha256 for file in model.files} for model in (before, now)]
    names = [name for name in sorted({*files[0], *files[1]}) if files[0].get(name) != files[1].get(name)]
    return f" in {', '.join(names)}" if names and all(files) else ""


def _other_rows(record: OpenRecord, name: str, old: str | None, new: ExampleSet | None) -> str:
    """Describe where a set of examples differs from the recorded one."""
    if old is None or new is None:
        return f"{name} examples: {'none' if old is None else 'some'} were recorded, and now there are others"
    before, now = record.ledger.example_set(old).examples, new.examples
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False))
    row = sum(1 for _ in same)
    texts = [
        shown(f"{as_text(each[row].input)} => {each[row].output}") if row < len(each) else "none"
        for each in (before, now)
    ]
    counts = "" if len(before) == len(now) else f" ({len(before):,} -> {len(now):,})"
    return f"{name} examples differ from the recorded ones{counts}, first in example {row + 1}: {' -> '.join(texts)}"


def _other_baselines(record: OpenRecord, trials: Sequence[TrialRecord], made: Plan) -> Iterator[str]:
    """Yield a note if recorded baselines are missing, such as the majority answer of a larger trial not repeated."""
    names = {each.subject: each.name for each in record.ledger.baselines(record.sweep.id)}
    planned = {each.subject for each in made.baselines}
    missing = dict.fromkeys(names.get(s, s) for t in trials for s in t.baselines if s not in planned)
    if missing:
        yield (
            f"baselines: {', '.join(missing)} of the record is not among those of the rerun, which are "
            f"{', '.join(each.name for each in made.baselines)}"
        )
