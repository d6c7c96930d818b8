"""Turns an Experiment into a Plan: trials with their keys, checked examples, tokens, steps, cost and state.

Planning sends nothing, writes nothing and imports no heavy package, so `tunerun plan` is fast and always safe to run.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunerun.dataset import Progress
from tunerun.digest import digest
from tunerun.engine.base_model import cache_folder
from tunerun.engine.tokens import ESTIMATE_RANGE, token_counter
from tunerun.errors import ConfigError, InputError, LimitError
from tunerun.job import TuningHyperparameters, TuningRequest, in_common
from tunerun.ledger import FILE_NAME, Spending, SweepRecord
from tunerun.planning.advice import notes_on_rates
from tunerun.planning.baselines import PlannedBaseline
from tunerun.planning.changes import MAX_EXPLAINED, Change, NewTrial, broken_comparison, changes
from tunerun.planning.history import History, read_history
from tunerun.planning.judging import PlannedJudge, documents_of, notes_on_judges, planned_judges
from tunerun.planning.limits import Cost, over_budget
from tunerun.planning.memory import PlannedMemory
from tunerun.planning.planner import Planner
from tunerun.planning.recorded import NOTHING, Recorded
from tunerun.planning.sources import Sources
from tunerun.planning.trial import Trial, tuned_model_id
from tunerun.planning.trial_key import KEY_FORMAT
from tunerun.planning.visibility import Visibility, visibility
from tunerun.provenance import Facts
from tunerun.provenance.facts import SECTION
from tunerun.redaction import redact
from tunerun.replicates import point_numbers
from tunerun.schema import Experiment, Point, TrialConfig

if TYPE_CHECKING:
    from tunerun.tracking.address import Chosen

__all__ = ["KEY_FORMAT", "Plan", "Trial", "counted", "ledger_path", "plan", "trained", "tuned_model_id"]


@dataclass(frozen=True)
class Plan:
    """The frozen list of trials, before anything runs.

    Attributes:
        experiment: the experiment that was planned.
        sweep: the id of the sweep: the experiment's name and a digest of its trials and of how they are measured.
        trials: one for each point and seed, in the order of the sweep.
        baselines: the baselines that the trials are compared with.
        tokens_exact: whether tokens were counted by the base model's own tokenizer; otherwise they are estimates.
        warnings: what a user should know before a run, one line each.
        document: the sweep-level JSON document that the ledger freezes beside the trials.
        tracking_notes: tracking settings that came from environment variables, one line each.
        spent: cost of this sweep's jobs so far, including running ones.
        settled: cost of finished jobs only. A run resumes or resubmits the others, so their cost is part of `cost`.
        changes: why trials are new, compared with the newest sweep of the same name.
        incomparable: why `run` refuses to continue under this name without `--fresh`, one line each.
        baseline_tokens: tokens of the prompts and answers of this sweep's baselines, including those answered already.
        fresh: whether every trial was requested to run again.
        recorded: what was taken from the record of another sweep.
        judges: the judges' planned calls.
        memory: estimated memory of trials that train on this machine; empty for hosted trials.
    """

    experiment: Experiment
    sweep: str
    trials: tuple[Trial, ...]
    baselines: tuple[PlannedBaseline, ...]
    tokens_exact: bool
    warnings: tuple[str, ...]
    document: Mapping[str, Any]
    tracking_notes: tuple[str, ...]
    spent: Spending
    settled: Spending
    changes: tuple[Change, ...]
    incomparable: tuple[str, ...]
    baseline_tokens: int = 0
    fresh: bool = False
    recorded: Recorded = NOTHING
    judges: tuple[PlannedJudge, ...] = ()
    memory: tuple[PlannedMemory, ...] = ()

    def __repr__(self) -> str:
        """One line; `to_json()` has the whole plan."""
        count = len(self.trials)
        to_run = len(self.to_run(retry_failed=False))
        return f"<Plan {self.sweep}: {count} {'trial' if count == 1 else 'trials'}, {to_run} to run>"

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment.name

    @property
    def runs(self) -> Path:
        """The folder of the ledger and the tuned models."""
        return Path(self.experiment.paths.runs)

    @property
    def ledger_path(self) -> Path:
        """The path of the ledger's SQLite file."""
        return ledger_path(self.runs)

    @property
    def points(self) -> int:
        """The number of points; trials that differ only in their seed are one point."""
        return 1 + max(trial.point for trial in self.trials)

    @property
    def varied(self) -> list[str]:
        """The keys that the sweep varies."""
        return list(self.trials[0].overrides)

    def to_run(self, *, retry_failed: bool) -> list[Trial]:
        """Return the trials that a run would submit; trials with equal keys are submitted once.

        Args:
            retry_failed: whether trials whose last job failed are submitted again.
        """
        return [t for t in self.trials if t.same_as is None and not t.done and (retry_failed or not t.failed)]

    def cost(self, trials: Sequence[Trial], *, at_most: bool = False) -> Cost:
        """Return what trials cost together, each shared training run counted once.

        Args:
            trials: of this plan.
            at_most: whether to use the upper end of the range if tokens are estimated.
        """
        return self._cost(trained(trials), at_most=at_most)

    def saved(self, trials: Sequence[Trial]) -> Cost:
        """Return what is saved by sharing training runs: the cost of separate training minus `cost`."""
        return self._cost(trials) - self.cost(trials)

    def _cost(self, trials: Sequence[Trial], *, at_most: bool = False) -> Cost:
        factor = 1.0 if self.tokens_exact or not at_most else ESTIMATE_RANGE[1]
        seconds = [t.seconds for t in trials]
        known = [s for s in seconds if s is not None]
        return Cost(
            tokens=math.ceil(sum(t.tokens for t in trials) * factor),
            usd=sum(t.usd for t in trials) * factor,
            hours=sum(known) / 3600 if len(known) == len(seconds) else None,
            steps=sum(t.steps for t in trials),
        )

    @property
    def visibility(self) -> Visibility | None:
        """The differences that the held-out examples can show; None: nothing is held out, or there are no metrics."""
        return visibility(self.trials, sum(baseline.problem is None for baseline in self.baselines))

    @property
    def test_rows(self) -> int:
        """The number of test examples, which only `compare --final` uses; 0: there is no test set."""
        return max(len(trial.held_out["test"].examples) if "test" in trial.held_out else 0 for trial in self.trials)

    def over_limit(self, *, retry_failed: bool = False) -> list[str]:
        """Return why the budget or this machine's memory would stop a run from starting, one line for each limit."""
        trials = self.to_run(retry_failed=retry_failed)
        numbers = {trial.number for trial in trials}
        too_large = [line for each in self.memory if numbers & {*each.trials} and (line := each.refusal())]
        return [*too_large, *self._over_budget(trials)]

    def _over_budget(self, trials: Sequence[Trial]) -> list[str]:
        budget = self.experiment.budget
        unpriced = sorted({t.config.model.name for t in trials if t.has_unknown_price})
        if budget.max_usd is not None and unpriced:
            line = (
                f"budget.max_usd: the price of tuning {', '.join(unpriced)} is not known, so the budget cannot be "
                "enforced; set model.price={usd_per_million_tokens: ..., source: ..., date: ...}, or remove the budget"
            )
            return [line]
        unknown = [judge.metric for judge in self.judges if judge.has_unknown_price]
        if budget.max_usd is not None and unknown:
            return [
                f"budget.max_usd: the price of the judge {metric.model} is not known, so the budget cannot be "
                f"enforced; set evaluation.metrics.{metric.name}.price={{usd_per_million_input_tokens: ..., "
                "usd_per_million_output_tokens: ..., source: ..., date: ...}, or remove the budget"
                for metric in unknown
            ]
        return over_budget(budget, self.with_baselines(self.settled), self.cost(trials, at_most=True))

    def with_baselines(self, spent: Spending) -> Spending:
        """Return `spent` plus the upper end of what the sweep's baselines and judges cost in addition to its jobs."""
        factor = 1.0 if self.tokens_exact else ESTIMATE_RANGE[1]
        tokens = spent.tokens + math.ceil(self.baseline_tokens * factor)
        return replace(spent, tokens=tokens, usd=spent.usd + sum(judge.usd_at_most for judge in self.judges))

    def check(self, *, retry_failed: bool = False) -> None:
        """Raise if a run of this plan must not start.

        Raises:
            ConfigError: the data or the base model changed since the last sweep of this name.
            LimitError: what would be submitted exceeds the budget or this machine's memory.
        """
        if self.incomparable:
            raise ConfigError(self.incomparable)
        if refusals := self.over_limit(retry_failed=retry_failed):
            raise LimitError("\n".join(refusals))

    def sweep_record(self, command: str, facts: Facts | None = None) -> SweepRecord:
        """Return the plan as the ledger freezes it, apart from its trials.

        Args:
            command: the command line that started the sweep; secrets in it are redacted.
            facts: environment and files that the sweep depends on; None: they were not gathered.
        """
        document = {**self.document, "command": redact(command)}
        if facts is not None:
            document[SECTION] = self.recorded.with_files(facts).to_json()
        return SweepRecord(self.sweep, self.name, time.time(), document)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as `plan --json` prints it."""
        to_run = self.to_run(retry_failed=False)
        todo, saved = self.cost(to_run), self.saved(to_run)
        return {
            "experiment": self.name,
            "sweep": self.sweep,
            "trials": [_trial_document(trial) for trial in self.trials],
            "baselines": [baseline.to_json() for baseline in self.baselines],
            "judges": [judge.to_json() for judge in self.judges],
            "pins": dict(self.experiment.pins),
            "tokens_exact": self.tokens_exact,
            "tokens_range": [1.0, 1.0] if self.tokens_exact else list(ESTIMATE_RANGE),
            "to_run": {"training_runs": len(trained(to_run)), **vars(todo)},
            "saved": vars(saved),
            "test_rows": self.test_rows,
            "memory": [each.to_json() for each in self.memory],
            "spent": {"jobs": self.spent.jobs, "tokens": self.spent.tokens, "usd": self.spent.usd},
            "changes": [change.to_json() for change in self.changes],
            "refused": [*self.incomparable, *self.over_limit()],
            "warnings": list(self.warnings),
            "tracking": list(self.tracking_notes),
            **({"smallest_visible": None, "rows_for_worth": None} if (v := self.visibility) is None else v.to_json()),
        }


def _trial_document(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "point": trial.point,
        "key": trial.key,
        "overrides": dict(trial.overrides),
        "examples": len(trial.training.examples),
        "tokens": trial.tokens,
        "steps": trial.steps,
        "seconds": trial.seconds,
        "usd": trial.usd,
        "same_as": trial.same_as,
        "prefix_of": trial.prefix_of,
        "training_run": trial.training_run,
        "done": trial.done,
    }


def trained(trials: Sequence[Trial]) -> list[Trial]:
    """Return one trial for each training run, the one with the most epochs: the others are taken on its way."""
    longest: dict[int, Trial] = {}
    for trial in trials:
        other = longest.get(trial.training_run)
        if other is None or trial.steps > other.steps:
            longest[trial.training_run] = trial
    return list(longest.values())


def ledger_path(runs: Path) -> Path:
    """Return the path of the ledger in a runs folder."""
    return runs / FILE_NAME


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
    points = experiment.points or (_only_point(experiment),)
    sources = Sources(experiment, progress=progress, recorded=recorded)
    planner = Planner(experiment, history, round_, sources, recorded)
    problems: dict[str, None] = {}
    trials: list[Trial] = []
    for number, point in enumerate(points):
        try:
            trials.append(planner.trial(number, point))
        except InputError as error:
            problems.update(dict.fromkeys(error.problems))
    chosen: Chosen | None = None
    try:
        chosen = _tracking(experiment)
    except ConfigError as error:
        problems.update(dict.fromkeys(error.problems))
    if problems:
        raise InputError(list(problems))
    numbers = point_numbers(trial.overrides for trial in trials)
    baselines = planner.baselines()
    subjects = _subjects(baselines)
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
    earlier = history.newest if history.newest is not None and history.newest.id != sweep else None
    is_new_round = round_ != history.round
    compared = history.newest_result(sweep) if earlier is not None and not is_new_round else None
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
        baseline_tokens=_baseline_tokens(history, sweep, baselines),
        changes=() if earlier is None or is_new_round or sweep in history.spending else _changes(history, trials),
        incomparable=tuple(broken_comparison(*compared, document, trials[0].record().config)) if compared else (),
        recorded=recorded,
        judges=judges,
        memory=memory,
    )


def _subjects(baselines: Sequence[PlannedBaseline]) -> Mapping[int, tuple[str, ...]]:
    """Return the subjects of each trial's baselines, by the trial's number."""
    subjects: dict[int, tuple[str, ...]] = defaultdict(tuple)
    for baseline in baselines:
        for number in baseline.trials:
            subjects[number] += (baseline.subject,)
    return subjects


def _baseline_tokens(history: History, sweep: str, baselines: Sequence[PlannedBaseline]) -> int:
    """Tokens of the sweep's baselines, including answered ones; answers that other sweeps obtained cost nothing."""
    frozen = history.baseline_tokens(sweep)
    return sum(baseline.tokens for baseline in baselines) if frozen is None else frozen


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


def _tracking(experiment: Experiment) -> Chosen | None:
    """The tracking destination that config and environment select; None: no tracker."""
    from tunerun.tracking.address import choose

    if experiment.tracking.kind == "none":
        return None
    return choose(experiment.tracking, Path(experiment.paths.runs), experiment.name)


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
    return changes(earlier, [NewTrial(r.number, r.ingredients, r.config) for r in (t.record() for t in new)])


def _with_prefixes(trials: Sequence[Trial]) -> Iterator[Trial]:
    """Yield the trials, with `prefix_of` set if a backend obtains a trial on the way to one with more epochs."""
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
