"""What a run may still spend of the sweep's budget."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tunerun.ledger import Ledger, Spending
from tunerun.planning import Plan, Trial
from tunerun.planning.limits import Cost, over_budget
from tunerun.runner.trial_evaluator import RESUME


class RunBudget:
    """The sweep's budget of jobs, tokens and US dollars, and the hours of this run, which begin with the object.

    Args:
        plan: the plan that is run.
        ledger: has the cost of the sweep's earlier jobs.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan, self._ledger = plan, ledger
        self._began_at = time.monotonic()
        self.recount()

    def recount(self) -> None:
        """Count what the ledger has: a job that was lost before it began costs nothing any more."""
        self._spent = self._plan.with_baselines(self._ledger.spending(self._plan.sweep))

    def add(self, cost: Cost) -> None:
        """Count a job that is about to be submitted."""
        # Not by `recount` for each job: that reads all jobs of the sweep.
        spent = self._spent
        self._spent = Spending(spent.jobs + 1, spent.tokens + cost.tokens, spent.usd + cost.usd)

    def cost(self, trial: Trial, others: Sequence[Trial], *, at_most: bool = False) -> Cost:
        """Return the extra cost of a trial.

        Args:
            trial: of the plan.
            others: trials under way in the same training run, whose steps are already paid.
            at_most: whether to return the upper end, where the cost is an estimate.
        """
        return self._plan.cost([*others, trial], at_most=at_most) - self._plan.cost(others, at_most=at_most)

    def refusal(self, trial: Trial, others: Sequence[Trial]) -> str | None:
        """Return why a trial may not be submitted any more; None: it may. For the arguments see `cost`."""
        at_most = self.cost(trial, others, at_most=True)
        refusals = over_budget(self._plan.experiment.budget, self._spent, at_most)
        return refusals[0] if refusals else self.over_hours()

    def over_hours(self) -> str | None:
        """Return why nothing more may start, once `budget.max_hours` is over; None: there is time left."""
        most, hours = self._plan.experiment.budget.max_hours, (time.monotonic() - self._began_at) / 3600
        if most is None or hours < most:
            return None
        return f"budget.max_hours: this run has taken {hours:.2g} hours; raise it, or {RESUME}"
