"""The section `hyperparameters`: how to tune."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tunerun.job import BASE_LEARNING_RATE, TuningHyperparameters
from tunerun.section import Section, one_error


def _names_in(value: Any) -> Any:
    # An axis of a sweep can vary texts but not lists.
    return tuple(name.strip() for name in value.split("+")) if isinstance(value, str) else value


def _different_names(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names is not None and ("" in names or len(set(names)) < max(len(names), 1)):
        raise ValueError("must name one layer or more, each once, and none with an empty name")
    return names


class HyperparametersSection(Section):
    """How to tune; epoch_count, batch_size and the learning rates are the Gemini API's, the others this engine's.

    Source of their names and defaults: the Gemini API's model tuning guide (as last served, 2025-04-28).
    """

    epoch_count: int = Field(
        5, ge=1, description="Passes over the training examples.", json_schema_extra={"unit": "epochs"}
    )
    batch_size: int = Field(
        4,
        ge=1,
        description="Examples per optimiser step; at most the number of examples.",
        json_schema_extra={"unit": "examples"},
    )
    learning_rate: float | None = Field(
        BASE_LEARNING_RATE,
        gt=0,
        description="Peak learning rate of AdamW; null: learning_rate_multiplier is used instead.",
        json_schema_extra={"unit": "none: the step size of AdamW"},
    )
    learning_rate_multiplier: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate as a multiple of the base value 0.001; null: learning_rate is used instead.",
        json_schema_extra={"unit": "times 0.001"},
    )
    adapter_rank: int = Field(
        8,
        ge=1,
        description="Rank of the LoRA matrices.",
        json_schema_extra={"unit": "rank: columns of the adapter's matrices"},
    )
    adapter_alpha: float = Field(
        16,
        gt=0,
        description="Numerator of LoRA's scaling factor, adapter_alpha / adapter_rank.",
        json_schema_extra={"unit": "none: a factor is adapter_alpha / adapter_rank"},
    )
    keep: Literal["last", "best"] = Field(
        "last",
        description="Which epoch's adapter the tuned model keeps. last: the last epoch's; best: that of the epoch with "
        "the lowest validation loss, the earliest if several are equal; needs held-out examples.",
    )
    average_last: int = Field(
        1,
        ge=1,
        description="Number of last epochs whose adapters are averaged into the tuned model's; 1: no averaging.",
        json_schema_extra={"unit": "epochs"},
    )
    max_grad_norm: float | None = Field(
        None,
        gt=0,
        description="Limit on the norm of a step's gradient; a longer gradient is scaled down to it; null: no limit.",
        json_schema_extra={"unit": "none: the 2-norm over all of the adapter's parameters"},
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="How the learning rate changes after the warm-up. constant: not at all; linear: it falls linearly "
        "to 0; cosine: it falls to 0 along half a cosine.",
    )
    warmup_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of all steps in which the learning rate rises linearly from 0; 0: no warm-up.",
        json_schema_extra={"unit": "share of 1"},
    )
    target_modules: Annotated[
        Annotated[tuple[str, ...], Field(strict=False)] | None,
        one_error("must be null, a list of names, or names as one text such as q_proj+v_proj"),
        BeforeValidator(_names_in, json_schema_input_type=tuple[str, ...] | str | None),
        AfterValidator(_different_names),
    ] = Field(
        None,
        description="Layers that get an adapter, by the last part of their names: [q_proj, v_proj], or q_proj+v_proj, "
        "which can be swept; null: every linear layer but the output layer.",
    )

    @model_validator(mode="after")
    def _one_learning_rate(self) -> Self:
        if self.learning_rate is not None and self.learning_rate_multiplier is not None:
            # learning_rate has a default, so setting the multiplier alone leads here too.
            raise ValueError(
                "learning_rate and learning_rate_multiplier exclude each other; "
                "add hyperparameters.learning_rate=null to use the multiplier"
            )
        if self.learning_rate is None and self.learning_rate_multiplier is None:
            raise ValueError("one of learning_rate and learning_rate_multiplier must be set; both are null")
        return self

    @model_validator(mode="after")
    def _averages_what_there_is(self) -> Self:
        if self.average_last > self.epoch_count:
            raise ValueError(
                f"average_last: {self.average_last} is more than the {self.epoch_count} epochs of epoch_count; set it "
                f"to {self.epoch_count} or less"
            )
        if self.average_last > 1 and self.keep != "last":
            raise ValueError(
                f"average_last: {self.average_last} and keep: {self.keep} exclude each other; set average_last: 1, or "
                "keep: last"
            )
        return self

    @property
    def effective_learning_rate(self) -> float:
        """The peak learning rate of AdamW: `learning_rate`, or `learning_rate_multiplier` times the base value."""
        return self.for_tuning().effective_learning_rate

    def for_tuning(self) -> TuningHyperparameters:
        """Return these hyperparameters as the frozen dataclass that backends take."""
        return TuningHyperparameters(**self.model_dump())
