"""The sections `dataset` and `template`: the rows, and how a row becomes an example."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tunerun.job import TemplateText
from tunerun.section import Section


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
    # The keys of `dataset.formats.NAMES`, written out: editors complete them from the JSON Schema.
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
        "unit in every test and stay on one side of a split, as rows with equal inputs always do; null: those alone, "
        "and near duplicates count as one unit.",
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
