"""One declarative experiment in, many supervised tuning jobs and one honest comparison out.

    experiment = tunerun.load(["experiment=next_number", "seed=1,2"])
    plan = tunerun.plan(experiment)
    result = tunerun.run(plan)
    result.to_pandas()
    tunerun.predict(result.to_json()["trials"][0]["tuned_model"], [{"text_input": "twenty two"}])

Everything else is in the modules; importing this package imports none of them until a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunerun.compose import load
    from tunerun.planning import Plan, plan
    from tunerun.prediction import Predictions, predict
    from tunerun.runner import SweepResult, run
    from tunerun.schema import Experiment

__version__ = "0.1.0"

__all__ = ["Experiment", "Plan", "Predictions", "SweepResult", "__version__", "load", "plan", "predict", "run"]

_MODULES = {
    "Experiment": "schema",
    "Plan": "planning",
    "Predictions": "prediction",
    "SweepResult": "runner",
    "load": "compose",
    "plan": "planning",
    "predict": "prediction",
    "run": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'tunerun' has no attribute {name!r}")
    return getattr(import_module(f"tunerun.{_MODULES[name]}"), name)
