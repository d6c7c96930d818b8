"""Plans a sweep: an Experiment becomes a Plan."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunerun.dataset import Progress
from tunerun.digest import digest
from tunerun.engine.base_model import cache_folder
from tunerun.engine.token_counter import token_counter
from tunerun.errors import ConfigError, InputError
from tunerun.job import TuningHyperparameters, TuningRequest, in_common
from tunerun.ledger import Spending
from tunerun.planning.advice import notes_on_rates
from tunerun.planning.changes import MAX_EXPLAINED, Change, broken_comparison, changes
from tunerun.planning.history import History, read_history
from tunerun.planning.judging import documents_of, notes_on_judges, planned_judges
from tunerun.planning.planner import Planner
from tunerun.planning.recorded import NOTHING, Recorded
from tunerun.planning.sources import Sources
from tunerun.planning.sweep_plan import Plan, ledger_path
from tunerun.planning.trial import Trial
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
    now = history.round if recorded.round is None else recorded.round
    current = _planned(experiment, history, now, progress, recorded)
    if not fresh or (now > 0 and history.is_unfinished(current.sweep)):
        return replace(current, fresh=fresh)
    return replace(_planned(experiment, history, now + 1, progress, recorded), fresh=fresh)


def counted(estimated: Plan) -> Plan:
    """Plan again if tokens were estimated and a tokenizer has become available since; else return the same plan.

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
    planner = Planner(experiment, history, round_, sources, recorded)
    trials, chosen = _trials_and_tracking(experiment, planner)
    # Points and baselines are known only when all trials are.
    numbers = point_numbers(trial.overrides for trial in trials)
    baselines = planner.baselines()
    subjects: dict[int, tuple[str, ...]] = defaultdict(tuple)
    for baseline in baselines:
        for number in baseline.trials:
            subjects[number] += (baseline.subject,)
    trials = [
        replace(trial, point=point, baselines=subjects[trial.number])
        for trial, point in zip(trials, numbers, strict=True)
    ]
    sources.warnings.extend(_what_compares_badly(trials))
    sources.warnings.extend(notes_on_rates(trials))
    in_runs = tuple(_with_prefixes(trials))
    memory = planner.memory(in_runs)
    sources.warnings.extend(line for each in memory if (line := each.warning()))
    judges = planned_judges(trials, baselines, history.path, is_repeated=bool(recorded.rerun))
    sources.warnings.extend(notes_on_judges(judges, trials))
    judges_document = recorded.judges if recorded.rerun else trials[0].as_stored(documents_of(judges))
    document = {
        **planner.document(trials),
        "mlflow_experiment": chosen.experiment if chosen else None,
        **({"judges": dict(judges_document)} if judges_document else {}),
        **({"rerun": recorded.rerun} if recorded.rerun else {}),
        **recorded.document,
    }
    sweep = _sweep_id(experiment.name, trials, document)
    # A new round of the same name changes every key on purpose: there is nothing to explain or to refuse.
    earlier = history.newest if round_ == history.round and history.newest and history.newest.id != sweep else None
    compared = history.newest_result(sweep) if earlier is not None else None
    frozen_tokens = history.baseline_tokens(sweep)
    return Plan(
        experiment=experiment,
        sweep=sweep,
        trials=in_runs,
        baselines=baselines,
        tokens_exact=sources.tokens_exact,
        warnings=tuple(dict.fromkeys(sources.warnings)),
        document=document,
        tracking_notes=chosen.notes if chosen else (),
        spent=history.spending.get(sweep, Spending(0, 0, 0.0)),
        settled=history.settled.get(sweep, Spending(0, 0, 0.0)),
        # Baselines that this sweep has answered count too; answers that other sweeps obtained cost nothing.
        baseline_tokens=sum(each.tokens for each in baselines) if frozen_tokens is None else frozen_tokens,
        changes=() if earlier is None or sweep in history.spending else _changes(history, trials),
        incomparable=tuple(broken_comparison(*compared, document, trials[0].record().config)) if compared else (),
        recorded=recorded,
        judges=judges,
        memory=memory,
    )


def _trials_and_tracking(experiment: Experiment, planner: Planner) -> tuple[list[Trial], Chosen | None]:
    """Return the trials, and the tracking destination that config and environment select (None: no tracker).

    Raises:
        InputError: all problems of both, each line once.
    """
    from tunerun.tracking.address import choose

    problems: dict[str, None] = {}
    trials: list[Trial] = []
    for number, point in enumerate(experiment.points or (_only_point(experiment),)):
        try:
            trials.append(planner.trial(number, point))
        except InputError as error:
            problems.update(dict.fromkeys(error.problems))
    chosen: Chosen | None = None
    try:
        if experiment.tracking.kind != "none":
            chosen = choose(experiment.tracking, Path(experiment.paths.runs), experiment.name)
    except ConfigError as error:
        problems.update(dict.fromkeys(error.problems))
    if problems:
        raise InputError(list(problems))
    return trials, chosen


def _sweep_id(name: str, trials: Sequence[Trial], document: Mapping[str, Any]) -> str:
    """The experiment's name and a digest of everything that determines the sweep's result.

    Another metric makes another sweep over the same jobs and answers: the frozen sweep records how it is scored.
    """
    sections = {id(t.config.evaluation): t.config.evaluation for t in trials}.values()
    evaluations = [section.model_dump(mode="json", exclude_defaults=True) for section in sections]
    asked = []
    for t in trials:
        held_out = {held_out: examples.digest for held_out, examples in t.held_out.items()}
        asked.append([t.key, t.baselines, held_out, t.asked])
    scoring = [evaluations, document.get("metrics"), document.get("clusters")]
    own = [more for name in ("rerun", "judges") if (more := document.get(name))]
    return f"{name}-{digest([name, asked, scoring, *own])[:8]}"


def _what_compares_badly(trials: Sequence[Trial]) -> Iterator[str]:
    if len({trial.validation.rows for trial in trials if trial.validation is not None}) > 1:
        yield (
            "dataset.validation: the trials are measured on different held-out rows, so points are not compared with "
            "each other; keep the rows in a separate file, dataset.validation.path"
        )
    budget = trials[0].config.budget
    if budget.max_hours is not None and any(trial.seconds is None and not trial.done for trial in trials):
        yield (
            "budget.max_hours: the duration of training is not known before a first trial has run; a run that reaches "
            "the limit submits no more jobs"
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


def _changes(history: History, trials: Sequence[Trial]) -> tuple[Change, ...]:
    if all(trial.done or trial.failed for trial in trials):
        return ()
    earlier = history.newest_trials
    keys = {record.key for record in earlier}
    new = [t for t in trials if not t.done and t.same_as is None and t.key not in keys][:MAX_EXPLAINED]
    return changes(earlier, [trial.record() for trial in new])


def _with_prefixes(trials: Sequence[Trial]) -> Iterator[Trial]:
    """Yield the trials, with `prefix_of` set if a backend obtains a trial on the way to one with more epochs."""
    # With a constant learning rate, a run of ten epochs passes through the result of five; `in_common` knows when.
    longest: dict[tuple[str, TuningRequest], Trial] = {}
    shared = [_in_common(trial) for trial in trials]
    for trial, rest in zip(trials, shared, strict=True):
        best = longest.get(rest)
        if best is None or trial.config.hyperparameters.epoch_count > best.config.hyperparameters.epoch_count:
            longest[rest] = trial
    for trial, rest in zip(trials, shared, strict=True):
        is_prefix = longest[rest].key != trial.key and trial.capabilities.trains_exact_prefixes
        yield replace(trial, prefix_of=longest[rest].number) if is_prefix else trial


def _in_common(trial: Trial) -> tuple[str, TuningRequest]:
    """What all trials of one training run share; examples enter by digest only, because there may be many."""
    hyperparameters = {each.name for each in fields(TuningHyperparameters)}
    rest = {key: value for key, value in trial.ingredients.items() if key not in hyperparameters}
    request = replace(trial.request(), training=(), validation=())
    return json.dumps(rest, sort_keys=True), in_common(request)
