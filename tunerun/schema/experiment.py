"""The whole config: an experiment, its sweep, and the points that the sweep expands to."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from tunerun.backends.registry import BackendSection
from tunerun.job import Scalar
from tunerun.schema.dataset import DatasetSection, Template
from tunerun.schema.evaluation import Evaluation
from tunerun.schema.hyperparameters import HyperparametersSection
from tunerun.schema.model import Model
from tunerun.schema.run import Budget, Paths, Runner, Tracking
from tunerun.section import Section

SLUG = r"^[a-z][a-z0-9_-]*$"


Slug = Annotated[str, Field(min_length=1, max_length=60, pattern=SLUG)]


class TrialConfig(Section):
    """The config of one point of the sweep: everything that one trial needs."""

    model_config = ConfigDict(defer_build=True)  # until the backends' sections can be imported

    name: Slug = Field(description="Name of the experiment, a slug; also used for MLflow and the tuned models.")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Random seed of shuffling, adapter initialisation and sampling.",
        json_schema_extra={"unit": "none: any whole number"},
    )
    dataset: DatasetSection
    template: Template = Field(default_factory=Template)
    model: Model
    hyperparameters: HyperparametersSection = Field(default_factory=HyperparametersSection)
    backend: BackendSection
    evaluation: Evaluation = Field(default_factory=Evaluation)
    tracking: Tracking = Field(default_factory=Tracking)
    paths: Paths = Field(default_factory=Paths)
    budget: Budget = Field(default_factory=Budget)
    runner: Runner = Field(default_factory=Runner)


class Sweep(Section):
    """What varies between the trials."""

    axes: dict[str, Any] = Field(
        default_factory=dict,
        description="Values of each swept key or config group, in Hydra's sweep grammar (1,3; choice(..); range(..); "
        "zip(..)) or as a list; empty: one trial.",
    )
    exclude: list[dict[str, Any]] = Field(
        default_factory=list,
        description="Combinations to omit, each a mapping of swept keys to values; a point that has all of these "
        "values is omitted.",
    )
    replicates: int = Field(
        1,
        ge=1,
        description="Trials of each point, with the seeds seed, seed + 1, ...; cannot be combined with a swept seed.",
        json_schema_extra={"unit": "trials of a point"},
    )


class Point(Section):
    """One point of the sweep: its overrides, and the config that results from them.

    `environment` maps the dotted key of each text that came from an environment variable to its interpolation. Stored
    configs contain the interpolations instead of the values.
    """

    model_config = ConfigDict(defer_build=True)

    overrides: dict[str, Scalar]
    config: TrialConfig
    environment: dict[str, str] = Field(default_factory=dict)


WORKED_OUT = ("pins", "points", "notes", "directories", "files")
"""Fields of an experiment that `compose.load` computes; they cannot be written in YAML."""


class Experiment(TrialConfig):
    """One composed and validated config, with its sweep expanded; `compose.load` returns it.

    An instance constructed directly, without axes, is an experiment of one trial.
    """

    sweep: Sweep = Field(default_factory=Sweep)
    pins: dict[str, Scalar] = Field(
        default_factory=dict, description="Swept keys that the command line fixed to one value."
    )
    points: tuple[Point, ...] = Field((), description="Points of the sweep, in order; empty: this config alone.")
    notes: tuple[str, ...] = Field(
        (), description="What loading did that is not evident from the YAML files, one line each."
    )
    directories: tuple[str, ...] = Field((), description="Config directories that were searched, in search order.")
    files: dict[str, str] = Field(
        default_factory=dict, description="Path and text of each YAML file that was composed."
    )

    def __repr__(self) -> str:
        """One line; `model_dump()` has the whole config."""
        count = max(1, len(self.points))
        axes = ", ".join(dict.fromkeys(key for point in self.points for key in point.overrides))
        return (
            f"<Experiment {self.name}: {count} {'trial' if count == 1 else 'trials'}{f', varies {axes}' * bool(axes)}>"
        )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of what can be written in YAML, for editors; the fields in `WORKED_OUT` are omitted."""
    document = Experiment.model_json_schema()
    for worked_out in WORKED_OUT:
        del document["properties"][worked_out]
    return document
