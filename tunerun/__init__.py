"""One declarative experiment in, many supervised tuning jobs and one honest comparison out.

    experiment = tunerun.load(["experiment=next_number", "seed=1,2"])
    result = tunerun.run(tunerun.plan(experiment))
    result.table                        # rows and columns; shown as a table in a notebook
    result.to_pandas()

load(overrides)            compose and check a config, as the command line does
plan(experiment)           expand it into trials, check the examples, count tokens and cost; sends nothing
run(plan)                  run what is not done, with bars in a terminal and a notebook, and compare all of it
rerun(name)                run a sweep or a trial again from its record, and compare the two
compare(experiment)        compare sweeps that have run, by experiment or sweep id
predict(name, rows)        ask a tuned model once, with the template it was trained with
open(name)                 the same for many calls: `with tunerun.open(name) as model: model(text_input="one")`

Everything else is in the modules; importing this package imports none of them until a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunerun.compose import load
    from tunerun.planning import Plan, plan
    from tunerun.prediction import OpenModel, Predictions, open_model, predict
    from tunerun.record.running import RerunResult, rerun
    from tunerun.runner import SweepResult, compare, run
    from tunerun.schema import Experiment

    open = open_model  # noqa: A001 - only as tunerun.open

__version__ = "0.1.0"

# Without `open`, so that `from tunerun import *` leaves Python's own in place.
__all__ = [
    "Experiment",
    "OpenModel",
    "Plan",
    "Predictions",
    "RerunResult",
    "SweepResult",
    "__version__",
    "compare",
    "load",
    "plan",
    "predict",
    "rerun",
    "run",
]

_PLACES = {
    "Experiment": ("schema", "Experiment"),
    "OpenModel": ("prediction", "OpenModel"),
    "Plan": ("planning", "Plan"),
    "Predictions": ("prediction", "Predictions"),
    "RerunResult": ("record.running", "RerunResult"),
    "SweepResult": ("runner", "SweepResult"),
    "compare": ("runner", "compare"),
    "load": ("compose", "load"),
    "open": ("prediction", "open_model"),
    "plan": ("planning", "plan"),
    "predict": ("prediction", "predict"),
    "rerun": ("record.running", "rerun"),
    "run": ("runner", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'tunerun' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(f"tunerun.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
