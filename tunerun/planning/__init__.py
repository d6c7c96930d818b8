"""Turns an Experiment into a Plan: trials with their keys, checked examples, tokens, steps, cost and state.

Planning sends nothing, writes nothing and imports no heavy package, so `tunerun plan` is fast and always safe to run.
"""

from tunerun.planning.sweep import counted, plan
from tunerun.planning.sweep_plan import Plan, ledger_path, trained
from tunerun.planning.trial import Trial, tuned_model_id
from tunerun.planning.trial_key import KEY_FORMAT

__all__ = ["KEY_FORMAT", "Plan", "Trial", "counted", "ledger_path", "plan", "trained", "tuned_model_id"]
