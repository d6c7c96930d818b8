"""The experiment and its config groups as frozen pydantic models.

Hydra composes a config (`compose/`); this package validates it. Unknown keys, wrong types, NaN and infinity are
rejected, and the only coercion is from whole numbers to floats. Every field's description states its unit and what
`null` or 0 means, and a section is described by its docstring; the configuration reference in docs/, `config --explain`
and the JSON Schema for editors are generated from them.
"""

from tunerun.backends.registry import BackendSection
from tunerun.schema.dataset import DatasetSection, HeldOut, Template
from tunerun.schema.evaluation import Baselines, Choices, Evaluation, GenerationSection
from tunerun.schema.experiment import SLUG, WORKED_OUT, Experiment, Point, Sweep, TrialConfig, json_schema
from tunerun.schema.hyperparameters import HyperparametersSection
from tunerun.schema.model import DATE, AdvisedRate, Model, Price
from tunerun.schema.run import Budget, Paths, Runner, Tracking
from tunerun.section import VARIABLE

__all__ = [
    "DATE",
    "SLUG",
    "VARIABLE",
    "WORKED_OUT",
    "AdvisedRate",
    "BackendSection",
    "Baselines",
    "Budget",
    "Choices",
    "DatasetSection",
    "Evaluation",
    "Experiment",
    "GenerationSection",
    "HeldOut",
    "HyperparametersSection",
    "Model",
    "Paths",
    "Point",
    "Price",
    "Runner",
    "Sweep",
    "Template",
    "Tracking",
    "TrialConfig",
    "json_schema",
]
