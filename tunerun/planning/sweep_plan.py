"""A plan: the frozen list of trials, before anything runs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunerun.engine.token_counter import ESTIMATE_RANGE
from tunerun.errors import ConfigError, LimitError
from tunerun.ledger import FILE_NAME, Spending, SweepRecord
from tunerun.planning.baselines import PlannedBaseline
from tunerun.planning.changes import Change
from tunerun.planning.judging import PlannedJudge
from tunerun.planning.limits import Cost, over_budget
from tunerun.planning.memory import PlannedMemory
from tunerun.planning.recorded import NOTHING, Recorded
from tunerun.planning.trial import Trial
from tunerun.planning.visibility import Visibility, visibility
from tunerun.provenance import Facts
from tunerun.provenance.facts import SECTION
from tunerun.redaction import redact
from tunerun.schema import Experiment


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
        return self._cost(training_runs(trials), at_most=at_most)

    def saved(self, trials: Sequence[Trial]) -> Cost:
        """Return what is saved by sharing training runs: the cost of separate training minus `cost`."""
        return self._cost(trials) - self.cost(trials)

    def _cost(self, trials: Sequence[Trial], *, at_most: bool = False) -> Cost:
        factor = 1.0 if self.tokens_exact or not at_most else ESTIMATE_RANGE[1]
        # A partial sum would look like the whole duration.
        seconds = [t.seconds for t in trials if t.seconds is not None]
        return Cost(
            tokens=math.ceil(sum(t.tokens for t in trials) * factor),
            usd=sum(t.usd for t in trials) * factor,
            hours=sum(seconds) / 3600 if len(seconds) == len(trials) else None,
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
        # An unknown price is not 0: a budget that cannot be enforced is refused, and not taken as met.
        budget = self.experiment.budget
        unpriced = sorted({t.config.model.name for t in trials if t.has_unknown_price})
        if budget.max_usd is not None and unpriced:
            names = ", ".join(unpriced)
            line = (
                f"budget.max_usd: the price of tuning {names} is not known, so the budget cannot be enforced; set "
                "model.price={usd_per_million_tokens: ..., source: ..., date: ...}, or remove the budget"
            )
            return [*too_large, line]
        unpriced_judges = [judge.metric for judge in self.judges if judge.has_unknown_price]
        if budget.max_usd is not None and unpriced_judges:
            return too_large + [
                f"budget.max_usd: the price of the judge {metric.model} is not known, so the budget cannot be "
                f"enforced; set evaluation.metrics.{metric.name}.price={{usd_per_million_input_tokens: ..., "
                "usd_per_million_output_tokens: ..., source: ..., date: ...}, or remove the budget"
                for metric in unpriced_judges
            ]
        # Settled, not spent: a run resumes unfinished jobs, whose cost is part of `more`.
        more = self.cost(trials, at_most=True)
        return [*too_large, *over_budget(budget, self.with_baselines(self.settled), more)]

    def with_baselines(self, spent: Spending) -> Spending:
        """Return `spent` plus the upper end of what the sweep's baselines and judges cost in addition to its jobs."""
        # Whether baselines are answered does not matter: a budget is for the sweep, and not for one run.
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
            "trials": [trial.to_json() for trial in self.trials],
            "baselines": [baseline.to_json() for baseline in self.baselines],
            "judges": [judge.to_json() for judge in self.judges],
            "pins": dict(self.experiment.pins),
            "tokens_exact": self.tokens_exact,
            "tokens_range": [1.0, 1.0] if self.tokens_exact else list(ESTIMATE_RANGE),
            "to_run": {"training_runs": len(training_runs(to_run)), **vars(todo)},
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


def training_runs(trials: Sequence[Trial]) -> list[Trial]:
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
