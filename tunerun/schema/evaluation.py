"""The section `evaluation`: how models are measured and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_plain_validator_function

from tunerun.section import Section, one_error


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


def _different_choices(choices: str | list[str] | None) -> str | list[str] | None:
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
    choices: Annotated[
        Literal["auto"] | list[str] | None,
        one_error("must be null, auto, or a list of texts"),
        AfterValidator(_different_choices),
    ] = Field(
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
        # Metrics that are wrong themselves are absent from `info.data`, and their error is enough.
        names = _names(info.data.get("metrics", []))
        if value is not None and "metrics" in info.data and value not in names:
            raise ValueError(f"must be one of evaluation.metrics: {', '.join(names) or 'there are none'}")
        return value


def _names(metrics: Sequence[str | dict[str, Any]]) -> list[str]:
    return [entry if isinstance(entry, str) else entry["name"] for entry in metrics]
