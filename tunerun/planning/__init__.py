"""Turns an Experiment into a Plan: trials with their keys, checked examples, tokens, steps, cost and state.

Planning sends nothing, writes nothing and imports no heavy package, so `tunerun plan` is fast and always safe to run.
"""

from tunerun.planning.sweep import plan, with_exact_tokens
from tunerun.planning.sweep_plan import Plan, ledger_path, training_runs
from tunerun.planning.trial import Trial, tuned_model_id
from tunerun.planning.trial_key import KEY_FORMAT

__all__ = ["KEY_FORMAT", "Plan", "Trial", "ledger_path", "plan", "training_runs", "tuned_model_id", "with_exact_tokens"]
