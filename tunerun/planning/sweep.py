"""Plans a sweep: an Experiment becomes a Plan."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunerun.dataset import Progress
from tunerun.engine.base_model import cache_folder
from tunerun.engine.token_counter import token_counter
from tunerun.errors import ConfigError, InputError
from tunerun.job import JobState, TuningHyperparameters, TuningRequest, in_common
from tunerun.ledger import Spending
from tunerun.planning import checks
from tunerun.planning.baselines import PlannedBaseline, groups_of, planned_baselines
from tunerun.planning.changes import broken_comparison, changes
from tunerun.planning.document import sweep_document, sweep_id
from tunerun.planning.history import History, read_history
from tunerun.planning.judging import documents_of, notes_on_judges, planned_judges
from tunerun.planning.memory import planned_memory
from tunerun.planning.recorded import NOTHING, Recorded
from tunerun.planning.sources import Sources
from tunerun.planning.sweep_plan import Plan, ledger_path
from tunerun.planning.trial import Trial
from tunerun.planning.trial_key import TrialKey
from tunerun.replicates import point_numbers
from tunerun.schema import Experiment, Point, TrialConfig

if TYPE_CHECKING:
    from tunerun.tracking.address import Chosen


def plan(
    experiment: Experiment,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
    recorded: Recorded = NOTHING,
) -> Plan:
    """Check the examples and limits of every trial, and report what a run of the experiment would do.

    Args:
        experiment: from `tunerun.load`.
        fresh: whether to run every trial again, including those that succeeded; an unfinished fresh sweep continues.
        progress: called with a short description of the next step, because large files take a while.
        recorded: data of another sweep's record, for reruns and promotions.

    Raises:
        InputError: the experiment's data, templates or values have problems; all of them, one line each.
        LedgerError: the ledger cannot be read.
    """
    history = read_history(ledger_path(Path(experiment.paths.runs)), experiment.name)
    round_ = history.round if recorded.round is None else recorded.round
    current = _planned(experiment, history, round_, progress, recorded)
    # A fresh run that was killed continues in its round when it is started again with the same command.
    if not fresh or (round_ > 0 and history.is_unfinished(current.sweep)):
        return replace(current, fresh=fresh)
    return replace(_planned(experiment, history, round_ + 1, progress, recorded), fresh=fresh)


def with_exact_tokens(estimated: Plan) -> Plan:
    """Plan again if tokens were estimated and a tokenizer has become available since; else return the same plan.

    A run calls it when it has fetched its base models: only then can rows be compared with a base model's context.

    Args:
        estimated: the plan so far.

    Raises:
        InputError: an example is longer than its base model's context.
    """
    if estimated.tokens_exact:
        return estimated
    cache = cache_folder(estimated.experiment.paths.cache)
    on_this_machine = dict.fromkeys(t.config.model for t in estimated.trials if not t.capabilities.is_hosted)
    if not any(token_counter(model.reference(), cache).exact for model in on_this_machine):
        return estimated
    return plan(estimated.experiment, fresh=estimated.fresh, recorded=estimated.recorded)


def _planned(
    experiment: Experiment, history: History, round_: int, progress: Progress | None, recorded: Recorded
) -> Plan:
    sources = Sources(experiment, progress=progress, recorded=recorded)
    points = experiment.points or (_only_point(experiment),)
    trials, destination = _trials_and_tracking(experiment, points, sources, history, round_)
    baselines = planned_baselines(groups_of(points, trials, sources), history.answered_by_baselines)
    trials = _related(trials, baselines)
    # Warnings are a part of the document, so all of them are collected before it is made.
    for each in baselines:
        if each.problem is not None:
            sources.warn(f"evaluation.baselines: {each.name} is omitted: {each.problem}")
    sources.warnings.extend(checks.notes_on_trials(trials))
    memory = planned_memory(trials, sources)
    sources.warnings.extend(line for each in memory if (line := each.warning()))
    judges = planned_judges(trials, baselines, history.path, is_repeated=bool(recorded.rerun))
    sources.warnings.extend(notes_on_judges(judges, trials))

    # A rerun calls no judge: its document has the judges whose recorded judgements it takes.
    judges_document = recorded.judges if recorded.rerun else trials[0].as_stored(documents_of(judges))
    document = {
        **sweep_document(experiment, trials, sources, round_),
        "mlflow_experiment": destination.experiment if destination else None,
        **({"judges": dict(judges_document)} if judges_document else {}),
        **({"rerun": recorded.rerun} if recorded.rerun else {}),
        **recorded.document,
    }
    sweep = sweep_id(experiment.name, trials, document)
    # A new round of the same name changes every key on purpose: there is nothing to explain or to refuse.
    earlier = history.newest if round_ == history.round and history.newest and history.newest.id != sweep else None
    is_new = sweep not in history.spending and not all(trial.done or trial.failed for trial in trials)
    compared = history.newest_result(sweep) if earlier is not None else None
    frozen_tokens = history.baseline_tokens(sweep)
    return Plan(
        experiment=experiment,
        sweep=sweep,
        trials=tuple(trials),
        baselines=baselines,
        tokens_exact=sources.tokens_exact,
        warnings=tuple(dict.fromkeys(sources.warnings)),
        document=document,
        tracking_notes=destination.notes if destination else (),
        spent=history.spending.get(sweep, Spending(0, 0, 0.0)),
        settled=history.settled.get(sweep, Spending(0, 0, 0.0)),
        # Baselines that this sweep has answered count too; answers that other sweeps obtained cost nothing.
        baseline_tokens=sum(each.tokens for each in baselines) if frozen_tokens is None else frozen_tokens,
        changes=changes(history.newest_trials, trials) if earlier is not None and is_new else (),
        incomparable=tuple(broken_comparison(*compared, document, trials[0].record().config)) if compared else (),
        recorded=recorded,
        judges=judges,
        memory=memory,
    )


def _only_point(experiment: Experiment) -> Point:
    sweep = experiment.sweep
    written = {"sweep.axes": bool(sweep.axes), "sweep.replicates": sweep.replicates > 1}
    if problems := [
        f"{key}: only tunerun.load expands a sweep; load the experiment, or remove {key}"
        for key, is_set in written.items()
        if is_set
    ]:
        raise ConfigError(problems)
    sections = {name: getattr(experiment, name) for name in TrialConfig.model_fields}
    return Point(overrides={}, config=TrialConfig(**sections))


def _trials_and_tracking(
    experiment: Experiment, points: Sequence[Point], sources: Sources, history: History, round_: int
) -> tuple[list[Trial], Chosen | None]:
    """Return the trials, and the tracking destination that config and environment select (None: no tracker).

    Raises:
        InputError: all problems of both, each line once.
    """
    from tunerun.tracking.address import choose

    problems: dict[str, None] = {}  # points with the same data have the same problems
    trials: list[Trial] = []
    for number, point in enumerate(points):
        try:
            trials.append(planned_trial(number, point, sources, history, round_))
        except InputError as error:
            problems.update(dict.fromkeys(error.problems))
    destination: Chosen | None = None
    try:
        if experiment.tracking.kind != "none":
            destination = choose(experiment.tracking, Path(experiment.paths.runs), experiment.name)
    except ConfigError as error:
        problems.update(dict.fromkeys(error.problems))
    if problems:
        raise InputError(list(problems))
    return trials, destination


def planned_trial(number: int, point: Point, sources: Sources, history: History, round_: int) -> Trial:
    """Turn a point into a trial: check it, make its key, count its tokens, and look up whether it has run.

    What depends on the other trials of the plan is still missing; `plan` adds it.

    Args:
        number: of the trial.
        point: of the sweep.
        sources: data, base models and token counts that trials share; receives the warnings.
        history: what the ledger has of earlier sweeps.
        round_: number of times that `--fresh` restarted every trial under this name.

    Raises:
        InputError: its data, template or values have problems; all of them, one line each.
    """
    config, hyperparameters = point.config, point.config.hyperparameters
    capabilities = sources.capabilities(config)
    loaded = sources.examples(config, number)
    layers = None if hyperparameters.target_modules is None else sources.layers(config)
    if problems := [*checks.problems_of(point, loaded, capabilities, layers)]:
        raise ConfigError(problems)
    for note in checks.notes_of(config, loaded, capabilities):
        sources.warn(note)
    measurement = sources.measurement(config, loaded)
    key = TrialKey.of(config, capabilities, loaded, sources.identity(config), round_=round_)

    # A branch or tag can move, so the ledger freezes the commit, and a run loads what was planned.
    frozen = sources.frozen(config)
    environment = dict(point.environment)
    if frozen.model.revision != config.model.revision:
        environment.pop("model.revision", None)  # the resolved commit replaced the environment's text
    tokens = sources.lengths(config, loaded.training).total * hyperparameters.epoch_count
    batches = math.ceil(len(loaded.training.examples) / hyperparameters.batch_size)
    rate = history.rates.get((capabilities.kind, environment.get("model.name", config.model.name)))
    state = history.states.get(key.digest)
    held_out = {"validation": loaded.validation, "test": loaded.test}
    return Trial(
        number=number,
        key=key.digest,
        ingredients=key.ingredients,
        overrides=point.overrides,
        config=frozen,
        environment=environment,
        capabilities=capabilities,
        training=loaded.training,
        held_out={name: each for name, each in held_out.items() if each is not None},
        answer_method=measurement.answer_method,
        methods=measurement.methods,
        choices=measurement.choices,
        tokens=tokens,
        steps=batches * hyperparameters.epoch_count,
        seconds=None if rate is None else rate * tokens,
        done=state is JobState.SUCCEEDED,
        failed=state is JobState.FAILED,
        rerun=sources.recorded.rerun,
    )


def _related(trials: Sequence[Trial], baselines: Sequence[PlannedBaseline]) -> list[Trial]:
    """Return the trials with their relations: points, baselines, equal keys and shared training runs."""
    subjects: dict[int, tuple[str, ...]] = defaultdict(tuple)
    for baseline in baselines:
        for number in baseline.trials:
            subjects[number] += (baseline.subject,)
    # Points may have one key, such as those of two templates that render the same examples.
    first: dict[str, int] = {}
    for trial in trials:
        first.setdefault(trial.key, trial.number)
    # With a constant learning rate, a run of ten epochs passes through the result of five; `in_common` knows when.
    # Examples are compared by their digests, which are ingredients: there may be many examples.
    hyperparameters = {each.name for each in fields(TuningHyperparameters)}
    runs: list[tuple[str, TuningRequest]] = []
    for trial in trials:
        rest = {key: value for key, value in trial.ingredients.items() if key not in hyperparameters}
        request = replace(trial.request(), training=(), validation=())
        runs.append((json.dumps(rest, sort_keys=True), in_common(request)))
    longest: dict[tuple[str, TuningRequest], Trial] = {}
    for trial, run in zip(trials, runs, strict=True):
        best = longest.get(run)
        if best is None or trial.config.hyperparameters.epoch_count > best.config.hyperparameters.epoch_count:
            longest[run] = trial

    related = []
    for trial, run, point in zip(trials, runs, point_numbers(trial.overrides for trial in trials), strict=True):
        is_prefix = longest[run].key != trial.key and trial.capabilities.trains_exact_prefixes
        related.append(
            replace(
                trial,
                point=point,
                baselines=subjects[trial.number],
                same_as=None if first[trial.key] == trial.number else first[trial.key],
                prefix_of=longest[run].number if is_prefix else None,
            )
        )
    return related
