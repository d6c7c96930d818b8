"""The comparison as one JSON document: what `run --json` and `compare --json` print, and `results.json` holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tunerun.comparison.results import Decision, Estimate, PointResult, Verdict
from tunerun.comparison.table import ComparisonTable
from tunerun.ledger import Ledger

FILE = "results.json"

_LOCAL = ("adapter", "mlflow_run_id")
"""Keys of a trial that only this machine and its tracking server understand."""


def document(table: ComparisonTable, run_ids: Mapping[int, str] | None = None) -> dict[str, Any]:
    """Return the comparison as JSON values; a number that is not finite is null.

    Args:
        run_ids: MLflow's run ids by a trial's place in `Verdict.trials`.
    """
    verdict = table.verdict
    content: dict[str, Any] = {
        "sweep": verdict.sweep.id,
        "experiment": verdict.sweep.experiment,
        "held_out": verdict.held_out,
        "trials": [_trial(verdict, place, run_ids or {}) for place in range(len(verdict.trials))],
        "points": [_point(point) for point in verdict.points],
        "baselines": [
            {
                "name": each.name,
                "metrics": dict(each.metrics),
                "estimates": {name: _estimate(estimate) for name, estimate in each.estimates.items()},
                "trials": list(each.trials),
                "problem": each.problem,
            }
            for each in verdict.baselines
        ],
        "best": verdict.best,
        "decision": _decision(verdict.decision),
        "verdict": verdict.sentence,
        "notes": list(verdict.notes),
    }
    if len(verdict.sweeps) > 1:
        content["sweeps"] = [sweep.id for sweep in verdict.sweeps]
    # RFC 8259 has no NaN and no Infinity, and JavaScript refuses a document that contains them.
    return {key: _finite(value) for key, value in content.items()}


def portable(table: ComparisonTable) -> dict[str, Any]:
    """Return the document without what only this machine knows: adapters' folders and MLflow's run ids."""
    whole = document(table)
    trials = [{key: value for key, value in trial.items() if key not in _LOCAL} for trial in whole["trials"]]
    return {**whole, "trials": trials}


def render(table: ComparisonTable) -> str:
    """Return the portable document as text."""
    return json.dumps(portable(table), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def files(table: ComparisonTable, _ledger: Ledger) -> Mapping[str, bytes]:
    """Return the file `results.json`."""
    return {FILE: render(table).encode()}


def _trial(verdict: Verdict, place: int, run_ids: Mapping[int, str]) -> dict[str, Any]:
    trial = verdict.trials[place]
    tuned = trial.tuned_model
    # Two sweeps both have a trial 0, so with several the place among all trials names one.
    several = len(verdict.sweeps) > 1
    trained_on = {}
    if trial.trained_on is not None:
        # A key may belong to several trials; the first of them names the job.
        numbers = {
            each.record.key: place if several else each.record.number
            for place, each in reversed(list(enumerate(verdict.trials)))
        }
        trained_on = {"trained_on": trial.trained_on.shared(numbers)}
    return {
        "number": place if several else trial.record.number,
        **({"sweep": trial.sweep, "number_in_sweep": trial.record.number} if several else {}),
        "point": trial.point,
        "key": trial.record.key,
        "overrides": dict(trial.record.overrides),
        "state": trial.state.value,
        "tuned_model": tuned.name if tuned else None,
        "adapter": tuned.location if tuned else None,
        **({"checkpoints": [vars(each) for each in tuned.checkpoints]} if tuned and tuned.checkpoints else {}),
        **trained_on,
        "mlflow_run_id": run_ids.get(place),
        "metrics": dict(trial.metrics),
        "advice": trial.advice.text if trial.advice else None,
        "error": f"{trial.failure.kind}: {trial.failure.message}" if trial.failure else None,
    }


def _point(point: PointResult) -> dict[str, Any]:
    return {
        "number": point.number,
        "overrides": dict(point.overrides),
        "trials": list(point.trials),
        "estimates": {name: _estimate(each) for name, each in point.estimates.items()},
        "against": [
            {
                "baseline": each.baseline,
                "difference": each.value,
                "interval": _interval(each.low, each.high),
                "p": each.p,
                "holm_p": each.holm_p,
                "outcome": each.outcome.value,
                "wins": each.wins,
                "losses": each.losses,
            }
            for each in point.against
        ],
        "tied": point.is_tied,
        "tied_p": point.tied_p,
        "consistency": point.consistency,
        "tokens": point.tokens,
        **({"stopped_early": asdict(point.stopped)} if point.stopped else {}),
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "interval": _interval(estimate.low, estimate.high),
        "spread": estimate.spread,
        "seeds": estimate.seeds,
        **({"rows": estimate.rows} if estimate.rows is not None else {}),
    }


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "outcome": decision.outcome.value,
        "advised": decision.advised,
        "tied": list(decision.tied),
        "point": decision.about,
        "against": decision.against,
        "metric": decision.metric,
        "difference": decision.difference,
        "interval": _interval(decision.low, decision.high),
        "p": decision.p,
        "alpha": decision.alpha,
        "worth": decision.worth,
        "family": decision.family,
        "smallest_visible": decision.smallest_visible,
        "rows": decision.rows,
        "clusters": decision.clusters,
        "rows_needed": decision.rows_needed,
        "seeds": decision.seeds,
        "corrected": decision.corrected,
        "corrected_interval": _interval(decision.corrected_low, decision.corrected_high),
    }


def _interval(low: float | None, high: float | None) -> list[float | None] | None:
    return None if low is None or high is None else [low, high]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value
